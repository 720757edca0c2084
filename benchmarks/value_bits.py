"""What a sealed round costs a trained model, for several numbers of value bits.

    ppfl simulate covid --data FOLDER --out runs/covid
    python benchmarks/value_bits.py runs/covid

The model of a finished run goes through a round trip as three sites of unequal weight would send
it: weighted, rounded, packed, added, unpacked, divided. What comes back is tested on the run's own
test images, beside the model as it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppfl.codec import WEIGHT_UNIT, Quantizer, SlotLayout, ranges_of
from ppfl.learning.images import ImageSet, load_images
from ppfl.learning.models import get_parameters, set_parameters
from ppfl.learning.sources import ImageRecord, read_records
from ppfl.learning.splits import split_by_group
from ppfl.learning.study_model import StudyModel
from ppfl.settings import SiteFile, Study
from sites.vectors import shapes_of, update_plan

Floats = NDArray[np.float32]

_WEIGHTS = (0.2, 0.3, 0.5)
_PLAINTEXT_BITS, _CIPHERTEXT_BYTES = 3071, 768  # of a 3072-bit key


def main() -> None:
    """Measure and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 10, 12, 14, 16, 20, 24])
    options = parser.parse_args()
    study = Study.read(options.run / "study.toml")
    first = options.run / "sites" / study.federation.sites[0] / "work" / "model.safetensors"
    model = StudyModel.read(first)
    images = _test_images(options.run, study)
    was = get_parameters(model.network, batch_norm="average")
    before = model.predict(images.images)
    accuracy = (before.argmax(axis=1) == images.labels).mean()
    print(
        f"{len(images.labels)} test images, accuracy {100 * accuracy:.2f} % without a round trip\n"
    )
    print(
        "| value bits | accuracy, % | change, points | other decisions | largest change of a "
        "probability | MB up |"
    )
    print("|---|---|---|---|---|---|")
    for bits in options.bits:
        after = _predict_after(model, was, images, bits)
        set_parameters(model.network, was)
        now = (after.argmax(axis=1) == images.labels).mean()
        other = int((after.argmax(axis=1) != before.argmax(axis=1)).sum())
        print(
            f"| {bits} | {100 * now:.2f} | {100 * (now - accuracy):+.2f} | {other} | "
            f"{np.abs(after - before).max():.1e} | {_megabytes(study, was, bits):.2f} |"
        )


def _predict_after(
    model: StudyModel, was: dict[str, Floats], images: ImageSet, bits: int
) -> Floats:
    quantizer = Quantizer(shapes_of(was), ranges_of(was), bits)
    weights = [round(weight / WEIGHT_UNIT) for weight in _WEIGHTS]
    layout = SlotLayout(bits, 2, _PLAINTEXT_BITS)
    sums = np.zeros(quantizer.values, np.int64)
    for weight in weights:
        values = quantizer.quantize(was, weight=weight).values
        sums += layout.unpack(layout.pack(values), values.size)
    average = quantizer.dequantize(sums, summands=len(weights), weight=sum(weights))
    set_parameters(model.network, average)
    return model.predict(images.images)


def _megabytes(study: Study, parameters: dict[str, Floats], bits: int) -> float:
    changed = study.encryption.model_copy(update={"value_bits": bits})
    plan = update_plan(study.model_copy(update={"encryption": changed}), shapes_of(parameters))
    ciphertexts = SlotLayout(bits, study.headroom_bits, _PLAINTEXT_BITS).plaintexts(plan.values)
    return ciphertexts * _CIPHERTEXT_BYTES / 1e6


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
