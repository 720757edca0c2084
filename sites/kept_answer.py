"""What a site has sealed, kept until its round is closed, so that it can be sent again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ppfl.errors import RunError
from ppfl.federation import Opened
from ppfl.files import replace_private
from sites.clear import ClearPart
from sites.requests import Answer, Request

_VERSION = 2
_DIGESTS = 2


class KeptAnswer:
    """The last sealed answer of one site, in a file that only its owner can read.

    The file holds ciphertexts and what left the hospital beside them: nothing that the
    coordinator was not meant to get. The next answer takes its place; of the vectors before it,
    the digests of the last two rounds stay, with which a site knows its own in a record. A file
    that is damaged, or of another study, is as none: the answer is then made anew.

    Args:
        folder: the site's work folder.
        site: its name.
        study: the study's fingerprint.
    """

    def __init__(self, folder: Path, *, site: str, study: str) -> None:
        self._path = folder / "sealed-answer.bin"
        self._site, self._study = site, study

    def read(self, task: str) -> Answer:
        """The answer to a task, with nothing sealed in it where none is kept."""
        header, answer = self._load()
        return answer if header.get("task") == task else Answer()

    def sealed_in(self, round_number: int) -> bytes:
        """The vector that was sealed in a round, empty where none is kept."""
        header, answer = self._load()
        return answer.sealed if header.get("round") == round_number else b""

    def digest_in(self, round_number: int) -> str:
        """SHA-256 of the vector that was sealed in a round, empty where that is not known."""
        return _digests(*self._load()).get(round_number, "")

    def write(self, task: str, answer: Answer, *, round_number: int) -> None:
        """Keep the answer to a task, in place of the last one.

        Raises:
            RunError: the disk is full, or the file cannot be written.
        """
        before = _digests(*self._load())
        if round_number > 0:  # a new run, or a round that is done again, has no later ones yet
            before = {number: each for number, each in before.items() if number < round_number}
        header = {
            "version": _VERSION,
            "study": self._study,
            "task": task,
            "round": round_number,
            "before": sorted(before.items())[-_DIGESTS:],
        }
        clear = ClearPart.of(self._site, answer).model_dump_json()
        rest = b"\n".join([json.dumps(header).encode(), clear.encode(), answer.sealed])
        try:
            replace_private(self._path, [hashlib.sha256(rest).hexdigest().encode(), b"\n", rest])
        except OSError as error:
            raise RunError(f"{self._path}: cannot be written: {error.strerror}") from None

    def forget(self) -> None:
        """Keep nothing but the digests, and not even them on a full disk."""
        if self._path.exists():
            try:
                self.write("", Answer(), round_number=-1)
            except RunError:
                self._path.unlink()

    def _load(self) -> tuple[dict[str, Any], Answer]:
        """What is in the file, empty where it holds nothing whole of this study."""
        try:
            digest, _, rest = self._path.read_bytes().partition(b"\n")
            if digest != hashlib.sha256(rest).hexdigest().encode():
                raise ValueError
            first, clear, sealed = rest.split(b"\n", 2)
            header: dict[str, Any] = json.loads(first)
            if (header["version"], header["study"]) != (_VERSION, self._study):
                raise ValueError
            return header, ClearPart.model_validate_json(clear).with_sealed(sealed)
        except (OSError, ValueError):  # pydantic's are ValueErrors
            return {}, Answer()


def _digests(header: dict[str, Any], answer: Answer) -> dict[int, str]:
    """Of the vectors that a file knows of, by round."""
    found = dict(header.get("before", []))
    if answer.sealed:
        found[header["round"]] = hashlib.sha256(answer.sealed).hexdigest()
    return found


def task_digest(kind: str, request: Request, enrolled: Opened, *, run: str = "") -> str:
    """SHA-256 in hexadecimal over all that an answer depends on, beside the site's own X-rays.

    Those are the study, the round, the total of the round before (with a server optimiser, the
    history of all totals), and the sums of enrolment, from which weights and normalisation follow:
    what was opened, because a run that goes on has the same counts sealed anew. The site's X-rays
    are in those sums, so that other images to train on make another task. The run is not among
    them, unless ``run`` names it: training starts from the total, the quantizer's ranges follow
    from the model in it, and a vector binds its study and its round. So a vector made for one run
    is the one that another run of the study would get for the same task, and no run adds it twice,
    because it takes one answer of each site a round.
    """
    total = hashlib.sha256(request.total).hexdigest()
    sums = {name: array.tolist() for name, array in enrolled.integers.items()}
    number = request.round_number
    parts = (kind, request.study, run, number, total, request.history, enrolled.sites, sums)
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
