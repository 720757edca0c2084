"""`ppfl shortcuts`: whether a model learns the hospital instead of the disease."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ppfl.errors import SettingsError, StudyMismatchError
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.learning.models import get_parameters
from ppfl.learning.study_model import StudyModel
from ppfl.report import ShortcutsResult, write_shortcuts
from ppfl.settings import Study
from simulations.evaluation import Model
from simulations.shortcuts.hold_out import HeldOut
from simulations.shortcuts.measure import (
    FEWEST,
    auroc_by_site,
    compare_views,
    look_at,
    probe_sites,
    sensitivity_by_site,
    share_inside_lungs,
)
from simulations.shortcuts.pictures import draw_pictures
from simulations.shortcuts.xrays import read_sides
from sites.printing import AsJson, tell_left_out

_talk = Console(stderr=True)
_SEED = 2022


def measure_shortcuts(
    model: Model,
    data: Annotated[Path, typer.Option(help="folder or table of labelled X-rays")],
    study: Annotated[
        Path | None, typer.Option(help="the model's study.toml: only its test images are tested")
    ] = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="the model was trained on none of these X-rays")
    ] = False,
    lungs: Annotated[
        Path | None, typer.Option(help="folder of copies that are black but for the lungs")
    ] = None,
    hold_out: Annotated[
        bool, typer.Option("--hold-out", help="also train without each hospital; takes long")
    ] = False,
    out: Annotated[Path, typer.Option(help="where the page goes")] = Path("runs/shortcuts"),
    as_json: AsJson = False,
) -> None:
    """Measure whether a model learns the hospital instead of the disease.

    Example: ppfl shortcuts --model model.safetensors --study study.toml --data xrays
    """
    _require_packages()
    kept = StudyModel.read(model)
    agreed = _read_study(study, model, unseen=unseen)
    tell_left_out(data, kept.classes)
    _talk.print("reading X-rays")
    fit_side, test_side = read_sides(
        data,
        classes=kept.classes,
        size=kept.size,
        equalise=kept.equalise,
        study=agreed,
        lungs=lungs,
        seed=_SEED,
    )
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    held_out = None
    if hold_out:
        if agreed is None:
            raise SettingsError("--hold-out trains as the study does", hint="give --study")
        held_out = HeldOut(
            out,
            model=kept,
            study=agreed,
            start=model.with_name("start.safetensors"),
            fit=fit_side,
            talk=_talk,
        ).without
    _talk.print(f"asking the model about {len(fit_side.labels) + len(test_side.labels)} X-rays")
    fit, test = look_at(kept, fit_side), look_at(kept, test_side)
    probes = probe_sites(fit, test, kept.classes)
    _talk.print("covering parts of the X-rays")
    views = compare_views(kept, fit, test)
    _talk.print("Grad-CAM")
    cam = share_inside_lungs(kept, test)
    sites = tuple(auroc_by_site(test, kept.classes, held_out))
    one_class = tuple(sensitivity_by_site(test, fit, kept.classes, held_out))
    told = {row.site for row in sites} | {row.site for row in one_class}
    result = ShortcutsResult(
        classes=kept.classes,
        size=kept.size,
        fit_images=len(fit_side.labels),
        test_images=len(test_side.labels),
        with_lungs=int(test_side.masked.sum()),
        probes=tuple(probes),
        views=tuple(views),
        cam=tuple(cam),
        sites=sites,
        one_class=one_class,
        notes=_notes(
            lungs_known=bool(cam),
            sites_known=bool(probes),
            within=len(probes) - 1,
            untold=sorted(set(map(str, test_side.sites)) - told - {""}),
        ),
        model_sha256=parameters_sha256(get_parameters(kept.network)),
    )
    write_shortcuts(out, result, draw_pictures(kept, test, seed=_SEED))
    if as_json:
        typer.echo(result.model_dump_json())
    else:
        _show(result, out)


def _require_packages() -> None:
    for package in ("sklearn", "pytorch_grad_cam"):
        if importlib.util.find_spec(package) is None:
            raise SettingsError(
                f"ppfl shortcuts needs the package {package}",
                hint="pip install '.[shortcuts]' in a clone of ppfl",
            )


def _read_study(path: Path | None, model: Path, *, unseen: bool) -> Study | None:
    """The model's study, None where the model saw none of the X-rays."""
    if (path is None) != unseen:
        raise SettingsError(
            "either --study FILE or --unseen",
            hint="the study says which X-rays the model was trained on; those are not tested",
        )
    if path is None:
        return None
    study = Study.read(path)
    if load_model(model)[1].get("study") != study.fingerprint():
        raise StudyMismatchError(f"{path}: not the study that {model} was trained in")
    return study


def _notes(
    *, lungs_known: bool, sites_known: bool, within: int, untold: Sequence[str]
) -> tuple[str, ...]:
    notes = []
    if not sites_known:
        notes.append(
            f"There are no two hospitals of {FEWEST} patients each, fitted and tested: whether the "
            "features tell the hospital is not known."
        )
    elif within < 1:
        notes.append(
            f"No class has two hospitals of {FEWEST} patients each: hospital and class cannot be "
            "told apart."
        )
    if not lungs_known:
        notes.append("Of no tested X-ray is it known where the lungs are.")
    if untold:
        notes.append(
            f"Of no class are there {FEWEST} tested patients at {', '.join(untold)}: how well the "
            "model does there is not told."
        )
    return tuple(notes)


def _show(result: ShortcutsResult, out: Path) -> None:
    console = Console(markup=False)
    table = _table("the hospital, from the features", "images", "accuracy, %", "chance, %")
    for row in result.probes:
        chance = row.chance if row.from_class is None else row.from_class
        name = row.within if row.from_class is None else f"{row.within}; chance: from the class"
        table.add_row(
            name, str(sum(row.images.values())), row.accuracy.percent(), f"{100 * chance:.1f}"
        )
    console.print(table)
    table = _table("the class, from", "images", "model, %", "AUROC", "probe, %", "chance, %")
    for view in result.views:
        table.add_row(
            view.view,
            str(sum(view.images.values())),
            view.model.percent(),
            _three(view.auroc),
            view.probe.percent(),
            f"{100 * view.chance:.1f}",
        )
    console.print(table)
    if result.cam:
        table = _table("Grad-CAM", "images", "in the lungs, %", "lungs' area, %")
        for share in result.cam:
            figures = (f"{100 * share.inside:.1f}", f"{100 * share.area:.1f}")
            table.add_row(share.name, str(share.images), *figures)
        console.print(table)
    if result.sites:
        table = _table("AUROC at", "images", "the model", "trained without it")
        for site in result.sites:
            images = str(sum(site.images.values()))
            table.add_row(site.site, images, _three(site.auroc), _three(site.held_out))
        console.print(table)
    if result.one_class:
        table = _table("sensitivity at (confounded)", "images", "the model, %", "without it, %")
        for one in result.one_class:
            without = "–" if one.held_out is None else one.held_out.percent()
            place = f"{one.site}, {one.label} ({one.elsewhere} elsewhere)"
            table.add_row(place, str(one.images), one.model.percent(), without)
        console.print(table)
    for note in result.notes:
        console.print(note)
    console.print(f"page: {out / 'shortcuts.html'}; X-rays are on it, it is for you alone")


def _three(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for heading in others:
        table.add_column(heading, justify="right")
    return table
