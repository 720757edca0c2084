from __future__ import annotations

import errno
import hashlib
import os
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppfl.errors import RunError
from ppfl.federation import Opened
from ppfl.learning.metrics import compute_metrics
from sites.kept_answer import KeptAnswer, task_digest
from sites.requests import Answer, Request
from tests.report.runs import CLASSES, evaluated

_ANSWER = Answer(
    sealed=b"sealed\nvector",
    released={"validation": compute_metrics(evaluated(30), CLASSES).to_dict()},
    released_round=1,
    model_sha256="ab" * 32,
    seconds={"open": 0.5},
    clipped=3,
)


def test_what_was_kept_is_the_whole_answer(tmp_path: Path) -> None:
    kept = KeptAnswer(tmp_path, site="east", study="ab")
    assert kept.read("1") == Answer()
    kept.write("1", _ANSWER, round_number=1)
    assert kept.read("1") == _ANSWER
    (path,) = tmp_path.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    later = replace(_ANSWER, sealed=b"later")
    kept.write("2", later, round_number=2)
    assert (kept.read("1"), kept.read("2")) == (Answer(), later)
    assert [kept.sealed_in(number) for number in (0, 1, 2)] == [b"", b"", b"later"]
    assert list(tmp_path.iterdir()) == [path]
    other = KeptAnswer(tmp_path, site="east", study="cd")
    assert (other.read("2"), other.sealed_in(2)) == (Answer(), b"")
    other.forget()
    kept.forget()
    kept.forget()
    assert kept.read("2") == Answer()
    assert path.stat().st_size < 1000


def test_the_digests_of_the_last_two_rounds_outlive_what_was_kept(tmp_path: Path) -> None:
    kept = KeptAnswer(tmp_path, site="east", study="ab")
    kept.forget()
    assert not list(tmp_path.iterdir())
    digests = {}
    for number in (3, 0, 4, 0, 4):  # sums of X-rays are asked for as round 0, also in between
        answer = replace(_ANSWER, sealed=b"%d, once more" % number)
        kept.write(f"{number}", answer, round_number=number)
        digests[number] = hashlib.sha256(answer.sealed).hexdigest()
        assert kept.digest_in(3) == digests[3]
    kept.forget()
    kept.forget()
    assert [kept.digest_in(number) for number in (2, 3, 4, 5)] == ["", digests[3], digests[4], ""]
    assert kept.sealed_in(4) == b""
    kept.write("5", _ANSWER, round_number=5)
    kept.write("6", _ANSWER, round_number=6)
    assert (kept.digest_in(3), kept.digest_in(4)) == ("", digests[4])
    for number in (1, 2, 2):  # of a run that began anew
        kept.write(f"{number}, anew", answer, round_number=number)
    assert kept.digest_in(1) == hashlib.sha256(answer.sealed).hexdigest()
    assert kept.digest_in(6) == ""


def test_on_a_full_disk_the_digests_go_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = KeptAnswer(tmp_path, site="east", study="ab")
    kept.write("1", _ANSWER, round_number=1)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    kept.forget()
    assert not list(tmp_path.iterdir())


def test_of_two_processes_that_write_one_file_each_writes_it_whole(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ppfl.files import replace_private\n"
        "for n in range(200): replace_private(Path(sys.argv[1]), [sys.argv[2].encode() * 9999])"
    )
    path = tmp_path / "kept"
    writers = [subprocess.Popen([sys.executable, "-c", code, path, each]) for each in "ab"]
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            assert path.read_bytes() in (b"a" * 9999, b"b" * 9999)
    assert [writer.returncode for writer in writers] == [0, 0]
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_file_is_as_none(tmp_path: Path) -> None:
    kept = KeptAnswer(tmp_path, site="east", study="ab")
    kept.write("1", _ANSWER, round_number=1)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        assert kept.read("1") == Answer()
        path.write_bytes(whole[:cut] + bytes([whole[cut] ^ 1]) + whole[cut + 1 :])
        assert kept.read("1") == Answer()
    path.write_bytes(whole)
    assert kept.read("1") == _ANSWER


def test_a_write_that_fails_leaves_what_was_kept(tmp_path: Path) -> None:
    kept = KeptAnswer(tmp_path, site="east", study="ab")
    kept.write("1", _ANSWER, round_number=1)
    in_the_way = tmp_path / ".sealed-answer.bin.part"
    in_the_way.write_bytes(b"of a process that was killed")
    in_the_way.chmod(0o644)
    kept.write("2", _ANSWER, round_number=2)
    assert [path.name for path in tmp_path.iterdir()] == ["sealed-answer.bin"]
    with pytest.raises(RunError, match="cannot be written"):
        KeptAnswer(tmp_path / "missing", site="east", study="ab").write(
            "3", _ANSWER, round_number=3
        )
    assert kept.read("2") == _ANSWER


def test_a_task_is_all_that_an_answer_depends_on() -> None:
    request = Request("study", "run", 3, enrolled=b"sealed once", total=b"total")
    sums = {"images": np.array(24), "pixels": np.array([1, 2, 3])}
    enrolled = Opened(3, {}, sums)
    task = task_digest("train", request, enrolled)
    # a run that goes on seals the same counts anew, under a new name if no round was complete
    again = replace(request, run="another run", enrolled=b"sealed again")
    assert task_digest("train", again, Opened(3, {}, dict(sums))) == task
    others = [
        task_digest("add_xrays", request, enrolled),
        task_digest("train", replace(request, study="another study"), enrolled),
        task_digest("train", replace(request, round_number=4), enrolled),
        task_digest("train", replace(request, total=b"another total"), enrolled),
        task_digest("train", request, replace(enrolled, sites=2)),
        task_digest("train", request, Opened(3, {}, sums | {"images": np.array(25)})),
        task_digest("train", request, Opened(3, {}, sums | {"pixels": np.array([1, 3, 2])})),
        task_digest("train", request, enrolled, run="run"),
        task_digest("train", request, enrolled, run="another run"),
    ]
    assert len({task, *others}) == 1 + len(others)
