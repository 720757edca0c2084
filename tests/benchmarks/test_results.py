from __future__ import annotations

import json
import platform
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.transforms import Bbox

from benchmarks.command import _show
from benchmarks.figure import _find_place, draw_scaling, draw_systems
from benchmarks.results import describe_machine, significant
from tests.benchmarks.made_up import made_up_bench, made_up_scaling


def test_the_json_holds_every_figure_and_no_name_of_the_machine() -> None:
    bench = made_up_bench()
    text = json.dumps(bench.to_dict())
    table = json.loads(text)
    assert platform.node() not in text
    assert {row["name"] for row in table["measured"]} == {row.name for row in bench.measured}
    assert table["skipped"] == [
        {"name": "other", "label": "Another system", "reason": "it is not installed"}
    ]
    assert table["machine"]["packages"]["phe"]
    assert len(table["results"]) == 3 * len(bench.measured)
    assert table["results"][0] == {
        "system": "ppfl-native",
        "operation": "seal",
        "seconds": 0.3,
        "bytes": bench.measured[0].up_bytes,
        "values": bench.parameters,
        "key_bits": 3072,
        "extrapolated": False,
    }
    assert table["scaling"]["values"][2]["extrapolated"] is True


def test_ratios_are_those_of_our_fastest_engine() -> None:
    ratios = [ratio.ratio for ratio in made_up_bench().ratios()]
    assert ratios == pytest.approx([0.3 / 2.5, 0.05 / 2.5, 1.9 / 2.5, 12.1 / 130, 11.7 / 1.6])


def test_without_our_engines_or_peers_there_are_no_ratios() -> None:
    bench = made_up_bench()
    ours = tuple(row for row in bench.measured if row.name == "ppfl-gmp")
    others = tuple(row for row in bench.measured if not row.ours)
    assert replace(bench, measured=ours).ratios() == []
    assert replace(bench, measured=others).ratios() == []


def test_the_markdown_marks_what_is_extrapolated_and_says_what_was_skipped() -> None:
    text = made_up_bench().to_markdown()
    assert "| ppfl native | 0.300 |" in text
    assert "| phe, value by value | ≈60,000 |" in text
    assert "Another system: skipped. It is not installed." in text
    assert "| 100,000,000 | ≈14.0 |" in text
    assert "| 2 | 2 | 0.05 | 12.0 | 37 | ×3.1 |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in tables[:10]}) == 1


def test_the_table_fits_a_hundred_columns(capsys: pytest.CaptureFixture[str]) -> None:
    _show(made_up_bench(), ())
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    assert "…" not in printed


def test_pictures_are_the_same_for_the_same_figures() -> None:
    bench, scaling = made_up_bench(), made_up_scaling()
    assert draw_systems(bench) == draw_systems(bench)
    assert draw_scaling(scaling) == draw_scaling(scaling)
    assert "<dc:date>" not in draw_systems(bench)


def test_pictures_can_be_drawn_of_little() -> None:
    bench, scaling = made_up_bench(), made_up_scaling()
    unknown = tuple(replace(point, peak_mb=None) for point in scaling.sites)
    assert "<svg" in draw_systems(replace(bench, measured=()))
    assert "<svg" in draw_systems(replace(bench, measured=bench.measured[:1]))
    assert "<svg" in draw_scaling(replace(scaling, sites=unknown))


def test_labels_of_points_in_one_place_do_not_touch() -> None:
    inside, boxes = Bbox.from_extents(0, 0, 400, 300), [Bbox.from_extents(93, 93, 107, 107)]
    for _ in range(6):
        boxes.append(_find_place(100.0, 100.0, 120.0, boxes, inside)[2])
    for position, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:position])


@pytest.mark.parametrize(
    ("number", "text"),
    [(67_090.4, "67,090"), (14.44, "14.4"), (1.26, "1.26"), (0.9, "0.900"), (0.0412, "0.041")],
)
def test_numbers_have_about_three_digits(number: float, text: str) -> None:
    assert significant(number) == text


def test_the_machine_is_described() -> None:
    machine = describe_machine()
    assert machine["cores"] >= 1
    assert machine["packages"]["numpy"] == np.__version__
