"""What others use for the same end: other Paillier libraries, CKKS, masks, and nothing at all.

[BIK17] K. Bonawitz, V. Ivanov, B. Kreuter et al., "Practical Secure Aggregation for
Privacy-Preserving Machine Learning", CCS 2017. [BBG20] J. H. Bell, K. A. Bonawitz, A. Gascón,
T. Lepoint, M. Raykova, "Secure Single-Server Aggregation with (Poly)Logarithmic Overhead", CCS
2020: SecAgg+.
"""

from __future__ import annotations

import importlib
import struct
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from flwr.common.secure_aggregation.quantization import dequantize, quantize
from numpy.typing import NDArray

from benchmarks.paillier import HeuPacked, PheByValue, PhePacked, count_ciphertexts
from benchmarks.systems import (
    SITES,
    Candidate,
    System,
    Workload,
    flatten,
    float_errors,
    shape_like,
)
from ppfl.codec import Parameters

_LENGTH = struct.Struct("<I")

# NVIDIA FLARE's parameters of CKKS
_DEGREE, _MODULUS_BITS, _SCALE = 8192, [60, 40, 40], 2.0**40
_CHUNK = _DEGREE // 2  # numbers in one ciphertext
_CKKS_ERROR = 1e-5

# Flower's defaults of SecAgg+
_CLIPPING, _STEPS = 8.0, 2**22


