"""A federation compared with other trainings, on the same test images: what is kept of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ppfl.errors import RunError
from ppfl.report.estimate import Estimate

COMPARISON = "comparison.json"
"""The file of a run's folder in which it lies."""

Method = Literal["local", "pooled", "plaintext", "unrounded"]
_TITLES = {
    "local": "own model",
    "pooled": "all X-rays pooled",
    "plaintext": "without encryption",
    "unrounded": "without encryption or rounding",
}


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Tested(_Kept):
    """How well a model does on some images.

    ``sensitivity`` and ``auroc`` are by class, None where the images cannot tell;
    ``macro_auroc`` is the mean over the classes that they can tell about.
    """

    accuracy: Estimate
    sensitivity: Mapping[str, Estimate | None]
    auroc: Mapping[str, float | None]
    macro_auroc: float | None


class Difference(_Kept):
    """The federation's figure minus another's, and DeLong's p that there is none."""

    estimate: Estimate
    p: float | None = None


class Other(_Kept):
    """Another training on the same images, and the federation's figures minus its own.

    ``trained_at`` is the site of a ``local`` one, empty where the images are of several sites, each
    tested with its own model. Differences are None where there are too few patients: accuracy and
    sensitivity by bootstrap over patients, AUROC by DeLong's test.
    """

    method: Method
    trained_at: str = ""
    tested: Tested
    accuracy: Difference | None
    sensitivity: Mapping[str, Difference | None]
    auroc: Mapping[str, Difference | None]

    @property
    def title(self) -> str:
        """What it is called in a table."""
        name = _TITLES[self.method]
        return f"{name} of {self.trained_at}" if self.trained_at else name


class Place(_Kept):
    """Test images of one hospital, or of all sites together (an empty name)."""

    name: str
    held_out: bool = False
    images: int
    patients: int
    federated: Tested
    others: tuple[Other, ...]

    @property
    def title(self) -> str:
        """What it is called in a table."""
        if not self.name:
            return "all sites"
        return f"{self.name} (took no part)" if self.held_out else self.name

    @property
    def told_classes(self) -> tuple[str, ...]:
        """The classes about which anything can be told here, in order.

        Of the others there are too few patients or none.
        """
        return tuple(
            name
            for name, auroc in self.federated.auroc.items()
            if auroc is not None or any(other.sensitivity.get(name) for other in self.others)
        )


class Abroad(_Kept):
    """A site's own model on another site's test images, and the federation's accuracy minus it."""

    trained_at: str
    tested_at: str
    accuracy: Estimate
    difference: Difference | None


class Elsewhere(_Kept):
    """A site's own model on all other sites' test images together, and the federation there.

    ``difference`` is the federation's accuracy minus the model's.
    """

    trained_at: str
    images: int
    accuracy: Estimate
    federated: Estimate
    difference: Difference | None


class Training(_Kept):
    """What a training took: its steps in all, and minutes where it had them for itself."""

    method: str
    trained_at: str = ""
    images: int
    steps: int
    minutes: float


class Comparison(_Kept):
    """All of it, for one run.

    ``same_model_in_plaintext`` says whether the federation without encryption ended in the same
    models, bit for bit; None where there was none.
    """

    version: Literal[1] = 1
    study: str
    study_fingerprint: str
    classes: tuple[str, ...]
    trainings: tuple[Training, ...]
    places: tuple[Place, ...]
    abroad: tuple[Abroad, ...]
    elsewhere: tuple[Elsewhere, ...] = ()
    same_model_in_plaintext: bool | None = None
    warnings: tuple[str, ...] = ()

    @property
    def sites(self) -> tuple[Place, ...]:
        """The test images of each site that took part."""
        return tuple(place for place in self.places if place.name and not place.held_out)

    @property
    def worst(self) -> Place | None:
        """The site that took part on whose test images the federation's model does worst."""
        return min(self.sites, key=lambda place: place.federated.accuracy.value, default=None)

    @property
    def abroad_accuracy(self) -> dict[str, dict[str, Estimate]]:
        """The accuracy of each site's own model, by the site that trained it and that tested it."""
        found: dict[str, dict[str, Estimate]] = {}
        for each in self.abroad:
            found.setdefault(each.trained_at, {})[each.tested_at] = each.accuracy
        return found


def read_comparison(folder: Path) -> Comparison | None:
    """The comparison in a run's folder, None if there is none.

    Raises:
        RunError: the file is damaged.
    """
    path = folder / COMPARISON
    if not path.exists():
        return None
    try:
        return Comparison.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        raise RunError(
            f"{path}: not a comparison of this version",
            hint="--resume with --compare makes it anew",
        ) from None
