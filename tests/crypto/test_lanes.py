"""The kernel against Python's integers; `sanitize.sh` runs this file under sanitizers, too."""

from __future__ import annotations

import random
from collections.abc import Iterator
from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfl.crypto import lanes
from ppfl.crypto.lanes import AVX2, IFMA, InstructionSet, Lanes, find_instructions, find_obstacle
from ppfl.errors import SettingsError

# moduli of 2048-, 3072-, 4096- and 7680-bit keys: the primes, N, and what only `multiply` sees
PAIR_BITS = (1024, 1536, 2048, 3072, 3840, 4096, 7680)
PLAIN_BITS = (*PAIR_BITS, 6144, 8192, 15360)


@pytest.fixture(scope="module", params=[IFMA, AVX2], ids=lambda instructions: instructions.name)
def isa(request: pytest.FixtureRequest) -> InstructionSet:
    """Each instruction set, where this processor has it."""
    instructions: InstructionSet = request.param
    obstacle = find_obstacle(instructions)
    if obstacle:
        pytest.skip(obstacle)
    return instructions


def _vector(numbers: list[int], width: int) -> bytes:
    return b"".join([number.to_bytes(width, "little") for number in numbers])


def _numbers(vector: bytes, width: int) -> list[int]:
    return [
        int.from_bytes(vector[at : at + width], "little") for at in range(0, len(vector), width)
    ]


