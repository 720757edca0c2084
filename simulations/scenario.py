"""A scenario: a study, and the hospitals that a simulation makes up for it."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from ppfl.errors import SettingsError
from ppfl.learning.splits import Partition
from ppfl.settings import Section, Study, check_settings
from ppfl.settings.study import Name
from simulations.altered import AlteredHospital

SCENARIOS = Path(__file__).parent / "scenarios"
_MOST_STAND_INS = 1000


class PhantomHospital(Section):
    """A hospital whose X-rays are drawn: how many of each class, and how its scanner differs."""

    name: Name
    counts: dict[str, int] = Field(description="phantoms of each finding")
    gamma: float = Field(1.0, gt=0)
    contrast: float = Field(1.0, gt=0)
    noise: float = Field(4.0, ge=0)


class Simulated(Section):
    """What a simulation needs beside the study."""

    data: str = Field("", description="folder or table of X-rays; empty: phantoms are drawn")
    phantoms: tuple[PhantomHospital, ...] = ()
    partition: Partition = Partition()
    altered: tuple[AlteredHospital, ...] = Field(
        (), description="hospitals with wrong labels or another scanner"
    )
    hold_out: str = Field(
        "", description="a hospital that takes no part, to test on; empty: all take part"
    )
    key_bits: int = Field(3072, description="bits of the key that is made for the run")
    engine: Literal["auto", "native", "gmp", "reference"] = "auto"
    vault: bool = Field(False, description="each hospital's X-rays lie encrypted in a vault")
    weights: str = Field("", description="file of pretrained weights, for start = imagenet")


class Scenario(Section):
    """A whole scenario file."""

    study: dict[str, Any]
    simulation: Simulated = Simulated()


def read_scenario(
    source: str,
    *,
    rounds: int | None = None,
    sites: int | None = None,
    data: Path | None = None,
    changes: Sequence[str] = (),
) -> Scenario:
    """The scenario of a file, or of a name under simulations/scenarios, with changes.

    A file that ``extends`` a built-in scenario has only the settings in which it differs.

    ``changes`` are ``key=value``; a key is a path such as ``training.rounds``, or its last part
    where only one table has it; a value is TOML, or else text.

    Raises:
        SettingsError: there is no such scenario, or a key or value is not allowed.
    """
    table = _read_table(source)
    simulation, study = (_section(table, name, source) for name in ("simulation", "study"))
    federation = _section(study, "federation", source)
    if rounds is not None:
        _section(study, "training", source)["rounds"] = rounds
    if data is not None:
        simulation["data"] = str(data.resolve())
    if sites is not None:
        if simulation.get("phantoms"):
            raise SettingsError("the hospitals of phantoms are named in the scenario itself")
        federation["sites"] = [f"site-{number}" for number in range(1, sites + 1)]
    for change in changes:
        _apply(table, change)
    return check_settings(table, Scenario, where=source)


def draft_study(scenario: Scenario) -> Study:
    """A scenario's study before its hospitals are known: where it names none, there are stand-ins.

    Raises:
        SettingsError: the study breaks a rule.
    """
    study = scenario.study
    federation = study.get("federation", {})
    if isinstance(federation, dict) and not federation.get("sites"):
        least = federation.get("minimum_sites")
        count = max(2, least) if isinstance(least, int) else 2
        sites = [f"site-{number}" for number in range(1, min(count, _MOST_STAND_INS) + 1)]
        study = study | {"federation": federation | {"sites": sites}}
    return check_settings(study, Study, where="study")


def scenario_name(source: str) -> str:
    """What a scenario's folder is called: its name, or its file's without ``.toml``."""
    return Path(source).name.removesuffix(".toml")  # a stem would end at the dot of dirichlet-0.5


def _read_table(source: str) -> dict[str, Any]:
    path = Path(source) if source.endswith(".toml") else SCENARIOS / f"{source}.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = ", ".join(sorted(file.stem for file in SCENARIOS.glob("*.toml")))
        raise SettingsError(f"{source}: no such scenario; built in are {known}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError(f"{path}: not a readable TOML file: {error}") from None
    base = table.pop("extends", None)
    if base is None:
        return table
    if not isinstance(base, str) or base.endswith(".toml"):
        raise SettingsError(f"{path}: extends must name a built-in scenario, got {base!r}")
    return _merge(_read_table(base), table)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The table with the changes of another, table by table."""
    merged = dict(base)
    for key, value in changes.items():
        below = merged.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _section(table: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    """A table in a table; an empty one where there was none."""
    section = table.setdefault(name, {})
    if not isinstance(section, dict):
        raise SettingsError(f"{source}: {name} must be a table, got {section!r}")
    return section


def _apply(table: dict[str, Any], change: str) -> None:
    key, equals, text = change.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {change}: must be key=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    path = setting_path(key)
    for part in path[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise SettingsError(f"--set {change}: {part} is no table")
    table[path[-1]] = value


def setting_path(key: str) -> list[str]:
    """Where a key stands in a scenario: whole paths as they are, short ones found in the models.

    Raises:
        SettingsError: there is no such setting.
    """
    path = key.split(".")
    sections: dict[str, set[str]] = {
        name: set(getattr(info.annotation, "model_fields", ()))
        for name, info in Study.model_fields.items()
    }
    if path[0] in ("study", "simulation"):
        return path
    if path[0] in sections:
        return ["study", *path]
    if path[0] in Simulated.model_fields:
        return ["simulation", *path]
    found = [section for section, names in sections.items() if key in names]
    if len(found) == 1:
        return ["study", found[0], key]
    known = sorted({*sections, *Simulated.model_fields}.union(*sections.values()))
    near = ", ".join(difflib.get_close_matches(key, known))
    raise SettingsError(
        f"--set {key}: no such setting",
        hint=f"near it: {near}" if near else "docs/study.md lists all",
    )
