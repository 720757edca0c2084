"""What is seen of a row's X-rays, what that leaks, and what attacks make of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError
from ppfl.learning.images import load_images
from ppfl.learning.sources import ImageRecord, read_records
from ppfl.report import Attack
from ppfl.settings import SiteFile, Study
from ppfl.xray.attacks import (
    frequency_attack,
    known_plaintext_attack,
    quotient_attack,
    score_recovery,
)
from ppfl.xray.leakage import measure_leakage, pack_colours
from ppfl.xray.pictures import shrink, to_png
from ppfl.xray.vault import is_vault
from ppfl.xray.vault_file import open_image
from sites.cipher_images import code_book
from sites.xrays import XRays, vault_key

_LOOKED_AT = 200  # X-rays that are seen
_RESTORED = 20  # of these, those that are attacked, and of which the attacker knows none
_KNOWN = (1, 10)
_PUBLIC = 400
_COLOURS = 256  # of a code book at most

_Greys = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Leaks:
    """Figures of ``Leakage`` by name, attacks by name, and PNG files of one X-ray by caption."""

    leakage: dict[str, float]
    attacks: dict[str, Attack]
    pictures: dict[str, bytes]


def measure_leaks(study: Study, sites: Sequence[SiteFile], public: Sequence[ImageRecord]) -> Leaks:
    """What the first site's X-rays leak to whoever sees them as the row shows them.

    That is the network's input, or what lies on the disk where it is a vault. The attacker has the
    ``public`` X-rays beforehand; where there are none, those of the last site.

    Raises:
        PpflError: the site's data cannot be read, or is too little to know some and attack others.
    """
    site = sites[0]
    in_vault = is_vault(site.data)
    plain, seen = _on_the_disk(study, site) if in_vault else _to_the_network(study, site)
    if len(plain) <= max(_KNOWN):
        raise DataError(f"{site.name} has {len(plain)} X-rays: too few to attack some of them")
    restored = min(_RESTORED, len(plain) - max(_KNOWN))
    truth = plain[:restored]
    leakage = asdict(measure_leakage(plain, seen, generator=np.random.default_rng(study.seed)))
    shown = "what lies on the disk" if in_vault else "what the network sees"
    pictures = {"the X-ray": truth[0], shown: seen[0]}
    attacks: dict[str, Attack] = {}
    if in_vault or study.images.cipher != "none":
        before = _public_images(study, sites[-1], public)
        for name, found in _attack(study, site, truth, plain, seen, before):
            pictures[name] = found[0]
            attacks[name] = Attack(**asdict(score_recovery(truth, found)))
    return Leaks(leakage, attacks, {caption: to_png(p) for caption, p in pictures.items()})


def choose_public(data: Path, classes: Sequence[str], *, seed: int) -> list[ImageRecord]:
    """X-rays of other classes and other patients than the study's, at random; maybe none.

    Raises:
        DataError: the data cannot be read, or has no X-ray of the classes.
    """
    studied = read_records(data, classes=classes)
    files, patients = ({getattr(r, name) for r in studied} for name in ("path", "group"))
    others = [r for r in read_records(data) if not (r.path in files or r.group in patients)]
    order = np.random.default_rng(seed).permutation(len(others))[:_PUBLIC]
    return [others[i] for i in sorted(order)]


def _attack(
    study: Study, site: SiteFile, truth: _Greys, plain: _Greys, seen: _Greys, public: _Greys
) -> Iterator[tuple[str, _Greys]]:
    """The attacked X-rays as each attack restores them, by the attack's name.

    Where the colours are no code book, each channel is attacked by itself, and what comes nearest
    to the truth is taken: more than an attacker could choose.
    """
    views = [seen]
    if len(np.unique(pack_colours(seen))) > _COLOURS:
        views = [np.repeat(seen[..., [channel]], 3, axis=-1) for channel in range(3)]
    # a byte of a ciphertext may stand for several greys
    bytes_only = study.images.cipher in ("none", "unsafe_low_byte", "fresh_randomness")
    target = slice(0, len(truth))

    def best(candidates: list[_Greys]) -> _Greys:
        return max(candidates, key=lambda greys: score_recovery(truth, greys).correlation)

    yield (
        "frequencies",
        best(
            [
                frequency_attack(view, public, shared=bytes_only).decode(view[target])
                for view in views
            ]
        ),
    )
    for k in _KNOWN:
        found = []
        for view in views:
            book = known_plaintext_attack(view, known_cipher=view[-k:], known_plain=plain[-k:])
            found.append(book.decode(view[target]))
        yield f"{k} X-rays known" if k > 1 else "1 X-ray known", best(found)
    if study.images.cipher in ("unsafe_fixed_randomness", "unsafe_no_randomness"):
        book_of_site = code_book(site, study.images.cipher, study.images.cipher_secret)
        levels, symbols = np.unique(truth, return_inverse=True)
        ciphertexts = [book_of_site.ciphertexts[level] for level in levels]
        greys = quotient_attack(ciphertexts, book_of_site.N)
        yield "whole ciphertexts, public key", greys[symbols].reshape(truth.shape)


def _to_the_network(study: Study, site: SiteFile) -> tuple[_Greys, _Greys]:
    """X-rays (n, h, w) and (n, h, w, 3) as the network sees them, patient by patient."""
    plain = XRays(site, _without_cipher(study)).images("train")
    seen = XRays(site, study).images("train").images
    seen = np.repeat(seen[..., np.newaxis], 3, axis=-1) if seen.ndim == 3 else seen
    order = np.argsort(plain.groups, kind="stable")[:_LOOKED_AT]
    return plain.images[order], seen[order]


def _on_the_disk(study: Study, site: SiteFile) -> tuple[_Greys, _Greys]:
    """X-rays (n, h, w), and the last bytes of their files as grey pictures (n, h, w, 3)."""
    key = vault_key(site)
    records = sorted(XRays(site, study).records("train"), key=lambda record: record.group)
    size, equalise, plain, seen = study.images.size, study.images.equalise, [], []
    for record in records[:_LOOKED_AT]:
        data = record.path.read_bytes()
        found = open_image(data, key)
        picture = shrink(found.pixels, bits=found.bits, size=size, equalise=equalise)
        plain.append(np.asarray(picture))
        last = np.resize(np.frombuffer(data, np.uint8)[-size * size :], (size, size, 1))
        seen.append(last.repeat(3, axis=-1))
    return np.array(plain), np.array(seen)


def _public_images(study: Study, last: SiteFile, public: Sequence[ImageRecord]) -> _Greys:
    if not public:
        return XRays(last, _without_cipher(study)).images("train").images[:_PUBLIC]
    labels = sorted({record.label for record in public})
    options = study.images
    return load_images(public, classes=labels, size=options.size, equalise=options.equalise).images


def _without_cipher(study: Study) -> Study:
    images = study.images.model_copy(update={"cipher": "none"})
    return study.model_copy(update={"images": images})
