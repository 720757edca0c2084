"""Phantoms: synthetic chest radiographs, drawn, so that no patient is needed to show anything.

A picture is the projection of a body made of simple solids: what lies in the beam's way adds up,
air takes away, and the exposure turns the sum into greys, white where the body is dense. Places
are in the patient's own frame, where the picture spans about [-1, 1] both ways and y grows
downwards; the patient's right is on the picture's left, as in a radiograph.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ppfl.errors import DataError

PHANTOM_CLASSES: tuple[str, ...] = ("Normal", "Effusion", "Nodule", "Infiltrate")
"""What a phantom can show; ``Normal`` shows no finding."""

_SMALLEST = 64  # below this the mark could not be read
_SECOND_IMAGE = 0.25  # share of patients who come back for another picture
_NOTE = "Synthetic chest phantom drawn by ppfl: not a radiograph of any person."
_MARK = (
    "### # # ##  ### # # ### ### ### ###",
    "#   # # # #  #  # # #    #   #  #  ",
    "### ### # #  #  ### ##   #   #  #  ",
    "  #  #  # #  #  # # #    #   #  #  ",
    "###  #  # #  #  # # ###  #  ### ###",
)

_Field = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Scanner:
    """How one hospital's machine renders a body.

    ``gamma`` and ``contrast`` are above 0 and 1 is neutral; ``brightness`` is added in [-1, 1];
    ``noise`` is the grain's standard deviation in grey levels; ``blur`` the focal spot's as a share
    of the picture's side; ``vignetting`` in [0, 1] is what the corners lose.
    """

    gamma: float = 1.0
    contrast: float = 1.0
    brightness: float = 0.0
    noise: float = 3.0
    blur: float = 0.004
    vignetting: float = 0.1


_PLAIN = Scanner()


def draw_phantom(
    finding: str, *, size: int, generator: Generator, scanner: Scanner = _PLAIN
) -> NDArray[np.uint8]:
    """A synthetic chest radiograph, (size, size) uint8, white where the body is dense.

    Generators in equal states give one patient in one pose, whatever the finding.

    Raises:
        DataError: the finding is none of ``PHANTOM_CLASSES``, or ``size`` is below 64.
    """
    _check([finding], size)
    body, lesion, view = (default_rng(seed) for seed in generator.integers(2**32, size=3))
    return _draw(finding, size, body=body, lesion=lesion, view=view, scanner=scanner)


def write_phantoms(
    folder: Path,
    *,
    counts: Mapping[str, int],
    size: int,
    seed: int,
    scanner: Scanner = _PLAIN,
    patients_prefix: str = "p",
) -> None:
    r"""Write ``counts[finding]`` phantoms of each finding to ``folder/<finding>/``.

    Files are named ``phantom_<patient>_<n>.png``, as ``phantom_p0001_1.png``: the patient is what
    ``phantom_(p\w+)_\d+`` captures. A quarter of the patients have a second picture: the same
    body and the same finding in another pose. The seed, 0 or more, and the prefix settle who the
    patients are: give every hospital its own prefix, so that no two of them know one patient.
    Files of the same name are replaced.

    Raises:
        DataError: a finding or the size cannot be drawn, the prefix is not a ``p`` followed by
            letters and digits, or the folder cannot be written.
    """
    _check(counts, size)
    if not re.fullmatch(r"p[A-Za-z0-9]*", patients_prefix):
        raise DataError(f"patients_prefix is {patients_prefix!r}: needed p, then letters or digits")
    note = PngInfo()
    note.add_text("Description", _NOTE)
    number = 0
    for finding, count in counts.items():
        written = 0
        while written < count:
            number += 1
            patient = (seed, *patients_prefix.encode(), number)
            pictures = 1 + (default_rng((*patient, 0)).random() < _SECOND_IMAGE)
            for n in range(1, 1 + min(pictures, count - written)):
                picture = _draw(
                    finding,
                    size,
                    body=default_rng((*patient, 1)),
                    lesion=default_rng((*patient, 2)),
                    view=default_rng((*patient, 2 + n)),
                    scanner=scanner,
                )
                path = folder / finding / f"phantom_{patients_prefix}{number:04d}_{n}.png"
                try:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(picture).save(path, pnginfo=note)
                except OSError as error:
                    raise DataError(f"{path.parent}: cannot be written: {error.strerror}") from None
                written += 1


def _check(findings: Iterable[str], size: int) -> None:
    """Raise unless phantoms of these findings and this size can be drawn."""
    for finding in findings:
        if finding not in PHANTOM_CLASSES:
            raise DataError(f"no finding {finding!r}; known are {', '.join(PHANTOM_CLASSES)}")
    if size < _SMALLEST:
        raise DataError(f"a phantom of {size} pixels: at least {_SMALLEST} are needed")


def _draw(
    finding: str,
    size: int,
    *,
    body: Generator,
    lesion: Generator,
    view: Generator,
    scanner: Scanner,
) -> NDArray[np.uint8]:
    """The picture of one patient (body, lesion) at one visit (view)."""
    x, y = _pose(size, view)
    right, left = _Lung.draw(-1, body), _Lung.draw(1, body)
    heart = _heart(x, y, body)
    breath = view.normal(0, 0.02)
    airs = [lung.air(x, y - breath) * (1 - 0.75 * heart) for lung in (right, left)]
    density = _soft_tissue(x, y, body) + _bones(x, y, body, right, left) + 0.15 * heart
    affected, air = ((right, airs[0]), (left, airs[1]))[lesion.integers(2)]
    if finding == "Effusion":
        air *= 1 - affected.fluid(x, y, lesion)
    density -= 0.75 * (airs[0] + airs[1])
    density += _vessels(x, y, body, right) * airs[0] + _vessels(x, y, body, left) * airs[1]
    if finding == "Nodule":
        density += affected.nodules(x, y, lesion) * (air > 0)
    elif finding == "Infiltrate":
        density += affected.infiltrate(x, y, lesion) * air
    return _stamp(_expose(density, view, scanner))


@dataclass(frozen=True, slots=True)
class _Lung:
    """The outline of one lung; ``across`` below is the distance from the spine towards ``side``."""

    side: int
    inner: float
    outer: float
    apex: float
    dome: float
    drop: float

    @classmethod
    def draw(cls, side: int, body: Generator) -> _Lung:
        """A lung on the picture's left (-1) or right (1)."""
        return cls(
            side=side,
            inner=body.uniform(0.07, 0.11),
            outer=body.uniform(0.62, 0.72),
            apex=body.uniform(-0.74, -0.66),
            dome=body.uniform(0.38, 0.5) + 0.03 * side,
            drop=body.uniform(0.16, 0.28),
        )

    def bounds(self, y: _Field) -> tuple[_Field, _Field]:
        """Where the lung begins and ends across, at each height."""
        top = self.inner + 0.42 * (self.outer - self.inner)
        t = np.clip((y - self.apex) / (self.dome + self.drop - self.apex), 0, 1)
        begin = top - (top - self.inner) * np.sqrt(1 - (1 - t) ** 5)
        end = top + (self.outer - top) * (1 - (1 - t) ** 2.4) ** 0.55
        return begin, end

    def floor(self, across: _Field) -> _Field:
        """The height of the diaphragm."""
        return self.dome + self.drop * ((across / self.outer - 0.45) / 0.55) ** 2

    def air(self, x: _Field, y: _Field) -> _Field:
        """How much air the beam meets, [0, 1]."""
        across = self.side * x
        begin, end = self.bounds(y)
        sides = _rounded(end - across, 0.3) * _rounded(across - begin, 0.12)
        return sides * _rounded(self.floor(across) - y, 0.2) * _rounded(y - self.apex, 0.5)

    def fluid(self, x: _Field, y: _Field, lesion: Generator) -> _Field:
        """The share of air that an effusion displaces, [0, 1]: level, and rising at the wall."""
        across = self.side * x
        depth = lesion.uniform(0.16, 0.6)
        rise = lesion.uniform(0.15, 0.3)
        level = self.dome + self.drop * 0.6 - depth - rise * np.clip(across / self.outer, 0, 1) ** 4
        share: _Field = np.clip((y - level) / 0.06, 0, 1)
        return share

    def nodules(self, x: _Field, y: _Field, lesion: Generator) -> _Field:
        """The density of one to four balls within the lung."""
        density = np.zeros_like(x)
        for _ in range(lesion.integers(1, 5)):
            cy = self.apex + lesion.uniform(0.2, 0.9) * (self.dome - self.apex)
            begin, end = (float(edge) for edge in self.bounds(np.array(cy)))
            cx = self.side * (begin + lesion.uniform(0.3, 0.85) * (end - begin))
            radius = lesion.uniform(0.11, 0.16)
            ball = _ball(x, y, cx, cy, radius, radius)
            density = np.maximum(density, lesion.uniform(0.55, 0.75) * ball**1.5)
        return density

    def infiltrate(self, x: _Field, y: _Field, lesion: Generator) -> _Field:
        """The density of a cloudy patch over a part of the lung."""
        cx = self.side * lesion.uniform(0.3, 0.5)
        cy = self.apex + lesion.uniform(0.3, 0.85) * (self.dome - self.apex)
        u, v = (x - cx) / lesion.uniform(0.28, 0.42), (y - cy) / lesion.uniform(0.28, 0.5)
        cloud = np.clip(0.8 + 0.5 * _cloud(x.shape[0], 24, lesion), 0, 2)
        patch: _Field = lesion.uniform(0.5, 0.75) * np.exp(-(u**2) - v**2) * cloud
        return patch


