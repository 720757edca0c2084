"""Tables of figures on the terminal."""

from __future__ import annotations

from rich import box
from rich.table import Table


def figure_table(first: str, *others: str) -> Table:
    """An empty table: what the rows are on the left, figures on the right under their headings.

    Where the terminal is narrow it is the left that takes several lines.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold")
    for heading in others:
        table.add_column(heading, justify="right", no_wrap=True)
    return table
