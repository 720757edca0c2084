"""What goes wrong between hospitals, as docs/errors.md lists it: said, and ended with its code."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

import coordinator.gateway
import coordinator.start_command
import ppfl.processes
import simulations.doctor
import sites.doctor
import sites.reach
from coordinator.folder import COORDINATOR_FILE, write_kits
from ppfl.crypto import certificates, generate_key, write_private_key, write_public_key
from ppfl.crypto.certificates import Issued, create_authority, issue_server
from ppfl.federation.ceremony import Ceremony
from ppfl.federation.kit import Kit
from ppfl.processes import Supervisor
from ppfl.running import Running
from ppfl.settings import CoordinatorFile, SiteFile, read_settings
from simulations.main import _app, main
from sites.identity import create_identity
from tests.coordinator.gateway_in_threads import gateway
from tests.deployed import Deployed, answering, connect, free_port

_DOCS = Path(__file__).parents[1] / "docs"
_PAGE, _DEPLOYMENT = ((_DOCS / name).read_text() for name in ("errors.md", "deployment.md"))
_Patch = pytest.MonkeyPatch
_open = ExitStack()


@pytest.fixture(scope="module")
def _hospitals(
    federation: Deployed, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Deployed]:
    root = tmp_path_factory.mktemp("hospitals") / "all"
    shutil.copytree(federation.root, root)
    with answering(Deployed(root), "alpha"):
        yield Deployed(root)


@pytest.fixture
def hospitals(_hospitals: Deployed, tmp_path: Path, monkeypatch: _Patch) -> Iterator[Deployed]:
    """A federation to break, of which site alpha has joined and the gateway answers."""
    shutil.copytree(_hospitals.root, tmp_path / "all")
    path = tmp_path / "all" / "coordinator" / COORDINATOR_FILE
    ports = {name: free_port() for name in ("port", "superlink_port", "dashboard_port")}
    free = {"listen": "127.0.0.1"} | ports
    path.write_text(read_settings(path, CoordinatorFile).model_copy(update=free).to_toml())
    monkeypatch.chdir(tmp_path / "all")
    monkeypatch.setattr(Supervisor, "_tick", Supervisor.stop)  # no process is started
    monkeypatch.setattr(ppfl.processes, "_LEFT_S", 0.0)
    yield Deployed(tmp_path / "all")
    _open.close()


def _expire(here: Deployed, patch: _Patch) -> None:
    folder, now = here.coordinator / "tls", certificates._now()
    authority = Issued((folder / "ca.crt").read_text(), (folder / "ca.key").read_text())
    key = (folder / "server.key").read_text()
    with patch.context() as then:
        then.setattr(certificates, "_now", lambda: now - timedelta(days=40))
        server = issue_server(authority, host="127.0.0.1", days=30, key=key)
    (folder / "server.crt").write_text(server.certificate)


def _answer_with_an_expired_one(here: Deployed, patch: _Patch) -> None:
    _expire(here, patch)
    running = _open.enter_context(gateway(here.coordinator / "tls"))
    connect(here.site("alpha"), port=running.port)


def _rename_host(here: Deployed, _: _Patch) -> None:
    path = here.coordinator / COORDINATOR_FILE
    path.write_text(path.read_text().replace('host = "127.0.0.1"', 'host = "ppfl.example.org"'))


def _swap_authority(here: Deployed, _: _Patch) -> None:
    (here.site("alpha") / "ca.crt").write_text(create_authority(days=9).certificate)


def _set_clock(_: Deployed, patch: _Patch) -> None:
    now = sites.reach._now
    patch.setattr(sites.reach, "_now", lambda: now() - 86400)


def _swap_node_key(here: Deployed, _: _Patch) -> None:
    shutil.copy(here.site("beta") / "supernode.key", here.site("alpha") / "supernode.key")


def _swap_private_key(here: Deployed, _: _Patch) -> None:
    folder = here.site("alpha")
    (folder / "private.key").unlink()
    secret = (folder / "passphrase").read_text()
    write_private_key(folder / "private.key", generate_key(2048), passphrase=secret)


def _swap_public_key(here: Deployed, _: _Patch) -> None:
    (here.coordinator / "public.key").unlink()
    write_public_key(here.coordinator / "public.key", generate_key(2048).public)


def _mix_kit(here: Deployed, _: _Patch) -> None:
    kit = Kit.read(here.kit("alpha"))
    other = re.sub('key_fingerprint = "[0-9a-f]+"', f'key_fingerprint = "{"0" * 64}"', kit.study)
    text = kit.model_copy(update={"study": other}).to_toml()
    here.kit("alpha").write_text(text, encoding="utf-8")


def _copy_card(here: Deployed, _: _Patch) -> None:
    create_identity("alpha", here.root / "again")


def _open_to_others(name: str) -> Callable[[Deployed, _Patch], None]:
    return lambda here, _: (here.root / name).chmod(0o644)


def _give_away(here: Deployed, patch: _Patch) -> None:
    if os.geteuid():
        patch.setattr(os, "geteuid", lambda: 12345)
    else:
        os.chown(here.site("alpha") / "private.key", 12345, -1)


def _take_node_port(here: Deployed, _: _Patch) -> None:
    _take(SiteFile.read(here.site("alpha") / "site.toml").connection().node_port)


def _take_superlink_port(here: Deployed, _: _Patch) -> None:
    _take(CoordinatorFile.read(here.coordinator / COORDINATOR_FILE).superlink_port)


def _take_gateway_port(here: Deployed, _: _Patch) -> None:
    _take(CoordinatorFile.read(here.coordinator / COORDINATOR_FILE).port)


def _take_dashboard_port(here: Deployed, _: _Patch) -> None:
    _take(CoordinatorFile.read(here.coordinator / COORDINATOR_FILE).dashboard_port)


def _take(port: int) -> None:
    _open.enter_context(socket.create_server(("127.0.0.1", port)))


def _fill(part: str) -> Callable[[Deployed, _Patch], None]:
    """Have one file written to a device that is always full."""

    def fill(here: Deployed, _: _Patch) -> None:
        (here.root / part).parent.mkdir(parents=True)
        (here.root / part).symlink_to("/dev/full")

    return fill


def _other_flower(_: Deployed, patch: _Patch) -> None:
    patch.setattr(coordinator.gateway, "_FLOWER", "1.2.3")


def _nothing(_: Deployed, __: _Patch) -> None:
    pass


_INIT = "coordinator init new --host a.org --scenario quickstart --sites"
_JOIN = "site join --dir alpha --data xrays"
_CREATE = "keys create --out new --sites"


_RUN_COORDINATOR = "coordinator run coordinator"
_KIT = "coordinator kit coordinator ceremony"
_CASES: list[tuple[Callable[[Deployed, _Patch], None], str, int, str]] = [
    (_expire, _RUN_COORDINATOR, 42, "expired on"),
    (_answer_with_an_expired_one, "site run alpha", 42, "its certificate has expired"),
    (_rename_host, _RUN_COORDINATOR, 42, "was not issued for ppfl.example.org"),
    (_swap_authority, "site run alpha", 42, "is not of this federation's authority"),
    (_set_clock, "site run alpha", 43, "s behind the coordinator"),
    (_swap_node_key, "site run alpha", 44, "does not know this site's key"),
    (_nothing, f"{_INIT} a,a", 14, "two sites have one name"),
    (_copy_card, f"{_CREATE} alpha/alpha.card,again/alpha.card", 14, "have the name alpha"),
    (_swap_private_key, "site run alpha", 25, "study tiny names key"),
    (_swap_public_key, _RUN_COORDINATOR, 25, "public.key: is not the key of"),
    (_swap_public_key, _KIT, 25, "public.key: has key"),
    (_mix_kit, f"{_JOIN} coordinator/kits/alpha.kit", 25, "its study names key"),
    (_open_to_others("alpha/private.key"), "site run alpha", 23, "others than its owner"),
    (_open_to_others("alpha/supernode.key"), "site run alpha", 23, "others than its owner"),
    (_open_to_others("alpha/sealing.key"), f"{_JOIN} coordinator/kits/alpha.kit", 23,
     "others than its owner"),
    (_open_to_others("coordinator/tls/server.key"), _RUN_COORDINATOR, 23,
     "others than its owner"),
    (_open_to_others("coordinator/journal.key"), _RUN_COORDINATOR, 23, "others than its owner"),
    (_give_away, "site run alpha", 23, "this private key belongs to"),
    (_take_node_port, "site run alpha", 46, "is in use"),
    (_take_superlink_port, _RUN_COORDINATOR, 46, "is in use"),
    (_take_gateway_port, _RUN_COORDINATOR, 46, "is in use"),
    (_take_dashboard_port, _RUN_COORDINATOR, 46, "is in use"),
    (_fill("alpha/work/flower/bin/.flwr-clientapp.part"), "site run alpha", 60,
     "flwr-clientapp: cannot be written: No space left"),
    (_fill("coordinator/flower/.gateway.toml.part"), _RUN_COORDINATOR, 60,
     "gateway.toml: cannot be written: No space left"),
    (_other_flower, "site run alpha", 45, "the coordinator's is 1.2.3"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "command", "code", "said"), _CASES)
def test_each_is_said_and_ends_with_its_code(
    spoil: Callable[[Deployed, _Patch], None],
    command: str,
    code: int,
    said: str,
    hospitals: Deployed,
    monkeypatch: _Patch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(hospitals, monkeypatch)
    monkeypatch.setattr(sys, "argv", ["ppfl", *command.split()])
    with pytest.raises(SystemExit) as caught:
        main()
    error, hint = capsys.readouterr().err.splitlines()[-2:]
    assert caught.value.code == code
    assert error.startswith("ppfl: ")
    assert said in error
    assert hint.startswith("hint: ")


def test_the_page_says_of_every_command_how_it_ends() -> None:
    rows = re.findall(r"^\| [^`|]+ \| (`[^|]+) \| (\d+) \|$", _PAGE, re.MULTILINE)
    listed = {(c, int(code)) for who, code in rows for c in re.findall("`ppfl ([^`]+)`", who)}
    assert listed == {(" ".join(command.split()[:2]), code) for _, command, code, _ in _CASES}


def test_where_nothing_is_wrong_all_of_the_page_runs(
    hospitals: Deployed, monkeypatch: _Patch
) -> None:
    """The part `Running` of docs/deployment.md, but for the processes that would be supervised."""
    shutil.rmtree(hospitals.coordinator / "kits")  # they name another port
    write_kits(hospitals.coordinator, Ceremony.read(hospitals.ceremony), weights=None)
    monkeypatch.setattr(simulations.doctor, "_KEY_BITS", 2048)
    memory = SimpleNamespace(available=10**11)
    monkeypatch.setattr(sites.doctor.psutil, "virtual_memory", lambda: memory)
    up = lambda _: Running(1, ())  # noqa: E731 - tests/coordinator/test_start.py starts it
    monkeypatch.setattr(coordinator.start_command, "read_running", up)
    running = re.findall(r"\n## Running\n(.*?)\n## ", _DEPLOYMENT, re.DOTALL)[0]
    blocks = re.findall(r"^```sh\n(.*?)^```", running, re.DOTALL | re.MULTILINE)
    commands = [line.split() for block in blocks for line in block.splitlines()]
    assert len(commands) == 7
    for program, *arguments in commands:
        assert program == "ppfl"
        result = CliRunner().invoke(_app, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
