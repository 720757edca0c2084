"""Whether a request is one of the study that this site agreed to, and of no earlier round."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ppfl.errors import StaleRoundError, StudyMismatchError
from ppfl.files import replace_private
from ppfl.settings import SiteFile, Study
from sites.requests import Request


class Agreement:
    """What a site compares each request with; the last round it answered stays in its work folder.

    Args:
        site: the hospital's own settings.
        study: its own copy of the study.
    """

    def __init__(self, site: SiteFile, study: Study) -> None:
        self._study, self._study_file = study, site.study
        self._file: Path = site.work / "state.json"

    def check(self, request: Request) -> None:
        """Refuse a request of another study.

        Raises:
            StudyMismatchError: the coordinator's study is not this site's.
        """
        if request.study != self._study.fingerprint():
            raise StudyMismatchError(
                f"the coordinator's study has fingerprint {request.study[:16]}…, "
                f"{self._study_file} has {self._study.fingerprint()[:16]}…",
                hint="get the study file anew, and read it before you accept it",
            )

    def check_round(self, request: Request) -> None:
        """Refuse also an earlier round; enrolment is asked for again when a run goes on.

        Raises:
            StudyMismatchError: as for ``check``.
            StaleRoundError: a later round of this run was answered already.
        """
        self.check(request)
        state = self._read()
        if state.get("run") == request.run and request.round_number < state.get("round", 0):
            raise StaleRoundError(
                f"asked for round {request.round_number}, already answered {state['round']}"
            )

    def remember(self, request: Request) -> None:
        """Keep the round of a request that is being answered."""
        text = json.dumps({"run": request.run, "round": request.round_number})
        replace_private(self._file, [text.encode()])

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._file.read_bytes())
        except (OSError, ValueError):
            return {}
        return state
