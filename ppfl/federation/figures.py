"""The form of the figures that the sites open of all their X-rays together, and tell."""

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


class _FiguresAndCounts(_Figures):
    counts: _Counts | None = None


def _has_form(form: type[_Table], *, empty: bool = False) -> AfterValidator:
    """Hold a table to a form, or let it be empty, and leave it as it is."""

    def check(table: dict[str, Any]) -> dict[str, Any]:
        if table or not empty:
            form.model_validate(table)
        return table

    return AfterValidator(check)


ReleasedFigures = Annotated[dict[str, Any], _has_form(_Figures)]
"""The federation's metrics of one split, ready for JSON: every figure, in its range."""

ReleasedCounts = Annotated[dict[str, Any], _has_form(_Counts, empty=True)]
"""The counts behind the final model's figures, empty for those of the models before."""

ReleasedTable = Annotated[dict[str, Any], _has_form(_FiguresAndCounts)]
"""``ReleasedFigures`` as a site tells them: those of the final model with their ``counts``."""
