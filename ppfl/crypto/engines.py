"""Which engine runs, and why."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from ppfl.crypto.engine import Engine
from ppfl.crypto.gmp import GmpEngine
from ppfl.crypto.keys import PrivateKey, PublicKey
from ppfl.crypto.lanes import IFMA, find_instructions, find_obstacle
from ppfl.crypto.native import Avx2Engine, NativeEngine
from ppfl.crypto.reference import ReferenceEngine

EngineName = Literal["auto", "native", "native-avx2", "gmp", "reference"]


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The name of the engine that runs, and a sentence that says why it does."""

    name: str
    reason: str


def choose_engine(name: EngineName = "auto") -> EngineChoice:
    """The engine that a name stands for on this machine; ``auto`` is the fastest that can run."""
    if name != "auto":
        return EngineChoice(name, "It was asked for.")
    obstacle = find_obstacle()
    if obstacle:
        return EngineChoice(GmpEngine.name, f"Engine native cannot run: {obstacle}.")
    best = find_instructions()
    lack = "" if best == IFMA else f", but no {IFMA.title}"
    return EngineChoice(NativeEngine.name, f"This processor has {best.title}{lack}.")


def create_engine(
    public: PublicKey,
    private: PrivateKey | None = None,
    *,
    name: EngineName = "auto",
    threads: int | None = None,
    s: int = 1,
) -> Engine:
    """An engine for a key; ``threads`` defaults to the cores this process may use.

    Raises:
        InvalidKeyError: the private key does not belong to the public one.
        SettingsError: s is out of range, or engine ``native`` or ``native-avx2`` was asked for, and
            cannot run here.
    """
    kinds = {kind.name: kind for kind in (NativeEngine, Avx2Engine, GmpEngine, ReferenceEngine)}
    kind = kinds[choose_engine(name).name]
    return kind(public, private, threads=threads or len(os.sched_getaffinity(0)), s=s)
