"""What is in an answer, item by item, as the site writes it down before it leaves."""

from __future__ import annotations

import hashlib
import json

from ppfl.federation.journal import LeftItem
from sites.requests import Answer

METRICS = "metrics of the whole federation"
"""The item that a site's answers have, and its last one without a sealed vector beside it."""


def left_items(answer: Answer, *, sealed: str, protection: str) -> tuple[LeftItem, ...]:
    """All that an answer tells; ``sealed`` says what its vector is, ``protection`` how it is kept.

    Bytes of what goes in the clear are those of its JSON.
    """
    items = []
    if answer.sealed:
        size, digest = len(answer.sealed), hashlib.sha256(answer.sealed).hexdigest()
        items.append(LeftItem(what=sealed, protection=protection, bytes=size, sha256=digest))
    for what, value in (
        (METRICS, answer.released),
        ("images of each class of the whole federation", answer.class_images),
        ("digest of the model that the sites opened", answer.model_sha256),
        ("mean X-rays of the whole federation", answer.mean_xrays),
        ("seconds that each phase took", answer.seconds),
        ("how many parameters were clipped", answer.clipped),
        ("signature under the record of the round before", answer.countersignature),
        ("digest of the totals that were opened", answer.history),
    ):
        if value:
            size = len(json.dumps(value))
            items.append(LeftItem(what=what, protection="none, in the clear", bytes=size))
    return tuple(items)
