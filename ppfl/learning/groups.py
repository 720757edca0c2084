"""Whose X-ray a file shows, where no table says so."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from ppfl.errors import DataError
from ppfl.files import replace_private
from ppfl.xray.dicom import names_dicom, patient_group

_OF_FILE = "sha256:"
_VERSION = 2  # to be raised when the same files would be of other groups
_PATIENTS = (  # collection, the folder that files of the name lie in or none, and the name
    ("kermany", "", re.compile(r"(person\d+)_(?:bacteria|virus)_\d+")),
    # elsewhere that is how OsiriX and Horos name the files of every patient
    ("kermany", "normal", re.compile(r"((?:NORMAL\d*-)?IM-\d+)(?:-\d+)+")),
    ("phantom", "", re.compile(r"phantom_(p\w+)_\d+")),
)


class Groups:
    """The groups of files, looked up once for as long as a file's size and time of change stay.

    Args:
        kept: a file, in a folder that may have to be made, in which they are kept for its owner's
            eyes only: digests of names, and the groups. Without one nothing is kept.
    """

    def __init__(self, kept: Path | None = None) -> None:
        self._kept = kept
        self._before = _read(kept) if kept else {}
        self._now: dict[str, str] = {}

    def of(self, path: Path) -> str:
        """Of a DICOM `patient_group`, or the patient in a name of Kermany's set, else a SHA-256.

        Raises:
            DataError: the file cannot be read.
        """
        try:
            if self._kept is None:
                return _group_of(path)
            stat = path.stat()
            told = json.dumps([_VERSION, str(path), stat.st_size, stat.st_mtime_ns])
            digest = hashlib.sha256(told.encode()).hexdigest()
            group = self._before.get(digest) or _group_of(path)
            # a DICOM that named no patient may have failed to be read: it is looked into again
            if not (group.startswith(_OF_FILE) and names_dicom(path)):
                self._now[digest] = group
            return group
        except OSError as error:
            raise DataError(f"{path}: the image cannot be read: {error.strerror}") from None

    def keep(self) -> None:
        """Keep what was looked up, and no more.

        Raises:
            DataError: the file cannot be written.
        """
        if self._kept is None or self._now == self._before:
            return
        try:
            self._kept.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            replace_private(self._kept, [json.dumps(self._now).encode()])
        except OSError as error:
            raise DataError(f"{self._kept}: cannot be written: {error.strerror}") from None


def _group_of(path: Path) -> str:
    patient = patient_group(path) if names_dicom(path) else ""
    if patient:
        return patient
    for collection, folder, pattern in _PATIENTS:
        match = pattern.fullmatch(path.stem)
        if match and folder in ("", path.parent.name.casefold()):
            return f"{collection}:{match[1]}"
    with path.open("rb") as file:
        return f"{_OF_FILE}{hashlib.file_digest(file, 'sha256').hexdigest()}"


def _read(kept: Path) -> dict[str, str]:
    """What was kept; nothing where that is damaged, because it can be looked up again."""
    try:
        found = json.loads(kept.read_bytes())
    except (OSError, ValueError):
        return {}
    texts = isinstance(found, dict) and all(isinstance(group, str) for group in found.values())
    return found if texts else {}
