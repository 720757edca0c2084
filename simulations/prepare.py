"""Makes the folder of a simulated federation: study, keys, and a folder for every hospital."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tomli_w

from ppfl.crypto import (
    PrivateKey,
    generate_key,
    write_private_key,
    write_public_key,
)
from ppfl.crypto.signing import create_signing_key
from ppfl.errors import DataError, RunError, SettingsError
from ppfl.federation.site_keys import JOURNAL_KEY, SITE_KEYS, SiteKeys
from ppfl.files import filled_or_gone, lock_file
from ppfl.learning.files import parameters_sha256, save_model
from ppfl.learning.models import (
    build_study_model,
    check_image_size,
    get_parameters,
    load_pretrained,
    shared_names,
)
from ppfl.learning.sources import read_records
from ppfl.settings import SiteFile, Study, check_settings
from ppfl.xray.vault import VaultSource, seal_folder
from ppfl.xray.vault_file import VaultKey
from simulations.dealing import deal, hospital_names
from simulations.scenario import Scenario, draft_study, read_scenario

PREPARING = ".preparing"
"""The mark of a folder that is being made, or whose making was cut off."""

_SIGNING_KEY = "signing.key"
_WEIGHT_FILES = (".npz", ".safetensors", ".pth", ".pt")


def prepare_named(source: str, folder: Path) -> Study:
    """Prepare a built-in scenario as it is; see ``prepare``."""
    return prepare(read_scenario(source), folder)


def prepare(scenario: Scenario, folder: Path, *, threads: int = 0) -> Study:
    """The study of a new run, after its folder was made.

    Raises:
        RunError: the folder holds a run already.
        SettingsError: the scenario's study breaks a rule.
        DataError: the X-rays are missing or do not go round.
        ModelError: the starting weights cannot be had, or a local layer is none of the network's.
    """
    if (folder / "study.toml").exists():
        raise RunError(
            f"{folder}: holds a run already",
            hint=f"ppfl simulate --resume {folder}, or another --out",
        )
    draft, data = draft_study(scenario), scenario.simulation
    table = json.loads(json.dumps(scenario.study))
    federation = table["federation"]
    names = hospital_names(data, federation.get("sites", []), classes=draft.classes)
    federation["sites"] = [name for name in names if name != data.hold_out]
    draft = check_settings(table, Study, where="study")
    with _new(folder):
        table.setdefault("model", {})["start_sha256"] = write_start(
            draft, folder / "start.safetensors", weights=weights_file(scenario, draft)
        )
        key = None
        if draft.encryption.custody != "unsafe_plaintext":
            key = generate_key(data.key_bits)
            write_public_key(folder / "public.key", key.public)
            table.setdefault("encryption", {})["key_fingerprint"] = key.public.fingerprint
        study = check_settings(table, Study, where="study")
        dealt = deal(scenario, study, names, folder)
        coordinator = create_signing_key(folder / JOURNAL_KEY)
        site_keys = {}
        for name in study.federation.sites:
            place = folder / "sites" / name
            site_keys[name] = create_signing_key(place / _SIGNING_KEY).public
            (place / "study.toml").write_text(study.to_toml(), encoding="utf-8")
            if data.vault:
                dealt[name] = _seal(place, place / dealt[name], study, key)
            if key is not None:
                passphrase = secrets.token_urlsafe(24)
                write_private_key(place / "private.key", key, passphrase=passphrase)
                secret = place / "passphrase"
                secret.touch(mode=0o600)
                secret.write_text(passphrase, encoding="utf-8")
            site = SiteFile(
                name=name,
                data=dealt[name],
                key=Path("private.key") if key else None,
                passphrase_file=Path("passphrase") if key else None,
                engine=data.engine,
                threads=threads,
                signing_key=Path(_SIGNING_KEY),
                journal_key=coordinator.public,
            )
            (place / "site.toml").write_text(site.to_toml(), encoding="utf-8")
        SiteKeys(keys=site_keys).write(folder / SITE_KEYS)
        (folder / "scenario.toml").write_text(
            tomli_w.dumps(scenario.model_dump(mode="json", exclude_none=True)), encoding="utf-8"
        )
        # last, because a folder with a study is a run that can be resumed
        (folder / "study.toml").write_text(study.to_toml(), encoding="utf-8")
        return study


@contextmanager
def _new(folder: Path) -> Iterator[None]:
    """Make a folder, which goes again where what is made in it cannot be had.

    A key that was left there would be in the way of the next try. What a process left that was
    killed is known by its mark; a folder in which there was something before never has that.

    Raises:
        RunError: another process makes it.
    """
    mark = folder / PREPARING
    if mark.exists():
        with lock_file(mark):
            shutil.rmtree(folder)
    if folder.exists() and any(folder.iterdir()):
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    with lock_file(mark), filled_or_gone(folder):
        yield
        mark.unlink()


def _seal(place: Path, data: Path, study: Study, key: PrivateKey | None) -> Path:
    """Where in a hospital's folder its X-rays lie, after they were encrypted."""
    if key is None:
        raise SettingsError("a vault needs a key: custody unsafe_plaintext has none")
    records = read_records(data, classes=study.classes)
    sources = [VaultSource(record.path, record.label, record.group) for record in records]
    report = seal_folder(
        sources, place / "vault", VaultKey(key.public), ledger=place / "vault.jsonl"
    )
    if report.failures:
        first = report.failures[0]
        raise DataError(
            f"{first.path}: {first.reason} (one of {len(report.failures)} that cannot be sealed)",
            hint=first.hint,
        )
    return Path("vault")


def write_start(study: Study, path: Path, *, weights: Path | None) -> str:
    """The digest of a study's starting parameters, after they were written to ``path``.

    ``weights`` is a file of pretrained weights; without one, they come from torchvision's site.

    Raises:
        ModelError: the model cannot be built or written, or the weights cannot be had.
    """
    options = study.model
    model = build_study_model(study)
    check_image_size(model, study)
    if options.start == "imagenet":
        load_pretrained(model, weights, architecture=options.architecture)
    parameters = get_parameters(model)
    shared_names(parameters, options)  # a study that no site could run ends here
    save_model(path, parameters, metadata={})
    return parameters_sha256(parameters)


def weights_file(scenario: Scenario, study: Study) -> Path | None:
    """The file of ImageNet weights that a run begins with.

    It is the one that the scenario names, or else one in a folder ``weights`` beside the X-rays.
    None where there is none, or where a study does not begin with such weights.
    """
    if study.model.start != "imagenet":
        return None
    if scenario.simulation.weights:
        return Path(scenario.simulation.weights)
    folder = Path(scenario.simulation.data).resolve().parent / "weights"
    named = folder.glob(f"{study.model.architecture}*")
    found = sorted(path for path in named if path.suffix in _WEIGHT_FILES)
    return found[0] if found else None
