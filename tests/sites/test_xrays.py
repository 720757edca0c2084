"""A vault in place of a folder: the same images, the same model."""

from __future__ import annotations

import errno
import json
import shutil
import stat
import tempfile
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from coordinator.dashboard.log import sentence_of
from ppfl.crypto import generate_key, write_private_key, write_public_key
from ppfl.errors import DataError, KeyMaterialError, SettingsError
from ppfl.federation import read_journal
from ppfl.federation.journal import LabelsLeftOut, StudyClosed
from ppfl.learning.files import load_model
from ppfl.settings import SiteFile, Study
from simulations.main import _app
from simulations.prepare import prepare
from simulations.runner import run_in_process
from sites.hospital import Hospital
from sites.requests import Request
from sites.xrays import XRays
from tests.simulations.tiny import SITES, prepare_once, tiny_scenario
from tests.xray.test_dicom import radiograph, save


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vault") / "run"
    prepare_once(tiny_scenario("shared"), folder)
    for name in SITES:
        place = folder / "sites" / name
        told = _ppfl("seal", place / "xrays", place / "vault", "--key", folder / "public.key")
        assert (told["sealed"], told["already"], told["failures"]) == (16, 0, [])
    return folder


def _ppfl(*arguments: object, code: int = 0) -> dict[str, object]:
    result = CliRunner().invoke(_app, ["vault", *map(str, arguments), "--json"])
    assert result.exit_code == code, result.output
    told: dict[str, object] = json.loads(result.stdout)
    return told


def _site(run: Path, *, vault: bool) -> SiteFile:
    site = SiteFile.read(run / "sites" / "north" / "site.toml")
    return site.model_copy(update={"data": site.data.with_name("vault")}) if vault else site


@pytest.mark.parametrize("equalise", ["none", "histogram"])
def test_a_vault_gives_identical_tensors(run: Path, equalise: str) -> None:
    study = Study.read(run / "study.toml")
    options = study.images.model_copy(update={"equalise": equalise})
    study = study.model_copy(update={"images": options})
    plain, sealed = (XRays(_site(run, vault=vault), study) for vault in (False, True))
    for split in ("train", "validation", "test"):
        one, other = plain.images(split), sealed.images(split)
        np.testing.assert_array_equal(one.images, other.images)
        np.testing.assert_array_equal(one.labels, other.labels)
    assert len(plain.images("train").labels) > 5


def test_an_xray_that_a_patient_withdrew_is_not_kept(run: Path, tmp_path: Path) -> None:
    study = Study.read(run / "study.toml")
    shutil.copytree(run / "sites" / "north" / "xrays", tmp_path / "xrays")
    site = _site(run, vault=False).model_copy(
        update={"data": tmp_path / "xrays", "work": tmp_path / "work"}
    )

    def kept() -> bytes:
        for split in ("train", "validation", "test"):
            XRays(site, study).images(split)
        return b"".join(path.read_bytes() for path in (tmp_path / "work").rglob("*.npy"))

    paths = sorted((tmp_path / "xrays").rglob("*.png"))
    rows = {path: np.asarray(Image.open(path))[32].tobytes() for path in paths}
    before = kept()
    assert all(row in before for row in rows.values())
    assert kept() == before  # the splits keep out of each other's way
    paths[0].unlink()
    after = kept()
    assert [row in after for row in rows.values()] == [False] + [True] * (len(paths) - 1)


def test_what_a_study_leaves_out_is_counted_in_a_folder_and_in_its_vault(run: Path) -> None:
    study = Study.read(run / "study.toml")
    other = study.model_copy(update={"classes": ("normal", "Nodule")})
    for vault in (False, True):
        assert XRays(_site(run, vault=vault), study).left_out() == {}
        assert XRays(_site(run, vault=vault), other).left_out() == {"Effusion": 8}


