"""CSV tables of X-rays, as spreadsheets and hospital systems write them."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppfl.errors import DataError

_COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class", "diagnosis", "finding"),
    "group": ("group", "patient", "patient_id", "patientid"),
    "site": ("site", "hospital"),
}
_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One line of a table: ``group`` and ``site`` are empty where it does not say.

    ``path`` is absolute; ``where`` names the table and the line, to begin a message with.
    """

    path: Path
    label: str
    group: str
    site: str
    where: str


def read_table(table: Path) -> list[TableRow]:
    """The lines of a CSV table, in their order.

    The first line names the columns, whatever their case: path (or file, filename, image) and
    label (or class, diagnosis, finding) are needed, group (or patient, patient_id, patientid) and
    site (or hospital) may be there, others are passed over. Of several names for one thing the
    first in this order counts. Commas, semicolons (Excel where a comma is the decimal sign) or
    tabs set columns apart; the text is UTF-8, with or without a byte order mark.

    Relative paths start at the table and stay in its folder. In them a backslash is a slash, as
    on Windows, unless a file's name has it. Lines without any text are passed over.

    Raises:
        DataError: the file cannot be read, lacks a column, leaves a path or a label empty, or
            leads out of its folder.
    """
    rows = []
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = _delimiter(header)
            columns = [
                fold_name(name) for name in next(csv.reader([header], delimiter=delimiter), [])
            ]
            places = {field: _find(table, columns, field) for field in _COLUMNS}
            reader = csv.reader(file, delimiter=delimiter)
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                where = f"{table}: line {reader.line_num + 1}"
                texts = {
                    field: cells[place].strip() if 0 <= place < len(cells) else ""
                    for field, place in places.items()
                }
                for needed in ("path", "label"):
                    if not texts[needed]:
                        raise DataError(f"{where}: the column {columns[places[needed]]} is empty")
                path = _place(table.parent, texts["path"], where=where)
                rows.append(TableRow(path, texts["label"], texts["group"], texts["site"], where))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{table}: not a readable CSV table: {error}",
            hint="save it as UTF-8 (in Excel: CSV UTF-8)",
        ) from None
    except (OSError, csv.Error) as error:
        raise DataError(f"{table}: not a readable CSV table: {error}") from None
    return rows


def fold_name(name: str) -> str:
    """A name without what does not count: case, and which of space, hyphen and underscore."""
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()


def _delimiter(header: str) -> str:
    """What sets most columns apart in the first line, a comma if nothing does."""
    return max(_DELIMITERS, key=lambda mark: len(next(csv.reader([header], delimiter=mark), [])))


def _find(table: Path, columns: Sequence[str], field: str) -> int:
    """Which column it is, -1 if there is none and none is needed."""
    for name in _COLUMNS[field]:
        if name in columns:
            return columns.index(name)
    if field in ("group", "site"):
        return -1
    raise DataError(
        f"{table}: no column {' or '.join(_COLUMNS[field])} among {', '.join(columns) or 'none'}",
        hint="the first line must be: path,label,group,site (group and site are optional)",
    )


def _place(base: Path, text: str, *, where: str) -> Path:
    """The absolute path that a table's cell means."""
    if "\\" in text and not (base / text).exists():
        text = text.replace("\\", "/")
    place = Path(os.path.normpath(base / text))
    if not Path(text).is_absolute() and base not in place.parents:
        raise DataError(
            f"{where}: {text} leads out of the table's folder",
            hint="write such a path in full, from / on",
        )
    return place
