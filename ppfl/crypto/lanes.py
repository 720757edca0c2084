"""Vectors of big numbers, several side by side in vector registers: the C code in ``_kernel``.

It is compiled for two instruction sets: AVX-512 IFMA, and AVX2, which older processors have. A
vector is numbers of equal width in bytes, least significant byte first. Each function runs on
all threads, without the interpreter's lock. The values of exponents show neither in branches nor
in addresses; their lengths do.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
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
_INTERFACE = 2  # of the C code, which an old build in a working copy may not have
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
    most_digits: int  # times s + 2: beyond, a column of products no longer fits its lane
    entry_bytes: int  # what a digit takes in a table


IFMA = InstructionSet(
    "ifma", "AVX-512 IFMA", lanes=8, digit_bits=52, most_digits=2040, entry_bytes=8
)
AVX2 = InstructionSet("avx2", "AVX2", lanes=4, digit_bits=26, most_digits=4080, entry_bytes=4)


@dataclass(frozen=True, slots=True)
class Table:
    """Powers of one base modulo n^(s+1), for exponents of ``exponent_bytes`` bytes.

    An entry takes 8·(s + 1) bytes for 52 bits of n: at s = 1, 4.1 MB in all for a prime of a
    3072-bit key and exponents of 257 bits, 15.7 MB for its N and exponents of 512 bits.
    """

    exponent_bytes: int
    rows: Bytes = field(repr=False)


class Lanes:
    """Arithmetic on vectors modulo n and modulo n^(s+1).

    Args:
        n: odd, at least 3.
        bits: what numbers modulo n take, at least as many as n has; those modulo n^k take k times.
        threads: how many cores to use.
        s: from 1 to 3; or 0 where only ``multiply``, ``evaluate``, ``combine`` and ``blind``,
            which work modulo n, are needed.
        instructions: which instruction set to use; the best this processor has, if None.

    Raises:
        SettingsError: the kernel cannot run here, or n is too long for it.
    """

    def __init__(
        self,
        n: int,
        *,
        bits: int,
        threads: int,
        s: int = 0,
        instructions: InstructionSet | None = None,
    ) -> None:
        self.width, self.quotient_width, self.top_width = (-(-k * bits // 8) for k in (1, s, s + 1))
        self._library, self._instructions = _load(), find_instructions(instructions)
        block_bits = self._instructions.digit_bits * _BLOCK_DIGITS
        self._digits = -(-(bits + _SLACK_BITS) // block_bits) * _BLOCK_DIGITS
        if self._digits * (s + 2) > self._instructions.most_digits:
            raise SettingsError(f"{bits} bits are too many for engine native", hint="use gmp")
        self._R_bits = self._instructions.digit_bits * self._digits
        self._n, self._top, self._R = n, int(n ** (s + 1)), 1 << self._R_bits
        self._parts, self._threads = s + 1, threads
        self._modulus = _Modulus(
            self._number(n),
            self._top.to_bytes(self.top_width, "little"),
            self.width,
            self.quotient_width,
            self.top_width,
            self._digits,
            self._parts,
        )

    def multiply(self, left: bytes | Bytes, right: bytes | Bytes) -> bytes:
        """Products modulo n, element by element."""
        a, b = _rows(left, self.width), _rows(right, self.width)
        out = np.empty_like(a)
        r2 = self._number(self._R**2 % self._n)

        def work(at: int, count: int) -> int:
            places = _at(out, at), _at(a, at), _at(b, at), _SIZE(count)
            return self._call("multiply", *places, r2)

        self._run(work, len(a))
        return out.tobytes()

    def evaluate(self, series: Sequence[int], numbers: bytes | Bytes) -> tuple[bytes, bool]:
        """c_1·x + … + c_k·x^k mod n for each x, of a series c_1 to c_k; whether each x < n."""
        x = _rows(numbers, self.width)
        out = np.empty_like(x)
        lifted = b"".join([self._number(int(c) * self._R % self._n) for c in series])
        r2 = self._number(self._R**2 % self._n)

        def work(at: int, count: int) -> int:
            places = _at(out, at), _at(x, at), _SIZE(count)
            return self._call("evaluate", *places, lifted, _INT(len(series)), r2)

        below = not self._run(work, len(x))
        return out.tobytes(), below

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

    def power(self, numbers: bytes, exponent: int, *, width: int) -> tuple[Bytes, Bytes]:
        """number**exponent mod n^(s+1), as rests in [0, n) and quotients in [0, n^s) by n.

        ``numbers`` take ``width`` bytes each and may exceed n^(s+1). What comes back are rows of
        ``self.width`` and of ``self.quotient_width`` bytes.
        """
        x = _rows(numbers, width)
        rests = np.empty((len(x), self.width), np.uint8)
        quotients = np.empty((len(x), self.quotient_width), np.uint8)
        chunks = -(-8 * width // self._R_bits)
        powers = b"".join([self._tuple(pow(self._R, k + 2, self._top)) for k in range(chunks)])
        windows = max(1, -(-exponent.bit_length() // _POWER_BITS))
        secret = exponent.to_bytes(-(-windows * _POWER_BITS // 8), "little")

        def work(at: int, count: int) -> int:
            places = _at(rests, at), _at(quotients, at), _at(x, at), _SIZE(width), _SIZE(count)
            return self._call("power", *places, powers, _INT(chunks), secret, _INT(windows))

        self._run(work, len(x), least=self._instructions.lanes)
        return rests, quotients

    def table(self, base: int, *, exponent_bits: int) -> Table:
        """A table to raise one base modulo n^(s+1) to many exponents."""
        bases = [base % self._top]
        while len(bases) * 8 < exponent_bits:
            bases.append(pow(bases[-1], _TABLE_ENTRIES, self._top))
        tuples = _rows(b"".join(map(self._tuple, bases)), self._parts * self.width)
        digits = self._parts * self._digits
        row_bytes = digits * _TABLE_ENTRIES * self._instructions.entry_bytes
        rows = _aligned_rows(len(bases), row_bytes)
        r2 = self._tuple(self._R**2 % self._top)

        def work(at: int, count: int) -> int:
            return self._call("table", _at(rows, at), _at(tuples, at), _SIZE(count), r2)

        self._run(work, len(bases), least=self._instructions.lanes)
        return Table(len(bases), rows)

    def fixed_base(self, table: Table, exponents: bytes) -> bytes:
        """base**exponent modulo n^(s+1), for exponents of ``table.exponent_bytes`` bytes."""
        secret = _rows(exponents, table.exponent_bytes)
        out = np.empty((len(secret), self.top_width), np.uint8)
        rows, bases = _at(table.rows, 0), _INT(table.exponent_bytes)

        def work(at: int, count: int) -> int:
            return self._call(
                "fixed_base", _at(out, at), rows, bases, _at(secret, at), _SIZE(count)
            )

        self._run(work, len(secret))
        return out.tobytes()

    def blind(self, numbers: bytes, randomizers: bytes, *, factor: int, width: int) -> bytes | None:
        """(1 + factor·x)·ρ mod factor·n for each x and ρ; None where an x >= n or a ρ too large.

        ``factor`` divides n; each ρ and each result takes ``width`` bytes.
        """
        x, rho = _rows(numbers, self.width), _rows(randomizers, width)
        out = np.empty_like(rho)
        top = (factor * self._n).to_bytes(width, "little")
        constants = self._number(factor), top, _SIZE(width), self._number(self._R**3 % self._n)

        def work(at: int, count: int) -> int:
            places = _at(out, at), _at(x, at), _at(rho, at), _SIZE(count)
            return self._call("blind", *places, *constants)

        return None if self._run(work, len(rho)) else out.tobytes()

    def product(self, numbers: bytes) -> int | None:
        """A number that shares a factor with n where one of some numbers modulo n^(s+1) does.

        None where one of them is not in [1, n^(s+1)).
        """
        x = _rows(numbers, self.top_width)
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

    def _tuple(self, number: int) -> bytes:
        """x_0 to x_s of a number that is Σ x_i·(−n)^i modulo n^(s+1)."""
        parts = []
        for _ in range(self._parts):
            quotient, rest = divmod(number, self._n)
            parts.append(self._number(rest))
            number = -quotient
        return b"".join(parts)


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
        ("top", ctypes.c_char_p),
        ("width", _SIZE),
        ("quotient_width", _SIZE),
        ("top_width", _SIZE),
        ("digits", _INT),
        ("parts", _INT),
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
        library = ctypes.CDLL(str(path))
    except OSError as error:
        raise SettingsError("the C code of engine native cannot be loaded") from error
    interface = getattr(library, "ppfl_interface", None)
    if interface is None or interface() != _INTERFACE:
        raise SettingsError(
            "the C code of engine native is that of another version", hint="install ppfl again"
        )
    return library


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
