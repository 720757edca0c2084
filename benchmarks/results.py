"""The figures of a benchmark, as JSON and as tables."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from benchmarks.process import Cost
from benchmarks.scaling import KeyPoint, Scaling, SitesPoint, ValuesPoint

HEADINGS = ("system", "seal", "CPU", "add", "open", "CPU", "MB up", "peak MB")
CAPTION = (
    "seal, add (one site's, with all checks), open: seconds on the clock; CPU: of all cores "
    "together; ≈: extrapolated from a sample; peak: beyond the process that holds the model"
)
_VERSION = 1
_PACKAGES = (
    *("ppfl", "cryptography", "flwr", "gmpy2", "numpy", "phe", "sf-heu", "tenseal", "torch"),
    "torchvision",
)
_FLAGS = ("adx", "aes", "avx2", "avx512f", "avx512ifma", "avx512vl", "bmi2", "vaes")


@dataclass(frozen=True, slots=True)
class Measured:
    """What one system costs for one update.

    ``seal`` is a site's, ``add`` the coordinator's for one site, ``close`` its own for turning
    the total into bytes, ``open`` a site's. ``timed_parameters`` are what it was timed on; if
    ``extrapolated``, all seconds and bytes are scaled up from these. ``error`` is by how much an
    opened parameter differs from the true average, at most. ``ahead`` if part of sealing was done
    before, and not timed.
    """

    name: str
    label: str
    protection: str
    readers: str
    note: str
    ours: bool
    ahead: bool
    timed_parameters: int
    extrapolated: bool
    seal: Cost
    add: Cost
    close: Cost
    open: Cost
    up_bytes: int
    down_bytes: int
    peak_mb: float | None
    error: float

    def cells(self) -> tuple[str, ...]:
        """The row of a table, under ``HEADINGS``."""
        seconds = (
            *(self.seal.wall_s, self.seal.cpu_s, self.add.wall_s),
            *(self.open.wall_s, self.open.cpu_s),
        )
        mark = _mark(self.extrapolated)
        return (
            self.label,
            *(mark + _seconds(number) for number in seconds),
            mark + significant(self.up_bytes / 1e6),
            "–" if self.peak_mb is None else f"{self.peak_mb:,.0f}",
        )


@dataclass(frozen=True, slots=True)
class Skipped:
    """A system that could not be measured here, and why."""

    name: str
    label: str
    reason: str


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of ours divided by a peer's, in words."""

    what: str
    ratio: float


@dataclass(frozen=True, slots=True)
class Bench:
    """All figures of one run of the benchmark on one machine."""

    architecture: str
    parameters: int
    key_bits: int
    threads: int
    runs: int
    machine: dict[str, Any]
    measured: tuple[Measured, ...]
    skipped: tuple[Skipped, ...]
    scaling: Scaling | None

    def ratios(self) -> list[Ratio]:
        """Our fastest engine beside TenSEAL's CKKS, and beside engine gmp, where both ran."""
        by_name = {row.name: row for row in self.measured}
        best = self.best()
        if best is None:
            return []
        ratios = []
        ckks, gmp = by_name.get("tenseal-ckks"), by_name.get("ppfl-gmp")
        if ckks is not None:
            theirs = ckks.seal.wall_s + ckks.open.wall_s
            both = (best.seal.wall_s + best.open.wall_s) / theirs
            ratios = [
                Ratio("our seal / CKKS seal and open", best.seal.wall_s / theirs),
                Ratio("our seal and open / CKKS seal and open", both),
                Ratio("our bytes up / CKKS bytes up", best.up_bytes / ckks.up_bytes),
            ]
            ratios[1:1] = [
                Ratio(
                    f"{row.label}: seal / CKKS seal and open",
                    row.seal.wall_s / theirs,
                )
                for row in self.measured
                if row.ahead
            ]
        if gmp is not None and gmp is not best:
            ratios.append(
                Ratio(f"open, {gmp.label} / {best.label}", gmp.open.wall_s / best.open.wall_s)
            )
        return ratios

    def best(self) -> Measured | None:
        """Our fastest engine to seal and open, all work counted, if one was measured."""
        ours = [row for row in self.measured if row.ours and not row.ahead]
        return min(ours, key=lambda row: row.seal.wall_s + row.open.wall_s, default=None)

    def to_dict(self) -> dict[str, Any]:
        """All figures, as JSON can hold them; ``results`` has a line for each step of a system."""
        ratios = [asdict(ratio) for ratio in self.ratios()]
        results = [
            {
                "system": row.name,
                "operation": operation,
                "seconds": cost.wall_s,
                "bytes": row.down_bytes if operation == "open" else row.up_bytes,
                "values": self.parameters,
                "key_bits": self.key_bits if "Paillier" in row.protection else 0,
                "extrapolated": row.extrapolated,
            }
            for row in self.measured
            for operation, cost in (("seal", row.seal), ("add", row.add), ("open", row.open))
        ]
        return {"version": _VERSION, "results": results, **asdict(self), "ratios": ratios}

    def title(self) -> str:
        """What was measured, in a line."""
        return (
            f"{self.architecture}: {self.parameters:,} float32 parameters, 3 sites, "
            f"{self.key_bits}-bit key, {self.threads} threads, medians of {self.runs}"
        )

    def to_markdown(self) -> str:
        """All tables, for a page of documentation."""
        machine = self.machine
        packages = ", ".join(f"{name} {v}" for name, v in machine["packages"].items())
        lines = [
            f"One update of {self.title()}.",
            f"{machine['processor']}, {machine['cores']} cores ({', '.join(machine['flags'])}); "
            f"Python {machine['python']}, {packages}; {machine['date']}.",
            "",
            *_markdown(
                (*HEADINGS, "protected by", "sum read by", "largest error"),
                [
                    (*row.cells(), row.protection, row.readers, f"{row.error:.1e}")
                    for row in self.measured
                ],
            ),
            "",
            _sentence(CAPTION),
            *(f"- {row.label}: {row.note}" for row in self.measured if row.note),
            *(f"- {row.label}: skipped. {_sentence(row.reason)}" for row in self.skipped),
            "",
            *(f"- {ratio.what}: {significant(ratio.ratio)}" for ratio in self.ratios()),
        ]
        if self.scaling is not None:
            for heading, headings, rows in scaling_tables(self.scaling):
                lines += ["", f"### {heading}", "", *_markdown(headings, rows)]
        return "\n".join(lines) + "\n"


