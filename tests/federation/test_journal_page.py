"""docs/journal.md against the schema."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import get_args

from ppfl.federation import journal
from ppfl.federation.journal import AnyEvent, Event, LeftItem, Record

_ROOT = Path(__file__).parents[2]
_PAGE = (_ROOT / "docs" / "journal.md").read_text(encoding="utf-8")
_EVENTS = get_args(AnyEvent)
_COMMON = set(Event.model_fields)


def test_the_page_lists_every_event_with_exactly_its_fields() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (?:coordinator|site) \| .* \| (.*) \|$", _PAGE, re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows}
    assert len(told) == len(rows)
    own = {kind: set(kind.model_fields) - _COMMON | {"event"} for kind in _EVENTS}
    wanted = {
        kind.model_fields["event"].default: fields - {"event"} for kind, fields in own.items()
    }
    assert told == wanted


def test_the_page_explains_every_field_and_no_other() -> None:
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", _PAGE, re.MULTILINE)
    assert sorted(rows) == sorted({name for kind in _EVENTS for name in kind.model_fields})
    row = next(line for line in _PAGE.splitlines() if line.startswith("| `items` |"))
    assert set(re.findall(r"`(\w+)`", row)) == {"items", *LeftItem.model_fields}


def test_every_kind_of_event_can_be_read() -> None:
    kinds = [kind for kind in vars(journal).values() if isinstance(kind, type)]
    events = {kind for kind in kinds if issubclass(kind, Event)} - {Event, Record}
    assert events == set(_EVENTS)
    signed = {kind for kind in events if issubclass(kind, Record)}
    for line in _PAGE.splitlines():
        if match := re.match(r"^\| `(\w+)` \| coordinator \| (.*?) \|", line):
            (kind,) = (kind for kind in events if kind.model_fields["event"].default == match[1])
            assert match[2].endswith("; signed") is (kind in signed)


def test_every_kind_of_event_is_written_somewhere() -> None:
    called = {
        node.func.id
        for package in ("ppfl", "sites", "coordinator", "simulations")
        for file in (_ROOT / package).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert {kind.__name__ for kind in _EVENTS} - called == set()
