"""What the journal says of the present."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from coordinator import dashboard
from coordinator.dashboard.state import RunState
from ppfl.federation.journal import (
    Alarm,
    AlarmCode,
    Event,
    MeanXRaysReleased,
    RoundStarted,
    SiteAskedAgain,
    SiteEnrolled,
    SiteFailed,
    StudyFailed,
)
from ppfl.uploads import Sending
from tests.coordinator.dashboard.studies import (
    CLASSES,
    SITES,
    answered,
    closed,
    released,
    started,
    study,
)


def _state(*events: Event) -> RunState:
    state = RunState()
    for event in events:
        state.note(event)  # type: ignore[arg-type]
    return state


def _all(state: RunState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(state.to_json(0))
    return found


def _active(state: RunState) -> list[str]:
    return [alarm["code"] for alarm in _all(state).get("alarms", {}).values() if alarm["active"]]


_BEGUN = (started(), *(SiteEnrolled(site=site, bytes_up=848) for site in SITES))
_ASKED = RoundStarted(round=1, sites=SITES)
_LOST = SiteFailed(round=1, site="north", code="flower-404", sentence="Flower lost the site.")


def test_a_whole_study_is_told_in_full() -> None:
    found = _all(_state(*study()))
    assert found["now"]["state"] == "closed"
    assert (found["now"]["complete"], found["now"]["model_sha256"]) == (4, "ab" * 32)
    assert sorted(found["rounds"]) == ["1", "2", "3", "4"]
    assert sorted(found["validation"]) == ["0", "1", "2", "3", "4"]
    assert set(found["test"]["4"]["classes"]) == set(CLASSES)
    assert found["study"]["key_fingerprint"] == "8fa4" * 16
    north = found["sites"]["north"]
    assert north["left"] == {
        "enrolments": [1, 848],
        "updates": [4, 4 * 7_200_000],
        "mean_xrays": [0, 0],
        "clear": 4 * 1500,
    }
    assert north["up"] == 848 + 4 * 7_200_000
    assert north["down"] == 9_000_000 + 4 * 7_200_848


def test_of_thousands_of_rounds_a_page_gets_every_so_many_and_the_last() -> None:
    rounds = 2500
    found = _all(_state(*study(rounds=rounds)))
    for section in ("rounds", "validation"):
        numbers = [int(number) for number in found[section]]
        assert numbers[-1] == rounds, section
        assert all(number % 3 == 0 for number in numbers[:-1]), section
        assert len(numbers) == pytest.approx(rounds / 3, abs=2), section
    assert found["now"]["complete"] == rounds


def test_increments_add_up_to_the_whole_and_hold_no_more_than_changed() -> None:
    state, page, sizes = RunState(), {}, []
    for event in study(rounds=40):
        before = state.changes.revision
        state.note(event)  # type: ignore[arg-type]
        text = state.to_json(before)
        sizes.append(len(text))
        for section, rows in json.loads(text).items():
            page[section] = rows if section in ("study", "now") else page.get(section, {}) | rows
    assert page == _all(state)
    assert max(sizes[-20:]) <= 1.1 * max(sizes[:20])  # not more for a long study
    assert json.loads(state.to_json(state.changes.revision)) == {}


@pytest.mark.parametrize(
    ("event", "phase"),
    [
        (answered(1, "north"), "done"),
        (_LOST, "lost"),
        (_LOST.model_copy(update={"code": "deadline"}), "late"),
        (_LOST.model_copy(update={"code": "study-mismatch"}), "refused"),
        (SiteAskedAgain(round=1, site="north", code="flower-404"), "working"),
        (StudyFailed(round=0, code="quorum", sentence="too few"), "stopped"),
    ],
)
def test_each_site_is_in_the_phase_that_the_journal_tells(event: Event, phase: str) -> None:
    assert _all(_state(started()))["sites"]["north"]["phase"] == "expected"
    assert _all(_state(*_BEGUN))["sites"]["north"]["phase"] == "enrolled"
    assert _all(_state(*_BEGUN, _ASKED))["sites"]["north"]["phase"] == "working"
    assert _all(_state(*_BEGUN, _ASKED, event))["sites"]["north"]["phase"] == phase


def test_a_sites_next_answer_is_estimated_from_its_last() -> None:
    asked = datetime(2026, 1, 1, tzinfo=UTC)
    arrived = answered(1, "north", time=asked + timedelta(seconds=28.3), bytes_up=3, bytes_down=1)
    state = _state(*_BEGUN, _ASKED.model_copy(update={"time": asked}), arrived)
    steps = dict(_all(state)["sites"]["north"]["expected"])
    assert list(steps) == ["receiving", "opening", "evaluating", "training", "sealing", "uploading"]
    assert sum(steps.values()) == pytest.approx(28.3)
    assert (steps["receiving"], steps["uploading"]) == pytest.approx((2.5, 7.5))


def test_a_lost_site_is_an_alarm_until_it_answers() -> None:
    again = SiteAskedAgain(round=1, site="north", code="flower-404")
    assert _active(_state(*_BEGUN, _ASKED, again)) == ["site-lost"]
    assert _active(_state(*_BEGUN, _ASKED, again, answered(1, "valley"))) == ["site-lost"]
    assert _active(_state(*_BEGUN, _ASKED, again, answered(1, "north"))) == []


def test_the_quorum_is_at_risk_when_no_more_site_may_be_lost() -> None:
    four = (*SITES, "west")
    begun = started(sites=four), RoundStarted(round=1, sites=four)
    assert "quorum" not in _active(_state(*begun, _LOST))
    second = _LOST.model_copy(update={"site": "west"})
    state = _state(*begun, _LOST, second)
    assert "quorum" in _active(state)
    assert "2 sites left and needs 2" in json.dumps(_all(state)["alarms"])
    inside = SITES[0], SITES[2]
    answers = [answered(1, site) for site in inside]
    assert "quorum" not in _active(_state(*begun, _LOST, second, *answers, closed(1, inside)))


def test_clipping_is_an_alarm_until_the_site_answers_without_it() -> None:
    first = (*_BEGUN, _ASKED, *_clipped(1, "north"), closed(1, ("north",)))
    assert _active(_state(*first)) == ["clipping"]
    second = RoundStarted(round=2, sites=SITES), answered(2, "valley")
    assert _active(_state(*first, *second)) == ["clipping"]
    assert _active(_state(*first, *second, answered(2, "north"))) == []


def _clipped(number: int, site: str) -> tuple[Event, Event]:
    sentence = f"{site} clipped {number} parameters"
    alarm = Alarm(round=number, site=site, code="clipping", sentence=sentence)
    return answered(number, site, clipped=number), alarm


def test_what_is_raised_again_is_one_alarm_that_tells_when_and_how_often() -> None:
    events: list[Event] = [started(minimum_sites=1)]
    for number in range(1, 301):
        events += [RoundStarted(round=number, sites=SITES), *_clipped(number, "north")]
        events += _clipped(number, "valley")
        events.append(_LOST.model_copy(update={"round": number, "site": "harbour"}))
    state = _state(*events)
    rows = {(row["code"], row["site"]): row for row in _all(state)["alarms"].values()}
    assert set(rows) == {("clipping", "north"), ("clipping", "valley"), ("site-lost", "harbour")}
    north = rows["clipping", "north"]
    assert (north["first"], north["last"], north["times"]) == (1, 300, 300)
    assert north["sentence"] == "north clipped 300 parameters"
    assert state.alarms.to_counts() == {"clipping": (2, 600), "site-lost": (1, 300)}


def test_past_alarms_do_not_pile_up() -> None:
    again = [_LOST, answered(1, "north")] * 2000
    found = _all(_state(started(minimum_sites=1), _ASKED, *again))["alarms"]
    assert len(found) == 500
    assert not any(row["active"] for row in found.values())
    assert max(found, key=int) == "1999"


def test_every_code_of_an_alarm_has_words_on_the_page() -> None:
    script = (Path(dashboard.__file__).parent / "assets" / "sections.js").read_text()
    table = re.search(r"const ALARMS = \{(.*?)\};", script, re.DOTALL)
    assert table is not None
    words = set(re.findall(r'^  "?([\w-]+)"?: "', table[1], re.MULTILINE))
    raised = {"quorum", "ended", "site-late", "site-refused"}  # by the dashboard itself
    assert words == {*get_args(AlarmCode), *raised}


def test_a_disagreement_stays_an_alarm() -> None:
    alarm = Alarm(round=1, code="metrics-disagree", sentence="the sites disagree")
    events = list(study())
    assert _active(_state(*events[:-1], alarm, events[-1])) == ["metrics-disagree"]


def test_a_run_that_writes_nothing_for_longer_than_a_round_may_take_is_silent() -> None:
    state = _state(started(deadline_s=60.0), _ASKED)
    state.tick(time.time() + 60)
    assert state.state == "running"
    state.tick(time.time() + 600)
    assert state.state == "silent"
    state.tick(time.time())
    assert state.state == "running"


def test_a_run_that_goes_on_drops_what_it_does_again() -> None:
    events = list(study(rounds=4))[:-3]
    state = _state(*events, StudyFailed(round=4, code="quorum", sentence="too few"))
    assert state.state == "stopped"
    restarts = state.restarts
    state.note(started(resumed_after=2))
    assert state.restarts == restarts + 1
    found = _all(state)
    assert sorted(found["rounds"]) == ["1", "2"]
    assert (found["now"]["state"], found["now"]["complete"]) == ("running", 2)
    assert _active(state) == []


def test_of_several_runs_in_one_journal_the_last_is_shown() -> None:
    state = _state(*study(run="a1"), started(run="b2", study="another"), _ASKED)
    found = _all(state)
    assert (found["study"]["study"], found["study"]["earlier_runs"]) == ("another", 1)
    assert "rounds" not in found
    assert found["sites"]["north"]["up"] == 0


def test_the_sums_of_x_rays_of_a_run_that_began_anew_are_still_those_that_left() -> None:
    summed = MeanXRaysReleased(sites=SITES, bytes_up=500, pictures={})
    for study_sha256, bytes_up in (("06" * 32, 500), ("07" * 32, 0)):
        found = _all(_state(*_BEGUN, summed, started(run="b2", study_fingerprint=study_sha256)))
        assert found["sites"]["north"]["up"] == bytes_up


def test_the_overview_tells_the_last_accuracy() -> None:
    state = _state(*_BEGUN, released(0), released(1))
    assert state.to_overview()["accuracy"] == pytest.approx(1 - 0.6 * 0.7)


def test_what_comes_in_of_an_answer_is_shown_while_it_does() -> None:
    state = _state(*_BEGUN, _ASKED)
    revision = state.changes.revision
    state.note_uploads({"north": Sending(3_000_000, began=0.0, last=1.0)})
    changed = json.loads(state.to_json(revision))["sites"]
    assert {name: row["sent"] for name, row in changed.items()} == {"north": 3_000_000}
    state.note_uploads({})
    assert _all(state)["sites"]["north"]["sent"] is None
