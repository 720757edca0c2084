"""Paillier by others: python-paillier as it comes, and two libraries under our slots."""

from __future__ import annotations

import importlib
import struct
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import phe
from numpy.typing import NDArray

from benchmarks.ours import WEIGHT, average_rounded, make_study, rounding_errors
from benchmarks.systems import SITES, System, Workload, flatten, float_errors, shape_like
from ppfl.codec import Parameters, Quantizer, SlotLayout, ranges_of
from sites.vectors import shapes_of

_STUDY = make_study(SITES)
_VALUE_BITS, _HEADROOM_BITS = _STUDY.encryption.value_bits, _STUDY.headroom_bits


class PheByValue(System[list[phe.EncryptedNumber]]):
    """python-paillier as its documentation uses it: one ciphertext for each parameter."""

    def __init__(self, workload: Workload) -> None:
        self._public, self._private = phe.generate_paillier_keypair(n_length=workload.key_bits)
        self._width = -(-2 * workload.key_bits // 8)
        self._start = workload.start

    def seal(self, parameters: Parameters, *, site: int) -> bytes:
        """Exponent and ciphertext of each parameter."""
        return self._join([self._public.encrypt(value) for value in flatten(parameters).tolist()])

    def add(
        self, total: list[phe.EncryptedNumber] | None, wire: bytes, *, site: int
    ) -> list[phe.EncryptedNumber]:
        """Sums of encrypted numbers."""
        numbers = self._split(wire)
        return numbers if total is None else [a + b for a, b in zip(total, numbers, strict=True)]

    def close(self, total: list[phe.EncryptedNumber]) -> bytes:
        """Exponent and ciphertext of each sum."""
        return self._join(total)

    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        """Decrypted numbers, divided."""
        sums = np.array([self._private.decrypt(number) for number in self._split(wire)])
        return shape_like(sums / len(SITES), self._start)

    def allowed_error(self) -> Mapping[str, float]:
        """What float32 loses."""
        return float_errors(self._start)

    def _join(self, numbers: Sequence[phe.EncryptedNumber]) -> bytes:
        return b"".join(
            struct.pack("<i", number.exponent)
            # no blinding again: a sum of blinded numbers is blinded
            + number.ciphertext(be_secure=False).to_bytes(self._width, "little")
            for number in numbers
        )

    def _split(self, wire: bytes) -> list[phe.EncryptedNumber]:
        return [
            phe.EncryptedNumber(
                self._public,
                int.from_bytes(wire[start + 4 : start + 4 + self._width], "little"),
                struct.unpack_from("<i", wire, start)[0],
            )
            for start in range(0, len(wire), 4 + self._width)
        ]


class _Packed(System[Any]):
    """Another library's Paillier, under our fixed point and our slots."""

    def __init__(self, workload: Workload) -> None:
        self._start = workload.start
        self._quantizer = _quantizer(workload)
        self._layout = _layout(workload)

    def seal(self, parameters: Parameters, *, site: int) -> bytes:
        """Ciphertexts of the packed plaintexts."""
        plaintexts = self._layout.pack(self._quantizer.quantize(parameters, weight=WEIGHT).values)
        width = self._layout.plaintext_bytes
        return self._encrypt(
            [
                int.from_bytes(plaintexts[start : start + width], "little")
                for start in range(0, len(plaintexts), width)
            ]
        )

    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        """Decrypted plaintexts, cut into slots."""
        width = self._layout.plaintext_bytes
        plaintexts = b"".join(number.to_bytes(width, "little") for number in self._decrypt(wire))
        sums = self._layout.unpack(plaintexts, self._quantizer.values)
        sites = len(SITES)
        return self._quantizer.dequantize(sums, summands=sites, weight=sites * WEIGHT)

    def allowed_error(self) -> Mapping[str, float]:
        """Half a step of each site, in the average."""
        return rounding_errors(self._start, _VALUE_BITS)

    def rounded_average(self, workload: Workload) -> Parameters:
        """The average that an unencrypted sum of the same integers gives."""
        return average_rounded(workload, _VALUE_BITS)

    @abstractmethod
    def _encrypt(self, plaintexts: list[int]) -> bytes: ...

    @abstractmethod
    def _decrypt(self, wire: bytes) -> list[int]: ...


class PhePacked(_Packed):
    """python-paillier on packed plaintexts, without its encoding of floats."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._public, self._private = phe.generate_paillier_keypair(n_length=workload.key_bits)
        self._width = -(-2 * workload.key_bits // 8)

    def add(
        self, total: list[phe.EncryptedNumber] | None, wire: bytes, *, site: int
    ) -> list[phe.EncryptedNumber]:
        """Sums of encrypted numbers."""
        numbers = [phe.EncryptedNumber(self._public, number) for number in self._split(wire)]
        return numbers if total is None else [a + b for a, b in zip(total, numbers, strict=True)]

    def close(self, total: list[phe.EncryptedNumber]) -> bytes:
        """The ciphertexts."""
        return self._join([number.ciphertext(be_secure=False) for number in total])

    def _encrypt(self, plaintexts: list[int]) -> bytes:
        return self._join([self._public.raw_encrypt(plaintext) for plaintext in plaintexts])

    def _decrypt(self, wire: bytes) -> list[int]:
        return [self._private.raw_decrypt(number) for number in self._split(wire)]

    def _join(self, ciphertexts: Sequence[int]) -> bytes:
        return b"".join(number.to_bytes(self._width, "little") for number in ciphertexts)

    def _split(self, wire: bytes) -> list[int]:
        return [
            int.from_bytes(wire[start : start + self._width], "little")
            for start in range(0, len(wire), self._width)
        ]


class HeuPacked(_Packed):
    """SecretFlow's HEU, schema ZPaillier, with whole arrays of big integers."""

    def __init__(self, workload: Workload) -> None:
        super().__init__(workload)
        self._arrays = importlib.import_module("heu.numpy")
        scalars = importlib.import_module("heu.phe")
        schema = scalars.SchemaType.ZPaillier
        self._encoder = scalars.BigintEncoder(schema)
        self._site = self._arrays.setup(schema, workload.key_bits)
        self._coordinator = self._arrays.setup(self._site.public_key())

    def add(self, total: Any, wire: bytes, *, site: int) -> Any:
        """The sum of two arrays of ciphertexts."""
        summand = self._arrays.CiphertextArray.load_from(wire)
        return summand if total is None else self._coordinator.evaluator().add(total, summand)

    def close(self, total: Any) -> bytes:
        """The array, serialised."""
        wire: bytes = total.serialize()
        return wire

    def _encrypt(self, plaintexts: list[int]) -> bytes:
        encoded = self._arrays.array(np.array(plaintexts, dtype=object), self._encoder)
        wire: bytes = self._site.encryptor().encrypt(encoded).serialize()
        return wire

    def _decrypt(self, wire: bytes) -> list[int]:
        ciphertexts = self._arrays.CiphertextArray.load_from(wire)
        plaintexts: list[int] = self._site.decryptor().decrypt(ciphertexts).to_numpy().tolist()
        return plaintexts


def _quantizer(workload: Workload) -> Quantizer:
    return Quantizer(shapes_of(workload.start), ranges_of(workload.start), _VALUE_BITS)


def _layout(workload: Workload) -> SlotLayout:
    # one bit fewer than we use: HEU's plaintexts are signed
    return SlotLayout(_VALUE_BITS, _HEADROOM_BITS, workload.key_bits - 2)


def count_ciphertexts(workload: Workload) -> int:
    """Ciphertexts that an update takes under our slots."""
    return _layout(workload).plaintexts(_quantizer(workload).values)
