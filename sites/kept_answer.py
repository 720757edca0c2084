"""What a site has sealed, kept until its round is closed, so that it can be sent again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ppfl.errors import RunError
from ppfl.federation import Opened
from ppfl.files import replace_private
from sites.clear import ClearPart
from sites.requests import Answer, Request

_VERSION = 1


class KeptAnswer:
    """The last sealed answer of one site, in a file that only its owner can read.

    The file holds ciphertexts and what left the hospital beside them: nothing that the
    coordinator was not meant to get. The next answer takes its place. A file that is damaged, or
    that answers something else, is as none: the answer is then made anew.

    Args:
        folder: the site's work folder.
        site: its name.
    """

    def __init__(self, folder: Path, *, site: str) -> None:
        self._path, self._site = folder / "sealed-answer.bin", site

    def read(self, task: str) -> Answer:
        """The answer to a task, with nothing sealed in it where none is kept."""
        try:
            header, _, rest = self._path.read_bytes().partition(b"\n")
            if json.loads(header) != self._header(task, rest):
                return Answer()
            clear, _, sealed = rest.partition(b"\n")
            return ClearPart.model_validate_json(clear).with_sealed(sealed)
        except (OSError, ValueError):  # of pydantic, too
            return Answer()

    def write(self, task: str, answer: Answer) -> None:
        """Keep the answer to a task, in place of the last one.

        Raises:
            RunError: the disk is full, or the file cannot be written.
        """
        clear = ClearPart.of(self._site, answer).model_dump_json().encode()
        rest = clear + b"\n" + answer.sealed
        header = json.dumps(self._header(task, rest)).encode()
        try:
            replace_private(self._path, [header, b"\n", rest])
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written: {error.strerror}") from None

    def remove(self) -> None:
        """Keep nothing."""
        self._path.unlink(missing_ok=True)

    def _header(self, task: str, rest: bytes) -> dict[str, object]:
        digest = hashlib.sha256(rest).hexdigest()
        return {"version": _VERSION, "task": task, "sha256": digest}


def task_digest(kind: str, request: Request, enrolled: Opened, *, run: str = "") -> str:
    """SHA-256 in hexadecimal over all that an answer depends on, beside the site's own X-rays.

    Those are the study, the round, the total of the round before, and the sums of enrolment, from
    which weights and normalisation follow: what was opened, because a run that goes on has the
    same counts sealed anew. The site's X-rays are in those sums, so that other images to train on
    make another task. The run is not among them, unless ``run`` names it: training starts from the
    total, the quantizer's ranges follow from the model in it, and a vector binds its study and
    its round. So a vector made for one run is the one that another run of the study would get for
    the same task, and no run adds it twice, because it takes one answer of each site a round.
    """
    total = hashlib.sha256(request.total).hexdigest()
    sums = {name: array.tolist() for name, array in enrolled.integers.items()}
    parts = (kind, request.study, run, request.round_number, total, enrolled.sites, sums)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
