"""The runs as Prometheus sees them: gauges and counters made from each run's present state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from coordinator.dashboard.runs import Runs
from coordinator.dashboard.sites import PHASES
from coordinator.dashboard.state import CLASS_CURVES, CURVES, STATES

_INFO = ("custody", "suite", "protection", "key_fingerprint", "study_fingerprint")
_RUN = ("run", "study")
_FIGURES = {
    "accuracy": "Share of images whose class was found, of all sites together.",
    "balanced_accuracy": "Mean of the classes' sensitivities, of all sites together.",
    "macro_auroc": "Mean of the classes' areas under the ROC curve, of all sites together.",
    "loss": "Cross-entropy in nats, of all sites together.",
    "brier": "Brier score, of all sites together.",
    "ece": "Expected calibration error, of all sites together.",
    "images": "Images that the figures are of.",
}
_CLASS_FIGURES = {
    "auroc": "Area under the ROC curve of one class against the others.",
    "sensitivity": "Share of the class's images that were found.",
    "specificity": "Share of the other classes' images that were not taken for it.",
    "images": "Images of the class that the figures are of.",
}


class Metrics(Collector):
    """Makes the page that a Prometheus server scrapes.

    Args:
        runs: what is told of.
    """

    def __init__(self, runs: Runs) -> None:
        self._runs = runs
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def to_page(self, accept: str) -> tuple[bytes, str]:
        """All metrics in the format that a request's Accept header prefers, and its type."""
        encode, kind = choose_encoder(accept)
        return encode(self._registry), kind

    def collect(self) -> Iterator[Metric]:
        """The metrics of all runs, as prometheus_client asks for them."""
        families = _Families()
        for run in self._runs:
            figures = run.to_figures()
            if figures["journal"]["read"] == 1:  # else counters would jump, as if all happened now
                families.add_run(run.name, figures)
        yield from families

    def describe(self) -> Iterator[Metric]:
        """Their names, without reading the runs."""
        yield from _Families()


class _Families:
    """All metrics, which get a sample for each run, site, phase or class."""

    def __init__(self) -> None:
        self._all: dict[str, Any] = {}
        self._info = InfoMetricFamily("ppfl_study", "What the sites agreed on.", labels=_RUN)
        gauge, counter = self._gauge, self._counter
        gauge("study_state", "1 for the state in which the study is.", "state")
        gauge("study_rounds", "Rounds that the study has.")
        gauge("study_complete_rounds", "Rounds whose total is on disk.")
        gauge("study_sites", "Sites that agreed to the study.")
        gauge("study_minimum_sites", "Least number of sites in a round's total.")
        gauge("study_start_timestamp_seconds", "When the study began.")
        gauge("study_last_event_timestamp_seconds", "When its journal was last written to.")
        gauge("round", "The round that is under way, or was last.")
        gauge("round_start_timestamp_seconds", "When that round began.")
        gauge("round_sites", "Sites of that round by what came of them.", "result")
        self._all["round_duration_seconds"] = SummaryMetricFamily(
            "ppfl_round_duration_seconds", "Wall time of the complete rounds.", labels=_RUN
        )
        gauge("alarms_active", "Alarms that are not over.", "code")
        counter("alarms", "How often an alarm was raised.", "code")
        gauge("site_state", "1 for the state in which the site is.", "site", "state")
        counter("site_phase_seconds", "Time that the site's updates took.", "site", "phase")
        counter("site_updates", "Updates that arrived.", "site")
        counter("site_sent_bytes", "Sealed vectors that the site sent.", "site")
        counter("site_received_bytes", "Totals and parameters sent to the site.", "site")
        counter("site_clipped_parameters", "Parameters out of their range.", "site")
        counter("site_failures", "Rounds without the site, by what kept it out.", "site", "state")
        gauge("federation_round", "Round after which the model was that is judged.", "split")
        for name in CURVES:
            gauge(f"federation_{name}", _FIGURES[name], "split")
        for name in CLASS_CURVES:
            gauge(f"class_{name}", _CLASS_FIGURES[name], "split", "class")
        gauge("journal_read_ratio", "Share of the journal that was read, of its bytes.")
        counter("journal_lines", "Lines of the journal that were read.")
        counter("journal_torn_lines", "Lines among them that a crash tore.")

    def __iter__(self) -> Iterator[Metric]:
        yield self._info
        yield from self._all.values()

    def _gauge(self, name: str, told: str, *labels: str) -> None:
        self._all[name] = GaugeMetricFamily(f"ppfl_{name}", told, labels=(*_RUN, *labels))

    def _counter(self, name: str, told: str, *labels: str) -> None:
        self._all[name] = CounterMetricFamily(f"ppfl_{name}", told, labels=(*_RUN, *labels))

    def add_run(self, name: str, figures: Mapping[str, Any]) -> None:
        """Add what is known of one run."""
        study, now, journal = figures["study"], figures["now"], figures["journal"]
        run = name, study.get("study", "")

        def add(metric: str, value: float | None, *labels: str) -> None:
            if value is not None:
                self._all[metric].add_metric((*run, *labels), value)

        def add_state(metric: str, states: tuple[str, ...], state: str, *labels: str) -> None:
            for each in states:
                add(metric, each == state, *labels, each)

        add_state("study_state", STATES, now["state"])
        add("journal_read_ratio", journal["read"])
        add("journal_lines", journal["lines"])
        add("journal_torn_lines", journal["torn"])
        if not study.get("run"):
            return  # it has not begun
        self._info.add_metric(run, {each: study[each] for each in _INFO})
        add("study_rounds", study["rounds"])
        add("study_complete_rounds", now["complete"])
        add("study_sites", len(study["sites"]))
        add("study_minimum_sites", study["minimum_sites"])
        add("study_start_timestamp_seconds", study["begun"])
        add("study_last_event_timestamp_seconds", now["last"])
        add("round", now["round"])
        add("round_start_timestamp_seconds", now["since"])
        for result in ("asked", "answered", "failed"):
            add("round_sites", now[result], result)
        count, total_s = figures["rounds"]
        self._all["round_duration_seconds"].add_metric(run, count, total_s)
        for code, (active, raised) in figures["alarms"].items():
            add("alarms_active", active, code)
            add("alarms", raised, code)
        for site, row in figures["sites"].items():
            add_state("site_state", PHASES, row["phase"], site)
            for phase, seconds in row["phase_seconds"].items():
                add("site_phase_seconds", seconds, site, phase)
            add("site_updates", row["updates"], site)
            add("site_sent_bytes", row["up"], site)
            add("site_received_bytes", row["down"], site)
            add("site_clipped_parameters", row["clipped"], site)
            for state, times in row["failures"].items():
                add("site_failures", times, site, state)
        for split, (number, metrics) in figures["metrics"].items():
            add("federation_round", number, split)
            for figure in CURVES:
                add(f"federation_{figure}", metrics.get(figure), split)
            for label, row in metrics["classes"].items():
                for figure in CLASS_CURVES:
                    add(f"class_{figure}", row.get(figure), split, label)
