"""A figure with its confidence interval, as results are kept."""

from __future__ import annotations

from typing import Protocol, Self

from pydantic import BaseModel, ConfigDict


class _Interval(Protocol):
    @property
    def value(self) -> float: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...


class Estimate(BaseModel):
    """A figure and its 95 % confidence interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, interval: _Interval) -> Self:
        """The same as it is kept."""
        return cls(value=interval.value, low=interval.low, high=interval.high)

    def percent(self, *, signed: bool = False) -> str:
        """As text, in percent, with the interval in brackets."""
        sign = "+" if signed else ""
        value, low, high = (
            format(100 * x, f"{sign}.1f") for x in (self.value, self.low, self.high)
        )
        return f"{value} [{low}, {high}]".replace("-", "−")
