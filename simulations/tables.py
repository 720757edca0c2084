"""Tables of figures on the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table


def figure_table(first: str, *others: str) -> Table:
    """An empty table: what the rows are on the left, figures on the right under their headings."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")  # a path is shown to its end
    for heading in others:
        table.add_column(heading, justify="right")
    return table
