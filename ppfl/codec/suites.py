"""How a vector of integers is sealed, added and opened. Nothing above knows ciphertexts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from threading import Event
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ppfl.codec.slots import SlotLayout, check_values
from ppfl.codec.wire import Expected, SealedVector
from ppfl.crypto import Engine, RandomizerPool
from ppfl.errors import MalformedMessageError, QuorumError


class Suite(ABC):
    """One way to seal vectors of integers in [0, 2**value_bits), so that their sums open.

    Args:
        value_bits: bits of a value.
        headroom_bits: at most ``2**headroom_bits`` vectors are added.
    """

    name: ClassVar[str]

    def __init__(self, *, value_bits: int, headroom_bits: int) -> None:
        self.value_bits = value_bits
        self.headroom_bits = headroom_bits

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Fingerprint of the key, 64 hexadecimal digits."""

    @property
    @abstractmethod
    def protection(self) -> str:
        """What protects a sealed vector, in words for a journal."""

    @abstractmethod
    def with_slots(self, *, value_bits: int, headroom_bits: int) -> Self:
        """The same way of sealing, under the same key, for values of other sizes."""

    @abstractmethod
    def part_bytes(self, values: int) -> tuple[int, ...]:
        """Lengths of the opaque parts of a vector of so many values."""

    def whole(self, values: int) -> int:
        """The least number of values, not below ``values``, after which others can be joined."""
        return values

    @property
    def ahead_s(self) -> float:
        """Seconds of work that :meth:`preparing` has done so far, in the background."""
        return 0.0

    def preparing(self, values: int) -> AbstractContextManager[Event]:
        """Do, while a block runs, what sealing so many integers needs beside the integers.

        The event is set when nothing is left to be done.
        """
        nothing = Event()
        nothing.set()
        return nullcontext(nothing)

    @abstractmethod
    def seal(self, values: NDArray[np.int64]) -> SealedVector:
        """A sealed vector of (n,) integers in [0, 2**value_bits).

        Raises:
            ValueRangeError: a value does not fit.
        """

    def seal_sum(self, vectors: NDArray[np.int64]) -> SealedVector:
        """The sum of (n, values) integers over n ≥ 1 rows, each of which is sealed by itself.

        No row needs the private key, nor any other row: they are added after they were sealed.

        Raises:
            ValueRangeError: a value does not fit.
            QuorumError: more rows than a total has room for.
        """
        return reduce(self.add, map(self.seal, vectors))

    def join(self, vectors: Sequence[SealedVector]) -> SealedVector:
        """Vectors end to end, each made ``whole`` with zeros but the last.

        The joined vector counts as one summand, and does not show of how many vectors its pieces
        are sums; whoever joins them makes sure that they leave room for others.
        """
        values = sum(self.whole(vector.values) for vector in vectors[:-1]) + vectors[-1].values
        parts = (b"".join(vector.parts[0] for vector in vectors),)
        return SealedVector(self.name, self.fingerprint, values, 1, parts)

    def cut(self, vector: SealedVector, values: Sequence[int]) -> list[SealedVector]:
        """What :meth:`join` put end to end, or a sum of such, as vectors of so many values again.

        ``values`` are those of the vectors that were joined, and cover all of it.
        """
        found, start = [], 0
        for count in values:
            (width,) = self.part_bytes(count)
            part = vector.parts[0][start : start + width]
            found.append(SealedVector(self.name, self.fingerprint, count, vector.summands, (part,)))
            start += width
        return found

    @abstractmethod
    def open(self, vector: SealedVector) -> NDArray[np.int64]:
        """(n,) sums in [0, 2**(value_bits + headroom_bits)).

        Raises:
            InvalidKeyError: this process holds no private key.
            MalformedMessageError: what comes out is no sum of vectors of this suite.
        """

    def add(self, total: SealedVector | None, summand: SealedVector) -> SealedVector:
        """The total with one more vector in it; ``None`` is a total of nothing.

        Raises:
            MalformedMessageError: a part of the summand cannot have been sealed under the key.
            QuorumError: the total is full.
        """
        self._check(summand)
        if total is None:
            return summand
        summands = total.summands + summand.summands
        self._check_room(summands)
        parts = self._add(total, summand)
        return SealedVector(self.name, self.fingerprint, total.values, summands, parts)

    def read(self, data: bytes, *, values: int) -> SealedVector:
        """The sealed vector in some bytes from a peer.

        Raises:
            MalformedMessageError: it is no sealed vector of this suite and length.
            KeyMismatchError: it is sealed under another key.
        """
        return SealedVector.from_bytes(data, self.expected(values))

    def expected(self, values: int) -> Expected:
        """What a vector of so many values looks like on the wire."""
        return Expected(self.name, self.fingerprint, values, self.part_bytes(values))

    def _check_room(self, summands: int) -> None:
        if summands > 2**self.headroom_bits:
            raise QuorumError(f"more than {2**self.headroom_bits} summands do not fit a slot")

    @abstractmethod
    def _check(self, vector: SealedVector) -> None: ...

    @abstractmethod
    def _add(self, total: SealedVector, summand: SealedVector) -> tuple[bytes, ...]: ...