def _moduli(bits: int) -> list[int]:
    """All ones, a one at each end, ones in the upper half, something random."""
    top = 1 << (bits - 1)
    return [
        2**bits - 1,
        top + 1,
        2**bits - 2 ** (bits // 2) + 1,
        random.Random(bits).getrandbits(bits) | top | 1,  # noqa: S311
    ]


def _edges(modulus: int, isa: InstructionSet) -> list[int]:
    """Where carries start, end, or run through every digit."""
    bits = modulus.bit_length()
    picked = random.Random(bits)  # noqa: S311
    digit_bits = isa.digit_bits
    digits, ones = bits // digit_bits, 2**digit_bits - 1
    powers = [1 << digit_bits * k for k in (1, 5, digits // 2, digits)]
    near = [power + step for power in powers for step in (-1, 0, 1)]
    ends = [0, 1, 2, modulus - 1, modulus - 2, modulus // 2, modulus // 2 + 1, (1 << bits - 1) - 1]
    sparse = [sum(ones << digit_bits * k for k in range(0, digits, step)) for step in (1, 2, 3)]
    drawn = [picked.randrange(modulus) for _ in range(8)]
    return [number % modulus for number in (*ends, *near, *sparse, *drawn)]


@pytest.mark.parametrize("bits", PLAIN_BITS)
def test_products_at_the_edges(isa: InstructionSet, bits: int) -> None:
    for n in _moduli(bits):
        kernel = Lanes(n, bits=bits, threads=1, instructions=isa)
        left = _edges(n, isa)
        for shift in (0, 1, 7):
            right = left[shift:] + left[:shift]
            got = kernel.multiply(_vector(left, kernel.width), _vector(right, kernel.width))
            expected = [a * b % n for a, b in zip(left, right, strict=True)]
            assert _numbers(got, kernel.width) == expected


@pytest.mark.parametrize("bits", PLAIN_BITS)
def test_factors_may_be_as_long_as_their_bytes(isa: InstructionSet, bits: int) -> None:
    n = (1 << bits - 1) + 1
    kernel = Lanes(n, bits=bits, threads=1, instructions=isa)
    most = 256**kernel.width - 1
    got = kernel.multiply(_vector([most, n, most], kernel.width), _vector([most], kernel.width))
    assert _numbers(got, kernel.width) == [most * most % n, 0, most * most % n]


@pytest.mark.parametrize("bits", PAIR_BITS)
def test_powers_at_the_edges(isa: InstructionSet, bits: int) -> None:
    for n in _moduli(bits):
        kernel = Lanes(n, bits=bits, threads=1, instructions=isa)
        numbers = [*_edges(n * n, isa)[:9], n, n - 1, n + 1, n * n - n, n * n - 1, n * n, n * n + 1]
        for exponent in (0, 1, 2, 15, 16, 0xF0E1):
            width = kernel.square_width + 1
            got = kernel.power(_vector(numbers, width), exponent, width=width)
            assert got.shape == (len(numbers), 2, kernel.width)
            expected = [pow(x, exponent, n * n) for x in numbers]
            assert _numbers(got.tobytes(), kernel.width) == [
                digit for power in expected for digit in (power % n, power // n)
            ]


@pytest.mark.parametrize("bits", PAIR_BITS)
def test_fixed_bases_at_the_edges(isa: InstructionSet, bits: int) -> None:
    n = _moduli(bits)[bits % 4]
    kernel = Lanes(n, bits=bits, threads=1, instructions=isa)
    exponents = [0, 1, 255, 256, 2**24 - 1, 0x010203, 0xF0000F, 0x800000, 7]
    for base in (n * n - 1, 2, n + 1, n, _edges(n, isa)[-1]):
        table = kernel.table(base, exponent_bits=24)
        assert table.exponent_bytes == 3
        got = kernel.fixed_base(table, _vector(exponents, 3))
        expected = [pow(base, exponent, n * n) for exponent in exponents]
        assert _numbers(got, kernel.square_width) == expected


def test_every_entry_of_a_table_is_found(isa: InstructionSet) -> None:
    n = 2**127 - 1
    kernel = Lanes(n, bits=127, threads=1, instructions=isa)
    exponents = [(255 - k) << 8 | k for k in range(256)]
    got = kernel.fixed_base(kernel.table(3, exponent_bits=16), _vector(exponents, 2))
    assert _numbers(got, kernel.square_width) == [pow(3, e, n * n) for e in exponents]


@pytest.mark.parametrize("bits", PAIR_BITS)
def test_blinding_and_checking_at_the_edges(isa: InstructionSet, bits: int) -> None:
    for n in _moduli(bits):
        kernel = Lanes(n, bits=bits, threads=1, instructions=isa)
        m, rho = _edges(n, isa), [*_edges(n * n, isa)[:0:-1], n * n - 1]
        got = kernel.blind(_vector(m, kernel.width), _vector(rho, kernel.square_width))
        assert got is not None
        expected = [(1 + a * n) * b % (n * n) for a, b in zip(m, rho, strict=True)]
        assert _numbers(got, kernel.square_width) == expected
        good = [
            x for x in (1, n + 1, n - 1, n * n - 1, 2**51, *_edges(n * n, isa)) if gcd(x, n) == 1
        ]
        product = kernel.product(_vector(good, kernel.square_width))
        assert product is not None
        assert gcd(product, n) == 1


@pytest.mark.parametrize("position", [0, 7, 8, 300, 402])
def test_numbers_outside_are_noticed_wherever_they_are(isa: InstructionSet, position: int) -> None:
    n = 3 * (2**127 - 1)
    kernel = Lanes(n, bits=n.bit_length(), threads=2, instructions=isa)
    ones = [1] * 403
    for bad in (0, n * n, n * n + 5):
        numbers = [*ones[:position], bad, *ones[position + 1 :]]
        vector = _vector(numbers, kernel.square_width)
        assert kernel.product(vector) is None
        if bad:
            assert kernel.blind(_vector(ones, kernel.width), vector) is None
    numbers = [*ones[:position], n, *ones[position + 1 :]]
    vector = _vector(ones, kernel.square_width)
    assert kernel.blind(_vector(numbers, kernel.width), vector) is None
    for factor in (3, 2**127 - 1, n):
        numbers = [*ones[:position], factor, *ones[position + 1 :]]
        product = kernel.product(_vector(numbers, kernel.square_width))
        assert product is not None
        assert gcd(product, n) == factor


@pytest.mark.parametrize("bits", [1536, 3072])
def test_threads_change_nothing(isa: InstructionSet, bits: int) -> None:
    n = _moduli(bits)[3]
    draw = random.Random(1)  # noqa: S311
    numbers = [draw.randrange(n) for _ in range(1031)]
    one, many = (Lanes(n, bits=bits, threads=threads, instructions=isa) for threads in (1, 3))
    vector = _vector(numbers, one.width)
    assert one.multiply(vector, vector) == many.multiply(vector, vector)
    assert _numbers(one.multiply(vector, vector), one.width) == [x * x % n for x in numbers]
    assert (one.power(vector, 3, width=one.width) == many.power(vector, 3, width=one.width)).all()
    tables = [kernel.table(5, exponent_bits=200) for kernel in (one, many)]
    assert (tables[0].rows == tables[1].rows).all()
    exponents = _vector([draw.getrandbits(200) for _ in numbers], 25)
    assert one.fixed_base(tables[0], exponents) == many.fixed_base(tables[1], exponents)


def test_vectors_of_nothing(isa: InstructionSet) -> None:
    kernel = Lanes(2**89 - 1, bits=89, threads=2, instructions=isa)
    assert kernel.multiply(b"", b"") == b""
    assert kernel.combine(b"", b"", other=7, width=24) == b""
    assert kernel.power(b"", 5, width=24).shape == (0, 2, kernel.width)
    assert kernel.fixed_base(kernel.table(3, exponent_bits=8), b"") == b""
    assert kernel.blind(b"", b"") == b""
    assert kernel.product(b"") == 1


odd = st.integers(1, 2**300).map(lambda x: 2 * x + 1)


@settings(max_examples=60, deadline=None)
@given(st.data(), odd)
def test_everything_equals_pythons_integers(
    isa: InstructionSet, data: st.DataObject, n: int
) -> None:
    kernel = Lanes(
        n, bits=n.bit_length() + data.draw(st.integers(0, 60)), threads=1, instructions=isa
    )
    square, width, square_width = n * n, kernel.width, kernel.square_width
    count = data.draw(st.integers(1, 19))
    a, b = (
        data.draw(st.lists(st.integers(0, n - 1), min_size=count, max_size=count)) for _ in "ab"
    )
    x = data.draw(st.lists(st.integers(0, square - 1), min_size=count, max_size=count))
    exponent, base = data.draw(st.integers(0, 2**40)), data.draw(st.integers(0, square))

    got = kernel.multiply(_vector(a, width), _vector(b, width))
    assert _numbers(got, width) == [p * q % n for p, q in zip(a, b, strict=True)]

    powers = kernel.power(_vector(x, square_width), exponent, width=square_width)
    digits = _numbers(powers.tobytes(), width)
    values = [r + q * n for r, q in zip(digits[::2], digits[1::2], strict=True)]
    assert values == [pow(number, exponent, square) for number in x]

    table = kernel.table(base, exponent_bits=16)
    exponents = [number % 2**16 for number in x]
    got = kernel.fixed_base(table, _vector(exponents, 2))
    assert _numbers(got, square_width) == [pow(base, e, square) for e in exponents]

    blinded = kernel.blind(_vector(a, width), _vector(x, square_width))
    assert blinded is not None
    expected = [(1 + m * n) * rho % square for m, rho in zip(a, x, strict=True)]
    assert _numbers(blinded, square_width) == expected

    product = kernel.product(_vector(x, square_width))
    if all(x):
        assert product is not None
        assert (gcd(product, n) == 1) == all(gcd(number, n) == 1 for number in x)
    else:
        assert product is None


@settings(max_examples=60, deadline=None)
@given(st.data(), odd, st.integers(2, 2**400))
def test_remainders_combine_for_moduli_of_any_two_lengths(
    isa: InstructionSet, data: st.DataObject, n: int, other: int
) -> None:
    while gcd(n, other) != 1:
        other //= gcd(n, other)
    bits = max(n.bit_length(), other.bit_length())
    kernel = Lanes(n, bits=bits, threads=1, instructions=isa)
    x = data.draw(st.lists(st.integers(0, n * other - 1), min_size=1, max_size=10))
    x += [0, n * other - 1, n - 1, other - 1]
    left, right = (_vector([v % m for v in x], kernel.width) for m in (n, other))
    width = -(-(n * other).bit_length() // 8)
    assert _numbers(kernel.combine(left, right, other=other, width=width), width) == x


def test_moduli_too_long_for_the_kernel_are_refused(isa: InstructionSet) -> None:
    Lanes(2**17_660 + 1, bits=17_661, threads=1, instructions=isa)
    with pytest.raises(SettingsError, match="17665 bits are too many"):
        Lanes(2**17_664 + 1, bits=17_665, threads=1, instructions=isa)


def test_the_longest_modulus_fits_its_columns(isa: InstructionSet) -> None:
    n = 2**17_664 - 1  # R is 2^16 modulo n, so that -1 is nearly all ones in the kernel, too
    kernel = Lanes(n, bits=17_664, threads=1, instructions=isa)
    numbers = [n - 1, n - 2, n * n - 1, n * n - 2]
    got = kernel.multiply(_vector(numbers[:2], kernel.width), _vector([n - 1], kernel.width))
    assert _numbers(got, kernel.width) == [1, 2]
    powers = kernel.power(_vector(numbers, kernel.square_width), 19, width=kernel.square_width)
    digits = _numbers(powers.tobytes(), kernel.width)
    values = [r + q * n for r, q in zip(digits[::2], digits[1::2], strict=True)]
    assert values == [pow(x, 19, n * n) for x in numbers]


def test_missing_memory_is_an_error(isa: InstructionSet, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Lanes(7, bits=3, threads=1, instructions=isa)
    monkeypatch.setattr(Lanes, "_call", lambda *_: -1)
    with pytest.raises(MemoryError):
        kernel.multiply(b"\1", b"\1")


@pytest.fixture
def _forgetful() -> Iterator[None]:
    lanes._load.cache_clear()
    yield
    lanes._load.cache_clear()


@pytest.mark.usefixtures("_forgetful")
def test_a_kernel_that_was_not_built_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lanes, "EXTENSION_SUFFIXES", [".nowhere"])
    assert find_obstacle() == "the C code of engine native was not built"
    with pytest.raises(SettingsError, match="was not built") as caught:
        Lanes(7, bits=3, threads=1)
    assert "compiler" in caught.value.hint


class _Processor:
    """A library that finds itself on a processor with some instruction sets."""

    def __init__(self, *has: str) -> None:
        for instructions in (IFMA, AVX2):
            setattr(
                self, f"ppfl_{instructions.name}_supported", lambda i=instructions: i.name in has
            )


@pytest.mark.usefixtures("_forgetful")
def test_a_kernel_that_cannot_run_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(path: str) -> None:
        raise OSError("wrong ELF class")

    monkeypatch.setattr(lanes, "EXTENSION_SUFFIXES", [".py"])
    monkeypatch.setattr(lanes.Path, "exists", lambda _: True)
    monkeypatch.setattr(lanes.ctypes, "CDLL", lambda _: _Processor())
    assert find_obstacle() == "this processor has no AVX-512 IFMA or AVX2"
    assert find_obstacle(AVX2) == "this processor has no AVX2"
    lanes._load.cache_clear()
    monkeypatch.setattr(lanes.ctypes, "CDLL", broken)
    assert find_obstacle() == "the C code of engine native cannot be loaded"


def test_the_best_instruction_set_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for has, best in ((("ifma", "avx2"), IFMA), (("avx2",), AVX2)):
        monkeypatch.setattr(lanes, "_load", lambda has=has: _Processor(*has))
        assert find_instructions() == best
        assert find_instructions(AVX2) == AVX2
    with pytest.raises(SettingsError, match="no AVX-512 IFMA"):
        find_instructions(IFMA)
