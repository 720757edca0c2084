"""Which X-rays a folder holds: their class, the patient they show, the hospital they come from."""

from __future__ import annotations

import csv
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ppfl.errors import DataError
from ppfl.learning.groups import Groups
from ppfl.learning.tables import fold_name, read_table
from ppfl.xray.dicom import names_dicom

_TABLES = ("manifest.csv", "index.csv")
_IMAGES = frozenset({".bmp", ".dcm", ".jpeg", ".jpg", ".pgm", ".png", ".tif", ".tiff", ".webp"})
_DICOM_DIRECTORY = "DICOMDIR"  # on every CD: DICOM, but a table of contents
_MASKS = frozenset({"masks", "lung_masks", "infection_masks"})
_SPLITS = frozenset({"train", "test", "val", "valid", "validation"})
_NO_CLASS = _SPLITS | {"images"}
_MOST_LABELS = 10  # that an error names
_CAUSE = re.compile(r"person\d+_(bacteria|virus)_\d+")
_CAUSE_CLASS = {"bacteria": "Bacterial_Pneumonia", "virus": "Viral_Pneumonia"}


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One X-ray: where it is and what is known of it.

    ``group`` is a patient, or images so alike that they may show one patient: what must stay on
    one side of a split. ``site`` is the hospital, or empty where no table says so.
    """

    path: Path
    label: str
    group: str
    site: str = ""


def read_records(
    folder: Path,
    *,
    classes: Sequence[str] = (),
    causes: bool = False,
    missing_ok: bool = False,
    unreadable_ok: bool = False,
    kept_groups: Path | None = None,
) -> list[ImageRecord]:
    """The X-rays of a folder or CSV table, sorted by path, which is absolute.

    A table is the CSV file itself, or ``manifest.csv`` or ``index.csv`` in the folder, in the form
    that `read_table` describes. A line that names a folder means every image below it, such as a
    patient's as an archive exports them.

    Without a table an image's class is the nearest folder above it that is not ``images`` nor a
    ready-made split (train, test, val), which reads the COVID-19 Radiography Database, Kermany's
    pneumonia set and any tree of one folder per class; folders of masks are passed over.
    Ready-made splits do not count: ours go by patient.

    Class names are the same if they differ only in case, spaces, hyphens and underscores. With
    ``classes``, other classes are left out (`count_left_out` counts them) and labels are spelled
    as there; Kermany's PNEUMONIA then becomes Bacterial_Pneumonia or Viral_Pneumonia if these are
    asked for, or, without classes, if the ``causes`` are.

    Images are files of the usual suffixes, .dcm, and all others that begin as DICOM files do.

    A group that no table gives is a hash of a DICOM's PatientID (see `patient_group`), or the
    patient in a file name of Kermany's set, else the SHA-256 of the file, so that copies of one
    file at least stay together. In ``kept_groups``, a file, they are kept for the next time. With
    ``missing_ok`` a file that is missing or must not be read is a record as well, of an empty
    group: whoever opens the file says what is wrong with it. With ``unreadable_ok`` one that is
    there and must not be read is a record, in a group of its own.

    Raises:
        DataError: the folder or a listed file is missing, the table cannot be read or lists a file
            twice, the groups cannot be kept, or there is no image of any class asked for. A class
            that is merely absent is no error: a site need not have all.
    """
    spelling = {fold_name(name): name for name in classes}
    if len(spelling) != len(classes):
        raise DataError(f"two of the classes {', '.join(classes)} differ only in spelling")
    where, found = _find(folder)
    kept = []
    for entry in found:
        if classes:
            label = entry.class_among(classes)
        else:
            label = entry.cause if causes and entry.cause else entry.label
            label = spelling.setdefault(fold_name(label), label)
        if label:
            kept.append((entry, label))
    if not kept:
        raise _nothing_found(where, found, classes)
    missing = [entry.path for entry, _ in kept if not entry.path.is_file()]
    if missing and not missing_ok:
        raise DataError(
            f"{where}: {len(missing)} of {len(kept)} images are missing, the first is {missing[0]}",
            hint="copy the files to where the table says, or take their lines out",
        )
    groups = Groups(kept_groups)

    def group_of(path: Path) -> str:
        try:
            # nor would one come back from opening a pipe
            return groups.of(path) if path.is_file() or not missing_ok else ""
        except DataError:
            if missing_ok:
                return ""
            if unreadable_ok:
                return str(path)
            raise

    records = [
        ImageRecord(entry.path, label, entry.group or group_of(entry.path), entry.site)
        for entry, label in kept
    ]
    groups.keep()
    return records


def count_left_out(folder: Path, classes: Sequence[str]) -> dict[str, int]:
    """How many X-rays `read_records` leaves out of these classes, by label, in alphabetical order.

    Raises:
        DataError: the folder or table cannot be read.
    """
    _, found = _find(folder)
    return _count_labels(entry for entry in found if not entry.class_among(classes))


def match_class(label: str, classes: Sequence[str]) -> str:
    """The class that a label means, spelled as the classes are, or empty if it is none of them.

    A pneumonia of known cause is a pneumonia where the classes do not ask for causes.
    """
    spelling = {fold_name(name): name for name in classes}
    if found := spelling.get(fold_name(label)):
        return found
    known = fold_name(label) in map(fold_name, _CAUSE_CLASS.values())
    return spelling.get("pneumonia", "") if known else ""


def layout_of(folder: Path) -> str:
    """How a folder says what its images are, in a few words for people.

    Raises:
        DataError: there is no such folder or CSV table.
    """
    folder = Path(os.path.abspath(folder))
    table = _table_of(folder)
    if table:
        return f"table {table.name}"
    above = {
        part.casefold()
        for path in _image_files(folder)
        for part in path.relative_to(folder).parts[:-1]
    }
    if above & _SPLITS:
        return "one folder per class below train, test and val, as in Kermany's set"
    if "images" in above:
        return "images below each class, as in the COVID-19 Radiography Database"
    return "one folder per class"


def write_manifest(path: Path, records: Sequence[ImageRecord]) -> None:
    """Write records as a CSV table that `read_records` reads back.

    Columns path, label, group and site; paths are absolute, so the table may lie anywhere.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["path", "label", "group", "site"])
            for record in records:
                place = os.path.abspath(record.path)
                writer.writerow([place, record.label, record.group, record.site])
    except (OSError, UnicodeEncodeError) as error:
        raise DataError(f"{path}: the manifest cannot be written: {error}") from None


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image as a table or tree names it; ``group`` and ``site`` may be empty."""

    path: Path
    label: str
    cause: str = ""
    group: str = ""
    site: str = ""

    def class_among(self, classes: Sequence[str]) -> str:
        """The class it is of, or empty if it is of none of them."""
        return match_class(self.cause, classes) or match_class(self.label, classes)


def _find(folder: Path) -> tuple[Path, list[_Entry]]:
    """The table or folder that says what there is, and all that it says, sorted by path."""
    folder = Path(os.path.abspath(folder))
    table = _table_of(folder)
    found = _read_rows(table) if table else _read_tree(folder)
    return table or folder, sorted(found, key=lambda entry: entry.path)


def _count_labels(entries: Iterable[_Entry]) -> dict[str, int]:
    return dict(sorted(Counter(entry.cause or entry.label for entry in entries).items()))


def _table_of(folder: Path) -> Path | None:
    try:
        if folder.is_file():
            if folder.suffix.lower() != ".csv":
                raise DataError(f"{folder}: neither a folder of images nor a CSV table of them")
            return folder
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder", hint="check the path, or mount the disk")
        return next((folder / name for name in _TABLES if (folder / name).is_file()), None)
    except OSError as error:
        raise DataError(f"{folder}: the folder cannot be read: {error.strerror}") from None


def _read_rows(table: Path) -> list[_Entry]:
    entries: dict[Path, _Entry] = {}
    for row in read_table(table):
        files = [row.path]
        if row.path.is_dir():
            files = list(_image_files(row.path))
            if not files:
                raise DataError(f"{row.where}: no image in {row.path}")
        for path in files:
            if path in entries:
                raise DataError(f"{row.where}: {path} is listed a second time")
            entries[path] = _Entry(path, row.label, group=row.group, site=row.site)
    return list(entries.values())


def _read_tree(folder: Path) -> list[_Entry]:
    entries = []
    for path in _image_files(folder):
        above = path.relative_to(folder).parts[:-1]
        label = next((part for part in reversed(above) if part.casefold() not in _NO_CLASS), "")
        cause = _CAUSE.fullmatch(path.stem)
        if cause and fold_name(label) == "pneumonia":
            entries.append(_Entry(path, label, cause=_CAUSE_CLASS[cause[1]]))
        elif label:
            entries.append(_Entry(path, label))
    return entries


def _image_files(folder: Path) -> Iterator[Path]:
    """Every image below a folder, hidden files and masks passed over."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_cannot_list):
        real = os.path.realpath(place)
        if real in seen:  # a link back up, or a second one to the same folder
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not _is_aside(name))
        for name in sorted(files):
            if not name.startswith(".") and _is_image(Path(place, name)):
                yield Path(place, name)


def _is_image(path: Path) -> bool:
    if path.suffix.lower() in _IMAGES:
        return True
    # archives write .dicom, .ima, the end of a UID, or nothing; of a pipe no byte may ever come
    return path.name.upper() != _DICOM_DIRECTORY and path.is_file() and names_dicom(path)


def _is_aside(folder_name: str) -> bool:
    return folder_name.startswith((".", "__MACOSX")) or fold_name(folder_name) in _MASKS


def _cannot_list(error: OSError) -> None:
    raise DataError(f"{error.filename}: the folder cannot be read: {error.strerror}") from None


def _nothing_found(where: Path, found: Sequence[_Entry], classes: Sequence[str]) -> DataError:
    if found:
        counts = list(_count_labels(found).items())
        there = ", ".join(f"{label} ({images})" for label, images in counts[:_MOST_LABELS])
        there += ", …" if len(counts) > _MOST_LABELS else ""
        return DataError(
            f"{where}: no image of the classes {', '.join(classes)}; found {there}",
            hint="name the folders, or the table's labels, as the study names its classes",
        )
    return DataError(
        f"{where}: no image in a folder per class, nor one in a table",
        hint="put the images into one folder per class, or list them in a manifest.csv",
    )
