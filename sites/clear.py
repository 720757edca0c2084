"""The part of an answer that is not sealed, as text."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from ppfl.federation.figures import ReleasedTable
from ppfl.settings import Name, Sha256
from sites.requests import Answer, ReleasedSplit


class ClearPart(BaseModel):
    """What a site tells in the clear, and which site it is; nothing else may be there."""

    model_config = ConfigDict(extra="forbid", strict=True)

    site: Name
    released: dict[ReleasedSplit, ReleasedTable]
    released_round: int
    model_sha256: Sha256
    mean_xrays: dict[str, str]
    class_images: dict[str, Annotated[int, Field(gt=0, lt=2**53)]] = {}
    seconds: Annotated[dict[Name, Annotated[float, Field(ge=0, le=1e7)]], Field(max_length=8)]
    clipped: Annotated[int, Field(ge=0, lt=2**53)]
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
