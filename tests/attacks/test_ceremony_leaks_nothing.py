"""The walk through docs/deployment.md, on one machine, and a search of all that it wrote.

Each command of the page runs as it stands there, with a key of full size. The private key's
numbers must then be in no file, whatever the encoding, and every file written on the way must be
among those that were searched.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from typer.testing import CliRunner

from ppfl.crypto import PrivateKey, read_private_key
from ppfl.crypto.sealing import read_sealing_key
from ppfl.errors import KeyFileError, PpflError
from ppfl.settings import SiteFile
from simulations.main import _app, main

_PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"
_SITES = ("alpha", "beta", "gamma")
_written: set[Path] | None = None


def _note_what_is_opened(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or _written is None:
        return
    path, _, flags = arguments
    writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR)
    if writes and isinstance(path, str | Path) and "__pycache__" not in str(path):
        _written.add(Path(path).absolute())


sys.addaudithook(_note_what_is_opened)  # cannot be taken away again; does nothing outside the walk


@dataclass(frozen=True, slots=True)
class _Walk:
    root: Path
    outputs: tuple[str, ...]
    written: frozenset[Path]
    key: PrivateKey


def _commands() -> list[list[str]]:
    """The page's commands but those of its part `Running`: see tests/test_deployment_errors.py."""
    before, _, rest = _PAGE.read_text(encoding="utf-8").partition("\n## Running")
    without = before + rest.partition("\n## ")[2]
    blocks = re.findall(r"^```sh\n(.*?)^```", without, re.DOTALL | re.MULTILINE)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> _Walk:
    global _written
    root = tmp_path_factory.mktemp("walk")
    (root / "xrays").mkdir()
    outputs = []
    _written = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        for program, *arguments in _commands():
            assert program == "ppfl"
            result = CliRunner().invoke(_app, arguments, catch_exceptions=False)
            assert result.exit_code == 0, result.output
            outputs.append(result.output)
    written, _written = _written, None
    site = SiteFile.read(root / "alpha" / "site.toml")
    assert site.key is not None
    key = read_private_key(site.key, passphrase=site.passphrase())
    return _Walk(root, tuple(outputs), frozenset(written), key)


def _encodings(number: int) -> Iterator[bytes]:
    """A number as bytes, hexadecimal, decimal, and base64 of each, wherever it may begin."""
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    digits, text = f"{number:x}".encode(), str(number).encode()
    yield raw
    yield raw[::-1]
    yield from (digits, digits.upper(), text)
    for plain in (raw, raw[::-1], digits, digits.upper(), text):
        for shift in range(3):  # a group of base64 may begin at each of three bytes
            encoded = b64encode(bytes(shift) + plain)
            yield encoded[4 : len(encoded) - 4]


def _numbers(key: PrivateKey) -> tuple[int, ...]:
    return key.P, key.Q, key.p, key.q


def _found_in(data: bytes, numbers: Iterable[int]) -> bool:
    """Whether the middle half of one of the secret numbers is in the data, however it is spelled.

    White space is left out as well, because key files break their lines.
    """
    joined = re.sub(rb"\s+", b"", data)
    for number in numbers:
        for encoded in _encodings(number):
            piece = encoded[len(encoded) // 4 : len(encoded) // 4 * 3]
            if piece in data or piece in joined:
                return True
    return False


@pytest.mark.slow
def test_every_command_of_the_page_runs(walk: _Walk) -> None:
    assert len(walk.outputs) == len(_commands()) >= 11
    assert walk.key.public.bits == 3072
    fingerprints = set()
    for site in _SITES:
        file = SiteFile.read(walk.root / site / "site.toml")
        assert file.key is not None
        assert read_private_key(file.key, passphrase=file.passphrase()) == walk.key
        fingerprints.add(file.approved_study)
    assert len(fingerprints) == 1


@pytest.mark.slow
def test_the_private_key_is_readable_in_no_file_and_no_output(walk: _Walk) -> None:
    files = [path for path in walk.root.rglob("*") if path.is_file()]
    for path in files:
        assert not _found_in(path.read_bytes(), _numbers(walk.key)), path
    for output in walk.outputs:
        assert not _found_in(output.encode(), _numbers(walk.key))
    for path in walk.written:
        moved = path.with_name(path.name.removeprefix(".").removesuffix(".part"))
        assert {path, moved} & set(files) or path.name.startswith(".start.safetensors."), path


@pytest.mark.slow
def test_nothing_at_the_coordinator_opens_the_private_key(walk: _Walk) -> None:
    passphrases, numbers = [], []
    for site in _SITES:
        folder = walk.root / site
        passphrases.append((folder / "passphrase").read_bytes())
        numbers.append(int.from_bytes(read_sealing_key(folder / "sealing.key").private_bytes_raw()))
        node = load_ssh_private_key((folder / "supernode.key").read_bytes(), None)
        assert isinstance(node, EllipticCurvePrivateKey)
        numbers.append(node.private_numbers().private_value)
    for place in ("coordinator", "ceremony"):
        for path in (walk.root / place).rglob("*"):
            if path.is_file():
                data = path.read_bytes()
                assert not any(passphrase in data for passphrase in passphrases), path
                assert not _found_in(data, numbers), path


def test_the_search_finds_what_it_looks_for(full_key: PrivateKey) -> None:
    for number in (full_key.P, full_key.q):
        for encoded in _encodings(number):
            assert _found_in(b"x" + encoded + b"y", _numbers(full_key))
            if encoded.isascii():
                lines = b"\n  ".join(encoded[i : i + 7] for i in range(0, len(encoded), 7))
                assert _found_in(b"x" + lines + b"y", _numbers(full_key))
    assert not _found_in(f"{full_key.public.N:x}".encode(), _numbers(full_key))


def test_a_refused_command_ends_with_its_code_one_line_and_a_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "alpha").mkdir()
    (tmp_path / "alpha" / "mine").touch()
    monkeypatch.setattr(sys, "argv", ["ppfl", "site", "init", "alpha"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == KeyFileError.exit_code
    assert capsys.readouterr().err.splitlines() == [
        "ppfl: alpha: is there already and not empty, and no key is ever overwritten",
        "hint: name a folder that does not exist yet",
    ]
    with pytest.raises(PpflError, match="--custody threshold: must be shared"):
        CliRunner().invoke(
            _app,
            ["keys", "create", "--custody", "threshold", "--sites", "a,b", "--out", "x"],
            catch_exceptions=False,
        )
