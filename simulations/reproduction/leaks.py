"""What an outsider sees of a row's X-rays, what that leaks, and what attacks make of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ppfl.crypto import read_private_key
from ppfl.learning.images import load_images
from ppfl.learning.sources import read_records
from ppfl.report import Attack
from ppfl.settings import SiteFile, Study
from ppfl.xray.attacks import (
    frequency_attack,
    known_plaintext_attack,
    quotient_attack,
    score_recovery,
)
from ppfl.xray.leakage import measure_leakage
from ppfl.xray.pictures import shrink
from ppfl.xray.vault import Failure, is_vault, open_folder
from ppfl.xray.vault_file import VaultKey
from sites.cipher_images import code_book
from sites.xrays import XRays

_LOOKED_AT = 200  # X-rays that an outsider sees
_RESTORED = 20  # of these, at the end; the attacker knows some of those before them
_KNOWN = (1, 10)
_PUBLIC = 400

_Greys = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Leaks:
    """Figures of ``Leakage`` by name, attacks by name, and PNG files of one X-ray by caption."""

    leakage: dict[str, float]
    attacks: dict[str, Attack]
    pictures: dict[str, bytes]


def measure_leaks(study: Study, site: SiteFile, public: _Greys) -> Leaks:
    """What one site's X-rays leak to an attacker who has ``public`` X-rays (m, size, size).

    Raises:
        PpflError: the site's data cannot be read.
    """
    plain, seen = _vault_view(study, site) if is_vault(site.data) else _network_view(study, site)
    leakage = asdict(measure_leakage(plain, seen, generator=np.random.default_rng(study.seed)))
    truth, target = plain[-_RESTORED:], seen[-_RESTORED:]
    pictures = {"the X-ray": truth[0], "what an outsider sees": target[0]}
    attacks: dict[str, Attack] = {}
    if study.images.cipher != "none" or is_vault(site.data):
        for name, restored in _attack(study, site, truth, seen, plain, public):
            pictures[name] = restored[0]
            attacks[name] = Attack(**asdict(score_recovery(truth, restored)))
    return Leaks(leakage, attacks, {caption: _png(p) for caption, p in pictures.items()})


def public_xrays(study: Study, data: Path) -> _Greys:
    """The X-rays in the data that no site of the study has: those of other classes; maybe none."""
    records = [r for r in read_records(data) if r.label not in study.classes][:_PUBLIC]
    labels = sorted({record.label for record in records})
    return load_images(records, classes=labels, size=study.images.size).images


def _attack(
    study: Study, site: SiteFile, truth: _Greys, seen: _Greys, plain: _Greys, public: _Greys
) -> Iterator[tuple[str, _Greys]]:
    """The target X-rays as each attack restores them, by the attack's name."""
    target = seen[-_RESTORED:]
    shared = study.images.cipher == "unsafe_low_byte"
    yield "frequencies", frequency_attack(seen, public, shared=shared).decode(target)
    for k in _KNOWN:
        book = known_plaintext_attack(seen, known_cipher=seen[:k], known_plain=plain[:k])
        yield f"{k} X-rays known" if k > 1 else "1 X-ray known", book.decode(target)
    kind = study.images.cipher
    if kind in ("unsafe_fixed_randomness", "unsafe_no_randomness"):
        ours = code_book(site, kind, study.images.cipher_secret)
        levels, symbols = np.unique(truth, return_inverse=True)
        ciphertexts = [ours.ciphertexts[level] for level in levels]
        greys = quotient_attack(ciphertexts, ours.N)
        yield "whole ciphertexts, public key", greys[symbols].reshape(truth.shape)


def _network_view(study: Study, site: SiteFile) -> tuple[_Greys, _Greys]:
    """X-rays (n, h, w) and (n, h, w, 3) as the network sees them."""
    images = study.images.model_copy(update={"cipher": "none"})
    plain = XRays(site, study.model_copy(update={"images": images})).images("train").images
    seen = XRays(site, study).images("train").images
    seen = np.repeat(seen[..., np.newaxis], 3, axis=-1) if seen.ndim == 3 else seen
    return plain[:_LOOKED_AT], seen[:_LOOKED_AT]


def _vault_view(study: Study, site: SiteFile) -> tuple[_Greys, _Greys]:
    """X-rays (n, h, w), and as many bytes of their files as grey pictures (n, h, w, 3)."""
    assert site.key is not None  # noqa: S101 - a vault was made with one
    private = read_private_key(site.key, passphrase=site.passphrase())
    key = VaultKey(private.public, private, engine=site.engine)
    size, plain, seen = study.images.size, [], []
    for path, found in islice(open_folder(site.data, key), _LOOKED_AT):
        if not isinstance(found, Failure):
            plain.append(np.asarray(shrink(found.pixels, bits=found.bits, size=size)))
            last = path.read_bytes()[-size * size :]
            seen.append(np.frombuffer(last, np.uint8).reshape(size, size, 1).repeat(3, axis=-1))
    return np.array(plain), np.array(seen)


def _png(picture: _Greys) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()
