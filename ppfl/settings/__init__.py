"""Settings files: what a study, and what a site, lays down."""

from ppfl.settings.study import (
    EncryptionOptions,
    FederationOptions,
    ImageOptions,
    ModelOptions,
    Study,
    TrainingOptions,
)

__all__ = [
    "EncryptionOptions",
    "FederationOptions",
    "ImageOptions",
    "ModelOptions",
    "Study",
    "TrainingOptions",
]
