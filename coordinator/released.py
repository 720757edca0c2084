"""What the sites released in the clear, recorded when they agree."""

from __future__ import annotations

import json
from collections import Counter, defaultdict

from ppfl.federation import Journal
from ppfl.federation.journal import Alarm, MetricsReleased
from sites.requests import Answer, ReleasedSplit


class Released:
    """Collects the federation's metrics and the model's digest as each site reports them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._metrics: dict[tuple[int, ReleasedSplit], dict[str, str]] = defaultdict(dict)
        self._models: dict[int, dict[str, str]] = defaultdict(dict)

    def note(self, site: str, answer: Answer) -> None:
        """Keep what one answer says."""
        if answer.model_sha256:
            self._models[answer.released_round + 1][site] = answer.model_sha256
        for split, metrics in answer.released.items():
            told = json.dumps(metrics, sort_keys=True)
            self._metrics[answer.released_round, split][site] = told

    def publish(self) -> None:
        """Write what the sites reported to the journal, and an alarm where they disagree."""
        for (number, split), by_site in sorted(self._metrics.items()):
            if len(set(by_site.values())) > 1:
                self._alarm(number, "metrics-disagree", f"the {split} metrics", by_site)
            text = Counter(by_site.values()).most_common(1)[0][0]
            agreeing = tuple(site for site, told in by_site.items() if told == text)
            self._journal.write(
                MetricsReleased(
                    round=number,
                    split=split,
                    sites=agreeing,
                    metrics=json.loads(text),
                )
            )
        for number, digests in sorted(self._models.items()):
            if len(set(digests.values())) > 1:
                self._alarm(number, "model-disagrees", "the opened model", digests)
        self._metrics.clear()
        self._models.clear()

    def _alarm(self, number: int, code: str, what: str, by_site: dict[str, str]) -> None:
        groups: dict[str, list[str]] = defaultdict(list)
        for site, told in by_site.items():
            groups[told].append(site)
        parts = " against ".join(", ".join(sites) for sites in groups.values())
        self._journal.write(
            Alarm(
                round=number,
                code="metrics-disagree" if code == "metrics-disagree" else "model-disagrees",
                sentence=f"the sites disagree about {what} after round {number}: {parts}",
            )
        )
