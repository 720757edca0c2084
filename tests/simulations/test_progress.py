from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from ppfl.federation import Journal
from ppfl.federation.journal import (
    MeanXRaysReleased,
    MetricsReleased,
    RoundClosed,
    RoundStarted,
    SiteAnswered,
    SiteAskedAgain,
    SiteEnrolled,
    SiteFailed,
    StudyStarted,
)
from simulations.progress import RunProgress, describe
from sites.phase import Phase
from tests.simulations.tiny import prepare_once, tiny_scenario


def test_a_run_is_told_as_it_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    prepare_once(tiny_scenario("unsafe_plaintext"), folder)
    journal = Journal(folder / "journal.jsonl")
    journal.write(SiteEnrolled(site="before", bytes_up=1))
    (folder / "sites" / "east" / "work").mkdir()
    screen = io.StringIO()
    with RunProgress(folder, Console(file=screen, width=80, force_terminal=True)):
        journal.write(SiteEnrolled(site="east", bytes_up=224))
        with Phase(folder / "sites" / "east" / "work").enter("train", 1) as step:
            step(3, 3)
        journal.write(RoundClosed(round=1, sites=("east",), seconds=2.0, total_sha256=""))
    told = screen.getvalue()
    assert "east enrolled" in told
    assert "before enrolled" not in told
    assert "round 1 closed: 1 sites, 2.0 s" in told
    assert "round 1: train" in told


def test_without_a_terminal_there_are_lines_only(tmp_path: Path) -> None:
    prepare_once(tiny_scenario("unsafe_plaintext"), tmp_path / "run")
    screen = io.StringIO()
    with RunProgress(tmp_path / "run", Console(file=screen, force_terminal=False)):
        Journal(tmp_path / "run" / "journal.jsonl").write(SiteEnrolled(site="east", bytes_up=1))
    assert screen.getvalue() == "  east enrolled\n"


def test_a_study_begins_with_its_bytes() -> None:
    started = StudyStarted(
        run="ab",
        study="covid",
        study_fingerprint="",
        classes=("a", "b"),
        custody="shared",
        suite="packed",
        protection="Paillier, 3072 bits",
        key_fingerprint="",
        key_bits=3072,
        sites=("east", "west"),
        minimum_sites=2,
        deadline_s=3600,
        rounds=6,
        values=2_265_000,
        update_bytes=6_400_000,
        round_bytes_down=6_401_000,
        study_bytes_up=38_500_000,
        study_bytes_down=47_600_000,
        versions={},
        resumed_after=0,
    )
    assert describe(started) == (
        "study covid: 2 sites, 6 rounds; an update is 2,265,000 integers; protection: Paillier, "
        "3072 bits\n"
        "each site sends 6.4 MB and receives 6.4 MB a round, 38.5 MB and 47.6 MB in all"
    )


def test_events_as_lines() -> None:
    answered = SiteAnswered(
        round=2, site="east", bytes_up=10_260_000, bytes_down=1, seconds={"train": 1.25}, clipped=0
    )
    assert describe(answered) == "  round 2: east: train 1.2 s; 10.3 MB sealed"
    again = SiteAskedAgain(round=2, site="west", code="flower-5")
    assert describe(again) == "  round 2: west was lost, is back, and is asked again"
    failed = SiteFailed(round=2, site="west", code="data", sentence="No X-rays.")
    assert describe(failed) == "  round 2: west failed: No X-rays."
    metrics = {"accuracy": 0.5, "images": 40}
    released = MetricsReleased(round=1, split="validation", sites=(), metrics=metrics)
    assert describe(released) == "  after round 1: accuracy 0.500 on 40 images"
    means = MeanXRaysReleased(sites=(), bytes_up=66_896, pictures={"Normal": "", "Effusion": ""})
    assert describe(means) == "  mean X-rays of Normal, Effusion opened; 67 kB sealed at each site"
    assert describe(RoundStarted(round=1, sites=())) == ""
