"""What an outsider recovers of X-rays from cipher images, by three attacks.

Under one randomizer a cipher image is its X-ray seen through a code book: every grey has its own
colour, or a few greys share one where only a byte is kept. Neighbours in an X-ray have similar
greys, so the colours that meet side by side are similar too, and that orders them all, whoever
the patients are (:func:`frequency_attack`). Some X-rays known beside their cipher images spell the
book out (:func:`known_plaintext_attack`). Whole ciphertexts need neither, only the public key
(:func:`quotient_attack`). Under fresh randomizers the first two end at chance, and the third
says so.

[ABH98] J. E. Atkins, E. G. Boman, B. Hendrickson, "A Spectral Algorithm for Seriation and the
Consecutive Ones Problem", SIAM Journal on Computing 28(1), 1998.
[B86] J. Besag, "On the Statistical Analysis of Dirty Pictures", Journal of the Royal Statistical
Society B 48(3), 1986.
[DLR77] A. P. Dempster, N. M. Laird, D. B. Rubin, "Maximum Likelihood from Incomplete Data via the
EM Algorithm", Journal of the Royal Statistical Society B 39(1), 1977.
[NKW15] M. Naveed, S. Kamara, C. V. Wright, "Inference Attacks on Property-Preserving Encrypted
Databases", ACM CCS 2015.
[P99] P. Paillier, "Public-Key Cryptosystems Based on Composite Degree Residuosity Classes",
EUROCRYPT 1999.
[H99] T. Hofmann, "Probabilistic Latent Semantic Analysis", UAI 1999.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppfl.errors import DataError
from ppfl.xray.leakage import pack_colours, structural_similarity

_LEVELS = 256
_CELLS = 16  # a picture is looked at in 16 × 16 places
_ROUGH = 0.07  # X-rays have 0.01 to 0.05, and 0.1 to 0.2 in the best order of shared colours
_PLACE_STEPS, _PAIR_STEPS = 60, 150  # more recover hardly more
_NEGLIGIBLE = 1e-12  # a probability that is dropped: denormal numbers would be slow
_TINY = np.finfo(np.float32).tiny
_CANDIDATES = 4  # greys that a pixel may choose from
_SWEEPS = 10  # over a picture; the last ones change next to nothing
_JUMP = 32  # levels that an edge costs at most; a factor e of belief is worth one level

_Field = NDArray[np.floating[Any]]
_Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class GuessedCodeBook:
    """What an attacker takes colours to mean.

    ``colours`` (k,) uint32 ascend, as `pack_colours` numbers them; ``beliefs`` (k, 256) in [0, 1]
    are how probable each grey is given the colour, rows sum to 1; any other colour is taken for
    the grey ``otherwise`` in [0, 255].
    """

    colours: NDArray[np.uint32]
    beliefs: _Field
    otherwise: int

    @property
    def greys(self) -> NDArray[np.uint8]:
        """The most probable grey of each colour, (k,)."""
        greys: NDArray[np.uint8] = self.beliefs.argmax(axis=1).astype(np.uint8)
        return greys

    def decode(self, cipher: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The X-rays (n, h, w) that this book sees in cipher images (n, h, w, 3), both uint8.

        Where greys share a colour, a pixel takes the one that suits its neighbours, by iterated
        conditional modes [B86].

        Raises:
            DataError: the cipher images are not of this shape and type.
        """
        colours = _pack(cipher)
        # One row more, for colours that are not in the book.
        greys = np.full((len(self.colours) + 1, _CANDIDATES), self.otherwise, dtype=np.int16)
        shares = np.zeros(greys.shape, dtype=np.float32)
        shares[-1, 0] = 1
        greys[:-1] = np.argsort(-self.beliefs, axis=1)[:, :_CANDIDATES]
        shares[:-1] = np.take_along_axis(self.beliefs, greys[:-1].astype(np.int64), axis=1)
        decoded = np.empty(colours.shape, dtype=np.uint8)
        for image, packed in zip(decoded, colours, strict=True):
            image[:] = _suit(_look_up(self.colours, packed), greys, shares)
        return decoded


@dataclass(frozen=True, slots=True)
class Recovery:
    """How near reconstructed X-rays come to the true ones.

    ``within_8`` in [0, 1] is the share of pixels at most 8 of 255 grey levels off, ``correlation``
    in [-1, 1] is Pearson's over all pixels, 0 for a constant picture, and
    ``structural_similarity`` in [-1, 1] is 1 for equal pictures. A picture that was guessed
    without looking scores above 0, too: see what fresh randomizers give.
    """

    within_8: float
    correlation: float
    structural_similarity: float


