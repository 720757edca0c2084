from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppfl.crypto.textfile import (
    format_fields,
    new_key_folder,
    parse_fields,
    read_key_text,
    write_key_text,
)
from ppfl.errors import DiskFullError, KeyFileError
from ppfl.files import replace_text

_VALUES = st.text("0123456789abcdef", max_size=400)


@given(st.tuples(_VALUES, _VALUES))
def test_fields_of_any_length_come_back(values: tuple[str, str]) -> None:
    fields = dict(zip(("first", "second"), values, strict=True))
    text = format_fields("magic", fields)
    assert max(map(len, text.splitlines())) <= 78
    assert parse_fields(text, "magic", tuple(fields), where="x") == fields


def test_what_cannot_be_read_or_made_is_named(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"\xff")
    with pytest.raises(KeyFileError, match="not a readable text file"):
        read_key_text(path)
    path.write_bytes(bytes(70_000))
    with pytest.raises(KeyFileError, match="too large"):
        read_key_text(path)
    with pytest.raises(KeyFileError, match="cannot be created: No such file"):
        write_key_text(tmp_path / "none" / "key", "x", mode=0o600)
    with pytest.raises(KeyFileError, match="cannot be made: "), new_key_folder(path / "folder"):
        pass


def _fill(folder: Path, text: str) -> None:
    with new_key_folder(folder):
        write_key_text(folder / "key", text, mode=0o600)
        write_key_text(folder / "second", text * 2, mode=0o600)


def test_a_key_folder_that_was_not_filled_leaves_the_place_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "keys"
    with monkeypatch.context() as patch:
        full = OSError(errno.ENOSPC, "No space left on device")
        patch.setattr(os, "fsync", Mock(side_effect=[None, full]))
        with pytest.raises(DiskFullError, match="second"):
            _fill(folder, "x")
    _fill(folder, "y")
    with pytest.raises(KeyFileError, match="no key is ever overwritten"):
        _fill(folder, "z")
    assert read_key_text(folder / "key") == "y"


def test_a_text_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "settings"
    replace_text(path, "old")

    def cut(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", cut)
    with pytest.raises(KeyboardInterrupt):
        replace_text(path, "new")
    assert path.read_text() == "old"
