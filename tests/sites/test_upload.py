"""How much of an answer has left, as the phase file tells it."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from sites.phase import Phase, read_phase
from sites.upload import Upload


def _send(upload: Upload, body: bytes, *, breaks: bool = False) -> None:
    """Send a body as httpx does; what breaks off does so before its last piece."""
    request = httpx.Request("POST", "https://localhost", content=body)
    assert request.headers["content-length"] == str(len(body))
    with upload.counting(request):
        assert isinstance(request.stream, httpx.SyncByteStream)
        pieces = list(request.stream)
        assert b"".join(pieces) == body
        if breaks:
            raise httpx.WriteError("gone")


def test_what_has_left_is_told_and_what_broke_off_is_not(tmp_path: Path) -> None:
    Phase(tmp_path).finish(2, of=200_000)
    upload = Upload(tmp_path)
    upload.begin()
    assert read_phase(tmp_path)["phase"] == "upload"
    with pytest.raises(httpx.WriteError):
        _send(upload, bytes(150_000), breaks=True)
    _send(upload, bytes(150_000))
    upload.begin()  # Flower asks again whether the answer may come
    assert read_phase(tmp_path)["done"] < 200_000
    _send(upload, bytes(60_000))
    assert read_phase(tmp_path) == {"round": 2, "phase": "upload", "done": 200_000, "of": 200_000}
    upload.end()
    assert read_phase(tmp_path) == {"round": 2, "phase": "done", "done": 200_000, "of": 200_000}
    upload.begin()  # an answer that is complete is not begun again
    assert read_phase(tmp_path)["phase"] == "done"


def test_nothing_is_told_of_an_answer_without_anything_sealed(tmp_path: Path) -> None:
    upload = Upload(tmp_path)
    upload.begin()
    _send(upload, b"a digest")
    upload.end()
    assert read_phase(tmp_path) == {}
    Phase(tmp_path).finish(3)
    upload.begin()
    assert read_phase(tmp_path)["phase"] == "done"
