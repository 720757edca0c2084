"""`ppfl evaluate`: a federation's model on any labelled folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ppfl.errors import ModelError
from ppfl.learning.files import load_model
from ppfl.learning.images import load_images
from ppfl.learning.metrics import compute_metrics, evaluate
from ppfl.learning.models import build_model, set_parameters
from ppfl.learning.sources import read_records


def evaluate_model(
    model: Annotated[Path, typer.Option(help="model.safetensors of a site")],
    data: Annotated[Path, typer.Option(help="folder or table of labelled X-rays")],
    as_json: Annotated[bool, typer.Option("--json", help="print the result as JSON")] = False,
) -> None:
    """Say how well a model does on labelled X-rays.

    Example: ppfl evaluate --model model.safetensors --data xrays
    """
    parameters, metadata = load_model(model)
    try:
        classes = tuple(json.loads(metadata["classes"]))
        mean, deviation = json.loads(metadata["normalisation"])
        size, architecture = int(metadata["size"]), metadata["architecture"]
    except (KeyError, TypeError, ValueError):
        raise ModelError(f"{model}: not the model of a study") from None
    network = build_model(architecture, classes=len(classes), seed=0)
    set_parameters(network, parameters)
    images = load_images(read_records(data, classes=classes), classes=classes, size=size)
    counts = evaluate(
        network, images, classes=len(classes), normalisation=(float(mean), float(deviation))
    )
    metrics = compute_metrics(counts, classes).to_dict()
    if as_json:
        typer.echo(json.dumps(metrics))
        return
    for name, value in metrics.items():
        typer.echo(f"{name}: {value}")
