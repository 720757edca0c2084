"""Known answers (tests/vectors/paillier.json, beside the script that makes them)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ppfl.crypto import Engine, EngineName, PrivateKey, PublicKey, choose_engine, create_engine
from ppfl.crypto.lanes import AVX2, find_obstacle
from ppfl.errors import MalformedMessageError

_VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "paillier.json").read_text())
_IDS = [f"{len(vectors['key']['P']) * 8 - 16} bits, s = {vectors['s']}" for vectors in _VECTORS]
_ENGINES: list[EngineName] = ["reference", "gmp"]
if choose_engine().name not in _ENGINES:
    _ENGINES.append("auto")
if not find_obstacle(AVX2):
    _ENGINES.append("native-avx2")


def _join(numbers: Iterable[str], width: int) -> bytes:
    return b"".join(int(number, 16).to_bytes(width, "little") for number in numbers)


def _engine(vectors: dict[str, Any], name: EngineName, *, opens: bool) -> Engine:
    key = {name: int(number, 16) for name, number in vectors["key"].items()}
    h = key.pop("h")
    public = PublicKey(key["P"] * key["Q"], h, vectors["randomizer_bits"])
    private = PrivateKey(public, **key) if opens else None
    return create_engine(public, private, name=name, s=vectors["s"])


@pytest.mark.parametrize("opens", [True, False], ids=["site", "coordinator"])
@pytest.mark.parametrize("name", _ENGINES)
@pytest.mark.parametrize("vectors", _VECTORS, ids=_IDS)
def test_every_engine_gives_the_known_answers(
    vectors: dict[str, Any], name: EngineName, opens: bool
) -> None:
    engine = _engine(vectors, name, opens=opens)
    narrow, wide = engine.plaintext_bytes, engine.ciphertext_bytes
    exponents = [int(r, 16) for r in vectors["exponents"]]
    rhos = _join(vectors["randomizers"], wide)
    assert engine.randomizers(exponents) == rhos
    plaintexts = _join(vectors["plaintexts"], narrow)
    ciphertexts = _join(vectors["ciphertexts"], wide)
    assert engine.blind(plaintexts, rhos) == ciphertexts
    engine.check(ciphertexts)
    total = ciphertexts[:wide]
    for start in range(wide, len(ciphertexts), wide):
        total = engine.add(total, ciphertexts[start : start + wide])
    assert total == _join([vectors["total"]["ciphertext"]], wide)
    if opens:
        assert engine.decrypt(ciphertexts) == plaintexts
        assert engine.decrypt(total) == _join([vectors["total"]["plaintext"]], narrow)
        foreign = _join([vectors["foreign"]["ciphertext"]], wide)
        assert int.from_bytes(engine.decrypt(foreign), "little") == vectors["foreign"]["opens"]


@pytest.mark.parametrize("name", _ENGINES)
@pytest.mark.parametrize("vectors", _VECTORS, ids=_IDS)
def test_every_engine_refuses_what_is_no_ciphertext(
    vectors: dict[str, Any], name: EngineName
) -> None:
    engine = _engine(vectors, name, opens=False)
    width = engine.ciphertext_bytes
    for refused in vectors["refused"]:
        numbers = [vectors["ciphertexts"][3], refused["number"]]
        with pytest.raises(MalformedMessageError, match=f"ciphertext 1 {refused['expect']}"):
            engine.check(_join(numbers, width))
