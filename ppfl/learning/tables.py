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
_QUOTES = "look for a quotation mark too many or too few; inside quotes it is written twice"


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

    Quotation marks must match: a stray one would make one cell of all lines up to the next. For
    the same reason no cell that is used may hold a line break.

    Raises:
        DataError: the file cannot be read, lacks a column, leaves a path or a label empty, leads
            out of its folder, or has a stray quotation mark.
    """
    rows, line = [], 1
    try:
        with table.open(newline="", encoding="utf-8-sig") as file:
            header = file.readline()
            delimiter = _delimiter(header)
            names = next(csv.reader([header], delimiter=delimiter, strict=True), [])
            columns = [fold_name(name) for name in names]
            places = {field: _find(table, columns, field) for field in _COLUMNS}
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            line = 2  # where the next row begins, which may go over several
            for cells in reader:
                where, line = f"{table}: line {line}", reader.line_num + 2
                if not any(cell.strip() for cell in cells):
                    continue
                texts = {
                    field: cells[place].strip() if 0 <= place < len(cells) else ""
                    for field, place in places.items()
                }
                for needed in ("path", "label"):
                    if not texts[needed]:
                        raise DataError(f"{where}: the column {columns[places[needed]]} is empty")
                for field, text in texts.items():
                    if "\n" in text or "\r" in text:
                        name = columns[places[field]]
                        raise DataError(f"{where}: a line break in the column {name}", hint=_QUOTES)
                path = _place(table.parent, texts["path"], where=where)
                rows.append(TableRow(path, texts["label"], texts["group"], texts["site"], where))
    except UnicodeDecodeError as error:
        raise DataError(
            f"{table}: not a readable CSV table: {error}",
            hint="save it as UTF-8 (in Excel: CSV UTF-8)",
        ) from None
    except csv.Error as error:
        raise DataError(
            f"{table}: line {line}: not a readable CSV table: {error}", hint=_QUOTES
        ) from None
    except OSError as error:
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
