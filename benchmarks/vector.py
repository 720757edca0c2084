"""One MobileNetV2 vector under a 3072-bit key, against `phe` in the same run.

    python benchmarks/vector.py            # about four minutes on two cores
    python benchmarks/vector.py --runs 5 --json

Prints medians of the runs. `phe` encrypts value by value, so a sample is timed and scaled up; its
decryption of our packed ciphertexts is timed on a sample of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, get_args

import numpy as np
import phe
import psutil

from ppfl.codec import PackedSuite
from ppfl.crypto import EngineName, create_engine, generate_key
from ppfl.learning.models import build_model, get_parameters
from ppfl.settings import EncryptionOptions, Study, check_settings
from sites.vectors import shapes_of, update_plan

_SAMPLE = 24  # what phe is timed on


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--bits", type=int, default=3072)
    parser.add_argument("--value-bits", type=int, default=EncryptionOptions().value_bits)
    parser.add_argument("--engine", choices=get_args(EngineName), default="auto")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", action="store_true", help="one run, peak memory only")
    options = parser.parse_args()
    if options.memory:
        print(_peak_mb(options))
        return
    figures = _measure(options)
    figures["peak_mb"] = float(
        subprocess.run(  # noqa: S603 - this program itself
            [sys.executable, *sys.argv, "--memory"], check=True, capture_output=True, text=True
        ).stdout
    )
    if options.json:
        print(json.dumps(figures))
        return
    for name, figure in figures.items():
        print(f"{name:36} {figure:,.4g}" if isinstance(figure, float) else f"{name:36} {figure}")


class _Vector:
    """A site's update at its real size: MobileNetV2, three classes, in a study of three sites."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.key = generate_key(options.bits)
        study = {
            "name": "benchmark",
            "classes": ["a", "b", "c"],
            "encryption": {
                "key_fingerprint": self.key.public.fingerprint,
                "value_bits": options.value_bits,
            },
            "federation": {"sites": ["a", "b", "c"]},
        }
        self.study = check_settings(study, Study, where="benchmark")
        self.parameters = get_parameters(
            build_model("mobilenet_v2", classes=3, seed=1), batch_norm="average"
        )
        self.plan = update_plan(self.study, shapes_of(self.parameters))
        self.engine = create_engine(self.key.public, self.key, name=options.engine)
        self.suite = PackedSuite(
            self.engine, value_bits=options.value_bits, headroom_bits=self.study.headroom_bits
        )
        self.values = np.random.default_rng(1).integers(
            0, 2**options.value_bits, self.plan.values, dtype=np.int64
        )


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    vector = _Vector(options)
    suite, values = vector.suite, vector.values
    sealed = suite.seal(values)  # builds the tables, as the first round of a site does
    plaintexts = suite.layout.pack(values)
    opened = vector.engine.decrypt(sealed.parts[0])
    seconds = {
        "pack_s": _median(options.runs, lambda: suite.layout.pack(values)),
        "seal_s": _median(options.runs, lambda: suite.seal(values)),
        "add_s": _median(options.runs, lambda: suite.add(sealed, sealed)),
        "open_s": _median(options.runs, lambda: suite.open(sealed)),
        "unpack_s": _median(options.runs, lambda: suite.layout.unpack(opened, values.size)),
    }
    if not (suite.open(sealed) == values).all() or opened != plaintexts:
        raise SystemExit("the vector did not come back")
    ciphertexts = suite.layout.plaintexts(values.size)
    public = phe.PaillierPublicKey(vector.key.public.N)
    private = phe.PaillierPrivateKey(public, vector.key.P, vector.key.Q)
    numbers = list(np.random.default_rng(2).normal(size=_SAMPLE))
    width = vector.key.public.ciphertext_bytes
    sample = [
        int.from_bytes(sealed.parts[0][start : start + width], "little")
        for start in range(0, _SAMPLE * width, width)
    ]
    by_value = _median(options.runs, lambda: [public.encrypt(float(x)) for x in numbers])
    packed = _median(options.runs, lambda: [private.raw_decrypt(c) for c in sample])
    phe_seal_s = by_value / _SAMPLE * values.size
    phe_open_s = packed / _SAMPLE * ciphertexts
    return {
        "engine": options.engine,
        "cores": os.cpu_count(),
        "key_bits": options.bits,
        "value_bits": options.value_bits,
        "values": values.size,
        "values_a_ciphertext": suite.layout.slots,
        "ciphertexts": ciphertexts,
        "wire_mb": len(sealed.to_bytes()) / 1e6,
        "float32_mb": sum(array.nbytes for array in vector.parameters.values()) / 1e6,
        **seconds,
        "phe_seal_by_value_s (extrapolated)": phe_seal_s,
        "phe_open_packed_s (extrapolated)": phe_open_s,
        "seal: times faster than phe": phe_seal_s / seconds["seal_s"],
        "open: times faster than phe": phe_open_s / seconds["open_s"],
    }


def _peak_mb(options: argparse.Namespace) -> float:
    """Megabytes that sealing, adding and opening need beyond what the model's process has."""
    vector = _Vector(options)
    process, before = psutil.Process(), psutil.Process().memory_info().rss
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    sealed = vector.suite.seal(vector.values)
    vector.suite.open(vector.suite.add(sealed, sealed))
    with open(f"/proc/{process.pid}/status") as file:
        peak = next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return round((peak * 1024 - before) / 1e6, 1)


def _median(runs: int, act: Callable[[], object]) -> float:
    times = []
    for _ in range(runs):
        began = time.perf_counter()
        act()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


if __name__ == "__main__":
    main()