def score_recovery(truth: NDArray[np.uint8], recovered: NDArray[np.uint8]) -> Recovery:
    """How near reconstructed X-rays come to the true ones, both (n, h, w) uint8.

    Raises:
        DataError: as `structural_similarity`.
    """
    similarity = structural_similarity(truth, recovered)
    x, y = truth.astype(np.float64), recovered.astype(np.float64)
    spread = float(x.std() * y.std())
    covariance = float(((x - x.mean()) * (y - y.mean())).mean())
    return Recovery(
        within_8=float((abs(x - y) <= 8).mean()),
        correlation=covariance / spread if spread else 0.0,
        structural_similarity=similarity,
    )


def frequency_attack(cipher: NDArray[np.uint8], public: NDArray[np.uint8]) -> GuessedCodeBook:
    """The code book behind cipher images (n, h, w, 3), from them and other people's X-rays.

    ``public`` (m, h, w) uint8 are X-rays that the attacker may see, best of another hospital than
    none; all cipher images must be under one key. Colours are ordered by how often they meet: the
    Fiedler vector of the graph of neighbouring pixels [ABH98]. The public X-rays tell which end
    is dark, and where the order begins if some greys do not occur; an order alone is the whole
    book once they all do, which is the sorting attack of [NKW15].

    A picture that is rough under every order is one whose greys share colours. Beliefs then come
    from where colours lie and, from there on, from how often they meet, both likened to the
    public X-rays by expectation maximization [DLR77]. More than 256 colours are no code book:
    every pixel is then taken for the public median.

    Raises:
        DataError: the arrays are not of these shapes and types, or hold no pixel.
    """
    packed = _pack(cipher)
    if public.shape[1:] != packed.shape[1:] or public.dtype != np.uint8 or not public.size:
        raise DataError(
            f"public X-rays {public.shape} {public.dtype} beside cipher images {cipher.shape}; "
            "as high and wide ones, (m, h, w) uint8, are needed"
        )
    otherwise = int(np.median(public))
    colours, symbols = _read_symbols(packed)
    if len(colours) > _LEVELS:
        return _empty_book(otherwise)
    counts, meetings = np.bincount(symbols.ravel()), _meetings(symbols, len(colours))
    brightness = _mean_at(public.mean(axis=0), symbols)
    order = _seriate(meetings, counts, brightness)
    if _roughness(order, counts, meetings) > _ROUGH:
        beliefs = _expect_shared(symbols, meetings, public.astype(np.int64))
    else:
        first = _first_grey(counts[order], np.bincount(public.ravel(), minlength=_LEVELS))
        beliefs = np.zeros((len(colours), _LEVELS))
        beliefs[order, first + np.arange(len(order))] = 1
    return GuessedCodeBook(colours, beliefs, otherwise)


def known_plaintext_attack(
    cipher: NDArray[np.uint8],
    *,
    known_cipher: NDArray[np.uint8],
    known_plain: NDArray[np.uint8],
) -> GuessedCodeBook:
    """The code book behind cipher images (n, h, w, 3), from a few (k) whose X-rays are known.

    ``known_plain`` (k, h, w) belongs to ``known_cipher`` (k, h, w, 3), all uint8. A colour seen
    there means what it meant there. Another takes its grey from its place among them in the order
    of `frequency_attack`, between the nearest seen before and after it. More than 256 colours are
    no code book: every pixel is then taken for the median of the known X-rays.

    Raises:
        DataError: the arrays are not of these shapes and types, or no X-ray is known.
    """
    known = _pack(known_cipher)
    if known_plain.shape != known.shape or known_plain.dtype != np.uint8 or not known_plain.size:
        raise DataError(
            f"known X-rays {known_plain.shape} {known_plain.dtype} beside cipher images "
            f"{known_cipher.shape}; (k, h, w) uint8 and (k, h, w, 3), k > 0, are needed"
        )
    otherwise = int(np.median(known_plain))
    every = _pack(cipher)
    if every.shape[1:] != known.shape[1:]:
        raise DataError(f"cipher images {cipher.shape} beside known ones {known_cipher.shape}")
    colours, symbols = _read_symbols(np.concatenate([known, every]))
    if len(colours) > _LEVELS:
        return _empty_book(otherwise)
    pairs = symbols[: len(known)].ravel() * _LEVELS + known_plain.ravel()
    seen = np.bincount(pairs, minlength=len(colours) * _LEVELS).reshape(-1, _LEVELS)
    beliefs = seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)
    sightings = seen.sum(axis=1)
    means = beliefs @ np.arange(_LEVELS)
    greys = _interpolate(means, sightings, _meetings(symbols, len(colours)))
    unseen = np.flatnonzero(sightings == 0)
    beliefs[unseen, greys[unseen]] = 1
    return GuessedCodeBook(colours, beliefs, otherwise)


