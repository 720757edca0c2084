"""Scenarios on one collection of X-rays, and what is done to single hospitals in them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from ppfl.errors import DataError, PpflError, SettingsError
from ppfl.learning.sources import ImageRecord, read_records, write_manifest
from ppfl.learning.splits import partition_records, split_by_group
from ppfl.settings import Study
from ppfl.xray import write_phantoms
from ppfl.xray.pictures import read_grey
from simulations import command
from simulations.altered import AlteredHospital, alter, rescan
from simulations.dealing import deal, held_out_xrays, hospital_names
from simulations.main import _app
from simulations.methods.methods import METHODS
from simulations.prepare import prepare
from simulations.runner import share_of_cores
from simulations.scenario import SCENARIOS, Simulated, read_scenario, scenario_name

_CLASSES = ("COVID", "Normal", "Viral_Pneumonia")


def _study(*sites: str, **images: float) -> Study:
    return Study.model_validate(
        {
            "name": "s",
            "classes": _CLASSES,
            "images": {"size": 64, **images},
            "federation": {"sites": sites or ("site-1", "site-2", "site-3")},
        }
    )


def _records(patients: int) -> list[ImageRecord]:
    return [
        ImageRecord(Path(f"/{patient}-{n}.png"), _CLASSES[patient % 3], f"p{patient}")
        for patient in range(patients)
        for n in range(1 + patient % 2)
    ]


@pytest.fixture(scope="module")
def xrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of phantoms that pass for X-rays: two hospitals, which share a patient."""
    folder = tmp_path_factory.mktemp("xrays")
    write_phantoms(folder, counts={"Normal": 24, "Effusion": 24}, size=64, seed=1)
    found = sorted(folder.rglob("*.png"))
    write_manifest(
        folder / "index.csv",
        [
            ImageRecord(path, "COVID", "both" if n in (0, 47) else f"p{n}", "ab"[n % 2])
            for n, path in enumerate(found)
        ],
    )
    return folder


