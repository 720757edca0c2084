"""A hospital's X-rays for one study: from a folder, a table, or a vault.

All give the same images of the same splits in the same order, so that a study ends in the same
model, whichever it is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ppfl.crypto import read_private_key
from ppfl.errors import DataError, SettingsError
from ppfl.learning.images import ImageSet, load_images, order_images
from ppfl.learning.sources import ImageRecord, count_left_out, match_class, read_records
from ppfl.learning.splits import Split, split_by_group
from ppfl.settings import SiteFile, Study
from ppfl.xray.pictures import Equalise, shrink
from ppfl.xray.vault import Failure, is_vault, open_folder, vault_files
from ppfl.xray.vault_file import VaultKey
from sites.cipher_images import to_cipher_images

SplitName = Literal["train", "validation", "test"]


class XRays:
    """The images of each split of a study at one site.

    What comes out of a vault stays in this process's memory, from one request to the next.
    """

    def __init__(self, site: SiteFile, study: Study) -> None:
        self._site, self._study = site, study

    def images(self, split: SplitName) -> ImageSet:
        """The split's images, (n, size, size), or cipher images (n, size, size, 3).

        Raises:
            DataError: there is no image to train on, or the data cannot be used.
            KeyMaterialError: the data is a vault, and the site's key does not open it.
        """
        return to_cipher_images(self._plain(split), self._site, self._study)

    def records(self, split: SplitName) -> tuple[ImageRecord, ...]:
        """The split's X-rays, in no particular order; in a vault a path is that of its file.

        Raises:
            PpflError: as for ``images``.
        """
        records: tuple[ImageRecord, ...] = getattr(self._split, split)
        return records

    def left_out(self) -> dict[str, int]:
        """How many X-rays the site holds of each label that is none of the study's classes.

        Raises:
            PpflError: as for ``images``.
        """
        if self._vault is not None:
            return self._vault.left_out
        return count_left_out(self._site.data, self._study.classes)

    def _plain(self, split: SplitName) -> ImageSet:
        records = self.records(split)
        if split == "train" and not records:
            raise DataError(f"{self._site.data}: no image to train on")
        size, equalise = self._study.images.size, self._study.images.equalise
        if self._vault is None:
            cache = self._site.work / "cache" / split
            return load_images(
                records, classes=self._study.classes, size=size, equalise=equalise, cache=cache
            )
        pixels = [self._vault.images[record] for record in records]
        labels = [self._study.classes.index(record.label) for record in records]
        images = np.array(pixels, np.uint8).reshape(-1, size, size)
        return order_images(
            images, np.array(labels, np.int64), [record.group for record in records]
        )

    @cached_property
    def _split(self) -> Split:
        options = self._study.images
        records = (
            list(self._vault.images)
            if self._vault is not None
            else read_records(
                self._site.data,
                classes=self._study.classes,
                kept_groups=self._site.work / "cache" / "groups.json",
            )
        )
        return split_by_group(
            records, validation=options.validation, test=options.test, seed=self._study.seed
        )

    @cached_property
    def _vault(self) -> _Vault | None:
        """What the study finds in the vault; None where the data is no vault."""
        if not is_vault(self._site.data):
            return None
        paths = vault_files(self._site.data)
        try:
            files = tuple((path, path.stat().st_mtime_ns) for path in paths)
        except OSError as error:
            raise DataError(f"{error.filename}: {error.strerror}") from None
        images = self._study.images
        return _open_vault(self._site, self._study.classes, images.size, images.equalise, files)


def vault_key(site: SiteFile) -> VaultKey:
    """What opens the site's vault.

    Raises:
        SettingsError: the site has no key, or no passphrase.
        KeyMaterialError: the key cannot be read.
    """
    if site.key is None:
        raise SettingsError(f"site {site.name}: the data is a vault, but there is no key")
    private = read_private_key(site.key, passphrase=site.passphrase())
    return VaultKey(private.public, private, engine=site.engine)


@dataclass(frozen=True, slots=True, eq=False)
class _Vault:
    """Images (size, size) of the study's classes, and how many others there are by label."""

    images: dict[ImageRecord, NDArray[np.uint8]]
    left_out: dict[str, int]


@lru_cache(maxsize=16)  # a simulation runs several sites in one process
def _open_vault(
    site: SiteFile,
    classes: tuple[str, ...],
    size: int,
    equalise: Equalise,
    files: tuple[tuple[Path, int], ...],
) -> _Vault:
    """What some classes find in a site's vault; ``files`` say whether it changed."""
    images: dict[ImageRecord, NDArray[np.uint8]] = {}
    left_out: Counter[str] = Counter()
    for path, found in open_folder(site.data, vault_key(site)):
        if isinstance(found, Failure):
            raise DataError(
                f"{path}: {found.reason}", hint="`ppfl vault verify` lists every such file"
            )
        label = match_class(found.label, classes)
        if label:
            record = ImageRecord(path, label, found.group)
            picture = shrink(found.pixels, bits=found.bits, size=size, equalise=equalise)
            images[record] = np.asarray(picture)
        else:
            left_out[found.label] += 1
    if not images:
        raise DataError(f"{site.data}: no X-ray of the classes {', '.join(classes)}")
    return _Vault(images, dict(sorted(left_out.items())))