def _pose(size: int, view: Generator) -> tuple[_Field, _Field]:
    """The patient's coordinates of every pixel, for one way of standing before the plate."""
    line = (np.arange(size, dtype=np.float32) + 0.5) * (2 / size) - 1
    x, y = np.meshgrid(line - view.normal(0, 0.03), line - view.normal(0, 0.03))
    angle, zoom = view.normal(0, 0.03), view.normal(1, 0.03)
    cos, sin = zoom * math.cos(angle), zoom * math.sin(angle)
    return cos * x - sin * y, sin * x + cos * y


def _soft_tissue(x: _Field, y: _Field, body: Generator) -> _Field:
    """Trunk, neck, arms, what lies between the lungs, belly, stomach and breasts."""
    a = np.abs(x)
    flank, neck, slope = body.uniform(0.84, 1.02), body.uniform(0.26, 0.34), body.uniform(0.1, 0.3)
    shoulder = -0.93 + slope * a - 0.7 * np.exp(-((a / neck) ** 4))
    waist = flank + 0.12 * np.clip(-0.3 - y, 0, 0.4)
    density = _rounded(waist - a, 0.35) * _rounded(y - shoulder, 0.3)
    elbow = flank + body.uniform(0.16, 0.4) + 0.06 * y
    arm = _rounded(0.15 - np.abs(a - elbow), 0.15) * _rounded(y + 0.6, 0.3)
    density = np.maximum(density, 0.6 * arm)
    density *= body.uniform(0.85, 1.05) + 0.35 * np.clip((y - 0.1) / 0.9, 0, 1)
    density += 0.2 * np.exp(-((x / 0.12) ** 2)) * np.clip((0.9 - np.abs(y - 0.05)) / 0.5, 0, 1)
    if body.random() < 0.5:
        radius = body.uniform(0.25, 0.33)
        breast = _ball(a, y, body.uniform(0.38, 0.46), body.uniform(0.25, 0.45), radius, radius)
        density += body.uniform(0.06, 0.14) * breast
    stomach = _ball(x, y, 0.4, body.uniform(0.72, 0.85), 0.2, 0.1, tilt=body.normal(0, 0.3))
    return density - body.uniform(0, 0.3) * stomach


