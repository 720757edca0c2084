"""Whether a federation ended in the right model, and the coordinator knows nothing of a site."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ppfl.crypto import read_private_key
from ppfl.federation.journal import RoundClosed, StudyClosed
from ppfl.learning.files import load_model, parameters_sha256
from ppfl.settings import SiteFile, Study
from sites.vectors import create_suite, shapes_of, update_plan
from tests.attacks.canaries import find
from tests.attacks.holdings import held_in, site_secrets
from tests.deployed import Deployed
from tests.live.federation import LiveFederation
from tests.live.replay import Replay, rounds_of

_SEARCHED = ("state.db", "superlink.log", "superexec.log", "requests.log", "uploads.json")


def replay_of(prepared: Deployed, *, cache: Path) -> Replay:
    """The replay of a federation; all that are made from the same folder share it."""
    study = Study.read(prepared.coordinator / "study.toml")
    start, _ = load_model(prepared.coordinator / "start.safetensors")
    files = [SiteFile.read(prepared.site(name) / "site.toml") for name in study.federation.sites]
    return Replay(study, start, files, cache=cache)


def check_model(live: LiveFederation, replay: Replay) -> int:
    """How many rounds' totals were opened and found equal to the replay's average.

    Raises:
        AssertionError: one is not, or is of others than the journal says; or the final model of
            the study, or the one that a site keeps, is not the replay's.
    """
    events = live.events()
    rounds = rounds_of(events)
    closed = events[-1]
    assert isinstance(closed, StudyClosed), events[-1]
    assert len(rounds) == closed.rounds == live.study.training.rounds
    digests = {e.round: e.total_sha256 for e in events if isinstance(e, RoundClosed)}
    site = SiteFile.read(live.deployed.site(live.sites[0]) / "site.toml")
    assert site.key is not None
    private = read_private_key(site.key, passphrase=site.passphrase())
    suite = create_suite(live.study, private.public, private)
    equal = 0
    for played in rounds:
        expected = replay.model_after(rounds[: played.number])
        plan = update_plan(live.study, shapes_of(expected))
        total = live.totals.get(played.number, b"")
        if hashlib.sha256(total).hexdigest() != digests[played.number]:
            continue  # its checkpoint was not seen before the next took its place
        vector = suite.read(total, values=plan.values)
        opened = plan.open(suite, vector, round_number=played.number)
        assert opened.sites == len(played.contributors)
        for name, array in expected.items():
            assert np.array_equal(opened.parameters[name], array), (played, name)
        equal += 1
    model = parameters_sha256(replay.model_after(rounds))
    assert closed.model_sha256 == model
    for name in closed.sites:
        kept, _ = load_model(live.work(name) / "model.safetensors")
        assert parameters_sha256(kept) == model, name
    return equal


def check_secrets(live: LiveFederation) -> int:
    """How many files and tables of the coordinator's were searched for secrets of the sites.

    Raises:
        AssertionError: one of them holds a site's key, passphrase, path or patient, or the model;
            or one that was to be searched is not there.
    """
    held = held_in(live.deployed.coordinator)
    for name in _SEARCHED:
        assert any(where.endswith(name) for where in held), f"{name} among {sorted(held)}"
    canaries = {
        f"{name}'s {what}": canary
        for name in live.sites
        for what, canary in site_secrets(
            SiteFile.read(live.deployed.site(name) / "site.toml")
        ).items()
    }
    assert find(canaries, held) == []
    return len(held)