def describe_machine() -> dict[str, Any]:
    """What the figures depend on; nothing in it names the machine."""
    processor, flags = _processor()
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "processor": processor,
        "flags": [flag for flag in _FLAGS if flag in flags],
        "cores": psutil.cpu_count(logical=True),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "python": platform.python_version(),
        "packages": packages,
        "date": datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
    }


def scaling_tables(
    scaling: Scaling,
) -> list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]:
    """Heading, column headings and rows of the tables of how cost grows."""
    return [
        (
            f"Values in an update, engine {scaling.engine}",
            ("values", "seal, s", "open, s", "MB up", "peak MB"),
            [_values_row(point) for point in scaling.values],
        ),
        (
            "Sites: the coordinator; a slot has room for the sum of all, so updates grow",
            ("sites", "updates added", "seconds a site", "MB up a site", "peak MB", "of an update"),
            [_sites_row(point) for point in scaling.sites],
        ),
        (
            "Bits of the key",
            ("key bits", "seal, µs a value", "open, µs a value", "bytes a value"),
            [_key_row(point) for point in scaling.keys],
        ),
    ]


def significant(number: float) -> str:
    """A number above 0 with about three digits: 0.0412, 1.26, 14.4, 1,728."""
    if number >= 100:
        return f"{number:,.0f}"
    if number >= 10:
        return f"{number:.1f}"
    if number >= 1:
        return f"{number:.2f}"
    return f"{number:.3f}" if number >= 0.1 else f"{number:.2g}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _seconds(number: float) -> str:
    return significant(number) if number >= 0.001 else "<0.001"


def _mark(extrapolated: bool) -> str:
    return "≈" if extrapolated else ""


def _values_row(point: ValuesPoint) -> tuple[str, ...]:
    mark = _mark(point.extrapolated)
    return (
        f"{point.values:,}",
        mark + _seconds(point.seal_s),
        mark + _seconds(point.open_s),
        mark + significant(point.up_bytes / 1e6),
        "–" if point.peak_mb is None else f"{point.peak_mb:,.0f}",
    )


def _sites_row(point: SitesPoint) -> tuple[str, ...]:
    return (
        f"{point.sites:,}",
        f"{point.added:,}",
        _seconds(point.add_s),
        significant(point.up_bytes / 1e6),
        *(
            ("–", "–")
            if point.peak_mb is None
            else (f"{point.peak_mb:,.0f}", f"×{point.peak_mb / point.up_bytes * 1e6:.1f}")
        ),
    )


def _key_row(point: KeyPoint) -> tuple[str, ...]:
    return (
        str(point.key_bits),
        significant(point.seal_us),
        significant(point.open_us),
        significant(point.up_bytes),
    )


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    ruler = ["---", *("--:" for _ in headings[1:])]
    return [f"| {' | '.join(cells)} |" for cells in (headings, ruler, *rows)]


def _processor() -> tuple[str, set[str]]:
    """Its name and its flags, from where Linux tells them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine(), set()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", platform.machine()), set(fields.get("flags", "").split())
