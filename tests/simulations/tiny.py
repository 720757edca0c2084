"""A study small enough for tests: three hospitals of phantoms, a small network, a 2048-bit key."""

from __future__ import annotations

from typing import Any

from simulations.scenario import Scenario

COUNTS = {"Normal": 8, "Effusion": 8}
SITES = ("east", "north", "west")


def tiny_scenario(custody: str, *, key_bits: int = 2048, **sections: dict[str, Any]) -> Scenario:
    """The scenario; further sections of the study are merged over its own."""
    study: dict[str, Any] = {
        "name": "tiny",
        "classes": ["Normal", "Effusion"],
        "images": {"size": 64},
        "model": {"architecture": "shufflenet_v2_x0_5"},
        "training": {"rounds": 2, "batch_size": 8},
        "encryption": {"custody": custody},
        "federation": {"release_floor": 1},
    }
    for name, table in sections.items():
        study[name] = study[name] | table
    hospitals = [{"name": name, "counts": COUNTS} for name in SITES]
    return Scenario.model_validate(
        {"study": study, "simulation": {"phantoms": hospitals, "key_bits": key_bits}}
    )
