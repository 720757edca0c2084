"""What is measured: the updates of one round, and the interface of a system that averages them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ppfl.codec import Parameters
from ppfl.crypto import PrivateKey, generate_key
from ppfl.errors import RunError
from ppfl.learning.models import build_model, get_parameters

SITES = ("a", "b", "c")
"""The sites of the measured study; their updates count alike."""

_TRAINED = 0.1  # by so much of itself does a parameter differ between sites
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Workload:
    """The updates of one round, and how they are to be protected.

    ``start`` is the model that the sites began the round with, ``updates`` what each site ended
    with, in the order of ``SITES``. ``key_bits`` is for the Paillier systems, ``generate`` how
    their keys are made, ``threads`` how many cores a system may use, where it can be told.
    """

    start: Parameters
    updates: tuple[Parameters, ...]
    key_bits: int
    threads: int
    generate: Callable[[int], PrivateKey] = generate_key

    @property
    def parameters(self) -> int:
        """How many parameters an update has."""
        return sum(array.size for array in self.start.values())

    def sample(self, parameters: int) -> Workload:
        """The same round for the first parameters only: as many, up to the end of a row."""
        return replace(
            self,
            start=_first(self.start, parameters),
            updates=tuple(_first(update, parameters) for update in self.updates),
        )

    def average(self) -> dict[str, NDArray[np.float64]]:
        """The true average of the updates."""
        return {
            name: np.mean([update[name] for update in self.updates], axis=0, dtype=np.float64)
            for name in self.start
        }


def build_workload(architecture: str, *, key_bits: int, threads: int) -> Workload:
    """The round of a network with random weights, three classes, the same in every run.

    Raises:
        ModelError: torchvision has no classifier of that name.
    """
    model = build_model(architecture, classes=3, seed=1)
    start = get_parameters(model)
    return make_workload(start, key_bits=key_bits, threads=threads)


def make_workload(start: Parameters, *, key_bits: int, threads: int) -> Workload:
    """The round of a model with these parameters; every site's update lies a little off them."""
    random = np.random.default_rng(1)
    updates = tuple(
        {
            name: array + np.float32(_TRAINED) * array * _normal(random, array)
            for name, array in start.items()
        }
        for _ in SITES
    )
    return Workload(start, updates, key_bits=key_bits, threads=threads)


class System(ABC, Generic[T]):
    """One way to average the updates of a workload, with its keys made and handed out.

    T is what the coordinator holds while it adds.
    """

    def prepare(self) -> None:
        """What a site can do before its update is ready; it is not timed."""
        return None

    @abstractmethod
    def seal(self, parameters: Parameters, *, site: int) -> bytes:
        """What a site sends: its update, protected, as bytes on the wire."""

    @abstractmethod
    def add(self, total: T | None, wire: bytes, *, site: int) -> T:
        """The coordinator's total with one more update in it; ``None`` is a total of nothing."""

    @abstractmethod
    def close(self, total: T) -> bytes:
        """What the coordinator sends back: the total, as bytes on the wire."""

    @abstractmethod
    def open(self, wire: bytes) -> dict[str, NDArray[np.float32]]:
        """The average of the updates in a total."""

    @abstractmethod
    def allowed_error(self) -> Mapping[str, float]:
        """By how much an opened parameter may differ from the true average, for each tensor."""

    def rounded_average(self, workload: Workload) -> Parameters | None:
        """What must come out bit for bit, if how the updates are rounded settles it."""
        return None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A system that can be measured, before anything that it needs is imported or made.

    ``name`` is for the command line and ``label`` for people. ``protection`` says what protects
    an update, ``readers`` who can read the sum, ``note`` what a reader of the figures must know.
    ``sample`` is how many parameters a slow system is timed on; its time and bytes are then
    scaled by ``units``, of which it needs so many for a workload. ``find_obstacle`` says why it
    cannot run here, or nothing. ``ahead`` if part of sealing is done before, and not timed.
    """

    name: str
    label: str
    protection: str
    readers: str
    create: Callable[[Workload], System[Any]]
    units: Callable[[Workload], int]
    find_obstacle: Callable[[], str] = str
    sample: int = 0
    note: str = ""
    ours: bool = False
    ahead: bool = False


def largest_error(system: System[Any], opened: Parameters, workload: Workload) -> float:
    """By how much an opened average is off, at most.

    Raises:
        RunError: a tensor is missing, off by more than the system allows, or not the one that
            rounding settles; the message names it.
    """
    true, allowed = workload.average(), system.allowed_error()
    if {name: array.shape for name, array in opened.items()} != {
        name: array.shape for name, array in true.items()
    }:
        raise RunError("the opened average has not the shapes of the updates")
    rounded = system.rounded_average(workload) or opened
    largest = 0.0
    for name, array in opened.items():
        error = float(np.abs(array - true[name]).max(initial=0.0))
        if not error <= allowed[name]:
            raise RunError(
                f"the opened average of {name} is off by {error:.2g}, {allowed[name]:.2g} allowed"
            )
        if not np.array_equal(array, rounded[name]):
            raise RunError(f"the opened average of {name} is not that of the rounded updates")
        largest = max(largest, error)
    return largest


def float_errors(start: Parameters) -> dict[str, float]:
    """What an average in float32 may lose, for each tensor.

    Four roundings, of numbers that may lie a little above the largest of the start.
    """
    unit = float(np.finfo(np.float32).eps)
    return {name: 8 * unit * float(np.abs(a).max(initial=0.0)) for name, a in start.items()}


def flatten(parameters: Parameters) -> NDArray[np.float32]:
    """(parameters,) all tensors, one after the other."""
    return np.concatenate([array.reshape(-1) for array in parameters.values()])


def shape_like(flat: NDArray[Any], like: Parameters) -> dict[str, NDArray[np.float32]]:
    """The tensors that lie one after the other in an array."""
    shaped, start = {}, 0
    for name, array in like.items():
        part = flat[start : start + array.size]
        shaped[name] = part.astype(np.float32).reshape(array.shape)
        start += array.size
    return shaped


def _first(parameters: Parameters, count: int) -> dict[str, NDArray[np.float32]]:
    """The first tensors; the last of them keeps its first rows."""
    chosen: dict[str, NDArray[np.float32]] = {}
    for name, array in parameters.items():
        if count <= 0:
            break
        row = array.size // len(array)
        chosen[name] = array[: -(-count // row)]
        count -= array.size
    return chosen


def _normal(random: np.random.Generator, array: NDArray[np.float32]) -> NDArray[np.float32]:
    return random.standard_normal(array.shape, dtype=np.float32)
