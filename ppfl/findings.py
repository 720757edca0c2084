"""What an examination finds, before anything is started."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Self

from ppfl.errors import PpflError

State = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    ``found`` is what was found, ``advice`` what to do where it is not ``ok``, and ``code`` that of
    the error, if it was one (docs/errors.md).
    """

    what: str
    state: State
    found: str
    advice: str = ""
    code: str = ""

    @classmethod
    def of_error(cls, what: str, error: PpflError, *, advice: str = "") -> Self:
        """What an error says is wrong; ``advice`` is for one that gives no hint."""
        advice = error.hint or advice or f"docs/errors.md says what to do: {error.code}"
        return cls(what, "wrong", str(error), advice, error.code)


def examine_one(what: str, look: Callable[[], str | Finding | None]) -> Iterator[Finding]:
    """What a look came to: a finding, or what is well in words, or None for nothing to tell.

    An error of ppfl's becomes a finding that is wrong, with the error's hint as advice.
    """
    try:
        found = look()
    except PpflError as error:
        yield Finding.of_error(what, error)
        return
    if isinstance(found, str):
        yield Finding(what, "ok", found)
    elif found is not None:
        yield found