class PackedSuite(Suite):
    """Every value in a slot of a ciphertext of Paillier, or of Damgård and Jurik."""

    name: ClassVar[str] = "packed"

    def __init__(self, engine: Engine, *, value_bits: int, headroom_bits: int) -> None:
        super().__init__(value_bits=value_bits, headroom_bits=headroom_bits)
        self._engine = engine
        self._pool = RandomizerPool(engine)
        self.layout = SlotLayout(value_bits, headroom_bits, engine.plaintext_bits)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the public key."""
        return self._engine.public.fingerprint

    @property
    def protection(self) -> str:
        """The scheme and the key's length."""
        s, bits = self._engine.s, self._engine.public.bits
        scheme = "Paillier" if s == 1 else f"Paillier (Damgård–Jurik, s = {s})"
        return f"{scheme}, {bits} bits"

    def with_slots(self, *, value_bits: int, headroom_bits: int) -> Self:
        """The same engine with another layout."""
        return type(self)(self._engine, value_bits=value_bits, headroom_bits=headroom_bits)

    def part_bytes(self, values: int) -> tuple[int, ...]:
        """One part: the ciphertexts."""
        return (self.layout.plaintexts(values) * self._engine.ciphertext_bytes,)

    def whole(self, values: int) -> int:
        """As many values as fill the last plaintext."""
        return self.layout.plaintexts(values) * self.layout.slots

    @property
    def ahead_s(self) -> float:
        """Seconds in which randomizers were made ahead."""
        return self._pool.seconds

    def preparing(self, values: int) -> AbstractContextManager[Event]:
        """Make the randomizers of so many integers while a block runs."""
        return self._pool.filling(self.layout.plaintexts(values))

    def seal(self, values: NDArray[np.int64]) -> SealedVector:
        """A vector of ciphertexts, each with fresh randomness."""
        return SealedVector(self.name, self.fingerprint, values.size, 1, (self._encrypt(values),))

    def seal_sum(self, vectors: NDArray[np.int64]) -> SealedVector:
        """All rows encrypted in one call, then halved by adding until one is left."""
        count, values = vectors.shape
        self._check_room(count)
        rows = np.zeros((count, self.whole(values)), np.int64)
        rows[:, :values] = vectors
        total, (width,) = self._encrypt(rows.reshape(-1)), self.part_bytes(values)
        while len(total) > width:
            half = len(total) // width // 2 * width
            left, right, rest = total[:half], total[half : 2 * half], total[2 * half :]
            total = self._engine.add(left, right) + rest
        return SealedVector(self.name, self.fingerprint, values, count, (total,))

    def open(self, vector: SealedVector) -> NDArray[np.int64]:
        """(n,) sums, decrypted and cut into slots."""
        return self.layout.unpack(self._engine.decrypt(vector.parts[0]), vector.values)

    def _encrypt(self, values: NDArray[np.int64]) -> bytes:
        plaintexts = self.layout.pack(values)
        randomizers = self._pool.take(self.layout.plaintexts(values.size))
        return self._engine.blind(plaintexts, randomizers)

    def _check(self, vector: SealedVector) -> None:
        self._engine.check(vector.parts[0])

    def _add(self, total: SealedVector, summand: SealedVector) -> tuple[bytes, ...]:
        return (self._engine.add(total.parts[0], summand.parts[0]),)


class UnsafePlaintextSuite(Suite):
    """The same integers in the clear, to compare with: it protects nothing."""

    name: ClassVar[str] = "plaintext"
    fingerprint: ClassVar[str] = "0" * 64
    protection: ClassVar[str] = "none"

    def with_slots(self, *, value_bits: int, headroom_bits: int) -> Self:
        """Integers of other sizes."""
        return type(self)(value_bits=value_bits, headroom_bits=headroom_bits)

    def part_bytes(self, values: int) -> tuple[int, ...]:
        """One part: the integers."""
        return (values * self._dtype.itemsize,)

    def seal(self, values: NDArray[np.int64]) -> SealedVector:
        """The integers themselves."""
        check_values(values, self.value_bits)
        part = values.astype(self._dtype).tobytes()
        return SealedVector(self.name, self.fingerprint, values.size, 1, (part,))

    def open(self, vector: SealedVector) -> NDArray[np.int64]:
        """(n,) sums."""
        return np.frombuffer(vector.parts[0], self._dtype).astype(np.int64)

    def _check(self, vector: SealedVector) -> None:
        largest = 2 ** (self.value_bits + self.headroom_bits)
        if (np.frombuffer(vector.parts[0], self._dtype) >= largest).any():
            raise MalformedMessageError("a value lies beyond its slot")

    def _add(self, total: SealedVector, summand: SealedVector) -> tuple[bytes, ...]:
        left, right = (np.frombuffer(vector.parts[0], self._dtype) for vector in (total, summand))
        return ((left + right).tobytes(),)

    @property
    def _dtype(self) -> np.dtype[np.unsignedinteger]:
        return np.dtype("<u4" if self.value_bits + self.headroom_bits <= 32 else "<u8")
