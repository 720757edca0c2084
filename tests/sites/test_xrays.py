"""A vault in place of a folder: the same images, the same model."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ppfl.errors import DataError, KeyMaterialError, SettingsError
from ppfl.federation import read_journal
from ppfl.federation.journal import StudyClosed
from ppfl.learning.images import ImageSet
from ppfl.settings import SiteFile, Study
from simulations.main import _app
from simulations.prepare import prepare
from simulations.runner import run_in_process
from sites.xrays import XRays
from tests.simulations.tiny import SITES, tiny_scenario


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vault") / "run"
    prepare(tiny_scenario("shared"), folder)
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


def test_a_vault_gives_identical_tensors(run: Path) -> None:
    study = Study.read(run / "study.toml")
    plain, sealed = (XRays(_site(run, vault=vault), study) for vault in (False, True))
    for split in ("train", "validation", "test"):
        assert _content(plain.images(split)) == _content(sealed.images(split))
    assert len(plain.images("train").labels) > 5


def _content(found: ImageSet) -> list[tuple[bytes, int]]:
    pairs = zip(found.images, found.labels.tolist(), strict=True)
    return sorted((image.tobytes(), label) for image, label in pairs)


def test_what_is_opened_stays_in_memory(run: Path) -> None:
    site = _site(run, vault=True)
    before = {path for path in run.rglob("*") if path.is_file()}
    XRays(site, Study.read(run / "study.toml")).images("train")
    assert {path for path in run.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_study_on_vaults_ends_in_one_model(run: Path, tmp_path: Path) -> None:
    digests = []
    for number in range(2):
        folder = tmp_path / str(number)
        prepare(tiny_scenario("unsafe_plaintext"), folder)
        for name in SITES:
            place, kept = folder / "sites" / name, run / "sites" / name
            change = {
                "data": kept / "vault",
                "key": kept / "private.key",
                "passphrase_file": kept / "passphrase",
            }
            site = SiteFile.read(place / "site.toml").model_copy(update=change)
            (place / "site.toml").write_text(site.to_toml())
        run_in_process(folder)
        closed = read_journal(folder / "journal.jsonl")[-1]
        assert isinstance(closed, StudyClosed)
        digests.append(closed.model_sha256)
    assert digests[0] == digests[1]


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
    assert _content(one.images("train")) == _content(other.images("train"))
    result = CliRunner().invoke(_app, ["vault", "open", str(vault), str(tmp_path), *map(str, key)])
    assert isinstance(result.exception, DataError)
    assert "exists already" in str(result.exception)


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


def test_a_vault_needs_its_key(run: Path) -> None:
    site, study = _site(run, vault=True), Study.read(run / "study.toml")
    with pytest.raises(SettingsError, match="there is no key"):
        XRays(site.model_copy(update={"key": None}), study).images("train")
    other = run / "sites" / "north" / "other.key"
    with pytest.raises(KeyMaterialError):
        XRays(site.model_copy(update={"key": other}), study).images("train")