def peer_candidates() -> tuple[Candidate, ...]:
    """Every peer, whether it can run here or not."""
    return (
        Candidate(
            name="phe-per-value",
            label="phe, value by value",
            protection="Paillier",
            readers="the sites",
            create=PheByValue,
            units=lambda workload: workload.parameters,
            sample=24,
        ),
        Candidate(
            name="phe-packed",
            label="phe, our slots",
            protection="Paillier, packed",
            readers="the sites",
            create=PhePacked,
            units=count_ciphertexts,
            sample=4_000,
        ),
        Candidate(
            name="heu-zpaillier",
            label="SecretFlow HEU, our slots",
            protection="Paillier, packed",
            readers="the sites",
            create=HeuPacked,
            units=count_ciphertexts,
            find_obstacle=partial(_find_package, "heu"),
            sample=60_000,
            note="Schema ZPaillier, through its array interface. It packs nothing itself.",
        ),
        Candidate(
            name="tenseal-ckks",
            label="TenSEAL CKKS, as in FLARE",
            protection="CKKS, approximate",
            readers="the sites",
            create=TensealCkks,
            units=lambda workload: -(-workload.parameters // _CHUNK),
            find_obstacle=partial(_find_package, "tenseal"),
            note="Degree 8192, moduli of 60, 40 and 40 bits, scale 2^40: NVIDIA FLARE's "
            "parameters. It is told the threads of the run; CPU seconds show how many it uses.",
        ),
        Candidate(
            name="masks",
            label="pairwise masks, as SecAgg+",
            protection="masks that cancel",
            readers="the coordinator",
            create=PairwiseMasks,
            units=lambda workload: workload.parameters,
            note="Flower's quantization, masks from AES-CTR. The coordinator reads the sum, and a "
            "site that drops out leaves its masks in it: SecAgg+ needs a second round, and secret "
            "shares, to take them out [BIK17, BBG20]. Every parameter beyond ±8 is clipped.",
        ),
        Candidate(
            name="float32",
            label="float32 in the clear",
            protection="none",
            readers="the coordinator",
            create=InTheClear,
            units=lambda workload: workload.parameters,
            note="The coordinator reads every site's update.",
        ),
    )


class TensealCkks(System[list[Any]]):
    """CKKS by TenSEAL, as NVIDIA FLARE calls it; the coordinator has no secret key."""

    def __init__(self, workload: Workload) -> None:
        self._tenseal = importlib.import_module("tenseal")
        self._start = workload.start
        self._site = self._tenseal.context(
            self._tenseal.SCHEME_TYPE.CKKS,
            poly_modulus_degree=_DEGREE,
            coeff_mod_bit_sizes=_MODULUS_BITS,
            n_threads=workload.threads,
        )
        self._site.global_scale = _SCALE
        public = self._site.serialize(save_secret_key=False)
        self._coordinator = self._tenseal.context_from(public, n_threads=workload.threads)

    def seal(self, parameters: Parameters, *, site: int) -> bytes:
        """Ciphertexts of 4096 parameters each, serialised."""
        flat = flatten(parameters)
        chunks = [flat[start : start + _CHUNK] for start in range(0, flat.size, _CHUNK)]
        return _join([self._tenseal.ckks_vector(self._site, chunk).serialize() for chunk in chunks])

    def add(self, total: list[Any] | None, wire: bytes, *, site: int) -> list[Any]:
        """Sums of ciphertexts."""
        summand = [self._tenseal.ckks_vector_from(self._coordinator, part) for part in _split(wire)]
        return summand if total is None else [a + b for a, b in zip(total, summand, strict=True)]

    def close(self, total: list[Any]) -> bytes:
        """The ciphertexts, serialised."""
        return _join([vector.serialize() for vector in total])

    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        """Decrypted sums, divided."""
        vectors = [self._tenseal.ckks_vector_from(self._site, part) for part in _split(wire)]
        sums = np.concatenate([vector.decrypt() for vector in vectors])
        return shape_like(sums / len(SITES), self._start)

    def allowed_error(self) -> Mapping[str, float]:
        """CKKS is approximate; with these parameters about 1e-8 is usual."""
        return dict.fromkeys(self._start, _CKKS_ERROR)


class _Sum(System[NDArray[Any]]):
    """An update is an array of numbers, and a total their sum, which the coordinator can read."""

    dtype: ClassVar[type[np.generic]]

    def add(self, total: NDArray[Any] | None, wire: bytes, *, site: int) -> NDArray[Any]:
        """The sum; of integers modulo 2^32."""
        summand = np.frombuffer(wire, self.dtype)
        return summand if total is None else total + summand

    def close(self, total: NDArray[Any]) -> bytes:
        """The sum."""
        return total.tobytes()


class PairwiseMasks(_Sum):
    """Updates as integers modulo 2^32, under masks that cancel in the sum [BIK17, §4].

    Each pair of sites agrees on a key; both stretch it to the same mask, which one of them adds
    and the other subtracts.
    """

    dtype = np.uint32

    def __init__(self, workload: Workload) -> None:
        self._start = workload.start
        own = [X25519PrivateKey.generate() for _ in SITES]
        self._keys = {
            (site, peer): _mask_key(own[site], own[peer])
            for site in range(len(SITES))
            for peer in range(len(SITES))
            if peer != site
        }

    def seal(self, parameters: Parameters, *, site: int) -> bytes:
        """The quantized update, and one mask for each other site."""
        flat: Any = flatten(parameters)  # float32, although Flower's annotation says float64
        masked = quantize([flat], _CLIPPING, _STEPS)[0].astype(np.uint32)
        for (own, peer), key in self._keys.items():
            if own == site:
                stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()
                mask = np.frombuffer(stream.update(bytes(masked.nbytes)), np.uint32)
                masked = masked + mask if site > peer else masked - mask
        return masked.tobytes()

    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        """The sum as floats, divided; no key is needed."""
        sums = np.frombuffer(wire, np.uint32).astype(np.int64)
        shifted = dequantize([sums], _CLIPPING, _STEPS)[0] - (len(SITES) - 1) * _CLIPPING
        return shape_like(shifted / len(SITES), self._start)

    def allowed_error(self) -> Mapping[str, float]:
        """One step: Flower rounds up or down at random."""
        return dict.fromkeys(self._start, 2 * _CLIPPING / _STEPS * 1.01)


class InTheClear(_Sum):
    """Plain federated averaging."""

    dtype = np.float32

    def __init__(self, workload: Workload) -> None:
        self._start = workload.start

    def seal(self, parameters: Parameters, *, site: int) -> bytes:
        """The parameters themselves."""
        return flatten(parameters).tobytes()

    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        """The sum, divided."""
        return shape_like(np.frombuffer(wire, np.float32) / len(SITES), self._start)

    def allowed_error(self) -> Mapping[str, float]:
        """What float32 loses."""
        return float_errors(self._start)


def _find_package(name: str) -> str:
    """Why a package of the extra ``bench`` cannot be used, or nothing."""
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"{error}: pip install '.[bench]'"
    return ""


def _mask_key(own: X25519PrivateKey, peer: X25519PrivateKey) -> bytes:
    shared = own.exchange(peer.public_key())
    return HKDF(hashes.SHA256(), length=32, salt=None, info=b"pairwise mask").derive(shared)


def _join(parts: Sequence[bytes]) -> bytes:
    return b"".join(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))


def _split(wire: bytes) -> list[bytes]:
    parts, start = [], 0
    while start < len(wire):
        (length,) = _LENGTH.unpack_from(wire, start)
        start += _LENGTH.size
        parts.append(wire[start : start + length])
        start += length
    return parts
