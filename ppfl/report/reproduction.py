"""The page of `ppfl reproduce`: the paper's table beside ours, and what each row leaks."""

from __future__ import annotations

import base64
import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from ppfl.errors import RunError
from ppfl.files import replace_private
from ppfl.report.estimate import Estimate
from ppfl.report.templates import render

PAPER = {"plain X-rays": 0.942, "encrypted X-rays": 0.933}
"""Accuracies that the paper (arXiv 2203.07728, §4) reports for MobileNetV2."""


class Attack(BaseModel):
    """How well an attack restored X-rays it had not seen: means over several of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    within_8: float
    correlation: float
    structural_similarity: float


class RowResult(BaseModel):
    """One row: what was trained on, how well the model did, and what an outsider sees.

    ``chance`` is the accuracy of answers as frequent as the model's that do not depend on the
    image. ``less_than_plain`` is the accuracy of the plain row (a) minus this one's, on the same
    patients. ``leakage`` holds the fields of ``ppfl.xray.leakage.Leakage``, ``attacks``
    goes by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    key: str
    name: str
    encryption: str
    sites: int
    classes: tuple[str, ...]
    protection: str
    size: int
    rounds: int
    local_epochs: int
    learning_rate: float
    train_images: int
    test_images: int
    accuracy: Estimate
    macro_auroc: float | None
    chance: float
    less_than_plain: Estimate | None = None
    leakage: dict[str, float]
    attacks: dict[str, Attack]
    minutes: float
    model_sha256: str


def write_reproduction(
    folder: Path,
    rows: Sequence[RowResult],
    pictures: Mapping[str, Mapping[str, bytes]],
    *,
    title: str,
    about: Sequence[str],
) -> None:
    """Write ``reproduction.html``, the table as ``.csv``, and the pictures alone as ``.png``.

    Args:
        folder: where to.
        rows: the rows in their order.
        pictures: for each row's key PNG files by their captions, in order.
        title: the page's heading.
        about: sentences on the data and the attacker.

    Raises:
        RunError: a file cannot be written.
    """
    shown = {
        key: {caption: base64.b64encode(png).decode() for caption, png in row.items()}
        for key, row in pictures.items()
    }
    attacks = list(dict.fromkeys(name for row in rows for name in row.attacks))
    page = render(
        "reproduction.html.j2",
        title=title,
        about=about,
        rows=rows,
        pictures=shown,
        attacks=attacks,
        paper=PAPER,
    )
    files = {
        "reproduction.html": page.encode(),
        "reproduction.csv": _csv(rows, attacks).encode(),
        "reproduction.png": _sheet(rows, pictures),
    }
    try:
        for name, content in files.items():
            replace_private(folder / name, [content])  # an X-ray of the data is on them
    except OSError as error:
        raise RunError(f"{error.filename or folder}: {error.strerror}") from None


def _csv(rows: Sequence[RowResult], attacks: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    leaks = list(rows[0].leakage) if rows else []
    writer.writerow(
        ["row", "images", "size", "rounds", "local_epochs", "learning_rate"]
        + ["train_images", "test_images"]
        + ["accuracy", "accuracy_low", "accuracy_high", "chance", "macro_auroc"]
        + ["less_than_plain", "less_low", "less_high", *leaks]
        + [f"{name}: within 8" for name in attacks]
        + ["minutes", "model_sha256"]
    )
    for row in rows:
        less = row.less_than_plain
        writer.writerow(
            [row.key, row.name, row.size, row.rounds, row.local_epochs, row.learning_rate]
            + [row.train_images, row.test_images]
            + [row.accuracy.value, row.accuracy.low, row.accuracy.high, row.chance]
            + ["" if row.macro_auroc is None else row.macro_auroc]
            + (["", "", ""] if less is None else [less.value, less.low, less.high])
            + [row.leakage[name] for name in leaks]
            + [row.attacks[name].within_8 if name in row.attacks else "" for name in attacks]
            + [row.minutes, row.model_sha256]
        )
    return text.getvalue()


def _sheet(rows: Sequence[RowResult], pictures: Mapping[str, Mapping[str, bytes]]) -> bytes:
    """All pictures in one PNG: a row each, a column for each caption."""
    from matplotlib.figure import Figure  # as in page.py
    from matplotlib.image import imread

    captions = list(dict.fromkeys(caption for row in rows for caption in pictures[row.key]))
    size = (1.6 * len(captions) + 1.2, 1.6 * len(rows) + 0.4)
    figure = Figure(figsize=size, dpi=100, layout="constrained")
    grid = figure.subplots(len(rows), len(captions), squeeze=False)
    for row, line in zip(rows, grid, strict=True):
        line[0].set_ylabel(textwrap.fill(f"({row.key}) {row.name}", 18), fontsize=8)
        for caption, axes in zip(captions, line, strict=True):
            axes.set(xticks=[], yticks=[])
            axes.set_frame_on(False)
            if png := pictures[row.key].get(caption):
                pixels = imread(io.BytesIO(png))
                axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    for caption, axes in zip(captions, grid[0], strict=True):
        axes.set_title(textwrap.fill(caption, 18), fontsize=8)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
