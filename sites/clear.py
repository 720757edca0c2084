"""The part of an answer that is not sealed, as text."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from ppfl.settings import Name, Sha256
from sites.requests import Answer, ReleasedSplit

_Share = Annotated[float, Field(ge=0, le=1)] | None
_Count = Annotated[int, Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ClassFigures(_Table):
    auroc: _Share
    sensitivity: _Share
    specificity: _Share
    images: _Count


class _Counts(_Table):
    """What ``ppfl.learning.released_counts.ReleasedCounts`` tells, by its name in the table."""

    confusion: list[list[_Count]]
    scores: list[list[list[_Count]]]
    calibration: list[list[_Count]]


class _Figures(_Table):
    """What ``ppfl.learning.metrics.Metrics`` says, None for NaN."""

    images: _Count
    accuracy: _Share
    balanced_accuracy: _Share
    macro_auroc: _Share
    classes: dict[str, _ClassFigures]
    ece: _Share
    brier: Annotated[float, Field(ge=0, le=2)] | None
    loss: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    confusion: list[list[_Count]]
    counts: _Counts | None = None


def _are_figures(table: dict[str, Any]) -> dict[str, Any]:
    _Figures.model_validate(table)
    return table


_ReleasedTable = Annotated[dict[str, Any], AfterValidator(_are_figures)]
"""The federation's metrics of one split, ready for JSON: every figure, in its range.

Those of the final model have the ``counts`` behind them.
"""


class ClearPart(BaseModel):
    """What a site tells in the clear, and which site it is; nothing else may be there."""

    model_config = ConfigDict(extra="forbid", strict=True)

    site: Name
    released: dict[ReleasedSplit, _ReleasedTable]
    released_round: int
    model_sha256: Sha256
    mean_xrays: dict[str, str]
    class_images: dict[str, Annotated[int, Field(gt=0)]] = {}
    seconds: dict[Name, Annotated[float, Field(ge=0, allow_inf_nan=False)]]
    clipped: Annotated[int, Field(ge=0)]
    countersignature: Annotated[str, Field(pattern="^[0-9a-f]*$", max_length=256)]
    history: Sha256

    @classmethod
    def of(cls, site: str, answer: Answer) -> Self:
        """The clear part of a site's answer."""
        return cls(
            site=site,
            released=dict(answer.released),
            released_round=answer.released_round,
            model_sha256=answer.model_sha256,
            mean_xrays=dict(answer.mean_xrays),
            class_images=dict(answer.class_images),
            seconds=dict(answer.seconds),
            clipped=answer.clipped,
            countersignature=answer.countersignature,
            history=answer.history,
        )

    def with_sealed(self, sealed: bytes) -> Answer:
        """The whole answer."""
        return Answer(
            sealed=sealed,
            released=self.released,
            released_round=self.released_round,
            model_sha256=self.model_sha256,
            mean_xrays=self.mean_xrays,
            class_images=self.class_images,
            seconds=self.seconds,
            clipped=self.clipped,
            countersignature=self.countersignature,
            history=self.history,
        )
