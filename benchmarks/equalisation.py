"""Whether equalising an X-ray's histogram helps the network: accuracy with and without.

    python benchmarks/equalisation.py FOLDER --weights mobilenet_v2.npz

One network is trained on all sites' X-rays together, for each seed with another split by patient,
and tested on X-rays of other patients: as they are, and as another machine might have rendered
them, in another gamma and contrast. `histogram` is pillow's ImageOps.equalize, `clahe` OpenCV's
(contrast-limited, 8 × 8 tiles, limit 2 [Zui94]), measured if opencv-python-headless is installed;
both see the X-ray before it is resized. Prints a table in Markdown.

[Zui94] K. Zuiderveld, "Contrast Limited Adaptive Histogram Equalization", Graphics Gems IV, 1994.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ppfl.learning.images import ImageSet, order_images
from ppfl.learning.memory import keep_freed_memory
from ppfl.learning.metrics import compute_metrics
from ppfl.learning.models import build_model, load_pretrained
from ppfl.learning.prediction import evaluate
from ppfl.learning.sources import ImageRecord, read_records
from ppfl.learning.splits import split_by_group
from ppfl.learning.training import train_locally
from ppfl.settings import TrainingOptions
from ppfl.xray.pictures import read_grey

_NORMALISATION = (0.5, 0.5)
_GAMMA, _CONTRAST = 1.5, 0.7  # of the other machine
_TILES, _LIMIT = (8, 8), 2.0

Change = Callable[[Image.Image], Image.Image]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Shares of the test X-rays classified rightly, as they are and rendered otherwise."""

    accuracy: float
    macro_auroc: float
    elsewhere: float


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder or table of X-rays")
    parser.add_argument("--weights", type=Path, help="pretrained weights; else torchvision's")
    parser.add_argument("--classes", nargs="+", default=["COVID", "Normal", "Viral_Pneumonia"])
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--images", type=int, default=1500, help="to train on, at most")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    keep_freed_memory()
    changes = available_changes()
    records = read_records(options.data, classes=options.classes)
    found: dict[str, list[Outcome]] = {name: [] for name in changes}
    for seed in range(options.seeds):
        split = split_by_group(records, validation=0.0, test=0.2, seed=seed)
        drawn = np.random.default_rng(seed).permutation(len(split.train))[: options.images]
        train = [split.train[i] for i in drawn]
        for name, change in changes.items():
            outcome = measure(
                train,
                split.test,
                change,
                classes=options.classes,
                size=options.size,
                epochs=options.epochs,
                seed=seed,
                weights=options.weights,
            )
            print(f"seed {seed}, {name}: {outcome}", flush=True)
            found[name].append(outcome)
    print(
        f"\n{options.size} pixels, {options.images} X-rays, {options.epochs} epochs, "
        f"{options.seeds} seeds; in brackets the least and the most\n"
    )
    print(
        "| equalisation | accuracy, % | macro AUROC | change of accuracy, points | accuracy on "
        "another machine's, % | its change, points |"
    )
    print("|---|--:|--:|--:|--:|--:|")
    for name, outcomes in found.items():
        print(_row(name, outcomes, found["none"]))


def available_changes() -> dict[str, Change]:
    """What can be done to an X-ray here, by name."""
    changes: dict[str, Change] = {"none": lambda picture: picture, "histogram": ImageOps.equalize}
    if importlib.util.find_spec("cv2"):
        changes["clahe"] = _clahe
    return changes


def measure(
    train: Sequence[ImageRecord],
    test: Sequence[ImageRecord],
    change: Change,
    *,
    classes: Sequence[str],
    size: int,
    epochs: int,
    seed: int,
    weights: Path | None,
) -> Outcome:
    """What a network comes to that sees X-rays so changed, in training and in the test.

    Raises:
        PpflError: an X-ray cannot be read, or the weights cannot be had.
    """
    model = build_model("mobilenet_v2", classes=len(classes), seed=seed)
    load_pretrained(model, weights, architecture="mobilenet_v2")
    options = TrainingOptions(
        rounds=1, local_epochs=epochs, learning_rate=5e-4, class_weighting=False
    )
    train_locally(
        model,
        _images(train, change, classes=classes, size=size),
        options,
        classes=len(classes),
        normalisation=_NORMALISATION,
        round_number=1,
        seed=seed,
    )
    figures = []
    for seen in (change, lambda picture: change(_other_machine(picture))):
        images = _images(test, seen, classes=classes, size=size)
        counts = evaluate(model, images, classes=len(classes), normalisation=_NORMALISATION)
        figures.append(compute_metrics(counts, classes))
    return Outcome(figures[0].accuracy, figures[0].macro_auroc, figures[1].accuracy)


def _images(
    records: Sequence[ImageRecord], change: Change, *, classes: Sequence[str], size: int
) -> ImageSet:
    def read(record: ImageRecord) -> NDArray[np.uint8]:
        picture = change(read_grey(record.path).picture)
        return np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        pixels = np.stack(list(pool.map(read, records)))
    labels = np.array([classes.index(record.label) for record in records])
    return order_images(pixels, labels, [record.group for record in records])


def _other_machine(picture: Image.Image) -> Image.Image:
    levels = (np.arange(256) / 255) ** _GAMMA
    levels = (levels - 0.5) * _CONTRAST + 0.5
    return picture.point(np.rint(levels * 255).clip(0, 255).astype(int).tolist())


def _clahe(picture: Image.Image) -> Image.Image:
    import cv2

    equaliser = cv2.createCLAHE(clipLimit=_LIMIT, tileGridSize=_TILES)  # one for each thread
    return Image.fromarray(equaliser.apply(np.asarray(picture)))


def _row(name: str, outcomes: Sequence[Outcome], plain: Sequence[Outcome]) -> str:
    def change(of: Callable[[Outcome], float]) -> str:
        points = [100 * (of(a) - of(b)) for a, b in zip(outcomes, plain, strict=True)]
        return f"{statistics.mean(points):+.2f} [{min(points):+.2f}, {max(points):+.2f}]"

    cells = [
        name,
        f"{100 * statistics.mean(o.accuracy for o in outcomes):.2f}",
        f"{statistics.mean(o.macro_auroc for o in outcomes):.4f}",
        change(lambda o: o.accuracy) if outcomes is not plain else "",
        f"{100 * statistics.mean(o.elsewhere for o in outcomes):.2f}",
        change(lambda o: o.elsewhere) if outcomes is not plain else "",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