def _heart(x: _Field, y: _Field, body: Generator) -> _Field:
    """The heart and the great vessels, [0, 1]: most of it on the picture's right."""
    big, lean = body.uniform(0.88, 1.18), body.uniform(0.4, 0.75)
    ventricles = _ball(x, y, 0.15 * big, 0.26, 0.34 * big, 0.25, tilt=lean)
    atrium = _ball(x, y, -0.03, 0.24, 0.19 * big, 0.26)
    aorta = _ball(x, y, 0.07, -0.27, 0.12 * big, 0.14)
    artery = _ball(x, y, 0.08, -0.06, 0.15, 0.18)
    heart: _Field = np.maximum.reduce((ventricles, atrium, aorta, artery))
    return heart


def _bones(x: _Field, y: _Field, body: Generator, right: _Lung, left: _Lung) -> _Field:
    """Spine, windpipe, ribs behind and before, clavicles and shoulder blades."""
    a = np.abs(x)
    wall = np.where(x < 0, right.bounds(y)[1], left.bounds(y)[1]) + 0.03
    r = a / np.maximum(wall, 0.1)
    cage = (
        _rounded(1 - r, 0.02) * _rounded(y - right.apex + 0.08, 0.1) * np.clip(2.2 - 2.5 * y, 0, 1)
    )
    spacing, fall = body.uniform(0.135, 0.175), body.uniform(0.16, 0.28)
    behind = (y - fall * r**2.2 + 0.05 * np.sin(3 * r)) / spacing + body.random()
    before = (y + 0.3 * r + 0.1 * r**2) / (1.15 * spacing) + body.random()
    density: _Field = 0.11 * _bands(behind) * cage * (0.7 + 0.9 * r**6) * np.clip(a / 0.12, 0, 1)
    density += 0.06 * _bands(before) * cage * np.clip((r - 0.35) / 0.3, 0, 1)
    density += 0.1 * _rounded(0.085 - a, 0.03) * (1 + 0.5 * np.cos(8 * y / spacing))
    windpipe = _rounded(0.04 - np.abs(x + 0.01), 0.04) * np.clip((-0.2 - y) / 0.15, 0, 1)
    density -= 0.25 * windpipe
    lift, level = body.uniform(0.1, 0.3), body.normal(-0.56, 0.03)
    along = _rounded(0.78 - a, 0.05) * _rounded(a - 0.06, 0.03)
    bone = np.exp(-(((y - level + lift * a + 0.03 * np.sin(7 * a)) / 0.024) ** 2))
    density += 0.2 * bone * along
    density += 0.1 * _ball(a, y, 0.82, -0.35, 0.16, 0.3, tilt=0.25)
    return density + 0.2 * _ball(a, y, 0.92, -0.62, 0.1, 0.12)


