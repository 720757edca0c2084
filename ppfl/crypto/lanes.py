"""Vectors of big numbers, several side by side in vector registers: the C code in ``_kernel``.

It is compiled for two instruction sets: AVX-512 IFMA, and AVX2, which older processors have. A
vector is numbers of equal width in bytes, least significant byte first. Each function runs on
all threads, without the interpreter's lock. The values of exponents show neither in branches nor
in addresses; their lengths do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import SettingsError

Bytes = NDArray[np.uint8]

_BLOCK_DIGITS = 5
_SLACK_BITS = 16  # from a modulus to R: by so much may sums and unreduced numbers exceed it
_POWER_BITS = 4
_TABLE_ENTRIES = 256
_LEAST_SLICE = 128  # numbers that use one row of a table while it is in the cache
_SLICES_A_THREAD = 4  # so that a thread whose core is busy leaves work to the others

_POINTER, _SIZE, _INT = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


@dataclass(frozen=True, slots=True)
class InstructionSet:
    """What the kernel was compiled for, and how it holds numbers there."""

    name: str
    title: str
    lanes: int  # numbers side by side
    digit_bits: int
    most_digits: int  # beyond, a column of digits no longer fits 63 bits
    entry_bytes: int  # what a digit takes in a table


IFMA = InstructionSet(
    "ifma", "AVX-512 IFMA", lanes=8, digit_bits=52, most_digits=340, entry_bytes=8
)
AVX2 = InstructionSet("avx2", "AVX2", lanes=4, digit_bits=26, most_digits=680, entry_bytes=4)


@dataclass(frozen=True, slots=True)
class Table:
    """Powers of one base modulo n², for exponents of ``exponent_bytes`` bytes.

    An entry takes 16 bytes for 52 bits of n: 4.1 MB in all for a prime of a 3072-bit key and
    exponents of 257 bits, 15.7 MB for its N and exponents of 512 bits.
    """

    exponent_bytes: int
    rows: Bytes = field(repr=False)


class Lanes:
    """Arithmetic on vectors modulo n and modulo n².

    Args:
        n: odd, at least 3.
        bits: what numbers modulo n take, at least as many as n has; those modulo n² take twice.
        threads: how many cores to use.
        instructions: which instruction set to use; the best this processor has, if None.

    Raises:
        SettingsError: the kernel cannot run here, or n is too long for it.
    """

    def __init__(
        self, n: int, *, bits: int, threads: int, instructions: InstructionSet | None = None
    ) -> None:
        self.width, self.square_width = -(-bits // 8), -(-2 * bits // 8)
        self._library, self._instructions = _load(), find_instructions(instructions)
        block_bits = self._instructions.digit_bits * _BLOCK_DIGITS
        self._digits = -(-(bits + _SLACK_BITS) // block_bits) * _BLOCK_DIGITS
        if self._digits > self._instructions.most_digits:
            raise SettingsError(f"{bits} bits are too many for engine native", hint="use gmp")
        self._R_bits = self._instructions.digit_bits * self._digits
        self._n, self._square, self._R = n, n * n, 1 << self._R_bits
        self._threads = threads
        self._modulus = _Modulus(
            self._number(n),
            self._square.to_bytes(self.square_width, "little"),
            self.width,
            self.square_width,
            self._digits,
        )

    def multiply(self, left: bytes | Bytes, right: bytes | Bytes) -> bytes:
        """Products modulo n, element by element; or all with the one number in ``right``."""
        a, b = _rows(left, self.width), _rows(right, self.width)
        out = np.empty_like(a)
        step = 0 if len(b) == 1 else self.width
        r2 = self._number(self._R**2 % self._n)

        def work(at: int, count: int) -> int:
            places = _at(out, at), _at(a, at), _at(b, at if step else 0)
            return self._call("multiply", *places, _SIZE(step), _SIZE(count), r2)

        self._run(work, len(a))
        return out.tobytes()

    def combine(self, left: bytes, right: bytes, *, other: int, width: int) -> bytes:
        """The numbers that are ``left`` modulo n and ``right`` modulo ``other`` [HAC, §14.5].

        ``other`` is coprime to n and no wider than ``bits``; each result takes ``width`` bytes.
        """
        a, b = _rows(left, self.width), _rows(right, self.width)
        out = np.empty((len(a), width), np.uint8)
        modulus = self._number(other)
        factor = self._number(pow(other, -1, self._n) * self._R % self._n)
        lift = (-(-other // self._n) * self._n).to_bytes(self._R_bits // 8, "little")

        def work(at: int, count: int) -> int:
            places = _at(out, at), _SIZE(width), _at(a, at), _at(b, at), _SIZE(count)
            return self._call("garner", *places, modulus, factor, lift)

        self._run(work, len(a))
        return out.tobytes()

    def power(self, numbers: bytes, exponent: int, *, width: int) -> Bytes:
        """(count, 2, width of n) number**exponent mod n², as r and q of r + q·n.

        ``numbers`` take ``width`` bytes each and may exceed n².
        """
        x = _rows(numbers, width)
        out = np.empty((len(x), 2, self.width), np.uint8)
        chunks = -(-8 * width // self._R_bits)
        powers = b"".join([self._pair(pow(self._R, k + 2, self._square)) for k in range(chunks)])
        windows = max(1, -(-exponent.bit_length() // _POWER_BITS))
        secret = exponent.to_bytes(-(-windows * _POWER_BITS // 8), "little")

        def work(at: int, count: int) -> int:
            places = _at(out, at), _at(x, at), _SIZE(width), _SIZE(count)
            return self._call("power", *places, powers, _INT(chunks), secret, _INT(windows))

        self._run(work, len(x), least=self._instructions.lanes)
        return out

    def table(self, base: int, *, exponent_bits: int) -> Table:
        """A table to raise one base modulo n² to many exponents."""
        bases = [base % self._square]
        while len(bases) * 8 < exponent_bits:
            bases.append(pow(bases[-1], _TABLE_ENTRIES, self._square))
        pairs = _rows(b"".join(map(self._pair, bases)), 2 * self.width)
        row_bytes = 2 * self._digits * _TABLE_ENTRIES * self._instructions.entry_bytes
        rows = _aligned_rows(len(bases), row_bytes)
        r2 = self._pair(self._R**2 % self._square)

        def work(at: int, count: int) -> int:
            return self._call("table", _at(rows, at), _at(pairs, at), _SIZE(count), r2)

        self._run(work, len(bases), least=self._instructions.lanes)
        return Table(len(bases), rows)

    def fixed_base(self, table: Table, exponents: bytes) -> bytes:
        """base**exponent modulo n², for exponents of ``table.exponent_bytes`` bytes."""
        secret = _rows(exponents, table.exponent_bytes)
        out = np.empty((len(secret), self.square_width), np.uint8)
        rows, bases = _at(table.rows, 0), _INT(table.exponent_bytes)

        def work(at: int, count: int) -> int:
            return self._call(
                "fixed_base", _at(out, at), rows, bases, _at(secret, at), _SIZE(count)
            )

        self._run(work, len(secret))
        return out.tobytes()

    def blind(self, plaintexts: bytes, randomizers: bytes) -> bytes | None:
        """(1 + m·n)·ρ mod n² for each m and ρ; None where some m >= n or some ρ >= n²."""
        m, rho = _rows(plaintexts, self.width), _rows(randomizers, self.square_width)
        out = np.empty_like(rho)
        r3 = self._number(self._R**3 % self._n)

        def work(at: int, count: int) -> int:
            return self._call("blind", _at(out, at), _at(m, at), _at(rho, at), _SIZE(count), r3)

        return None if self._run(work, len(rho)) else out.tobytes()

    def product(self, numbers: bytes) -> int | None:
        """A number that shares a factor with n where one of some numbers modulo n² does.

        None where one of them is not in [1, n²).
        """
        x = _rows(numbers, self.square_width)
        parts: list[Bytes] = []

        def work(at: int, count: int) -> int:
            part = np.empty((self._instructions.lanes, self.width), np.uint8)
            parts.append(part)
            return self._call("check", _at(part, 0), _at(x, at), _SIZE(count))

        if self._run(work, len(x)):
            return None
        product = 1
        for part in parts:
            for row in part:
                product = product * int.from_bytes(row.tobytes(), "little") % self._n
        return product

    def _call(self, name: str, *arguments: object) -> int:
        function = getattr(self._library, f"ppfl_{self._instructions.name}_{name}")
        return int(function(ctypes.byref(self._modulus), *arguments))

    def _run(
        self, work: Callable[[int, int], int], count: int, *, least: int = _LEAST_SLICE
    ) -> int:
        """Do work(at, length) for slices of ``count`` numbers; the largest of its answers."""
        size = -(-count // (self._threads * _SLICES_A_THREAD * least)) * least
        slices = [(at, min(size, count - at)) for at in range(0, count, size or 1)]
        if self._threads == 1 or len(slices) < 2:
            answers = [work(*piece) for piece in slices]
        else:
            with ThreadPoolExecutor(self._threads) as pool:
                answers = list(pool.map(lambda piece: work(*piece), slices))
        if any(answer < 0 for answer in answers):
            raise MemoryError
        return max(answers, default=0)

    def _number(self, number: int) -> bytes:
        return number.to_bytes(self.width, "little")

    def _pair(self, number: int) -> bytes:
        """x0 and x1 of a number x0 − x1·n modulo n²."""
        quotient, rest = divmod(number, self._n)
        return self._number(rest) + self._number(-quotient % self._n)


def find_instructions(asked: InstructionSet | None = None) -> InstructionSet:
    """The best instruction set that this processor has, or the one that was asked for.

    Raises:
        SettingsError: the kernel cannot run here, or not with what was asked for.
    """
    library, candidates = _load(), (asked,) if asked else (IFMA, AVX2)
    for instructions in candidates:
        if getattr(library, f"ppfl_{instructions.name}_supported")():
            return instructions
    titles = " or ".join(instructions.title for instructions in candidates)
    raise SettingsError(f"this processor has no {titles}", hint="use engine gmp")


def find_obstacle(asked: InstructionSet | None = None) -> str:
    """Why the kernel cannot run here, or an empty string where it can."""
    try:
        find_instructions(asked)
    except SettingsError as error:
        return str(error)
    return ""


class _Modulus(ctypes.Structure):
    """``modulus`` in ``vectors.h``."""

    _fields_ = (
        ("n", ctypes.c_char_p),
        ("square", ctypes.c_char_p),
        ("width", _SIZE),
        ("square_width", _SIZE),
        ("digits", _INT),
    )


@cache
def _load() -> ctypes.CDLL:
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_lanes{suffix}")
        if path.exists():
            break
    else:
        raise SettingsError(
            "the C code of engine native was not built",
            hint="install a C compiler, then ppfl again; or use engine gmp",
        )
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise SettingsError("the C code of engine native cannot be loaded") from error


def _rows(numbers: bytes | Bytes, width: int) -> Bytes:
    flat = np.frombuffer(numbers, np.uint8) if isinstance(numbers, bytes) else numbers
    return flat.reshape(-1, width)


def _at(rows: Bytes, index: int) -> ctypes.c_void_p:
    """Where a row begins."""
    return _POINTER(rows.ctypes.data + index * rows.strides[0])


def _aligned_rows(rows: int, row_bytes: int) -> Bytes:
    """Room that begins at a cache line, since a read across two takes twice as long."""
    room = np.empty(rows * row_bytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + rows * row_bytes].reshape(rows, row_bytes)
