"""Where networks train and predict: the one place that knows of GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def choose_device() -> torch.device:
    """The GPU that torch sees (CUDA or ROCm), else the processor.

    torch is told to use algorithms on a GPU that give the same bits again, and warns where it has
    none; on the processor all are of this kind that torchvision's classifiers use.
    """
    if not torch.cuda.is_available():
        return torch.device("cpu")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS varies
    torch.backends.cudnn.benchmark = False  # or the fastest of the moment would be taken
    torch.use_deterministic_algorithms(True, warn_only=True)
    return torch.device("cuda")


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Torch's own random numbers, which dropout draws, from a seed; afterwards as before."""
    gpu = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if gpu else []):
        torch.default_generator.manual_seed(seed)
        if gpu:
            torch.cuda.manual_seed(seed)
        yield
