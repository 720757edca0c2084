"""`ppfl doctor --site`: each thing that can be wrong before the first round."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import coordinator.gateway
import simulations.doctor
import sites.doctor
import sites.reach
from ppfl.crypto import PrivateKey, generate_key
from ppfl.crypto.keyfiles import write_private_key
from ppfl.findings import Finding
from ppfl.settings import SiteFile
from ppfl.xray.vault_file import SUFFIX
from simulations.main import _app
from sites.doctor import examine_site
from tests.coordinator.gateway_in_threads import Site
from tests.deployed import Deployed, answering, connect


@pytest.fixture
def alpha(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Path, Site]]:
    """A site that has all it needs, and a coordinator that knows it."""
    memory = SimpleNamespace(available=10**11)
    monkeypatch.setattr(sites.doctor.psutil, "virtual_memory", lambda: memory)
    with answering(deployed, "alpha") as running:
        yield deployed.site("alpha"), running


def _by_name(folder: Path) -> dict[str, Finding]:
    return {finding.what: finding for finding in examine_site(folder)}


def test_a_site_that_is_ready(alpha: tuple[Path, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = alpha
    found = _by_name(folder)
    assert [f for f in found.values() if f.state == "wrong"] == []
    assert found["study"].found.startswith("tiny of alpha, beta, approved, as is the code: ")
    assert found["data"] == Finding("data", "ok", "Normal: 12, Effusion: 12")
    assert "answers, and knows this site's key" in found["coordinator"].found
    assert "the coordinator, within a second or two" in found["clock"].found
    assert "more days, until" in found["certificate"].found
    assert " MB down in a round; " in found["line"].found
    monkeypatch.setattr(simulations.doctor, "_KEY_BITS", 2048)
    result = CliRunner().invoke(_app, ["doctor", "--site", str(folder), "--json"])
    assert result.exit_code == 0
    told = json.loads(result.stdout)
    assert told["well"]
    assert {"self-test", "packages", "clock"} <= {f["what"] for f in told["findings"]}


def test_another_version_than_the_kits_is_noted(
    alpha: tuple[Path, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = alpha
    ours = version("ppfl")
    assert _by_name(folder)["version"] == Finding("version", "ok", f"ppfl {ours}, as the kit's")
    monkeypatch.setattr(sites.doctor, "version", lambda _: "9.1")
    found = _by_name(folder)["version"]
    assert (found.state, found.found) == ("note", f"ppfl 9.1, and {ours} made the kit")
    assert "join again" in found.advice
    _edit("site.toml", f'kit_version = "{ours}"', 'kit_version = ""')(folder)
    assert "version" not in _by_name(folder)  # it joined before kits had one


def test_the_cache_of_xrays_counts_in_memory_and_disk(
    alpha: tuple[Path, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = alpha
    before = _by_name(folder)
    monkeypatch.setattr(sites.doctor, "_images", lambda *_: 10**9)
    found = _by_name(folder)
    for what in ("memory", "disk"):
        assert found[what].state == "wrong"
        assert found[what].found != before[what].found


def _other_key(folder: Path) -> None:
    secret = (folder / "passphrase").read_text()
    (folder / "private.key").unlink()
    write_private_key(folder / "private.key", generate_key(2048), passphrase=secret)


def _delete_images(folder: Path) -> None:
    for path in (folder.parent / "xrays").rglob("*.png"):
        path.unlink()


def _damage_image(folder: Path) -> None:
    (folder.parent / "xrays" / "Normal" / "Doe-3.png").write_bytes(b"no image")


def _edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("spoil", "what", "code"),
    [
        (lambda f: (f / "site.toml").unlink(), "settings", "settings"),
        (lambda f: (f / "public.key").unlink(), "settings", "key-file"),
        (_edit("study.toml", "rounds = 10", "rounds = 11"), "study", "study-mismatch"),
        (lambda f: (f / "sealing.key").chmod(0o644), "identity", "key-access"),
        (lambda f: (f / "supernode.key").chmod(0o644), "coordinator", "key-access"),
        (lambda f: (f / "private.key").chmod(0o640), "key", "key-access"),
        (lambda f: (f / "passphrase").write_text("another"), "key", "passphrase"),
        (_other_key, "key", "key-mismatch"),
        (lambda f: (f / "ca.crt").write_text("none"), "authority", "certificate"),
        (lambda f: connect(f, port=1), "coordinator", "unreachable"),
        (_delete_images, "data", "data"),
        (_damage_image, "data", "data"),
    ],
)
def test_each_thing_that_is_wrong_is_found(
    spoil: Callable[[Path], None], what: str, code: str, alpha: tuple[Path, Site]
) -> None:
    folder, _ = alpha
    spoil(folder)
    found = next(finding for finding in examine_site(folder) if finding.what == what)
    assert (found.state, found.code) == ("wrong", code)
    assert found.advice


def test_a_data_folder_is_told_in_counts_only(
    alpha: tuple[Path, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = alpha
    for spoil in (_damage_image, _delete_images):
        spoil(folder)
        told = " ".join(f"{f.found} {f.advice}" for f in examine_site(folder))
        assert "Doe" not in told
        assert f"ppfl data check {folder.parent / 'xrays'}" in told


def test_a_class_that_a_site_lacks_is_noted(alpha: tuple[Path, Site]) -> None:
    folder, _ = alpha
    for path in (folder.parent / "xrays" / "Effusion").iterdir():
        path.unlink()
    (found,) = (finding for finding in examine_site(folder) if finding.what == "data")
    assert found.state == "note"
    assert found.found.startswith("Normal: 12, Effusion: 0")


def test_xrays_of_no_class_are_noted_without_their_labels(alpha: tuple[Path, Site]) -> None:
    folder, _ = alpha
    xrays = folder.parent / "xrays"
    shutil.copytree(xrays / "Effusion", xrays / "Doe, Jane")
    found = _by_name(folder)["data"]
    assert found.state == "note"
    assert found.found.startswith("Normal: 12, Effusion: 12; of no class, and left out: 12")
    assert "Doe" not in found.found
    assert "--study" in found.advice


def test_what_is_wrong_at_the_coordinator_is_found_at_the_site(
    alpha: tuple[Path, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, running = alpha
    with monkeypatch.context() as patch:
        now = sites.reach._now
        patch.setattr(sites.reach, "_now", lambda: now() - 86400)
        clock = _by_name(folder)["clock"]
        assert (clock.state, clock.code) == ("wrong", "clock")
        patch.setattr(sites.reach, "_now", lambda: now() + 3.5)
        assert _by_name(folder)["clock"].state == "note"
    with monkeypatch.context() as patch:
        patch.setattr(coordinator.gateway, "_FLOWER", "1.2.3")
        assert _by_name(folder)["coordinator"].code == "flower-version"
    running.stop_link()
    assert _by_name(folder)["coordinator"].code == "unreachable"


def test_what_is_short_is_found(alpha: tuple[Path, Site], monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = alpha
    monkeypatch.setattr(
        sites.doctor.psutil, "virtual_memory", lambda: SimpleNamespace(available=10**9)
    )
    monkeypatch.setattr(sites.doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
    monkeypatch.setattr(sites.doctor, "_SOON_DAYS", 31)  # the certificate is valid for 30
    (folder / "passphrase").chmod(0o644)
    site = SiteFile.read(folder / "site.toml")
    assert site.coordinator is not None
    with socket.create_server(("127.0.0.1", site.coordinator.node_port)):
        found = _by_name(folder)
    assert found["memory"].state == "wrong"
    assert (found["disk"].state, found["disk"].code) == ("wrong", "disk-full")
    assert (found["port"].state, found["port"].code) == ("wrong", "port")
    assert found["certificate"].state == "note"
    assert (found["passphrase"].state, found["passphrase"].code) == ("note", "key-access")


def test_a_site_whose_private_key_is_another_users(
    alpha: tuple[Path, Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = alpha
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    found = _by_name(folder)
    assert {found[what].code for what in ("key", "identity", "coordinator")} == {"key-access"}


def test_a_vault_is_looked_at_without_opening_it(
    alpha: tuple[Path, Site], full_key: PrivateKey
) -> None:
    folder, _ = alpha
    place = folder.parent / "vault"
    seal = ["vault", "seal", str(folder.parent / "xrays"), str(place)]
    sealed = CliRunner().invoke(_app, [*seal, "--key", str(folder / "public.key")])
    assert sealed.exit_code == 0, sealed.output
    site = SiteFile.read(folder / "site.toml").model_copy(update={"data": place})
    (folder / "site.toml").write_text(site.to_toml())
    found = _by_name(folder)["data"]
    assert found == Finding("data", "ok", "a vault of 24 files under the study's key")
    file = next(place.glob(f"*{SUFFIX}"))
    file.write_bytes(file.read_bytes()[:-5])
    found = _by_name(folder)["data"]
    assert found.state == "wrong"
    assert "1 of them damaged" in found.found


def test_a_site_that_has_not_joined(alpha: tuple[Path, Site]) -> None:
    folder, _ = alpha
    site = SiteFile.read(folder / "site.toml").model_copy(update={"coordinator": None})
    (folder / "site.toml").write_text(site.to_toml())
    (found,) = examine_site(folder)
    assert (found.state, found.code) == ("wrong", "settings")
    assert "ppfl site join" in found.advice
