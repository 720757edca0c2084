"""Settings files: what a study, and what a site, lays down."""

from ppfl.settings.coordinator import CoordinatorFile
from ppfl.settings.gateway import GatewayLimits
from ppfl.settings.site import PASSPHRASE_VARIABLE, Connection, SiteFile, read_passphrase
from ppfl.settings.study import (
    EncryptionOptions,
    FederationOptions,
    ImageOptions,
    ModelOptions,
    Name,
    Section,
    Sha256,
    Study,
    TrainingOptions,
    check_name,
    check_settings,
    read_settings,
)

__all__ = [
    "PASSPHRASE_VARIABLE",
    "Connection",
    "CoordinatorFile",
    "EncryptionOptions",
    "FederationOptions",
    "GatewayLimits",
    "ImageOptions",
    "ModelOptions",
    "Name",
    "Section",
    "Sha256",
    "SiteFile",
    "Study",
    "TrainingOptions",
    "check_name",
    "check_settings",
    "read_passphrase",
    "read_settings",
]
