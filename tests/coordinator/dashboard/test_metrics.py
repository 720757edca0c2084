"""What Prometheus gets, and whether the Grafana dashboard asks for what there is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import yaml
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from prometheus_client.samples import Sample

from coordinator.dashboard import reading
from coordinator.dashboard.metrics import Metrics
from coordinator.dashboard.runs import LiveRun, Runs
from coordinator.dashboard.state import CLASS_CURVES, CURVES
from ppfl.federation.journal import Alarm, MetricsReleased, RoundStarted, SiteFailed
from ppfl.settings import CoordinatorFile
from tests.coordinator.dashboard.pages import TOKEN, Client
from tests.coordinator.dashboard.studies import CLASSES, SITES, answered, closed, study, write

_TOP = Path(__file__).parents[3]
_PAGE = (_TOP / "docs" / "dashboard.md").read_text(encoding="utf-8")
_BEARER = {"authorization": f"Bearer {TOKEN}"}
_INSIDE = ("harbour", "valley")
_FIGURES = dict.fromkeys(CURVES, 0.5) | {"images": 7, "confusion": []}
_OF_CLASS = dict.fromkeys(CLASS_CURVES, 0.25) | {"images": 3}
_EVENTS = (
    *list(study(rounds=2))[:-3],
    RoundStarted(round=3, sites=SITES),
    answered(3, "harbour", clipped=7),
    Alarm(round=3, site="harbour", code="clipping", sentence="harbour clipped 7 parameters"),
    SiteFailed(round=3, site="north", code="flower-404", sentence="Flower lost the site."),
    answered(3, "valley"),
    closed(3, _INSIDE),
    MetricsReleased(
        round=3,
        split="validation",
        sites=_INSIDE,
        metrics=_FIGURES | {"loss": None, "classes": dict.fromkeys(CLASSES, _OF_CLASS)},
    ),
)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    """The dashboard over a run under way and one that has not begun; nobody has logged in."""
    write(tmp_path / "covid", *_EVENTS)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "study.toml").touch()
    with closing(Client(tmp_path)) as client:
        yield client


def _samples(answer: httpx.Response) -> list[Sample]:
    assert answer.status_code == 200
    families = list(read_text(answer.text))
    assert all(family.documentation.endswith(".") for family in families)
    return [sample for family in families for sample in family.samples]


def _value(samples: list[Sample], name: str, **labels: str) -> float:
    wanted = {"run": "covid", "study": "thorax"} | labels
    (value,) = [s.value for s in samples if s.name == f"ppfl_{name}" and s.labels == wanted]
    return value


def test_counters_wait_until_a_long_journal_was_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "covid", *_EVENTS)
    monkeypatch.setattr(reading, "_READ_BYTES", 4000)
    run = LiveRun("covid", tmp_path / "covid")
    run.look()
    assert 0 < run.to_figures()["journal"]["read"] < 1
    runs = cast("Runs", [run])
    assert b"ppfl_study_state{" not in Metrics(runs).to_page("")[0]
    while run.look():
        pass
    assert b"ppfl_study_state{" in Metrics(runs).to_page("")[0]


def test_metrics_tell_the_present_and_what_was_since_the_beginning(client: Client) -> None:
    found = _samples(client.get("/metrics", headers=_BEARER))
    assert _value(found, "study_state", state="running") == 1
    assert _value(found, "study_state", state="closed") == 0
    assert (_value(found, "study_complete_rounds"), _value(found, "study_rounds")) == (3, 2)
    assert _value(found, "round_sites", result="failed") == 1
    assert _value(found, "round_duration_seconds_count") == 3
    assert _value(found, "round_duration_seconds_sum") == 60
    assert _value(found, "site_state", site="north", state="lost") == 1
    assert _value(found, "site_failures_total", site="north", state="lost") == 1
    assert _value(found, "site_updates_total", site="north") == 2
    assert _value(found, "site_phase_seconds_total", site="harbour", phase="train") == 48
    assert _value(found, "site_sent_bytes_total", site="harbour") == 848 + 3 * 7_200_000
    assert _value(found, "site_clipped_parameters_total", site="harbour") == 7
    assert _value(found, "alarms_active", code="clipping") == 1
    assert _value(found, "alarms_total", code="site-lost") == 1
    assert _value(found, "federation_round", split="validation") == 3
    assert _value(found, "federation_accuracy", split="validation") == 0.5
    assert _value(found, "class_auroc", split="validation", **{"class": "COVID"}) == 0.25
    assert _value(found, "journal_lines_total") == len(_EVENTS)
    assert not [s for s in found if s.name == "ppfl_federation_loss"]  # the sites told none
    new = {s.name for s in found if s.labels["run"] == "new" and s.value}
    assert new == {"ppfl_study_state", "ppfl_journal_read_ratio"}


def test_prometheus_gets_openmetrics_if_it_asks_for_it(client: Client) -> None:
    accept = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"}
    answer = client.get("/metrics", headers=_BEARER | accept)
    assert answer.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert {family.name for family in read_openmetrics(answer.text)} >= {"ppfl_site_updates"}


@pytest.mark.parametrize(
    "told", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer é"]
)
def test_only_the_token_opens_the_metrics(told: str, client: Client) -> None:
    answer = client.get("/metrics", headers={"authorization": told.encode()})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert "ppfl_" not in answer.text


def test_the_page_lists_every_metric_with_its_labels(client: Client) -> None:
    rows = re.findall(r"^\| `(ppfl_\w+)` \|([^|]*)\|", _PAGE, re.MULTILINE)
    told = {name: set(re.findall(r"`(\w+)`", labels)) for name, labels in rows}
    assert len(told) == len(rows)
    found = _labels(client) | {"ppfl_federation_loss": {"split"}}
    found["ppfl_study_info"] = set()  # its labels are its values
    assert told == {name: labels - {"run", "study"} for name, labels in found.items()}


def _labels(client: Client) -> dict[str, set[str]]:
    samples = _samples(client.get("/metrics", headers=_BEARER))
    return {sample.name: set(sample.labels) for sample in samples}


def test_grafana_asks_for_metrics_and_labels_that_there_are(client: Client) -> None:
    board = json.loads((_TOP / "deploy" / "grafana" / "ppfl.json").read_text())
    known = _labels(client) | {"ppfl_federation_loss": {"run", "study", "split"}}
    variables = {f"${each['name']}" for each in board["templating"]["list"]}
    asked = [(target["expr"], target["legendFormat"]) for target in _targets(board["panels"])]
    asked.append((board["templating"]["list"][1]["definition"], ""))
    assert len(asked) > 20
    samples = _samples(client.get("/metrics", headers=_BEARER))
    values = {
        name: {sample.labels[name] for sample in samples if name in sample.labels}
        for name in ("state", "result", "split")
    } | {"run": {"$run"}}
    for query, legend in asked:
        text = re.sub(r'"[^"]*"', '""', query)
        names = set(re.findall(r"\bppfl_\w+", text))
        assert names, query
        assert names <= set(known), query
        for name, inside in re.findall(r"(ppfl_\w+)\{([^}]*)\}", query):
            for label, value in re.findall(r'(\w+)="([^"]*)"', inside):
                assert label in known[name], query
                assert value in values[label], query
        grouped = re.findall(r"by \((\w+)\)", query) + re.findall(r"\{\{(\w+)\}\}", legend)
        assert set(grouped) <= set.union(*(known[name] for name in names)), query
        assert {f"${name}" for name in re.findall(r"\$(\w+)", query)} <= variables | {"$__range"}
        for left, right in ("()", "{}", "[]"):
            assert text.count(left) == text.count(right), query


def _targets(panels: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in panels:
        assert panel["targets"]
        yield from panel["targets"]


def test_the_panels_lie_beside_each_other() -> None:
    board = json.loads((_TOP / "deploy" / "grafana" / "ppfl.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, panel["title"]
                taken.add((x, y))


def test_the_scrape_settings_lead_to_the_metrics(client: Client) -> None:
    told = yaml.safe_load((_TOP / "deploy" / "prometheus" / "scrape.yaml").read_text())
    (job,) = told["scrape_configs"]
    kind = job["authorization"]["type"]
    answer = client.get(job["metrics_path"], headers={"authorization": f"{kind} {TOKEN}"})
    assert answer.status_code == 200
    port = CoordinatorFile.model_fields["dashboard_port"].default
    assert job["static_configs"] == [{"targets": [f"127.0.0.1:{port}"]}]
    assert job["authorization"]["credentials_file"] in _PAGE
