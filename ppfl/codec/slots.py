"""Many small values in one plaintext."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import MalformedMessageError, SettingsError, ValueRangeError

_LIMB_BITS = 64


@dataclass(frozen=True, slots=True)
class SlotLayout:
    """How quantized values share one plaintext.

    A slot is ``value_bits`` of value below ``headroom_bits`` of room for carries, so that up to
    ``2**headroom_bits`` plaintexts add up without one reaching the next slot. First value lowest.
    """

    value_bits: int
    headroom_bits: int
    plaintext_bits: int

    def __post_init__(self) -> None:
        if not 1 <= self.slot_bits <= min(62, self.plaintext_bits):
            raise SettingsError(
                f"slots of {self.slot_bits} bits: they must have 1 to 62, and fit into "
                f"{self.plaintext_bits} bits of plaintext"
            )

    @property
    def slot_bits(self) -> int:
        """Bits from one slot to the next."""
        return self.value_bits + self.headroom_bits

    @property
    def slots(self) -> int:
        """Values in one plaintext."""
        return self.plaintext_bits // self.slot_bits

    @property
    def plaintext_bytes(self) -> int:
        """Bytes of one plaintext: one bit more than ``plaintext_bits``, as N^s has."""
        return (self.plaintext_bits + 8) // 8

    def plaintexts(self, values: int) -> int:
        """Plaintexts that so many values need."""
        return -(-values // self.slots)

    def pack(self, values: NDArray[np.int64]) -> bytes:
        """Plaintexts, one after the other, least significant byte first.

        ``values`` is (n,), each in [0, 2**value_bits).

        Raises:
            ValueRangeError: a value does not fit.
        """
        check_values(values, self.value_bits)
        rows = self.plaintexts(values.size)
        # one column per plaintext, so that the loop below runs over slots and not over values
        columns = np.zeros((self.slots, rows), np.uint64)
        padded = np.zeros(rows * self.slots, np.uint64)
        padded[: values.size] = values
        np.copyto(columns, padded.reshape(rows, self.slots).T)
        limbs = np.zeros((self._limbs, rows), np.uint64)
        for slot in range(self.slots):
            limb, shift = divmod(slot * self.slot_bits, _LIMB_BITS)
            limbs[limb] |= columns[slot] << np.uint64(shift)
            if shift + self.value_bits > _LIMB_BITS:
                limbs[limb + 1] |= columns[slot] >> np.uint64(_LIMB_BITS - shift)
        as_bytes = np.ascontiguousarray(limbs.T).astype("<u8", copy=False).view(np.uint8)
        return as_bytes[:, : self.plaintext_bytes].tobytes()

    def unpack(self, plaintexts: bytes, values: int) -> NDArray[np.int64]:
        """(values,) sums of slots, each in [0, 2**slot_bits).

        Raises:
            MalformedMessageError: the plaintexts are not as many as these values fill, or bits
                are set where no value lies: a plaintext that this layout did not make.
        """
        rows = self.plaintexts(values)
        if len(plaintexts) != rows * self.plaintext_bytes:
            raise MalformedMessageError(
                f"{len(plaintexts)} bytes of plaintext, {rows * self.plaintext_bytes} needed"
            )
        padded = np.zeros((rows, (self._limbs + 1) * 8), np.uint8)
        padded[:, : self.plaintext_bytes] = np.frombuffer(plaintexts, np.uint8).reshape(
            rows, self.plaintext_bytes
        )
        limbs = np.ascontiguousarray(padded.view("<u8").T).astype(np.uint64, copy=False)
        columns = np.empty((self.slots, rows), np.uint64)
        mask = np.uint64(2**self.slot_bits - 1)
        for slot in range(self.slots):
            limb, shift = divmod(slot * self.slot_bits, _LIMB_BITS)
            columns[slot] = limbs[limb] >> np.uint64(shift)
            if shift + self.slot_bits > _LIMB_BITS:
                columns[slot] |= limbs[limb + 1] << np.uint64(_LIMB_BITS - shift)
        columns &= mask
        flat = np.ascontiguousarray(columns.T).reshape(-1).astype(np.int64)
        used_limb, used_shift = divmod(self.slots * self.slot_bits, _LIMB_BITS)
        beyond = bool((limbs[used_limb] >> np.uint64(used_shift)).any())
        if beyond or limbs[used_limb + 1 :].any() or flat[values:].any():
            raise MalformedMessageError("a plaintext has bits set where no value lies")
        return flat[:values]

    @property
    def _limbs(self) -> int:
        return -(-self.plaintext_bytes * 8 // _LIMB_BITS)


def check_values(values: NDArray[np.int64], value_bits: int) -> None:
    """Make sure that each value is in [0, 2**value_bits).

    Raises:
        ValueRangeError: one is not.
    """
    if values.size and (values.min() < 0 or int(values.max()) >> value_bits):
        raise ValueRangeError(f"a value does not fit into {value_bits} bits")
