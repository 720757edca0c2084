from __future__ import annotations

from pathlib import Path

from ppfl.learning.splits import Partition
from ppfl.settings import Connection, CoordinatorFile, GatewayLimits, Section, SiteFile, Study
from simulations.altered import AlteredHospital
from simulations.scenario import PhantomHospital, Simulated

_DOCS = Path(__file__).parents[2] / "docs"
_PAGE = (_DOCS / "study.md").read_text()


def test_every_setting_is_documented_with_its_default() -> None:
    sections = [info.annotation for info in Study.model_fields.values()]
    kinds = [kind for kind in sections if isinstance(kind, type) and issubclass(kind, Section)]
    kinds += [
        AlteredHospital,
        Simulated,
        PhantomHospital,
        Partition,
        SiteFile,
        Connection,
        CoordinatorFile,
    ]
    for kind in kinds:
        for name, info in kind.model_fields.items():
            rows = [line for line in _PAGE.splitlines() if line.startswith(f"| `{name}` |")]
            assert rows, f"{name} is not in docs/study.md"
            if isinstance(info.default, int | float) and not isinstance(info.default, bool):
                assert any(f"| `{info.default}` |" in row for row in rows), name


def test_the_gateways_limits_are_documented_with_their_defaults() -> None:
    lines = (_DOCS / "gateway.md").read_text().splitlines()
    for name, info in GatewayLimits.model_fields.items():
        assert any(line.startswith(f"| `{name}` | `{info.default}` |") for line in lines), name