def quotient_attack(ciphertexts: Sequence[int], modulus: int) -> NDArray[np.uint8]:
    """Exact greys (k,) of ciphertexts under one randomizer, up to a constant.

    ``modulus`` is N of the public key, and nothing else is needed: c = (1 + mN)·ρ mod N² [P99],
    so c·c'⁻¹ = 1 + (m − m')N, and ρ is gone. The darkest grey is taken for 0; the truth is
    brighter by one constant in [0, 255 − largest grey returned], thus exact if black and white
    occur. For a picture, give the ciphertexts of its symbols and index the result by the picture
    of symbols.

    Raises:
        DataError: the quotients are none of greys in [0, 255] under one randomizer, as those of
            fresh randomizers; or there is no ciphertext, or the first shares a factor with N.
    """
    if not ciphertexts:
        raise DataError("no ciphertext to take quotients of")
    try:
        inverse = pow(ciphertexts[0], -1, modulus**2)
    except ValueError:
        raise DataError("a ciphertext shares a factor with N: it is none of this key") from None
    steps = []
    for position, ciphertext in enumerate(ciphertexts):
        step, rest = divmod(ciphertext * inverse % modulus**2 - 1, modulus)
        step = step if step < _LEVELS else step - modulus
        if rest or abs(step) >= _LEVELS:
            raise DataError(
                f"ciphertexts 0 and {position} have no grey as quotient: they are not under one "
                "randomizer of this key"
            )
        steps.append(step)
    darkest = min(steps)
    if max(steps) - darkest >= _LEVELS:
        raise DataError(f"quotients span {max(steps) - darkest + 1} greys; 256 are the most")
    return np.array([step - darkest for step in steps], dtype=np.uint8)


def _pack(cipher: NDArray[np.uint8]) -> NDArray[np.uint32]:
    colours = pack_colours(cipher)
    if colours.ndim != 3 or not colours.size:
        raise DataError(f"cipher images {cipher.shape}; (n, h, w, 3), not empty, is needed")
    return colours


def _empty_book(otherwise: int) -> GuessedCodeBook:
    return GuessedCodeBook(np.empty(0, dtype=np.uint32), np.empty((0, _LEVELS)), otherwise)


def _read_symbols(packed: NDArray[np.uint32]) -> tuple[NDArray[np.uint32], _Ints]:
    """All colours, ascending, and the images with each pixel the index of its colour."""
    colours, symbols = np.unique(packed, return_inverse=True)
    return colours, symbols.reshape(packed.shape)


def _look_up(colours: NDArray[np.uint32], packed: NDArray[np.uint32]) -> _Ints:
    """The index of each pixel's colour, or one past the last."""
    if not len(colours):
        return np.zeros(packed.shape, dtype=np.int64)
    places = np.minimum(np.searchsorted(colours, packed), len(colours) - 1)
    return np.where(colours[places] == packed, places, len(colours))


def _meetings(symbols: _Ints, size: int = _LEVELS) -> _Ints:
    """How often two symbols lie side by side or one above the other, (size, size), symmetric."""
    counts = np.zeros(size * size, dtype=np.int64)
    for image in symbols:  # One at a time, for the memory's sake.
        for one, other in ((image[1:], image[:-1]), (image[:, 1:], image[:, :-1])):
            counts += np.bincount((one * size + other).ravel(), minlength=size * size)
    table = counts.reshape(size, size)
    return table + table.T


def _mean_at(picture: _Field, symbols: _Ints) -> _Field:
    """The mean of one picture (h, w) over all pixels of each symbol."""
    weights = np.broadcast_to(picture, symbols.shape).ravel()
    means: _Field = np.bincount(symbols.ravel(), weights=weights) / np.bincount(symbols.ravel())
    return means


def _seriate(meetings: _Ints, counts: _Ints, brightness: _Field) -> _Ints:
    """The symbols from dark to bright."""
    links = meetings.astype(np.float64)
    np.fill_diagonal(links, 0)
    # Common colours would otherwise draw all others to them; a second time gives the Laplacian.
    for _ in range(2):
        degrees = links.sum(axis=1)
        scale = 1 / np.sqrt(np.where(degrees > 0, degrees, 1))
        links = scale[:, None] * links * scale
    _, vectors = np.linalg.eigh(links)
    fiedler = vectors[:, -2:][:, 0] * scale
    centred = fiedler - np.average(fiedler, weights=counts)
    ascends = (counts * centred * brightness).sum() >= 0
    return np.argsort(fiedler if ascends else -fiedler)


def _roughness(order: _Ints, counts: _Ints, meetings: _Ints) -> float:
    """How far neighbouring pixels lie apart in the histogram, [0, 1]; 1/3 if by chance."""
    places = np.empty(len(order))
    places[order] = _midpoints(counts[order])
    apart = abs(places[:, None] - places)
    return float((apart * meetings).sum() / max(meetings.sum(), 1))


