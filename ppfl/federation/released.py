"""The form of the figures that sites release in the clear, which no one else has checked before."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

_Share = Annotated[float, Field(ge=0, le=1)] | None
_Count = Annotated[int, Field(ge=0)]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class _ClassFigures(_Table):
    auroc: _Share
    sensitivity: _Share
    specificity: _Share
    images: _Count


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


class _Counts(_Table):
    """What ``ppfl.learning.released_counts.ReleasedCounts`` tells, by its name in the table."""

    confusion: list[list[_Count]]
    scores: list[list[list[_Count]]]
    calibration: list[list[_Count]]


class _FiguresWithCounts(_Figures):
    counts: _Counts | None = None


def _as(form: type[_Table]) -> AfterValidator:
    """That a table has a form; the table itself stays as it is."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        form.model_validate(table)
        return table

    return AfterValidator(check)


FiguresTable = Annotated[dict[str, Any], _as(_Figures)]
"""The federation's metrics of one split, ready for JSON: every figure, in its range."""

ReleasedTable = Annotated[dict[str, Any], _as(_FiguresWithCounts)]
"""The same as a site tells it: of the final model, with the ``counts`` behind the figures."""
