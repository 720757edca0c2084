"""Which X-rays each hospital of a simulation gets: drawn, dealt, altered, or held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from ppfl.errors import DataError, SettingsError, write_error
from ppfl.learning.sources import ImageRecord, read_records, write_manifest
from ppfl.learning.splits import partition_records
from ppfl.settings import Study, check_name
from ppfl.xray import Scanner, write_phantoms
from simulations.altered import alter
from simulations.scenario import Scenario, Simulated

HELD_OUT = "held-out"
"""The folder of a run in which the X-rays of a hospital lie that takes no part."""

_MANIFEST = Path("manifest.csv")
_DRAWN = Path("xrays")


def hospital_names(data: Simulated, named: Sequence[str], *, classes: Sequence[str]) -> list[str]:
    """All hospitals of a scenario, with the one that is held out.

    Phantoms name their own; a partition by column takes those of the table where the study's file
    names none.

    Raises:
        SettingsError: there is neither data nor a phantom, or a hospital that is altered or held
            out does not exist, or has a name that no site can have.
        DataError: there are no such X-rays, or the table names too few hospitals.
    """
    if not data.data and not data.phantoms:
        raise SettingsError(
            "this scenario needs X-rays", hint="say where they lie with --data FOLDER"
        )
    if data.data and not Path(data.data).exists():
        raise DataError(f"{data.data}: no such folder")
    names = list(named)
    if not data.data:
        names = [hospital.name for hospital in data.phantoms]
    elif data.partition.kind == "column" and not named:
        records = read_records(Path(data.data), classes=classes)
        names = sorted({record.site for record in records if record.site})
        _check_hospitals(names, data)
    for name in (*(hospital.name for hospital in data.altered), data.hold_out):
        if name and name not in names:
            raise SettingsError(
                f"there is no hospital {name} to hold out or alter",
                hint=f"there are {', '.join(names)}",
            )
    if data.hold_out:
        check_name(data.hold_out, where="hold_out")  # a folder is called after it
    return names


def _check_hospitals(names: Sequence[str], data: Simulated) -> None:
    """Refuse a table that names fewer hospitals than a federation needs, or names no site can have.

    Raises:
        DataError: it names none, or one beside that which is held out.
        SettingsError: a name is not allowed.
    """
    for name in names:
        check_name(name, where=f"{data.data}: site")
    left = [name for name in names if name != data.hold_out]
    if len(left) < 2 and (data.hold_out in ("", *names)):
        beside = f" beside {data.hold_out}" if data.hold_out else ""
        some = f"one hospital only{beside}, {left[0]}" if left else f"no hospital{beside}"
        raise DataError(
            f"{data.data}: its table names {some}",
            hint="two are needed, in a column site (docs/inputs.md); iid deals to three",
        )


def deal(scenario: Scenario, study: Study, names: list[str], folder: Path) -> dict[str, Path]:
    """Where each site's X-rays lie, below its folder, after all hospitals were given theirs.

    A hospital that is held out has a place of its own, and no X-ray of a patient whom a site
    knows.

    Raises:
        PpflError: the X-rays are missing, do not go round, or cannot be written.
    """
    data = scenario.simulation
    if data.hold_out and study.images.cipher != "none":
        raise SettingsError("a hospital that is held out has no key to make cipher images with")
    places = {name: folder / "sites" / name for name in names}
    if data.hold_out:
        places[data.hold_out] = folder / HELD_OUT / data.hold_out
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
    held = _read(data, study, names) if data.data else _draw(data, study, places)
    if data.hold_out:
        known = {r.group for name in study.federation.sites for r in held[name]}
        held[data.hold_out] = [r for r in held[data.hold_out] if r.group not in known]
        if not held[data.hold_out]:
            raise DataError(
                f"{data.hold_out} has no X-ray to test on: a site knows every one of its patients"
            )
    dealt = {name: _MANIFEST if data.data else _DRAWN for name in names}
    with _writing(folder):
        for how in data.altered:
            if how.name == data.hold_out:  # all its labels are tested, so they stay right
                how = how.model_copy(update={"flipped_labels": 0.0})
            place = places[how.name]
            held[how.name] = alter(held[how.name], how, study, place / "altered")
            dealt[how.name] = _MANIFEST
    for name, path in dealt.items():
        if path == _MANIFEST:
            write_manifest(places[name] / _MANIFEST, held[name])
    return {name: dealt[name] for name in study.federation.sites}


def held_out_xrays(folder: Path) -> tuple[str, Path] | None:
    """The hospital of a run that takes no part, and where its X-rays lie; None if all do."""
    for place in sorted((folder / HELD_OUT).glob("*")):
        table = place / _MANIFEST
        return place.name, table if table.exists() else place / _DRAWN
    return None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_error(str(error.filename or folder), error) from None


def _read(data: Simulated, study: Study, names: list[str]) -> dict[str, list[ImageRecord]]:
    records = read_records(Path(data.data), classes=study.classes)
    return partition_records(records, sites=names, how=data.partition, seed=study.seed)


def _draw(
    data: Simulated, study: Study, places: Mapping[str, Path]
) -> dict[str, list[ImageRecord]]:
    held = {}
    for number, hospital in enumerate(data.phantoms):
        place = places[hospital.name] / _DRAWN
        write_phantoms(
            place,
            counts=hospital.counts,
            size=study.images.size,
            seed=study.seed,
            scanner=Scanner(gamma=hospital.gamma, contrast=hospital.contrast, noise=hospital.noise),
            patients_prefix=f"p{chr(ord('a') + number)}",
        )
        held[hospital.name] = read_records(place, classes=study.classes)
    return held
