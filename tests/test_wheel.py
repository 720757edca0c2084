"""What an ordinary installation holds: no clone lies beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest
import tomli_w

from tests.simulations.tiny import tiny_scenario

_ROOT = Path(__file__).parents[1]
_PACKAGES = ("ppfl", "sites", "coordinator", "simulations", "benchmarks")
_COMPILED = (".pyc", ".so", ".c", ".h")


def _files() -> Iterator[str]:
    """What the packages consist of, without what is compiled or measured."""
    for package in _PACKAGES:
        for path in (_ROOT / package).rglob("*"):
            name = path.relative_to(_ROOT).as_posix()
            measured = name.startswith("benchmarks/results/")
            if path.is_file() and path.suffix not in _COMPILED and not measured:
                yield name


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the packages as pip installs them."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(_ROOT / name, source)
    for package in _PACKAGES:
        shutil.copytree(
            _ROOT / package, source / package, ignore=shutil.ignore_patterns("*.so", "__pycache__")
        )
    build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder)
    done = subprocess.run([*build, source], capture_output=True, text=True, check=False)
    if done.returncode and "setuptools" in done.stderr:
        pytest.skip(f"pip cannot have setuptools here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    (wheel,) = folder.glob("*.whl")
    with ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


@pytest.mark.slow
def test_it_holds_all_that_the_packages_consist_of(installed: Path) -> None:
    held = {path.relative_to(installed).as_posix() for path in installed.rglob("*")}
    assert [name for name in _files() if name not in held] == []
    assert {name.split("/")[0] for name in held if "dist-info" not in name} == set(_PACKAGES)


@pytest.mark.slow
def test_a_study_runs_in_flower_from_it(installed: Path, tmp_path: Path) -> None:
    scenario = tmp_path / "tiny.toml"
    study = tiny_scenario("shared").model_dump(mode="json", exclude_unset=True)
    scenario.write_text(tomli_w.dumps(study))
    code = "import simulations.program as p, sys; print(p.__file__, file=sys.stderr); p.main()"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "simulate", scenario, "--out", tmp_path / "run"],
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert str(installed) in done.stderr
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.html").exists()
