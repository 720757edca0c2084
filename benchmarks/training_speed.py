"""Training beside a bare loop of PyTorch, in images per second, and what reading X-rays takes.

    python benchmarks/training_speed.py                            # minutes, on drawn pictures
    python benchmarks/training_speed.py --data FOLDER --compile

`train_locally` and the bare loop take the same batches with the same optimiser, a step of one and
then a step of the other, so that whatever else the machine does hits both alike. Medians of the
steps after the first; tables in Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ppfl.learning.augment import augment
from ppfl.learning.images import ImageSet, load_images
from ppfl.learning.memory import keep_freed_memory
from ppfl.learning.models import as_tensor, build_model, network_input
from ppfl.learning.sources import ImageRecord, read_records
from ppfl.learning.training import train_locally
from ppfl.settings import TrainingOptions
from ppfl.xray import write_phantoms

_NORMALISATION = (0.5, 0.25)
_CLASSES = 3
_CPU = torch.device("cpu")
_COMPILED_SIZE = 128
_PHANTOMS = {"Normal": 100, "Effusion": 100, "Nodule": 100}

Context = Callable[[], AbstractContextManager[object]]


class BareLoop:
    """What one would write without ppfl: batch in, loss back, step, and nothing else.

    ``images`` (n, size, size) and ``labels`` (n,) are all there are; each batch is the next in an
    order drawn at random for each epoch.
    """

    def __init__(
        self, model: nn.Module, data: ImageSet, *, batch_size: int, augmented: bool
    ) -> None:
        self.model = model.to(memory_format=torch.channels_last).train()
        self._images, self._labels = data.images, torch.from_numpy(data.labels)
        self._augmented = augmented
        self._generator = torch.Generator().manual_seed(1)
        self._batches = self._draw(batch_size)
        self.optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

    def step(self, context: Context = nullcontext) -> float:
        """Seconds of one training step."""
        began = time.perf_counter()
        pixels, labels = self.next_batch()
        with context():
            loss = functional.cross_entropy(self.model(pixels), labels)
        self.optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return time.perf_counter() - began

    def next_batch(self) -> tuple[Tensor, Tensor]:
        """The network's input (n, 3, size, size) and labels (n,)."""
        chosen = next(self._batches)
        pixels = as_tensor(self._images[chosen.numpy()], _CPU)
        if self._augmented:
            pixels = augment(pixels, self._generator)
        return network_input(pixels, _NORMALISATION), self._labels[chosen]

    def _draw(self, batch_size: int) -> Iterator[Tensor]:
        while True:
            order = torch.randperm(len(self._labels), generator=self._generator)
            for start in range(0, len(order), batch_size):
                yield order[start : start + batch_size]


def main() -> None:
    """Measure and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="folder or table of X-rays to read")
    parser.add_argument("--sizes", type=int, nargs="+", default=[96, 128, 160, 224])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12, help="that are timed of each kind")
    parser.add_argument("--threads", type=int, default=0, help="0: all cores")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which is slow")
    options = parser.parse_args()
    keep_freed_memory()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(
        f"MobileNetV2, batches of {options.batch_size}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, medians of {options.steps} steps; images per second\n"
    )
    print(
        "| pixels | bare loop | ppfl | time, ppfl / bare | bare, augmented | ppfl, augmented | "
        "time, ppfl / bare | batch, % of a step | augmenting, % | batch norm's statistics, % of an "
        "epoch | bfloat16 / float32, time |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for size in options.sizes:
        print(_row(size, options.batch_size, options.steps), flush=True)
    if options.compile:
        print(f"\n{_compiled(options.batch_size, options.steps)}", flush=True)
    print(f"\n{_reading(options.data, options.sizes)}")


@dataclass(frozen=True, slots=True)
class Steps:
    """Seconds of each timed step of ``train_locally``, and of the bare loop's beside it.

    ``closing`` is how long batch norm's statistics then took ``train_locally``.
    """

    ours: list[float]
    bare: list[float]
    closing: float


def alternate(size: int, *, batch_size: int, steps: int, augmented: bool) -> Steps:
    """A step of ours, a step of the bare loop, and so on, for so many of each after the first."""
    data = random_images(batch_size * (steps + 1), size)
    bare = BareLoop(_network(), data, batch_size=batch_size, augmented=augmented)
    ours: list[float] = []
    theirs: list[float] = []
    resumed = time.perf_counter()

    def between(_done: int, _of: int) -> None:
        nonlocal resumed
        ours.append(time.perf_counter() - resumed)
        theirs.append(bare.step())
        resumed = time.perf_counter()

    train_locally(
        _network(),
        data,
        TrainingOptions(rounds=1, batch_size=batch_size, augmentation=augmented),
        classes=_CLASSES,
        normalisation=_NORMALISATION,
        round_number=1,
        seed=1,
        progress=between,
        device=_CPU,
    )
    return Steps(ours[1:], theirs[1:], time.perf_counter() - resumed)


def random_images(count: int, size: int) -> ImageSet:
    """Noise (count, size, size), for which arithmetic takes as long as for X-rays."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (count, size, size), dtype=np.uint8)
    return ImageSet(pixels, rng.integers(0, _CLASSES, count))


