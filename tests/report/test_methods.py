"""Rows and sentences of `ppfl compare-methods`, from results that were made up."""

from __future__ import annotations

import pytest

from ppfl.report import method_findings, method_rows
from tests.simulations.tiny import cell_result


@pytest.mark.parametrize(("steps", "told"), [(0, "1 local epoch"), (2, "2 local steps")])
def test_a_row_says_epochs_or_steps(steps: int, told: str) -> None:
    result = cell_result("fedavg", "10")
    assert result.figures
    figures = result.figures.model_copy(update={"local_steps": steps})
    (row,) = method_rows([result.model_copy(update={"figures": figures})])
    assert row.training == f"64 px, 1 × {told}"


def test_findings_say_what_intervals_exclude_and_no_more() -> None:
    half = "10" * 20
    better, slightly = "1" * 38 + "00", "11" + half[2:]
    results = [
        cell_result("fedavg", half),
        cell_result("fedbn", better),
        cell_result("fedprox", slightly),
        cell_result("local", "0" * 40),
        cell_result("pooled", better),
    ]
    (sentence,) = method_findings(results, baselines=("local", "pooled"))
    assert sentence.startswith("iid: On all sites' tests better than FedAvg: FedBN (+45.0 [+")
    assert "all X-rays pooled (+45.0 [" in sentence
    assert "worse: each site alone (−50.0 [−" in sentence
    assert sentence.count("not told apart: FedProx") == 2
    assert sentence.endswith("This speaks for FedBN.")
    alone = [results[0], cell_result("local", better)]
    (sentence,) = method_findings(alone, baselines=("local",))
    assert sentence.endswith("On its own patients a hospital does better alone than with FedAvg.")
    # at another seed it is the other way round
    results += [cell_result("fedavg", better, seed=1), cell_result("fedbn", half, seed=1)]
    (sentence,) = method_findings(results, baselines=("local", "pooled"))
    assert sentence.endswith("This speaks for no other federation than FedAvg's.")
    # other images cannot be paired, few patients tell nothing, and one line no difference
    other = results[1].figures
    assert other is not None
    other = other.model_copy(update={"tests_sha256": "1"})
    apart = [results[0], results[1].model_copy(update={"figures": other})]
    few = [cell_result("fedavg", "0" * 9), cell_result("fedbn", "1" * 9)]
    for some in (apart, few):
        (sentence,) = method_findings(some, baselines=())
        assert sentence.count("not told apart: FedBN") == 2
    assert method_findings(results[:1], baselines=()) == []
    assert method_findings(results[1:3], baselines=()) == []


def test_a_row_is_over_seeds() -> None:
    one, other = cell_result("fedavg", "1110"), cell_result("fedavg", "1100", seed=1)
    (row,) = method_rows([one])
    assert row.accuracy == "75.0 [75.0, 75.0]"
    assert (row.seeds, row.worst, row.megabytes) == ("2022", "75.0 [75.0, 75.0] (a)", "1.0")
    (row,) = method_rows([one, other])
    assert row.everywhere == "62.5 (50.0 to 75.0)"
    assert row.seeds == "2022, 1"
    failed = one.model_copy(update={"seed": 3, "figures": None, "failure": "no."})
    (row,) = method_rows([one, failed])
    assert row.accuracy == "75.0 [75.0, 75.0]"
    assert row.failures == ("seed 3: no.",)
    (row,) = method_rows([failed])
    assert row.accuracy == row.minutes == row.sites == "–"
