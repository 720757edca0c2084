"""A federation beside its baselines: real crypto, a small key, a small network, few phantoms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

import simulations.command
import simulations.runner
from ppfl.errors import DataError, RunError, SettingsError, UnreadableImageError
from ppfl.learning import intervals
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.learning.models import get_parameters
from ppfl.learning.sources import ImageRecord, write_manifest
from ppfl.learning.splits import split_by_group
from ppfl.report import read_comparison
from ppfl.report.comparison import Place
from ppfl.settings import SiteFile, Study
from ppfl.xray import write_phantoms
from simulations.comparison.baselines import (
    BASELINES,
    run_without_encryption,
    train_local,
    train_pooled,
)
from simulations.comparison.compare import (
    METHODS,
    _Comparer,
    _warnings,
    also_asked,
    compare_run,
)
from simulations.main import _app
from simulations.outcome import Predictions, site_tests
from simulations.prepare import prepare
from simulations.runner import run_in_process
from simulations.scenario import Scenario
from tests.simulations.tiny import COUNTS, prepare_once, run_without_report, tiny_scenario


def _silent(_: str) -> None:
    pass


@pytest.mark.slow
def test_a_federation_is_compared_with_its_baselines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulations.runner, "leave_report", lambda _: None)  # takes longer
    monkeypatch.setattr(intervals, "_RESAMPLES", 1000)
    scenario = tiny_scenario("shared", images={"test": 0.4}, training={"rounds": 1})
    held = scenario.simulation.model_copy(update={"hold_out": "west"})
    folder = tmp_path / "run"
    prepare_once(scenario.model_copy(update={"simulation": held}), folder)
    run_in_process(folder)
    comparison = compare_run(folder, METHODS, _silent)
    assert read_comparison(folder) == comparison

    # encryption changes nothing, to the last bit
    assert comparison.same_model_in_plaintext
    places = {place.name: place for place in comparison.places}
    assert list(places) == ["", "east", "north", "west"]
    for place in places.values():
        plain = next(other for other in place.others if other.method == "plaintext")
        assert plain.tested == place.federated

    # without rounding the models are others, a little
    unrounded, encrypted = (
        load_model(where / "sites" / "north" / "work" / "model.safetensors")[0]
        for where in (folder / BASELINES / "unrounded", folder)
    )
    apart = [np.abs(unrounded[name] - encrypted[name]).max() for name in encrypted]
    assert 0 < max(apart) < 0.01

    # as many passes over each image
    east, north, pooled = comparison.trainings
    assert (east.trained_at, north.trained_at, pooled.method) == ("east", "north", "pooled")
    assert pooled.images == east.images + north.images
    assert abs(pooled.steps - east.steps - north.steps) <= 2  # a batch left over

    # the hospital that took no part is tested whole, with each site's own model
    assert places["west"].held_out
    assert places["west"].images == sum(COUNTS.values())
    assert "west" not in Study.read(folder / "study.toml").federation.sites
    alone = [other.trained_at for other in places["west"].others if other.method == "local"]
    assert alone == ["east", "north"]
    assert {(a.trained_at, a.tested_at) for a in comparison.abroad} == {
        ("east", "north"),
        ("north", "east"),
    }

    east_model, _ = comparison.elsewhere
    (abroad,) = [a for a in comparison.abroad if a.trained_at == "east"]
    assert (east_model.trained_at, east_model.images) == ("east", places["north"].images)
    assert east_model.accuracy == abroad.accuracy
    assert east_model.federated == places["north"].federated.accuracy

    # what is trained is not trained again
    trained = {path: path.stat().st_mtime_ns for path in folder.glob(f"{BASELINES}/*/*.json*")}
    assert len(trained) == 5
    assert compare_run(folder, METHODS, _silent) == comparison
    assert {path: path.stat().st_mtime_ns for path in trained} == trained


def test_a_baseline_cut_off_goes_on_to_the_same_model(tmp_path: Path) -> None:
    study = prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "whole")
    prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "cut")

    def cut_off(line: str) -> None:
        if "round 2" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_local(study, tmp_path / "cut", "north", cut_off)
    told: list[str] = []
    train_local(study, tmp_path / "cut", "north", told.append)
    assert [line.split(",")[0] for line in told] == ["  local-north: round 2 of 2"]
    whole = train_local(study, tmp_path / "whole", "north", _silent)
    again = train_local(study, tmp_path / "cut", "north", _silent)
    assert again.trained.steps == whole.trained.steps
    one, other = (parameters_sha256(get_parameters(b.model.network)) for b in (whole, again))
    assert one == other


def test_pooled_training_takes_as_many_steps_as_all_sites_also_where_steps_are_counted(
    tmp_path: Path,
) -> None:
    scenario = tiny_scenario("unsafe_plaintext", training={"local_steps": 3})
    study = prepare_once(scenario, tmp_path / "run")
    alone = train_local(study, tmp_path / "run", "north", _silent).trained.steps
    pooled = train_pooled(study, tmp_path / "run", _silent).trained.steps
    assert alone == 3 * study.training.rounds
    assert pooled == len(study.federation.sites) * alone


def _predictions(right: list[bool]) -> Predictions:
    """Of two classes in turn, one image a patient."""
    labels = np.arange(len(right)) % 2
    answers = np.where(right, labels, 1 - labels)
    probabilities = np.where(np.eye(2)[answers] > 0, 0.9, 0.1).astype(np.float32)
    return Predictions(probabilities, labels, np.arange(len(right)).astype(str))


def _place(federated: list[bool], own: list[bool], *, name: str = "east") -> Place:
    others = [("local", "east", _predictions(own))]
    compare = _Comparer(("Normal", "Effusion"), 1)
    return compare.place(name, _predictions(federated), others)  # type: ignore[arg-type]


def test_a_sites_model_is_tested_on_all_other_sites_together() -> None:
    well, badly = _predictions([True] * 38 + [False] * 2), _predictions([True] * 20 + [False] * 20)
    compare = _Comparer(("Normal", "Effusion"), 1)
    travelled = {"a": {"b": badly, "c": well}, "b": {"c": badly}, "c": {}}
    first, second = compare.elsewhere(travelled, {"b": well, "c": well})
    assert (first.trained_at, first.images, second.images) == ("a", 80, 40)
    assert first.accuracy.value == pytest.approx(58 / 80)
    assert first.federated.value == second.federated.value == 0.95
    assert second.difference is not None
    assert second.difference.estimate.value == pytest.approx(0.45)
    assert second.difference.estimate.low > 0


def test_a_site_that_would_do_better_alone_is_warned() -> None:
    well, badly = [True] * 38 + [False] * 2, [True] * 20 + [False] * 20
    (warning,) = _warnings([_place(badly, well)])
    assert warning.startswith("east would do better alone: accuracy 95.0 % with its own model, 50.")
    assert not list(_warnings([_place(well, badly)]))
    assert not list(_warnings([_place(well, well)]))
    assert "all its test images" not in warning
    # another hospital's model is no choice that a site has
    assert not list(_warnings([_place(badly, well, name="north")]))


def test_a_site_of_one_class_is_told_why_it_would_do_better_alone() -> None:
    one = np.ones(30, np.int64)
    odds = np.tile(np.array([0.1, 0.9], np.float32), (30, 1))
    own, ours = (Predictions(p, one, np.arange(30).astype(str)) for p in (odds, odds[:, ::-1]))
    place = _Comparer(("Normal", "Effusion"), 1).place("east", ours, [("local", "east", own)])
    (warning,) = _warnings([place])
    assert "all its test images are of Effusion" in warning
    assert place.told_classes == ("Effusion",)  # rows of a class that nobody has there say nothing


def test_differences_are_the_federations_figures_minus_the_others() -> None:
    well, badly = [True] * 38 + [False] * 2, [True] * 20 + [False] * 20
    (other,) = _place(well, badly).others
    assert other.accuracy is not None
    assert other.accuracy.estimate.value == pytest.approx(0.45)
    assert 0 < other.accuracy.estimate.low < 0.45 < other.accuracy.estimate.high
    for name in ("Normal", "Effusion"):
        sensitivity, auroc = other.sensitivity[name], other.auroc[name]
        assert sensitivity is not None
        assert auroc is not None
        assert sensitivity.estimate.value == pytest.approx(0.45)
        assert auroc.estimate.low > 0
        assert auroc.p is not None
        assert auroc.p < 0.01


def test_of_few_patients_no_difference_is_told() -> None:
    place = _place([True] * 6, [False] * 6)
    (other,) = place.others
    assert not place.told_classes
    assert other.accuracy is None
    assert set(other.sensitivity.values()) == set(other.auroc.values()) == {None}
    assert other.tested.accuracy.value == 0


def test_no_test_image_is_of_a_patient_whom_a_site_trains_on(tmp_path: Path) -> None:
    scenario = tiny_scenario("unsafe_plaintext", federation={"sites": []})
    write_phantoms(tmp_path / "xrays", counts={"Normal": 30, "Effusion": 30}, size=64, seed=1)
    records = [
        ImageRecord(path, path.parent.name, path.stem.split("_")[1], "large")
        for path in sorted((tmp_path / "xrays").rglob("*.png"))
    ]
    tested = split_by_group(records, validation=0.1, test=0.2, seed=2022).test
    # a hospital that knows nobody else trains on this patient, whom the other one tests on
    shared = tested[0]
    copy = tmp_path / "copy.png"
    copy.write_bytes(shared.path.read_bytes())
    records.append(ImageRecord(copy, shared.label, shared.group, "small"))
    write_manifest(tmp_path / "xrays" / "index.csv", records)
    simulation = {"data": str(tmp_path / "xrays"), "partition": {"kind": "column"}}
    study = prepare(
        Scenario.model_validate({"study": scenario.study, "simulation": simulation}),
        tmp_path / "run",
    )
    assert study.federation.sites == ("large", "small")
    tests = site_tests(study, tmp_path / "run")
    assert list(tests) == ["large"]
    assert set(tests["large"].groups) == {r.group for r in tested} - {shared.group}


def _methods(stdout: str) -> set[str]:
    places = json.loads(stdout)["comparison"]["places"]
    return {other["method"] for place in places for other in place["others"]}


def test_what_was_asked_is_kept_and_damage_is_told(tmp_path: Path) -> None:
    run = tmp_path / "run"
    prepare_once(tiny_scenario("unsafe_plaintext"), run)
    (run / "comparison.json").write_text("{")  # it is made anew
    assert also_asked(run, []) == []
    assert not (run / "compare.txt").exists()
    assert also_asked(run, ["plaintext"]) == ["plaintext"]
    assert also_asked(run, ["local"]) == ["local", "plaintext"]
    assert also_asked(run, []) == ["local", "plaintext"]
    (run / "compare.txt").write_text("loc")
    with pytest.raises(RunError, match=r"compare\.txt: damaged"):
        also_asked(run, [])


def test_what_cannot_be_trained_is_refused_before_anything_is(tmp_path: Path) -> None:
    cipher = tiny_scenario("shared", images={"cipher": "unsafe_low_byte"})
    prepare_once(cipher, tmp_path / "run")
    with pytest.raises(SettingsError, match="cipher images need a key"):
        also_asked(tmp_path / "run", ["local", "unrounded"])
    assert not (tmp_path / "run" / "compare.txt").exists()
    assert also_asked(tmp_path / "run", ["local"]) == ["local"]


def test_a_hospital_that_cannot_be_tested_on_is_told_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = tiny_scenario("unsafe_plaintext")
    held = scenario.simulation.model_copy(update={"hold_out": "west"})
    prepare_once(scenario.model_copy(update={"simulation": held}), tmp_path / "run")
    next((tmp_path / "run" / "held-out").rglob("*.png")).write_bytes(b"no picture")
    monkeypatch.setattr(simulations.command, "run_in_process", lambda _: pytest.fail("trained"))
    arguments = ["simulate", "--resume", str(tmp_path / "run"), "--in-process"]
    result = CliRunner().invoke(_app, arguments)
    assert isinstance(result.exception, UnreadableImageError)


def test_sites_that_train_on_all_they_have_are_tested_on_the_hospital_held_out(
    tmp_path: Path,
) -> None:
    scenario = tiny_scenario("unsafe_plaintext", images={"test": 0.0}, training={"rounds": 1})
    held = scenario.simulation.model_copy(update={"hold_out": "west"})
    prepare_once(scenario.model_copy(update={"simulation": held}), tmp_path / "held")
    run_without_report(tmp_path / "held")
    comparison = compare_run(tmp_path / "held", ["pooled"], _silent)
    assert [(place.name, place.held_out) for place in comparison.places] == [("west", True)]
    prepare_once(scenario, tmp_path / "run")
    with pytest.raises(DataError, match="no site holds an X-ray to test on"):
        compare_run(tmp_path / "run", ["pooled"], lambda _: pytest.fail("trained"))


def test_without_encryption_it_trains_on_as_many_threads(tmp_path: Path) -> None:
    prepare(tiny_scenario("unsafe_plaintext"), tmp_path / "run", threads=1)
    plain = run_without_encryption(tmp_path / "run")
    assert SiteFile.read(plain / "sites" / "east" / "site.toml").threads == 1


def test_a_hospital_that_is_held_out_needs_a_patient_of_its_own(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "x", counts={"Normal": 8, "Effusion": 8}, size=64, seed=1)
    records = [
        ImageRecord(path, path.parent.name, path.stem, site)
        for path in sorted((tmp_path / "x").rglob("*.png"))
        for site in (("a", "b")[path.stem.endswith(("2", "3"))],)
    ]
    first = records[0]
    copy = tmp_path / "x" / "copy.png"
    copy.write_bytes(first.path.read_bytes())
    records.append(ImageRecord(copy, first.label, first.group, "c"))
    write_manifest(tmp_path / "x" / "index.csv", records)
    scenario = tiny_scenario("unsafe_plaintext", federation={"sites": []})
    simulation = {"data": str(tmp_path / "x"), "partition": {"kind": "column"}, "hold_out": "c"}
    told = Scenario.model_validate({"study": scenario.study, "simulation": simulation})
    with pytest.raises(DataError, match="c has no X-ray to test on: a site knows every one"):
        prepare(told, tmp_path / "run")
    assert not (tmp_path / "run").exists()  # nor is a key in the way of the next try


def test_the_command_compares_and_prints(tmp_path: Path) -> None:
    scenario = tiny_scenario("unsafe_plaintext", training={"rounds": 1})
    path, out = tmp_path / "tiny.toml", str(tmp_path / "run")
    path.write_text(tomli_w.dumps(scenario.model_dump(mode="json")))
    arguments = ["simulate", str(path), "--in-process", "--out", out]
    arguments += ["--hold-out", "west", "--compare", "local"]
    result = CliRunner().invoke(_app, arguments, catch_exceptions=False)
    assert "west (took no part)" in result.stdout
    assert "north's own model" in result.stdout
    arguments = ["simulate", "--resume", out, "--in-process", "--json"]
    result = CliRunner().invoke(_app, [*arguments, "--compare", "local"], catch_exceptions=False)
    told = json.loads(result.stdout)["comparison"]
    assert [place["name"] for place in told["places"]] == ["", "east", "north", "west"]
    # what was asked before is asked again
    result = CliRunner().invoke(_app, [*arguments, "--compare", "pooled"], catch_exceptions=False)
    assert _methods(result.stdout) == {"local", "pooled"}
    for extra, message in (
        (
            ["--compare", "locale"],
            "--compare locale: there are local, pooled, plain",
        ),
        (["--hold-out", "west"], "--hold-out cannot be given with --resume"),
    ):
        result = CliRunner().invoke(_app, [*arguments, *extra])
        assert isinstance(result.exception, SettingsError)
        assert message in str(result.exception)