def _network() -> nn.Module:
    return build_model("mobilenet_v2", classes=_CLASSES, seed=1)


def _row(size: int, batch_size: int, steps: int) -> str:
    plain, changed = (
        alternate(size, batch_size=batch_size, steps=steps, augmented=augmented)
        for augmented in (False, True)
    )
    cells = [str(size)]
    for timed in (plain, changed):
        # of neighbours in time, so that a busy second spoils one pair and not the median
        ratio = statistics.median(a / b for a, b in zip(timed.ours, timed.bare, strict=True))
        rates = [batch_size / statistics.median(times) for times in (timed.bare, timed.ours)]
        cells += [f"{rates[0]:.1f}", f"{rates[1]:.1f}", f"{ratio:.3f}"]
    step = statistics.median(plain.bare)
    shares = [
        _batching(size, batch_size, steps) / step,
        _augmenting(size, batch_size, steps) / step,
        plain.closing / (step * (steps + 1)),
    ]
    cells += [f"{100 * share:.1f}" for share in shares]
    cells.append(f"{_bfloat16(size, batch_size, steps):.2f}")
    return f"| {' | '.join(cells)} |"


def _batching(size: int, batch_size: int, steps: int) -> float:
    """Seconds from an epoch's images in memory to one batch of the network's input."""
    data = random_images(batch_size * 4, size)
    loop = BareLoop(nn.Linear(1, 1), data, batch_size=batch_size, augmented=False)
    return _median(loop.next_batch, steps)


def _augmenting(size: int, batch_size: int, steps: int) -> float:
    pixels = as_tensor(random_images(batch_size, size).images, _CPU)
    generator = torch.Generator().manual_seed(1)
    return _median(lambda: augment(pixels, generator), steps)


def _bfloat16(size: int, batch_size: int, steps: int) -> float:
    """The time of a step under bfloat16 autocast over that of one in float32, in turn."""
    data = random_images(batch_size * 4, size)
    loops = [BareLoop(_network(), data, batch_size=batch_size, augmented=False) for _ in range(2)]

    def cast() -> AbstractContextManager[object]:
        return torch.autocast("cpu", dtype=torch.bfloat16)

    pairs = [(loops[0].step(cast), loops[1].step()) for _ in range(steps + 1)]
    return statistics.median(half / full for half, full in pairs[1:])


def _compiled(batch_size: int, steps: int) -> str:
    """What torch.compile does to one size, in a sentence."""
    data = random_images(batch_size * 4, _COMPILED_SIZE)
    bare = BareLoop(_network(), data, batch_size=batch_size, augmented=False)
    compiled = BareLoop(_network(), data, batch_size=batch_size, augmented=False)
    compiled.model.compile()
    first = compiled.step()
    bare.step()
    pairs = [(compiled.step(), bare.step()) for _ in range(steps)]
    ratio = statistics.median(new / old for new, old in pairs)
    return (
        f"torch.compile at {_COMPILED_SIZE} pixels: the first step takes {first:.0f} s, each "
        f"later one {ratio:.2f} times that of the loop as it is."
    )


def _reading(folder: Path | None, sizes: list[int]) -> str:
    """A table of how many X-rays a second are read from files, and from the cache after that."""
    with tempfile.TemporaryDirectory() as place:
        if folder is None:
            folder = Path(place) / "xrays"
            write_phantoms(folder, counts=_PHANTOMS, size=256, seed=1)
        records = read_records(folder)[:2000]
        classes = sorted({record.label for record in records})
        lines = [
            f"{len(records)} X-rays, decoded once and kept as 8-bit pixels; images per second\n",
            "| pixels | from files | from the cache |",
            "|---|--:|--:|",
        ]
        for size in sizes:
            cache = Path(place) / "cache"
            first, again = (len(records) / _read(records, classes, size, cache) for _ in range(2))
            lines.append(f"| {size} | {first:,.0f} | {again:,.0f} |")
    return "\n".join(lines)


def _read(records: list[ImageRecord], classes: list[str], size: int, cache: Path) -> float:
    """Seconds until every pixel is in memory: those of a cache are only mapped at first."""
    began = time.perf_counter()
    load_images(records, classes=classes, size=size, cache=cache).images.sum(dtype=np.int64)
    return time.perf_counter() - began


def _median(act: Callable[[], object], times: int) -> float:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        act()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