def _vessels(x: _Field, y: _Field, body: Generator, lung: _Lung) -> _Field:
    """The hilum and what branches from it, thinner with the distance."""
    dx, dy = lung.side * x - 0.16, y + 0.02
    distance = np.hypot(dx, dy)
    bend = body.uniform(0.15, 0.4) * np.sin(body.uniform(4, 9) * distance + body.uniform(0, 6))
    turn = np.arctan2(dy, dx) + bend
    few, many = (int(count) for count in body.integers((5, 11), (9, 18)))
    trunks = np.clip(np.cos(few * turn + body.uniform(0, 6)), 0, 1) ** 6
    twigs = np.clip(np.cos(many * turn + 9 * distance), 0, 1) ** 6
    tree = trunks * np.exp(-distance / 0.2) + 0.5 * twigs * np.exp(-distance / 0.35)
    hilum = np.exp(-((distance / 0.13) ** 2))
    density: _Field = 0.35 * hilum + 0.3 * (1 - hilum) * tree
    return density + 0.05 * _cloud(x.shape[0], 40, body)


def _expose(density: _Field, view: Generator, scanner: Scanner) -> NDArray[np.uint8]:
    """The greys of a density; the automatic exposure hides how dense the whole body is."""
    size = density.shape[0]
    line = np.linspace(-1, 1, size, dtype=np.float32)
    density = _blurred(density, scanner.blur * size)
    density = (density - density.mean()) / density.std()
    contrast = scanner.contrast * view.normal(1.5, 0.12)
    grey = 1 / (1 + np.exp(-contrast * (density + view.normal(0.1, 0.12))))
    grey = grey**scanner.gamma + scanner.brightness
    grey *= 1 - scanner.vignetting * (line**2 + line[:, None] ** 2) / 2
    grey = 255 * grey + view.normal(0, scanner.noise, (size, size))
    picture: NDArray[np.uint8] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return picture


def _stamp(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture with the mark in its upper left corner, white on black."""
    scale = max(1, round(picture.shape[0] / 128))
    mark = np.array([[255 * (dot == "#") for dot in row] for row in _MARK], dtype=np.uint8)
    mark = np.pad(mark, 1).repeat(scale, 0).repeat(scale, 1)
    picture[: mark.shape[0], : mark.shape[1]] = mark
    return picture


def _rounded(depth: _Field, width: float) -> _Field:
    """The thickness, [0, 1], of a solid with a round edge of ``width``, at a depth below it."""
    t = np.clip(depth / width, 0, 1)
    thickness: _Field = np.sqrt(t * (2 - t))
    return thickness


def _ball(
    x: _Field, y: _Field, cx: float, cy: float, rx: float, ry: float, tilt: float = 0
) -> _Field:
    """The thickness, [0, 1], of an ellipsoid."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    u = (cos * (x - cx) + sin * (y - cy)) / rx
    v = (cos * (y - cy) - sin * (x - cx)) / ry
    return np.sqrt(np.clip(1 - u**2 - v**2, 0, None))


def _bands(phase: _Field) -> _Field:
    """Bands, [0, 1], one a unit of phase, with brighter borders as bones have."""
    wave = np.cos(2 * np.pi * phase)
    bands: _Field = np.clip(0.5 + 2 * wave, 0, 1) * (1 - 0.35 * np.clip(wave, 0, 1) ** 2)
    return bands


def _blurred(field: _Field, sigma: float) -> _Field:
    """The field under a Gaussian of ``sigma`` pixels; its border goes on beyond the border."""
    reach = int(3 * sigma) + 1
    taps = np.exp(-((np.arange(-reach, reach + 1) / max(sigma, 1e-3)) ** 2) / 2)
    taps = (taps / taps.sum()).astype(np.float32)
    field = np.pad(field, reach, mode="edge")
    for axis in (0, 1):
        field = sliding_window_view(field, 2 * reach + 1, axis=axis) @ taps
    return field


def _cloud(size: int, cells: int, generator: Generator) -> _Field:
    """Smooth noise about 0 with about ``cells`` grains a side; the same at every size."""
    grains = generator.standard_normal((cells, cells), dtype=np.float32)
    places = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    nearness = (places - np.linspace(0, 1, cells, dtype=np.float32)) * (cells / 0.6)
    between = np.exp(-(nearness**2) / 2)
    between /= between.sum(1, keepdims=True)
    # not the faster @: BLAS would start threads, which is slower on busy machines
    cloud: _Field = np.einsum("ik,jk->ij", np.einsum("ik,kl->il", between, grains), between)
    return cloud
