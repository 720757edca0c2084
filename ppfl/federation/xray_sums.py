"""The federation's mean X-ray of each class: a vector of sums to which every X-ray is added sealed.

Each X-ray becomes ciphertexts of its own, and only ciphertexts are added, at the site and then at
the coordinator, so that all of this needs the public key alone. What the sites open is one sum for
each class over all X-rays of all sites that take part in it. (A site could add its own X-rays in
the clear with the same result; this way the sum can also be made where X-rays are only sealed.)

The vector is one piece for each class, with a picture's pixels row by row, and a tail. The tail
binds it as that of any other vector, and says how many X-rays the site put into each class, and
into which classes it put some.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ppfl.codec import SealedVector, Suite
from ppfl.errors import StudyMismatchError, ValueRangeError
from ppfl.federation.vectors import VectorPlan
from ppfl.settings import Study

_PIXEL_BITS = 8
_IMAGES_BITS = 18  # a site may add 262,144 X-rays to a class
_BATCH = 64  # X-rays sealed in one call: enough for all lanes of engine native, and a few MB


@dataclass(frozen=True, slots=True, eq=False)
class ClassSum:
    """The sum of ``images`` X-rays of one class, ``pixels`` (size, size), from ``sites`` sites."""

    sites: int
    images: int
    pixels: NDArray[np.int64]

    def mean(self) -> NDArray[np.uint8]:
        """The mean X-ray, (size, size): each pixel rounded to the nearest, halves up, in integers.

        Every site gets the same, whatever its processor does with fractions.
        """
        rounded: NDArray[np.int64] = (2 * self.pixels + self.images) // (2 * self.images)
        return np.minimum(rounded, 255).astype(np.uint8)  # beyond only if a site lies


class XRaySums:
    """How the sums of a study's X-rays are sealed, added and read.

    Args:
        study: the study, which must have mean X-rays made.
        suite: how its other vectors are sealed, by an engine with or without the private key.

    Raises:
        StudyMismatchError: it has none made.
    """

    def __init__(self, study: Study, suite: Suite) -> None:
        if not study.mean_xray_size:
            raise StudyMismatchError(f"study {study.name} makes no mean X-rays")
        self._study, self._size = study, study.mean_xray_size
        self.suite = suite.with_slots(
            value_bits=_PIXEL_BITS, headroom_bits=_IMAGES_BITS + study.headroom_bits
        )
        """How the sums are sealed: with room for the X-rays of all sites."""
        shape = (len(study.classes),)
        self._tail = VectorPlan(
            study,
            parameters={},
            integers={"class_images": shape, "class_sites": shape},
            value_bits=_PIXEL_BITS,
        )
        self._piece = self.suite.whole(self._size**2)

    @property
    def values(self) -> int:
        """Integers in a vector."""
        return len(self._study.classes) * self._piece + self._tail.values

    def seal(self, xrays: Sequence[Iterable[NDArray[np.uint8]]]) -> SealedVector:
        """One site's sums.

        ``xrays`` holds, for each class, X-rays of (size, size) pixels, none where the site does
        not take part; they are looked at one batch after the other. Seen from outside, a class
        without X-rays is like any other.

        Raises:
            ValueRangeError: more X-rays of a class than there is room for.
        """
        pieces = [self._add_up(pictures) for pictures in xrays]
        images = np.array([count for _, count in pieces])
        integers = {"class_images": images, "class_sites": np.minimum(images, 1)}
        tail = self._tail.seal(self.suite, round_number=0, integers=integers)
        return self.suite.join([*(piece for piece, _ in pieces), tail.vector])

    def check(self, total: SealedVector) -> None:
        """Whether it is a sum that the study allows to be opened; only its tail is.

        Raises:
            PpflError: as for :meth:`VectorPlan.open`.
        """
        self._cut(total)

    def open(self, total: SealedVector) -> dict[str, ClassSum]:
        """The sum of each class that the study allows to be opened, over the sites of a total.

        Those are of ``release_floor`` X-rays and ``minimum_sites`` sites at least, whoever has put
        them there. Which they are the tail says; no ciphertext of another class is decrypted.

        Raises:
            PpflError: as for :meth:`VectorPlan.open`.
        """
        pieces, counts = self._cut(total)
        images, sites = counts["class_images"].tolist(), counts["class_sites"].tolist()
        options, shape = self._study.federation, (self._size, self._size)
        return {
            name: ClassSum(sites[c], images[c], self.suite.open(pieces[c]).reshape(shape))
            for c, name in enumerate(self._study.classes)
            if images[c] >= options.release_floor and sites[c] >= options.minimum_sites
        }

    def _cut(
        self, total: SealedVector
    ) -> tuple[list[SealedVector], Mapping[str, NDArray[np.int64]]]:
        """The sealed sum of each class, and what the tail says."""
        lengths = [self._size**2] * len(self._study.classes)
        *pieces, tail = self.suite.cut(total, [*lengths, self._tail.values])
        return pieces, self._tail.read(self.suite.open(tail), round_number=0).integers

    def _add_up(self, xrays: Iterable[NDArray[np.uint8]]) -> tuple[SealedVector, int]:
        """The sealed sum of one class's X-rays, and how many they are."""
        total: SealedVector | None = None
        count, waiting = 0, iter(xrays)
        while batch := list(islice(waiting, _BATCH)):
            count += len(batch)
            if count > 2**_IMAGES_BITS:
                raise ValueRangeError(f"more than {2**_IMAGES_BITS} X-rays of a class")
            rows = np.stack(batch).reshape(len(batch), -1).astype(np.int64)
            total = self.suite.add(total, self.suite.seal_sum(rows))
        return total or self.suite.seal(np.zeros(self._size**2, np.int64)), count
