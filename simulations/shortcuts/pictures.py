"""X-rays with Grad-CAM over them, in one picture."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from ppfl.learning.grad_cam import grad_cam
from ppfl.learning.study_model import StudyModel
from simulations.shortcuts.measure import Seen

_A_CLASS = 5
_SIDE_INCHES = 1.7


def draw_pictures(model: StudyModel, test: Seen, *, seed: int) -> bytes:
    """A PNG file: some X-rays of each class at random, and below each what its class rests on.

    Those of which it is known where the lungs are come first, and have the lungs' outline.
    """
    from matplotlib.figure import Figure  # as in ppfl/report/page.py

    rows = _choose(test, len(model.classes), seed=seed)
    chosen = test.side[np.concatenate(rows)]
    predicted = test.predicted[np.concatenate(rows)]
    maps = grad_cam(model, chosen.images, predicted)
    shape = (2 * len(rows), _A_CLASS)
    figure = Figure(
        figsize=(_SIDE_INCHES * shape[1], _SIDE_INCHES * 1.12 * shape[0]),
        dpi=110,
        layout="constrained",
    )
    grid = figure.subplots(*shape, squeeze=False)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.set_frame_on(False)
    places = [(2 * row, column) for row, some in enumerate(rows) for column in range(len(some))]
    for i, (row, column) in enumerate(places):
        plain, heated = grid[row, column], grid[row + 1, column]
        for axes in (plain, heated):
            axes.imshow(chosen.images[i], cmap="gray", vmin=0, vmax=255)
        heated.imshow(maps[i], cmap="inferno", vmin=0, vmax=1, alpha=0.55)
        if chosen.lungs[i].any():
            heated.contour(chosen.lungs[i], levels=[0.5], colors="cyan", linewidths=0.8)
        site = f", {chosen.sites[i]}" if chosen.sites[i] else ""
        plain.set_title(f"{model.classes[chosen.labels[i]]}{site}", fontsize=6)
        heated.set_title(f"model: {model.classes[predicted[i]]}", fontsize=6)
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _choose(test: Seen, classes: int, *, seed: int) -> list[NDArray[np.intp]]:
    """Where some X-rays of each class are; a class without any is left out."""
    order = np.random.default_rng(seed).permutation(len(test.side.labels))
    order = order[np.argsort(~test.side.masked[order], kind="stable")]
    rows = [order[test.side.labels[order] == place][:_A_CLASS] for place in range(classes)]
    return [row for row in rows if len(row)]
