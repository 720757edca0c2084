from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

import coordinator.folder
from coordinator.folder import (
    create_folder,
    node_keys,
    prepare_run,
    renew_certificate,
    write_kits,
)
from coordinator.rounds import Coordinator
from ppfl.crypto import certificates, generate_key
from ppfl.crypto.certificates import check_server
from ppfl.errors import (
    CertificateError,
    KeyFileError,
    KeyMismatchError,
    KitError,
    ModelError,
    PpflError,
    RunError,
    SettingsError,
    StudyMismatchError,
)
from ppfl.federation.cards import Card
from ppfl.federation.ceremony import Ceremony, hold_ceremony
from ppfl.federation.kit import Kit
from ppfl.settings import CoordinatorFile, Study
from simulations.main import _app
from simulations.scenario import read_scenario
from sites.identity import create_identity
from tests.deployed import SITES, Deployed, draft


def _kits(deployed: Deployed) -> list[Path]:
    ceremony = Ceremony.read(deployed.ceremony)
    return list(write_kits(deployed.coordinator, ceremony, weights=None).files)


def _settings(deployed: Deployed) -> CoordinatorFile:
    return CoordinatorFile.read(deployed.coordinator / "coordinator.toml")


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_new_folder_holds_a_draft_and_files_for_tls(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    create_folder(folder, draft(), host="ppfl.example.org", port=443, days=30)
    settings = CoordinatorFile.read(folder / "coordinator.toml")
    assert (settings.host, settings.port) == ("ppfl.example.org", 443)
    assert Study.read(settings.study) == draft()
    for path in (settings.ca_key, settings.certificate_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    check_server(
        settings.certificate,
        settings.certificate_key,
        authority=settings.ca_certificate,
        host="ppfl.example.org",
    )
    with pytest.raises(KeyFileError, match="no key is ever overwritten"):
        create_folder(folder, draft(), host="ppfl.example.org", port=443, days=30)
    with pytest.raises(RunError, match="still a draft"):
        prepare_run(settings)


def test_what_cannot_be_a_coordinator_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "coordinator"
    encryption = draft().encryption.model_copy(update={"custody": "unsafe_plaintext"})
    plain = draft().model_copy(update={"encryption": encryption})
    for study, host, port, message in (
        (draft(), "https://ppfl.example.org", 443, "no DNS name"),
        (draft(), "ppfl.example.org", 70_000, "port"),
        (plain, "ppfl.example.org", 443, "encrypts nothing"),
    ):
        with pytest.raises(SettingsError, match=message):
            create_folder(folder, study, host=host, port=port, days=30)
    assert not folder.exists()


def test_kits_are_the_same_each_time_and_after_an_update(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {path: path.read_bytes() for path in (deployed.coordinator / "kits").iterdir()}
    study = (deployed.coordinator / "study.toml").read_bytes()
    assert _kits(deployed) == [deployed.kit(site) for site in SITES]
    assert {path: path.read_bytes() for path in (deployed.coordinator / "kits").iterdir()} == before
    assert (deployed.coordinator / "study.toml").read_bytes() == study
    monkeypatch.setattr(coordinator.folder, "version", lambda _: "9.1")
    _kits(deployed)
    assert {path: path.read_bytes() for path in (deployed.coordinator / "kits").iterdir()} == before
    shutil.rmtree(deployed.coordinator / "kits")
    _kits(deployed)
    assert all(Kit.read(deployed.kit(site)).ppfl == "9.1" for site in SITES)


def _other_key(deployed: Deployed) -> None:
    shutil.move(deployed.ceremony, deployed.root / "first")
    cards = [Card.read(deployed.site(name) / f"{name}.card") for name in SITES]
    hold_ceremony(generate_key(2048), cards, deployed.ceremony)


def _other_key_for_a_fresh_draft(deployed: Deployed) -> None:
    _other_key(deployed)
    (deployed.coordinator / "study.toml").write_text(draft().to_toml())


def _other_sites(deployed: Deployed) -> None:
    shutil.rmtree(deployed.ceremony)
    names = ("alpha", "delta")
    cards = [create_identity(name, deployed.root / "new" / name) for name in names]
    hold_ceremony(generate_key(2048), cards, deployed.ceremony)


def _changed_study(deployed: Deployed) -> None:
    _edit(deployed.coordinator / "study.toml", "rounds = 10", "rounds = 11")


def _in_the_clear(deployed: Deployed) -> None:
    _edit(deployed.coordinator / "study.toml", '"shared"', '"unsafe_plaintext"')


def _other_start(deployed: Deployed) -> None:
    path = deployed.coordinator / "study.toml"
    digest = Study.read(path).model.start_sha256
    _edit(path, digest, "0" * 64)


def _other_host(deployed: Deployed) -> None:
    _edit(deployed.coordinator / "coordinator.toml", "127.0.0.1", "ppfl.example.org")


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (_other_key, KeyMismatchError, r"study\.toml: has key .* already"),
        (_other_key_for_a_fresh_draft, KeyMismatchError, r"public\.key: has key .* already"),
        (_other_sites, SettingsError, "without a card: beta; not in the study: delta"),
        (_changed_study, KitError, "is another kit, perhaps handed out already"),
        (_in_the_clear, SettingsError, "unsafe_plaintext encrypts nothing"),
        (_other_start, ModelError, "the study names 0000"),
        (_other_host, CertificateError, r"was not issued for ppfl\.example\.org"),
    ],
)
def test_kits_that_would_not_fit_are_not_written(
    deployed: Deployed,
    change: Callable[[Deployed], None],
    kind: type[PpflError],
    message: str,
) -> None:
    change(deployed)
    before = {path: path.read_bytes() for path in (deployed.coordinator / "kits").iterdir()}
    with pytest.raises(kind, match=message):
        _kits(deployed)
    assert {path: path.read_bytes() for path in (deployed.coordinator / "kits").iterdir()} == before


def test_a_certificate_is_renewed_without_new_kits(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(deployed)
    kit = deployed.kit("alpha").read_bytes()
    now = certificates._now() + timedelta(days=31)
    monkeypatch.setattr(certificates, "_now", lambda: now)
    with pytest.raises(CertificateError, match=r"server\.crt: expired") as caught:
        _kits(deployed)
    assert "ppfl coordinator renew" in caught.value.hint
    renew_certificate(deployed.coordinator, days=30)
    _kits(deployed)
    assert deployed.kit("alpha").read_bytes() == kit
    settings.ca_key.chmod(0o640)
    with pytest.raises(KeyFileError, match=r"ca\.key: others than its owner"):
        renew_certificate(deployed.coordinator, days=30)


def test_another_authority_s_key_renews_nothing(deployed: Deployed) -> None:
    settings = _settings(deployed)
    before = settings.certificate.read_bytes()
    settings.ca_key.write_text(certificates.create_authority(days=9).key)
    with pytest.raises(CertificateError, match="is not the key of"):
        renew_certificate(deployed.coordinator, days=30)
    assert settings.certificate.read_bytes() == before


def test_a_run_does_not_begin_from_other_parameters(deployed: Deployed) -> None:
    settings = _settings(deployed)
    os.truncate(settings.start, 1000)
    with pytest.raises(ModelError, match=r"start\.safetensors"):
        prepare_run(settings)


def test_a_run_is_not_prepared_in_the_clear(deployed: Deployed) -> None:
    settings = _settings(deployed)
    _in_the_clear(deployed)
    with pytest.raises(SettingsError, match="unsafe_plaintext encrypts nothing"):
        prepare_run(settings)
    assert not settings.run.exists()


def test_a_run_s_folder_is_what_the_round_loop_reads(deployed: Deployed) -> None:
    settings = _settings(deployed)
    folder = prepare_run(settings)
    prepare_run(settings)
    grid = _NoGrid()
    coordinator = Coordinator(grid, folder, journal_key=settings.journal_key)  # type: ignore[arg-type]
    assert coordinator.study == Study.read(settings.study)
    assert sorted(path.name for path in folder.iterdir()) == [
        *("public.key", "site-keys.toml", "start.safetensors", "study.toml")
    ]
    _edit(settings.study, "rounds = 10", "rounds = 11")
    with pytest.raises(StudyMismatchError, match="holds a run of another study"):
        prepare_run(settings)


def test_the_sites_are_known_by_their_cards(deployed: Deployed) -> None:
    settings = _settings(deployed)
    assert node_keys(settings) == {
        site: (deployed.site(site) / "supernode.pub").read_text().strip() for site in SITES
    }
    shutil.copyfile(settings.cards / "alpha.card", settings.cards / "beta.card")
    with pytest.raises(KeyMismatchError, match=r"beta\.card: is the card of alpha"):
        node_keys(settings)
    (settings.cards / "beta.card").unlink()
    with pytest.raises(KeyFileError, match=r"beta\.card: no such key file"):
        node_keys(settings)


def test_a_run_needs_the_study_s_key(deployed: Deployed) -> None:
    _other_key(deployed)
    shutil.copyfile(deployed.ceremony / "public.key", deployed.coordinator / "public.key")
    with pytest.raises(KeyMismatchError, match="is not the key of"):
        prepare_run(_settings(deployed))


class _NoGrid:
    """The round loop only keeps its grid until it runs."""


def _init(folder: Path, *arguments: str) -> Study:
    command = ["coordinator", "init", str(folder), "--host", "localhost", *arguments, "--json"]
    result = CliRunner().invoke(_app, command, catch_exceptions=False)
    return Study.read(Path(json.loads(result.stdout)["draft"]))


def test_a_draft_starts_from_a_scenario_or_from_a_study(tmp_path: Path) -> None:
    study = _init(tmp_path / "covid", "--sites", "alpha, beta")
    assert study.classes == tuple(read_scenario("covid").study["classes"])
    assert study.federation.sites == ("alpha", "beta")
    final = study.model_copy(
        update={"model": study.model.model_copy(update={"start_sha256": "1" * 64})}
    )
    (tmp_path / "old.toml").write_text(final.to_toml())
    again = _init(tmp_path / "b", "--sites", "alpha,beta", "--study", str(tmp_path / "old.toml"))
    assert again == study
    with pytest.raises(SettingsError, match="not both"):
        _init(tmp_path / "c", "--sites", "a,b", "--study", "old.toml", "--scenario", "covid")
    with pytest.raises(SettingsError, match="two sites have one name"):
        _init(tmp_path / "c", "--sites", "alpha,alpha")