def test_a_site_writes_down_what_the_study_leaves_out_before_the_first_round(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "run"
    study = prepare_once(tiny_scenario("unsafe_plaintext"), folder)
    xrays = folder / "sites" / "north" / "xrays"
    shutil.copytree(xrays / "Normal", xrays / "Old Normal")
    site = SiteFile.read(folder / "sites" / "north" / "site.toml")
    start, _ = load_model(folder / "start.safetensors")
    Hospital(site).enroll(Request(study.fingerprint(), "ab", 0, start=start))
    events = read_journal(site.work / "journal.jsonl")
    (told,) = (event for event in events if isinstance(event, LabelsLeftOut))
    assert (told.site, told.labels) == ("north", {"Old Normal": 8})
    assert sentence_of(told).endswith("of no class of the study: Old Normal (8)")


@pytest.mark.slow
def test_a_study_on_vaults_is_the_study_on_their_xrays_and_leaves_nothing_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    digests, found = [], []
    for data in ("xrays", "vault"):
        folder = tmp_path / data
        prepare(tiny_scenario("unsafe_plaintext"), folder)
        rows = _middle_rows(folder)
        if data == "vault":
            _move_into_vaults(folder)
        run_in_process(folder)
        closed = read_journal(folder / "journal.jsonl")[-1]
        assert isinstance(closed, StudyClosed)
        digests.append(closed.model_sha256)
        left = b"".join(path.read_bytes() for path in _left_by(folder, tmp_path / "temporary"))
        found.append(sum(row in left for row in rows))
    assert digests[0] == digests[1]
    assert found == [len(rows), 0]  # the cache of a plain folder shows that the search finds them


def _middle_rows(folder: Path) -> list[bytes]:
    """A row of pixels from each X-ray that is decoded on the way, as memory holds it."""
    paths = sorted(folder.glob("sites/*/xrays/**/*.png"))
    return [np.asarray(Image.open(path))[32].tobytes() for path in paths]


def _left_by(folder: Path, temporary: Path) -> list[Path]:
    places = (*folder.rglob("*"), *temporary.rglob("*"))
    return [path for path in places if path.is_file() and "xrays" not in path.parts[-3:]]


def _move_into_vaults(folder: Path) -> None:
    """Seal each site's X-rays, and take them away."""
    key = generate_key(2048)  # such a study has none
    write_public_key(folder / "public.key", key.public)
    for name in SITES:
        place = folder / "sites" / name
        _ppfl("seal", place / "xrays", place / "vault", "--key", folder / "public.key")
        shutil.rmtree(place / "xrays")
        write_private_key(place / "private.key", key, passphrase="secret")
        (place / "passphrase").touch(mode=0o600)
        (place / "passphrase").write_text("secret")
        files = {"data": "vault", "key": "private.key", "passphrase_file": "passphrase"}
        change = {field: place / file for field, file in files.items()}
        site = SiteFile.read(place / "site.toml").model_copy(update=change)
        (place / "site.toml").write_text(site.to_toml())


def test_the_commands_say_what_they_find(run: Path, tmp_path: Path) -> None:
    place = run / "sites" / "north"
    vault = place / "vault"
    opens = ("--private-key", place / "private.key", "--passphrase-file", place / "passphrase")
    again = _ppfl("seal", place / "xrays", vault, "--key", run / "public.key")
    assert (again["sealed"], again["already"]) == (0, 16)
    info = _ppfl("info", vault)
    study = Study.read(run / "study.toml")
    assert (info["files"], info["keys"]) == (16, study.encryption.key_fingerprint)
    assert _ppfl("verify", vault, "--key", run / "public.key")["failures"] == []
    assert _ppfl("verify", vault, *opens)["failures"] == []
    key = ("--key", place / "private.key", "--passphrase-file", place / "passphrase")
    assert _ppfl("open", vault, tmp_path / "opened", *key)["opened"] == 16
    assert stat.S_IMODE((tmp_path / "opened").stat().st_mode) == 0o700
    opened = _site(run, vault=False).model_copy(update={"data": tmp_path / "opened"})
    one, other = (XRays(site, study) for site in (opened, _site(run, vault=True)))
    np.testing.assert_array_equal(one.images("train").images, other.images("train").images)
    result = CliRunner().invoke(_app, ["vault", "open", str(vault), str(tmp_path), *map(str, key)])
    assert isinstance(result.exception, DataError)
    assert "exists already" in str(result.exception)


def test_an_opening_that_failed_leaves_the_place_free(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = run / "sites" / "north"
    out = tmp_path / "opened"
    foreign = tmp_path / "foreign.key"
    write_private_key(foreign, generate_key(2048), passphrase="secret")
    secret = ("--passphrase-file", place / "passphrase")
    (tmp_path / "word").write_text("secret")
    told = _ppfl(
        *("open", place / "vault", out, "--key", foreign, "--passphrase-file", tmp_path / "word"),
        code=1,
    )
    assert told["opened"] == 0
    assert not out.exists()
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(Path, "write_bytes", Mock(side_effect=[None, full]))
        words = map(str, ("open", place / "vault", out, "--key", place / "private.key", *secret))
        ended = CliRunner().invoke(_app, ["vault", *words])
    assert isinstance(ended.exception, DataError)
    assert not out.exists()
    assert _ppfl("open", place / "vault", out, "--key", place / "private.key", *secret)["opened"]


def test_damage_is_counted_and_named(run: Path, tmp_path: Path) -> None:
    place = run / "sites" / "north"
    vault = tmp_path / "vault"
    vault.mkdir()
    for path in (place / "vault").iterdir():
        (vault / path.name).write_bytes(path.read_bytes())
    broken = sorted(vault.iterdir())[3]
    data = bytearray(broken.read_bytes())
    data[500] ^= 1
    broken.write_bytes(data)
    opens = ("--private-key", place / "private.key", "--passphrase-file", place / "passphrase")
    told = _ppfl("verify", vault, *opens, code=1)
    assert told["files"] == 16
    assert [failure["file"] for failure in told["failures"]] == [broken.name]  # type: ignore[attr-defined]
    site = _site(run, vault=True).model_copy(update={"data": vault})
    with pytest.raises(DataError, match=broken.name):
        XRays(site, Study.read(run / "study.toml")).images("train")


def test_a_link_to_nowhere_in_a_vault_is_named(run: Path, tmp_path: Path) -> None:
    for path in (run / "sites" / "north" / "vault").glob("*.xray"):
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / "a.xray").symlink_to("gone")
    site = _site(run, vault=True).model_copy(update={"data": tmp_path})
    with pytest.raises(DataError, match=r"a\.xray: No such file"):
        XRays(site, Study.read(run / "study.toml")).images("train")


def test_a_vault_needs_its_key(run: Path) -> None:
    site, study = _site(run, vault=True), Study.read(run / "study.toml")
    with pytest.raises(SettingsError, match="there is no key"):
        XRays(site.model_copy(update={"key": None}), study).images("train")
    other = run / "sites" / "north" / "other.key"
    with pytest.raises(KeyMaterialError):
        XRays(site.model_copy(update={"key": other}), study).images("train")


def test_what_dicoms_tell_is_counted_and_no_value_is_shown(run: Path, tmp_path: Path) -> None:
    xrays = tmp_path / "xrays" / "Normal"
    xrays.mkdir(parents=True)
    # long enough that no digest and no ciphertext has them by chance
    names = {"PatientName": "Doe^Jane", "PatientID": "4711-0815-42", "StudyDate": "20220314"}
    for number, burned_in in enumerate(("YES", "NO", "")):
        data = radiograph(**names, BurnedInAnnotation=burned_in)
        save(data, xrays / f"{number}.dcm")
    save(radiograph(**names, SamplesPerPixel=3), xrays / "colour.dcm")
    (xrays / "broken.png").symlink_to("gone")
    seal = ["seal", str(tmp_path / "xrays"), str(tmp_path / "vault")]
    seal += ["--key", str(run / "public.key")]
    first = CliRunner().invoke(_app, ["vault", *seal])
    assert first.exit_code == 1
    assert first.stdout == (
        "sealed: 3, already: 0, DICOM: 3, with burnt-in text: 1, silent about it: 1, "
        "with identifying attributes: 3\nfailures: 2\n"
    )
    (tmp_path / "table.csv").write_text("path,label\nxrays/Normal/broken.png,Normal\n")
    other = [*seal[:1], str(tmp_path / "table.csv"), str(tmp_path / "other"), *seal[3:]]
    named = CliRunner().invoke(_app, ["vault", *other])
    assert named.stderr.startswith("xrays/Normal/broken.png: No such file or directory")
    assert "Normal/broken.png: No such file or directory" in first.stderr
    assert "Normal/colour.dcm: in colour" in first.stderr
    assert str(tmp_path) not in first.output
    shutil.rmtree(tmp_path / "vault")
    (tmp_path / "xrays" / ".ppfl-vault.jsonl").unlink()
    told = _ppfl(*seal, code=1)
    dicom = told["dicom"]
    assert isinstance(dicom, dict)
    assert dicom["burned_in"] == {"no": 1, "unknown": 1, "yes": 1}
    assert dicom["identifying"] == {"PatientID": 3, "PatientName": 3, "StudyDate": 3}
    left = [first.output.encode(), json.dumps(told).encode()]
    left += [path.read_bytes() for path in (tmp_path / "vault").iterdir()]
    left += [(tmp_path / "xrays" / ".ppfl-vault.jsonl").read_bytes()]
    assert not any(value.encode() in text for value in names.values() for text in left)


def test_info_names_what_is_no_vault_file(run: Path, tmp_path: Path) -> None:
    whole = next((run / "sites" / "north" / "vault").glob("*.xray"))
    (tmp_path / whole.name).write_bytes(whole.read_bytes())
    (tmp_path / "a.xray").write_bytes(b"text")
    (tmp_path / "b.xray").mkdir()
    told = _ppfl("info", tmp_path, code=1)
    assert (told["files"], told["bytes"]) == (3, whole.stat().st_size)
    assert [failure["file"] for failure in told["failures"]] == ["a.xray", "b.xray"]  # type: ignore[attr-defined]


def test_a_folder_without_xrays_makes_no_vault(run: Path, tmp_path: Path) -> None:
    seal = ["seal", str(tmp_path), str(tmp_path / "vault"), "--key", str(run / "public.key")]
    result = CliRunner().invoke(_app, ["vault", *seal])
    assert isinstance(result.exception, DataError)
    assert "no image in a folder per class" in str(result.exception)
    assert not (tmp_path / "vault").exists()
