"""`ppfl evaluate` and `ppfl predict`: a federation's model on X-rays, labelled or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console

from ppfl.errors import DataError
from ppfl.learning.images import load_images
from ppfl.learning.metrics import compute_metrics
from ppfl.learning.sources import read_records
from ppfl.learning.study_model import StudyModel
from ppfl.xray.pictures import read_grey
from simulations.tables import figure_table
from sites.printing import AsJson, tell_left_out

_NOTE = "A research model, not a medical device: no figure here is a diagnosis."

Model = Annotated[Path, typer.Option(help="model.safetensors of a site")]


def evaluate_model(
    model: Model,
    data: Annotated[Path, typer.Option(help="folder or table of labelled X-rays")],
    as_json: AsJson = False,
) -> None:
    """Say how well a model does on labelled X-rays.

    Example: ppfl evaluate --model model.safetensors --data xrays
    """
    kept = StudyModel.read(model)
    tell_left_out(data, kept.classes)
    images = load_images(
        read_records(data, classes=kept.classes),
        classes=kept.classes,
        size=kept.size,
        equalise=kept.equalise,
    )
    metrics = compute_metrics(kept.evaluate(images), kept.classes).to_dict()
    if as_json:
        typer.echo(json.dumps(metrics))
    else:
        _show_metrics(metrics, kept.classes)


def predict_images(
    images: Annotated[list[Path], typer.Argument(help="X-rays, one file each")],
    model: Model,
    as_json: AsJson = False,
) -> None:
    """Say what a model makes of single X-rays.

    Example: ppfl predict --model model.safetensors chest.png
    """
    kept = StudyModel.read(model)
    if folder := next((path for path in images if path.is_dir()), None):
        raise DataError(
            f"{folder}: a folder", hint="name files; for labelled folders: ppfl evaluate"
        )
    pixels = np.stack(
        [
            np.asarray(read_grey(path, size=kept.size, equalise=kept.equalise).picture)
            for path in images
        ]
    )
    told: list[dict[str, Any]] = [
        {"image": str(path), "class": kept.classes[int(row.argmax())]}
        | {"probabilities": dict(zip(kept.classes, map(float, row), strict=True))}
        for path, row in zip(images, kept.predict(pixels), strict=True)
    ]
    if as_json:
        typer.echo(json.dumps(told))
        return
    table = figure_table("image", "class", *kept.classes)
    for answer in told:
        shares = [f"{share:.3f}" for share in answer["probabilities"].values()]
        table.add_row(answer["image"], answer["class"], *shares)
    out = Console(markup=False)
    out.print(table)
    out.print(_NOTE)


def _show_metrics(metrics: dict[str, Any], classes: tuple[str, ...]) -> None:
    out = Console(markup=False)
    whole = {name: figure for name, figure in metrics.items() if isinstance(figure, int | float)}
    for name, figure in whole.items():
        out.print(f"{name}: {figure if isinstance(figure, int) else f'{figure:.4f}'}")
    first = metrics["classes"][classes[0]]
    table = figure_table("class", *first)
    for name in classes:
        table.add_row(name, *(_short(figure) for figure in metrics["classes"][name].values()))
    out.print(table)
    table = figure_table("true \\ predicted", *classes)
    for name, row in zip(classes, metrics["confusion"], strict=True):
        table.add_row(name, *map(str, row))
    out.print(table)


def _short(figure: float | None) -> str:
    if figure is None:
        return "–"
    return str(figure) if isinstance(figure, int) else f"{figure:.3f}"
