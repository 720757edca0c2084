"""The kernel against Python's integers; `sanitize.sh` runs this file under sanitizers, too."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from math import gcd

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppfl.crypto import lanes
from ppfl.crypto.lanes import AVX2, IFMA, InstructionSet, Lanes, find_instructions, find_obstacle
from ppfl.errors import SettingsError

# Under sanitizers all is ten times slower, and memory is read and written alike at every size.
_SANITIZED = "PPFL_SANITIZED" in os.environ
_EXAMPLES = 20 if _SANITIZED else 120

# moduli of 2048-, 3072-, 4096- and 7680-bit keys: the primes, N, and what only `multiply` sees
_BITS = (1024, 1536) if _SANITIZED else (1024, 1536, 2048, 3072, 3840, 4096, 7680)
_MORE = ((1024, 2), (1024, 3))
_MORE_AT_FULL_SIZE = ((1536, 2), (1536, 3), (3072, 2), (3072, 3), (7680, 3))
BITS_AND_S = [(bits, 1) for bits in _BITS] + list(_MORE if _SANITIZED else _MORE_AT_FULL_SIZE)
PLAIN_BITS = _BITS if _SANITIZED else (*_BITS, 6144, 8192, 9216, 12288, 15360, 30720)

every_s = pytest.mark.parametrize("s", [1, 2, 3])


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


def _joined(kernel: Lanes, n: int, power: tuple[lanes.Bytes, lanes.Bytes]) -> list[int]:
    """What `Lanes.power` gives, as numbers; both of its parts must be reduced."""
    rests = _numbers(power[0].tobytes(), kernel.width)
    quotients = _numbers(power[1].tobytes(), kernel.quotient_width)
    assert all(rest < n for rest in rests)
    return [r + q * n for r, q in zip(rests, quotients, strict=True)]


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
    got = kernel.multiply(_vector([most, n, 1], kernel.width), _vector([most] * 3, kernel.width))
    assert _numbers(got, kernel.width) == [most * most % n, 0, most % n]


@pytest.mark.parametrize(("bits", "s"), BITS_AND_S)
def test_powers_at_the_edges(isa: InstructionSet, bits: int, s: int) -> None:
    for n in _moduli(bits):
        kernel, top = Lanes(n, bits=bits, threads=1, s=s, instructions=isa), n ** (s + 1)
        numbers = [*_edges(top, isa)[:9], n, n - 1, n + 1, top - n, top - 1, top, top + 1]
        width = kernel.top_width + 1
        for exponent in (0, 1, 2, 15, 16, 0xF0E1):
            got = kernel.power(_vector(numbers, width), exponent, width=width)
            assert _joined(kernel, n, got) == [pow(x, exponent, top) for x in numbers]


@pytest.mark.parametrize(("bits", "s"), BITS_AND_S)
def test_fixed_bases_at_the_edges(isa: InstructionSet, bits: int, s: int) -> None:
    n = _moduli(bits)[bits % 4]
    kernel, top = Lanes(n, bits=bits, threads=1, s=s, instructions=isa), n ** (s + 1)
    exponents = [0, 1, 255, 256, 2**24 - 1, 0x010203, 0xF0000F, 0x800000, 7]
    for base in (top - 1, 2, n + 1, n, _edges(n, isa)[-1]):
        table = kernel.table(base, exponent_bits=24)
        assert table.exponent_bytes == 3
        got = kernel.fixed_base(table, _vector(exponents, 3))
        expected = [pow(base, exponent, top) for exponent in exponents]
        assert _numbers(got, kernel.top_width) == expected


@every_s
def test_every_entry_of_a_table_is_found(isa: InstructionSet, s: int) -> None:
    n = 2**127 - 1
    kernel = Lanes(n, bits=127, threads=1, s=s, instructions=isa)
    exponents = [(255 - k) << 8 | k for k in range(256)]
    got = kernel.fixed_base(kernel.table(3, exponent_bits=16), _vector(exponents, 2))
    assert _numbers(got, kernel.top_width) == [pow(3, e, n ** (s + 1)) for e in exponents]


@pytest.mark.parametrize(("bits", "s"), BITS_AND_S)
def test_blinding_and_checking_at_the_edges(isa: InstructionSet, bits: int, s: int) -> None:
    for n in _moduli(bits):
        below, top = n**s, n ** (s + 1)
        width = -(-(s + 1) * bits // 8)
        kernel = Lanes(below, bits=below.bit_length(), threads=1, instructions=isa)
        x, rho = _edges(below, isa), [*_edges(top, isa)[:0:-1], top - 1]
        got = kernel.blind(_vector(x, kernel.width), _vector(rho, width), factor=n, width=width)
        assert got is not None
        expected = [(1 + a * n) * b % top for a, b in zip(x, rho, strict=True)]
        assert _numbers(got, width) == expected
        kernel = Lanes(n, bits=bits, threads=1, s=s, instructions=isa)
        good = [x for x in (1, n + 1, n - 1, top - 1, 2**51, *_edges(top, isa)) if gcd(x, n) == 1]
        product = kernel.product(_vector(good, kernel.top_width))
        assert product is not None
        assert gcd(product, n) == 1


@pytest.mark.parametrize("terms", [1, 2, 3])
@pytest.mark.parametrize("bits", [1024, 3072, 9216])
def test_polynomials_at_the_edges(isa: InstructionSet, bits: int, terms: int) -> None:
    for n in _moduli(bits):
        kernel = Lanes(n, bits=bits, threads=1, instructions=isa)
        numbers = _edges(n, isa)
        for series in ([n - 1] * terms, [1, 0, n // 2][:terms], [0, 0, 1][-terms:]):
            got, below = kernel.evaluate(series, _vector(numbers, kernel.width))
            assert below
            assert _numbers(got, kernel.width) == [
                sum(c * x**k for k, c in enumerate(series, 1)) % n for x in numbers
            ]


@pytest.mark.parametrize("position", [0, 7, 8, 402])
def test_a_number_that_is_not_below_n_is_noticed(isa: InstructionSet, position: int) -> None:
    n = 2**127 - 1
    kernel = Lanes(n, bits=127, threads=2, instructions=isa)
    numbers = [n - 1] * 403
    assert kernel.evaluate([2], _vector(numbers, kernel.width))[1]
    numbers[position] = n
    assert not kernel.evaluate([2], _vector(numbers, kernel.width))[1]


@every_s
@pytest.mark.parametrize("position", [0, 7, 8, 300, 402])
def test_numbers_outside_are_noticed_wherever_they_are(
    isa: InstructionSet, position: int, s: int
) -> None:
    n = 3 * (2**127 - 1)
    below, top = n**s, n ** (s + 1)
    kernel = Lanes(n, bits=n.bit_length(), threads=2, s=s, instructions=isa)
    blinding = Lanes(below, bits=below.bit_length(), threads=2, instructions=isa)
    width, ones = kernel.top_width, [1] * 403

    def blind(x: list[int], rho: list[int]) -> bytes | None:
        vectors = _vector(x, blinding.width), _vector(rho, width)
        return blinding.blind(*vectors, factor=n, width=width)

    assert blind(ones, ones) is not None
    for bad in (0, top, top + 5):
        numbers = [*ones[:position], bad, *ones[position + 1 :]]
        assert kernel.product(_vector(numbers, width)) is None
        if bad:
            assert blind(ones, numbers) is None
    assert blind([*ones[:position], below, *ones[position + 1 :]], ones) is None
    for factor in (3, 2**127 - 1, n):
        numbers = [*ones[:position], factor, *ones[position + 1 :]]
        product = kernel.product(_vector(numbers, width))
        assert product is not None
        assert gcd(product, n) == factor


@pytest.mark.parametrize("bits", [1536, 3072])
def test_threads_change_nothing(isa: InstructionSet, bits: int) -> None:
    n = _moduli(bits)[3]
    draw = random.Random(1)  # noqa: S311
    numbers = [draw.randrange(n) for _ in range(1031)]
    one, many = (Lanes(n, bits=bits, threads=threads, s=1, instructions=isa) for threads in (1, 3))
    vector = _vector(numbers, one.width)
    assert one.multiply(vector, vector) == many.multiply(vector, vector)
    assert _numbers(one.multiply(vector, vector), one.width) == [x * x % n for x in numbers]
    powers = [kernel.power(vector, 3, width=one.width) for kernel in (one, many)]
    assert all((left == right).all() for left, right in zip(*powers, strict=True))
    tables = [kernel.table(5, exponent_bits=200) for kernel in (one, many)]
    assert (tables[0].rows == tables[1].rows).all()
    exponents = _vector([draw.getrandbits(200) for _ in numbers], 25)
    assert one.fixed_base(tables[0], exponents) == many.fixed_base(tables[1], exponents)


def test_vectors_of_nothing(isa: InstructionSet) -> None:
    kernel = Lanes(2**89 - 1, bits=89, threads=2, s=2, instructions=isa)
    assert kernel.multiply(b"", b"") == b""
    assert kernel.combine(b"", b"", other=7, width=24) == b""
    assert kernel.evaluate([3, 4], b"") == (b"", True)
    assert [part.shape for part in kernel.power(b"", 5, width=24)] == [(0, 12), (0, 23)]
    assert kernel.fixed_base(kernel.table(3, exponent_bits=8), b"") == b""
    assert kernel.blind(b"", b"", factor=1, width=24) == b""
    assert kernel.product(b"") == 1


odd = st.integers(1, 2**300).map(lambda x: 2 * x + 1)


@settings(max_examples=_EXAMPLES, deadline=None)
@given(st.data(), odd, st.integers(1, 3))
def test_everything_equals_pythons_integers(
    isa: InstructionSet, data: st.DataObject, n: int, s: int
) -> None:
    bits = n.bit_length() + data.draw(st.integers(0, 60))
    kernel = Lanes(n, bits=bits, threads=1, s=s, instructions=isa)
    below, top, width, top_width = n**s, n ** (s + 1), kernel.width, kernel.top_width
    count = data.draw(st.integers(1, 19))

    def draw(modulus: int) -> list[int]:
        return data.draw(st.lists(st.integers(0, modulus - 1), min_size=count, max_size=count))

    a, b, x = draw(n), draw(n), draw(top)
    exponent, base = data.draw(st.integers(0, 2**40)), data.draw(st.integers(0, top))

    got = kernel.multiply(_vector(a, width), _vector(b, width))
    assert _numbers(got, width) == [p * q % n for p, q in zip(a, b, strict=True)]

    got, _ = kernel.evaluate(b[:3], _vector(a, width))
    expected = [sum(c * p**k for k, c in enumerate(b[:3], 1)) % n for p in a]
    assert _numbers(got, width) == expected

    powers = kernel.power(_vector(x, top_width), exponent, width=top_width)
    assert _joined(kernel, n, powers) == [pow(number, exponent, top) for number in x]

    table = kernel.table(base, exponent_bits=16)
    exponents = [number % 2**16 for number in x]
    got = kernel.fixed_base(table, _vector(exponents, 2))
    assert _numbers(got, top_width) == [pow(base, e, top) for e in exponents]

    blinding = Lanes(below, bits=s * bits, threads=1, instructions=isa)
    m = draw(below)
    blinded = blinding.blind(
        _vector(m, blinding.width), _vector(x, top_width), factor=n, width=top_width
    )
    assert blinded is not None
    expected = [(1 + y * n) * rho % top for y, rho in zip(m, x, strict=True)]
    assert _numbers(blinded, top_width) == expected

    product = kernel.product(_vector(x, top_width))
    if all(x):
        assert product is not None
        assert (gcd(product, n) == 1) == all(gcd(number, n) == 1 for number in x)
    else:
        assert product is None


@settings(max_examples=_EXAMPLES // 2, deadline=None)
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


def _most_bits(isa: InstructionSet, s: int) -> int:
    return isa.most_digits // (s + 2) // 5 * 5 * isa.digit_bits - 16


@pytest.mark.parametrize("s", [0, 1, 2, 3])
def test_moduli_too_long_for_the_kernel_are_refused(isa: InstructionSet, s: int) -> None:
    bits = _most_bits(isa, s)
    assert bits >= (4 * 7680 if s == 0 else 7680)  # all keys that are offered
    Lanes(2 ** (bits - 1) + 1, bits=bits, threads=1, s=s, instructions=isa)
    with pytest.raises(SettingsError, match=f"{bits + 1} bits are too many"):
        Lanes(2**bits + 1, bits=bits + 1, threads=1, s=s, instructions=isa)


@pytest.mark.parametrize("s", [0, 1, 2, 3])
def test_the_longest_modulus_fits_its_columns(isa: InstructionSet, s: int) -> None:
    bits = _most_bits(isa, s)
    n = 2**bits - 1  # R is 2^16 modulo n, so that -1 is nearly all ones in the kernel, too
    kernel, top = Lanes(n, bits=bits, threads=1, s=s, instructions=isa), n ** (s + 1)
    ones = sum((n - 1) * (-n) ** i for i in range(s + 1))  # in every part, if R is a factor
    numbers = [n - 1, n - 2, top - 1, ones % top, ones * pow(kernel._R, -1, top) % top]
    width = kernel.width
    got = kernel.multiply(_vector(numbers[:2], width), _vector([n - 1] * 2, width))
    assert _numbers(got, width) == [1, 2]
    if s:
        powers = kernel.power(_vector(numbers, kernel.top_width), 19, width=kernel.top_width)
        assert _joined(kernel, n, powers) == [pow(x, 19, top) for x in numbers]


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
        self.ppfl_interface = lambda: lanes._INTERFACE
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
