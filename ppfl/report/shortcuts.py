"""The page of `ppfl shortcuts`: whether a model learns the hospital instead of the disease."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ppfl.errors import RunError, write_error
from ppfl.files import replace_private
from ppfl.report.estimate import Estimate
from ppfl.report.templates import read_style, render

_RESULT = "shortcuts.json"
_GRAD_CAM = "grad-cam.png"


class _Result(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SiteProbe(_Result):
    """How well the hospital can be told from the features, within a class or in all.

    ``images`` are those tested on, by hospital. ``chance`` is the accuracy of always answering with
    the commonest hospital, ``from_class`` that of the commonest one of the image's class;
    ``more_than_chance`` is the accuracy minus the higher of the two.
    """

    within: str
    images: dict[str, int]
    accuracy: Estimate
    chance: float
    from_class: float | None
    more_than_chance: Estimate


class View(_Result):
    """How well the class can be told from a part of each X-ray.

    ``model`` is the accuracy of the model as it is, ``auroc`` its macro AUROC, ``probe`` the
    accuracy of a linear probe on its features of other X-rays shown in the same way.
    """

    view: str
    images: dict[str, int]
    model: Estimate
    auroc: float | None
    probe: Estimate
    chance: float


class CamShare(_Result):
    """The mean share of Grad-CAM's mass inside the lungs, and of the picture that they take."""

    name: str
    images: int
    inside: float
    area: float


class SiteAuroc(_Result):
    """Macro AUROC on one hospital's test images, of the model and of one trained without it.

    It is the mean over the classes of which the hospital has ten test patients.
    """

    site: str
    images: dict[str, int]
    auroc: float | None
    held_out: float | None


class SiteSensitivity(_Result):
    """Sensitivity at a hospital that has ten test patients of one class alone, ``label``.

    It is confounded: whoever tells the hospital tells the class as well, and a model trained
    without the hospital may miss its class or only its looks. ``elsewhere`` are images of the class
    that other hospitals have to train on; without any the model cannot know it.
    """

    site: str
    label: str
    images: int
    elsewhere: int
    model: Estimate
    held_out: Estimate | None


class ShortcutsResult(_Result):
    """All that was measured of one model; ``notes`` say what was left out, and why."""

    classes: tuple[str, ...]
    size: int
    fit_images: int
    test_images: int
    with_lungs: int
    probes: tuple[SiteProbe, ...]
    views: tuple[View, ...]
    cam: tuple[CamShare, ...]
    sites: tuple[SiteAuroc, ...]
    one_class: tuple[SiteSensitivity, ...]
    notes: tuple[str, ...]
    model_sha256: str


@dataclass(frozen=True, slots=True)
class ShortcutsFound:
    """What was measured of a model, and its Grad-CAM pictures, a PNG file."""

    result: ShortcutsResult
    grad_cam: bytes


def write_shortcuts(folder: Path, result: ShortcutsResult, pictures: bytes) -> None:
    """Write ``shortcuts.json``, ``shortcuts.html`` and the ``pictures``, a PNG file.

    Only their owner can read them, because X-rays are on them.

    Raises:
        RunError: a file cannot be written.
    """
    page = render(
        "shortcuts.html.j2",
        result=result,
        grad_cam=base64.b64encode(pictures).decode(),
        style=read_style(),
    )
    files = {
        _RESULT: result.model_dump_json(indent=1).encode(),
        "shortcuts.html": page.encode(),
        _GRAD_CAM: pictures,
    }
    try:
        for name, content in files.items():
            replace_private(folder / name, [content])
    except OSError as error:
        raise write_error(str(folder), error) from None


def read_shortcuts(folder: Path) -> ShortcutsFound:
    """What ``write_shortcuts`` left in a folder.

    Raises:
        RunError: a file is missing or damaged.
    """
    hint = "`ppfl shortcuts --out` makes this folder"
    try:
        result = ShortcutsResult.model_validate_json((folder / _RESULT).read_bytes())
        return ShortcutsFound(result, (folder / _GRAD_CAM).read_bytes())
    except ValidationError:
        raise RunError(f"{folder / _RESULT}: not of this version", hint=hint) from None
    except OSError as error:
        raise RunError(f"{error.filename or folder}: {error.strerror}", hint=hint) from None