def _midpoints(counts: _Ints) -> _Field:
    """The cumulative histogram at the middle of each step, [0, 1]."""
    points: _Field = (np.cumsum(counts) - counts / 2) / counts.sum()
    return points


def _first_grey(counts: _Ints, histogram: _Ints) -> int:
    """Where an unbroken run of greys with these counts begins.

    If few greys are missing, half of them are put at either end, because no histogram of another
    hospital is true to within 8 levels; else the cumulative histograms decide.
    """
    missing = _LEVELS - len(counts)
    if missing <= 16:
        return missing // 2
    ours, theirs = _midpoints(counts), _midpoints(histogram)
    costs = [
        (counts * abs(ours - theirs[first : first + len(counts)])).sum()
        for first in range(missing + 1)
    ]
    return int(np.argmin(costs))


def _expect_shared(symbols: _Ints, meetings: _Ints, public: _Ints) -> _Field:
    """Beliefs (k, 256) where greys may share a colour.

    A grey shows as a colour with unknown probability; the public X-rays give how often a grey
    lies at a place, and beside another. Both steps climb the likelihood of what is observed, in
    the manner of [H99].
    """
    size = len(meetings)
    observed = _shares(_places(symbols, size))
    expected = _shares(_places(public, _LEVELS) + 1)
    shown = np.tile(observed.sum(axis=1), (_LEVELS, 1))
    for _ in range(_PLACE_STEPS):
        gain = expected @ (observed / np.maximum(shown.T @ expected, _TINY)).T
        shown = _sum_to_one(shown * gain)
    pairs, public_pairs = _shares(meetings), _shares(_meetings(public) + 1)
    for _ in range(_PAIR_STEPS):
        mixed = public_pairs @ shown
        gain = mixed @ (pairs / np.maximum(shown.T @ mixed, _TINY))
        shown = _sum_to_one(shown * gain)
    return _sum_to_one(public_pairs.sum(axis=1) * shown.T)


def _places(symbols: _Ints, size: int) -> _Ints:
    """How often a symbol lies in each cell of the picture, (size, _CELLS**2)."""
    _, height, width = symbols.shape
    rows, columns = (np.arange(side) * _CELLS // side for side in (height, width))
    cells = rows[:, None] * _CELLS + columns
    counts = np.zeros(size * _CELLS**2, dtype=np.int64)
    for image in symbols:
        counts += np.bincount((image * _CELLS**2 + cells).ravel(), minlength=len(counts))
    return counts.reshape(size, -1)


def _shares(counts: _Ints) -> _Field:
    shares: _Field = (counts / counts.sum()).astype(np.float32)
    return shares


def _sum_to_one(rows: _Field) -> _Field:
    shares: _Field = rows / rows.sum(axis=1, keepdims=True)
    return np.where(shares < _NEGLIGIBLE, 0, shares)


def _interpolate(greys: _Field, sightings: _Ints, meetings: _Ints) -> _Ints:
    """Greys (k,), those of symbols without sightings from their places among the others.

    Beyond the darkest and the brightest seen, the next symbol is the next level.
    """
    order = _seriate(meetings, sightings, greys)
    places = np.argsort(order)
    seen = order[sightings[order] > 0]
    within = np.interp(places, places[seen], greys[seen])
    below, above = (places - places[end] for end in (seen[0], seen[-1]))
    levels = np.rint(within + np.minimum(below, 0) + np.maximum(above, 0))
    return np.asarray(np.clip(levels, 0, _LEVELS - 1), dtype=np.int64)


def _suit(
    symbols: _Ints, greys: NDArray[np.int16], shares: NDArray[np.float32]
) -> NDArray[np.int16]:
    """One picture (h, w), each pixel that of its symbol's greys which is nearest its neighbours.

    A step to a neighbour costs at most ``_JUMP`` levels, so that true edges stay.
    """
    height, width = symbols.shape
    options, odds = greys[symbols], shares[symbols]
    picture = options[..., 0]
    if (odds[..., 0] == 1).all():
        return picture
    rarity = np.where(odds > 0, -np.log(np.where(odds > 0, odds, 1)), np.inf)
    for _ in range(_SWEEPS):
        padded = np.pad(picture, 1, mode="edge")
        costs = rarity.copy()
        for y, x in ((y, x) for y in range(3) for x in range(3) if (y, x) != (1, 1)):
            neighbour = padded[y : y + height, x : x + width, None]
            costs += np.minimum(abs(options - neighbour), _JUMP)
        choice = costs.argmin(axis=2)[..., None]
        picture = np.take_along_axis(options, choice, axis=2)[..., 0]
    return picture