def test_every_scenario_can_be_read_and_names_itself() -> None:
    for path in SCENARIOS.glob("*.toml"):
        scenario = read_scenario(path.stem)
        assert scenario.study["name"] == path.stem
        assert scenario.study["classes"]
        assert scenario.simulation.phantoms or "sites" in scenario.study["federation"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study = 5", "study must be a table, got 5"),
        ("simulation = 5", "simulation must be a table, got 5"),
        ("[study]\nfederation = 5", "federation must be a table, got 5"),
        ("[study]\ntraining = 5", "training must be a table, got 5"),
    ],
)
def test_a_scenario_without_its_tables_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_scenario(str(tmp_path / "s.toml"), rounds=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("federation=5", "study: federation: Input should be a valid dict"),
        ("classes=5", "study: classes: Input should be a valid tuple"),
        ("sites=5", "study: federation.sites: Input should be a valid tuple"),
        ("minimum_sites=9999", "but only 1000 are named"),
        ("hold_out=../x", "no hospital ../x"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_refused_before_anything_is_made(
    tmp_path: Path, xrays: Path, change: str, message: str
) -> None:
    scenario = read_scenario("natural", data=xrays, changes=[change])
    with pytest.raises(SettingsError, match=message):
        prepare(scenario, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_hospital_whose_name_is_no_folders_is_not_held_out(xrays: Path) -> None:
    data = Simulated(data=str(xrays), hold_out="A/b")
    with pytest.raises(SettingsError, match="is no name for a site"):
        hospital_names(data, ["A/b", "b"], classes=_CLASSES)


def test_one_step_a_round_is_a_scenario_and_a_method() -> None:
    changes = next(method.changes for method in METHODS if method.key == "one-step")
    method = read_scenario("natural", changes=[*changes, "name=one-step"])
    assert read_scenario("one-step") == method


def test_a_scenarios_folder_has_its_whole_name() -> None:
    for path in SCENARIOS.glob("*.toml"):
        name = path.name[: -len(".toml")]
        assert scenario_name(name) == scenario_name(str(path)) == name


def test_a_run_of_a_name_with_a_dot_goes_into_a_folder_of_that_name(
    xrays: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: object, folder: Path, *, threads: int) -> None:
        raise DataError(f"{folder}, {threads}")

    monkeypatch.setattr(command, "prepare", stop)
    for name in ("dirichlet-0.1", "dirichlet-0.5"):
        result = CliRunner().invoke(_app, ["simulate", name, "--data", str(xrays), "--actors", "2"])
        assert str(result.exception) == f"runs/{name}, {share_of_cores(2)}"


def test_a_file_may_extend_a_built_in_scenario(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('extends = "dirichlet-0.1"\n[study]\nname = "mine"\n[study.training]\nrounds=3')
    mine, built_in = read_scenario(str(path)), read_scenario("covid")
    assert mine.simulation.partition.alpha == 0.1
    assert mine.study["training"] == built_in.study["training"] | {"rounds": 3}
    path.write_text('extends = "other.toml"')
    with pytest.raises(SettingsError, match="extends must name a built-in scenario"):
        read_scenario(str(path))


@pytest.mark.parametrize(
    ("sites", "hold_out", "message"),
    [
        (("", ""), "", "its table names no hospital"),
        (("a", "a"), "", "its table names one hospital only, a"),
        (("a", "b"), "b", "its table names one hospital only beside b, a"),
        (("a/b", "c"), "", "site: 'a/b' is no name for a site"),
    ],
)
def test_a_table_without_two_hospitals_cannot_be_dealt_by_hospital(
    tmp_path: Path, sites: tuple[str, str], hold_out: str, message: str
) -> None:
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    for path in paths:
        path.touch()
    records = [
        ImageRecord(path, "COVID", path.stem, site) for path, site in zip(paths, sites, strict=True)
    ]
    write_manifest(tmp_path / "index.csv", records)
    data = read_scenario("natural", data=tmp_path).simulation
    held = data.model_copy(update={"hold_out": hold_out})
    with pytest.raises(PpflError, match=message):
        hospital_names(held, [], classes=["COVID"])


def test_natural_hospitals_are_those_of_the_table(xrays: Path) -> None:
    data = read_scenario("natural", data=xrays).simulation
    assert hospital_names(data, [], classes=["COVID"]) == ["a", "b"]
    for name, changes in (("c", {"hold_out": "c"}), ("d", {"altered": [{"name": "d"}]})):
        strange = data.model_validate(data.model_dump() | changes)
        with pytest.raises(SettingsError, match=f"there is no hospital {name}"):
            hospital_names(strange, [], classes=["COVID"])
    with pytest.raises(SettingsError, match="needs X-rays"):
        hospital_names(read_scenario("natural").simulation, [], classes=["COVID"])
    gone = read_scenario("natural", data=xrays / "gone").simulation
    with pytest.raises(DataError, match="no such folder"):
        hospital_names(gone, [], classes=["COVID"])


def _all(xrays: Path) -> list[ImageRecord]:
    """The table's X-rays, and one of a third hospital."""
    third = xrays.parent / "third.png"
    third.write_bytes(next(xrays.rglob("*.png")).read_bytes())
    return [*read_records(xrays), ImageRecord(third, "COVID", "pc", "c")]


def test_a_hospital_held_out_shows_no_patient_whom_a_site_knows(
    xrays: Path, tmp_path: Path
) -> None:
    write_manifest(tmp_path / "three.csv", _all(xrays))
    scenario = read_scenario("natural", data=tmp_path / "three.csv", changes=["hold_out=b"])
    dealt = deal(scenario, _study("a", "c"), ["a", "b", "c"], tmp_path)
    assert sorted(dealt) == ["a", "c"]
    found = held_out_xrays(tmp_path)
    assert found is not None
    name, path = found
    assert name == "b"
    held = {record.group for record in read_records(path)}
    known = {record.group for record in read_records(tmp_path / "sites" / "a" / "manifest.csv")}
    assert "both" in known
    assert len(held) == 23
    assert held.isdisjoint(known)
    assert sorted(p.name for p in (tmp_path / "sites").iterdir()) == ["a", "c"]


@given(st.integers(3, 60), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_only_labels_that_are_trained_on_are_flipped(
    patients: int, share: float, seed: int
) -> None:
    records, study = _records(patients), _study().model_copy(update={"seed": seed})
    how = AlteredHospital(name="site-1", flipped_labels=share)
    altered = alter(records, how, study, Path("/nowhere"))
    assert [(r.path, r.group, r.site) for r in altered] == [
        (r.path, r.group, r.site) for r in records
    ]
    wrong = {new.path for old, new in zip(records, altered, strict=True) if old.label != new.label}
    train = {r.path for r in split_by_group(records, validation=0.1, test=0.2, seed=seed).train}
    assert wrong <= train
    assert len(wrong) == round(share * len(train))
    assert {record.label for record in altered} <= set(_CLASSES)
    assert alter(records, how, study, Path("/nowhere")) == altered


def test_labels_of_a_hospital_held_out_stay_right(xrays: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    write_manifest(labels, [replace(r, label=_CLASSES[n % 2]) for n, r in enumerate(_all(xrays))])
    altered = 'altered=[{name="b",flipped_labels=1.0,gamma=1.8}]'
    scenario = read_scenario("natural", data=labels, changes=["hold_out=b", altered])
    deal(scenario, _study("a", "c"), ["a", "b", "c"], tmp_path)
    name, path = held_out_xrays(tmp_path) or ("", Path())
    right = {r.group: r.label for r in read_records(labels)}
    found = read_records(path)
    assert name == "b"
    assert len(found) == 23
    assert [r.label for r in found] == [right[r.group] for r in found]
    assert all("altered" in r.path.parts for r in found)  # its scanner is still another


def test_another_scanner_changes_pictures_and_nothing_else(xrays: Path, tmp_path: Path) -> None:
    records = read_records(xrays)[:6]
    how = AlteredHospital(name="site-1", gamma=1.8, contrast=0.6)
    altered = alter(records, how, _study(), tmp_path / "altered")
    assert [(r.label, r.group) for r in altered] == [(r.label, r.group) for r in records]
    for old, new in zip(records, altered, strict=True):
        before, after = (np.asarray(read_grey(r.path).picture).astype(int) for r in (old, new))
        assert before.shape == after.shape
        assert after.std() < before.std()
        # the same patient, at another exposure
        assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.9
        assert new.path.stat().st_mode & 0o077 == 0


@given(st.floats(0.1, 5), st.floats(0.1, 5))
def test_a_scanner_never_turns_bright_into_dark(gamma: float, contrast: float) -> None:
    shown = rescan(np.arange(256, dtype=np.uint8), gamma=gamma, contrast=contrast)
    assert (np.diff(shown.astype(int)) >= 0).all()
    same = rescan(np.arange(256, dtype=np.uint8), gamma=1, contrast=1)
    assert (same == np.arange(256)).all()


@pytest.mark.parametrize("name", ["iid", "dirichlet-0.1", "dirichlet-0.5", "pathological"])
def test_a_patient_is_at_one_hospital_and_on_one_side(name: str) -> None:
    records = _records(300)
    how = read_scenario(name).simulation.partition
    held = partition_records(records, sites=("1", "2", "3"), how=how, seed=2022)
    patients = [{record.group for record in mine} for mine in held.values()]
    assert sum(map(len, patients)) == len(set().union(*patients)) == 300
    if name == "pathological":
        assert all(len({record.label for record in mine}) == 2 for mine in held.values())
