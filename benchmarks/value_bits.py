"""What a sealed round costs a trained model, for several numbers of value bits.

    ppfl simulate covid --data FOLDER --out runs/covid
    python benchmarks/value_bits.py runs/covid

The model of a finished run goes through round trips as three sites of random weights would send
it: weighted, rounded, packed, added, unpacked, divided. What comes back is tested on the run's own
test images, beside the model as it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.codec import (
    WEIGHT_UNIT,
    Quantizer,
    SlotLayout,
    count_ranges,
    ranges_of,
    weight_units,
)
from ppfl.codec.ranges import extents_of
from ppfl.learning.images import ImageSet, load_images
from ppfl.learning.models import get_parameters, set_parameters, shared_names
from ppfl.learning.sources import ImageRecord, read_records
from ppfl.learning.splits import split_by_group
from ppfl.learning.study_model import StudyModel
from ppfl.settings import SiteFile, Study
from sites.vectors import shapes_of, update_plan

Floats = NDArray[np.float32]

_PLAINTEXT_BITS, _KEY_BYTES = 3071, 384  # of a 3072-bit key


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 10, 11, 12, 13, 14, 15, 16, 18])
    parser.add_argument("--trips", type=int, default=5, help="round trips, each of other weights")
    parser.add_argument("--stochastic", action="store_true", help="round up or down at random")
    options = parser.parse_args()
    study = Study.read(options.run / "study.toml")
    first = options.run / "sites" / study.federation.sites[0] / "work" / "model.safetensors"
    model = StudyModel.read(first)
    images = _test_images(options.run, study)
    was = get_parameters(model.network)
    sent = {name: was[name] for name in shared_names(was, study.model)}
    before = model.predict(images.images)
    accuracy = (before.argmax(axis=1) == images.labels).mean()
    rounding = "at random" if options.stochastic else "to the nearest"
    print(
        f"{len(images.labels)} test images, accuracy {100 * accuracy:.2f} % without a round trip; "
        f"{options.trips} round trips, rounded {rounding}\n"
    )
    print(
        "| value bits | change of accuracy, points: mean | worst | other decisions, mean | "
        "change of a probability, mean | MB up |"
    )
    print("|---|---|---|---|---|---|")
    for bits in options.bits:
        changes, others, moved = [], [], []
        rng = np.random.default_rng(1)
        for _ in range(options.trips):
            average = _round_trip(sent, bits, rng, stochastic=options.stochastic)
            set_parameters(model.network, was | average)
            after = model.predict(images.images)
            now = (after.argmax(axis=1) == images.labels).mean()
            changes.append(100 * (now - accuracy))
            others.append(int((after.argmax(axis=1) != before.argmax(axis=1)).sum()))
            moved.append(float(np.abs(after - before).mean()))
        set_parameters(model.network, was)
        print(
            f"| {bits} | {np.mean(changes):+.2f} | {min(changes):+.2f} | {np.mean(others):.1f} | "
            f"{np.mean(moved):.1e} | {_megabytes(study, sent, bits):.2f} |",
            flush=True,
        )


def _round_trip(
    was: dict[str, Floats], bits: int, rng: np.random.Generator, *, stochastic: bool
) -> dict[str, Floats]:
    """The parameters after three sites of random shares have sent them."""
    ranges = ranges_of(was)
    quantizer = Quantizer(shapes_of(was), ranges, bits)
    weights = [weight_units(share) for share in rng.dirichlet([4, 4, 4])]
    layout = SlotLayout(bits, 2, _PLAINTEXT_BITS)
    sums = np.zeros(quantizer.values, np.int64)
    for weight in weights:
        sent = _dither(was, ranges, bits, weight, rng) if stochastic else was
        values = quantizer.quantize(sent, weight=weight).values
        sums += layout.unpack(layout.pack(values), values.size)
    return quantizer.dequantize(sums, summands=len(weights), weight=sum(weights))


def _dither(
    was: dict[str, Floats],
    ranges: NDArray[np.int64],
    bits: int,
    weight: int,
    rng: np.random.Generator,
) -> dict[str, Floats]:
    """The parameters moved by up to half a step, so that the nearest step is a random one."""
    sent, start = {}, 0
    for name, array in was.items():
        end = start + count_ranges(array.shape)
        if array.ndim > 1:
            steps = extents_of(ranges[start:end]) / (2 ** (bits - 1) - 1) / (weight * WEIGHT_UNIT)
            noise = rng.uniform(-0.5, 0.5, array.shape)
            moved = array + noise * steps.reshape(-1, *[1] * (array.ndim - 1))
            sent[name] = moved.astype(np.float32)
        else:
            sent[name] = array
        start = end
    return sent


def _megabytes(study: Study, parameters: dict[str, Floats], bits: int) -> float:
    changed = study.encryption.model_copy(update={"value_bits": bits})
    plan = update_plan(study.model_copy(update={"encryption": changed}), shapes_of(parameters))
    s = study.encryption.s
    layout = SlotLayout(bits, study.headroom_bits, s * _PLAINTEXT_BITS)
    return layout.plaintexts(plan.values) * (s + 1) * _KEY_BYTES / 1e6


def _test_images(run: Path, study: Study) -> ImageSet:
    chosen: list[ImageRecord] = []
    for name in study.federation.sites:
        site = SiteFile.read(run / "sites" / name / "site.toml")
        split = split_by_group(
            read_records(site.data, classes=study.classes),
            validation=study.images.validation,
            test=study.images.test,
            seed=study.seed,
        )
        chosen.extend(split.test)
    return load_images(chosen, classes=study.classes, size=study.images.size)


if __name__ == "__main__":
    main()
