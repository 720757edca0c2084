"""Every exception that ppfl raises on purpose.

    PpflError
    ├── SettingsError              a study, site or scenario file is wrong
    │   ├── StudyMismatchError     a site and the coordinator hold different studies
    │   ├── ApprovalError          code that a site has not approved
    │   ├── KitError               a site's kit that is damaged, or meant for another site
    │   └── DuplicateSiteError     two sites of one name
    ├── KeyMaterialError           a key or key file cannot be used
    │   ├── InvalidKeyError        numbers that are no key of the kind they claim to be
    │   ├── KeyFileError           a key file that cannot be read, or would be overwritten
    │   │   └── KeyAccessError     a private key of another owner, or that others can read
    │   ├── WrongPassphraseError   a private key file that this passphrase does not open
    │   ├── KeyMismatchError       another key than the study names
    │   └── CertificateError       a TLS certificate that cannot be used
    ├── NetworkError               a coordinator that a site cannot work with
    │   ├── UnreachableError       nobody answers at its address, or not as it should
    │   ├── ClockError             its clock and the site's are too far apart
    │   ├── UnregisteredError      it does not know the site's key
    │   ├── ElsewhereError         another SuperNode with the site's key is connected to it
    │   └── FlowerVersionError     it runs another version of Flower
    ├── MalformedMessageError      bytes from a peer that are not what they must be
    ├── DataError                  a data folder, table or image that cannot be used
    │   ├── UnreadableImageError   one image file that cannot be decoded
    │   └── VaultError             a vault file that cannot be opened
    ├── ModelError                 an architecture or parameters that cannot be used
    │   └── WeightsError           pretrained weights that cannot be had
    ├── ValueRangeError            values that the quantizer must not accept
    │   ├── NotFiniteError         NaN or infinity among the parameters
    │   └── ClippingError          too many values outside their tensor's range
    ├── RoundError                 a round that cannot go on
    │   ├── QuorumError            fewer sites than the study needs
    │   ├── DuplicateAnswerError   a site that answered twice
    │   ├── StaleRoundError        a message of another round than the current one
    │   ├── EnrolmentError         sums of enrolment that a site refuses to open
    │   ├── BehindError            a site that lacks totals which its optimiser needs
    │   ├── OwnVectorError         a site's own vector that is not what it should be
    │   └── SpoiledTotalError      a total that all sites refuse to open
    └── RunError                   a run's folder or process that cannot be used
        ├── RecordError            a journal that is not what was written and signed
        ├── PortInUseError         a port that another program listens on
        ├── BrowserError           no browser that prints a page to a PDF file
        └── DiskFullError          a file for which there is no room

Each has a code and an exit code of its own, whose tens say of which kind it is (docs/errors.md).

``code`` and ``public_sentence`` are all that may cross to the coordinator: the text of an
exception can hold a path, and a path can hold a patient's name.
"""

from __future__ import annotations

import errno
from typing import ClassVar

_FULL = (errno.ENOSPC, errno.EDQUOT)
_OTHER_FILE = 61  # exit code of an OSError that is not a full disk


class PpflError(Exception):
    """Anything that ppfl raises on purpose.

    Args:
        message: what was found and what was needed; for the eyes of this process's owner.
        hint: the next thing to do, or empty.
    """

    exit_code: ClassVar[int] = 1
    code: ClassVar[str] = "error"
    public_sentence: ClassVar[str] = "The site could not do what was asked."

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(PpflError):
    """A study, site or scenario file is wrong."""

    exit_code = 10
    code = "settings"
    public_sentence = "The site's own settings do not allow this study."


class StudyMismatchError(SettingsError):
    """A site and the coordinator hold different studies."""

    exit_code = 11
    code = "study-mismatch"
    public_sentence = "The coordinator's study is not the one this site agreed to."


class ApprovalError(SettingsError):
    """Code that a site has not approved: the installed one, or what a run of Flower brings."""

    exit_code = 12
    code = "approval"
    public_sentence = "The site has not approved this code."


class KitError(SettingsError):
    """A site's kit that is damaged, or meant for another site."""

    exit_code = 13
    code = "kit"


class DuplicateSiteError(SettingsError):
    """Two sites of one name."""

    exit_code = 14
    code = "duplicate-site"


class KeyMaterialError(PpflError):
    """A key or key file cannot be used."""

    exit_code = 20
    code = "key"
    public_sentence = "The site's key cannot be used."


class InvalidKeyError(KeyMaterialError):
    """Numbers that are no key of the kind they claim to be."""

    exit_code = 21
    code = "invalid-key"


class KeyFileError(KeyMaterialError):
    """A key file that cannot be read, or would be overwritten."""

    exit_code = 22
    code = "key-file"


class KeyAccessError(KeyFileError):
    """A private key of another owner, or that others can read."""

    exit_code = 23
    code = "key-access"


class WrongPassphraseError(KeyMaterialError):
    """A private key file that this passphrase does not open."""

    exit_code = 24
    code = "passphrase"
    public_sentence = "The site could not open its private key."


class KeyMismatchError(KeyMaterialError):
    """Another key than the study names."""

    exit_code = 25
    code = "key-mismatch"
    public_sentence = "The site's key is not the key of this study."


class CertificateError(KeyMaterialError):
    """A TLS certificate that cannot be used."""

    exit_code = 42
    code = "certificate"


class NetworkError(PpflError):
    """A coordinator that a site cannot work with."""

    exit_code = 40
    code = "network"
    public_sentence = "The site cannot work with what answers at the coordinator's address."


class UnreachableError(NetworkError):
    """Nobody answers at the coordinator's address, or not as it should."""

    exit_code = 41
    code = "unreachable"


class ClockError(NetworkError):
    """The coordinator's clock and the site's are too far apart."""

    exit_code = 43
    code = "clock"


class UnregisteredError(NetworkError):
    """The coordinator does not know the site's key."""

    exit_code = 44
    code = "unregistered"


class ElsewhereError(NetworkError):
    """Another SuperNode with the site's key is connected to the coordinator."""

    exit_code = 47
    code = "elsewhere"


class FlowerVersionError(NetworkError):
    """The coordinator runs another version of Flower."""

    exit_code = 45
    code = "flower-version"


class MalformedMessageError(PpflError):
    """Bytes from a peer that are not what they must be."""

    exit_code = 54
    code = "malformed-message"
    public_sentence = "The site received bytes that are not a valid message of this study."


class DataError(PpflError):
    """A data folder, table or image that cannot be used."""

    exit_code = 30
    code = "data"
    public_sentence = "The site's X-rays cannot be used as they are."


class UnreadableImageError(DataError):
    """One image file that cannot be decoded."""

    exit_code = 31
    code = "unreadable-image"


class VaultError(DataError):
    """A vault file that cannot be opened."""

    exit_code = 32
    code = "vault"


class ModelError(PpflError):
    """An architecture or parameters that cannot be used."""

    exit_code = 15
    code = "model"
    public_sentence = "The model cannot be built or loaded at the site."


class WeightsError(ModelError):
    """Pretrained weights that cannot be had."""

    exit_code = 19
    code = "weights"


class ValueRangeError(PpflError):
    """Values that the quantizer must not accept."""

    exit_code = 16
    code = "value-range"
    public_sentence = "The site's update holds values that cannot be sealed."


class NotFiniteError(ValueRangeError):
    """NaN or infinity among the parameters."""

    exit_code = 17
    code = "not-finite"
    public_sentence = "The site's training ended in NaN or infinity; its update was not sent."


class ClippingError(ValueRangeError):
    """Too many values outside their tensor's range."""

    exit_code = 18
    code = "clipping"
    public_sentence = "Too many of the site's values fell outside their range; nothing was sent."


class RoundError(PpflError):
    """A round that cannot go on."""

    exit_code = 50
    code = "round"
    public_sentence = "The round cannot go on at this site."


class QuorumError(RoundError):
    """Fewer sites than the study needs."""

    exit_code = 51
    code = "quorum"
    public_sentence = "The total is not a sum of as many sites as the study demands."


class DuplicateAnswerError(RoundError):
    """A site that answered twice."""

    exit_code = 52
    code = "duplicate-answer"
    public_sentence = "The site answered twice in one round."


class StaleRoundError(RoundError):
    """A message of another round than the current one."""

    exit_code = 53
    code = "stale-round"
    public_sentence = "The message belongs to a round that this site has already left."


class EnrolmentError(RoundError):
    """Sums of enrolment that a site refuses to open."""

    exit_code = 55
    code = "enrolment"
    public_sentence = "The sums of enrolment are none that the study allows to be opened."


class BehindError(RoundError):
    """A site that lacks totals which its optimiser needs."""

    exit_code = 58
    code = "behind"
    public_sentence = "The site has missed totals, and is sent them before the next round."


class OwnVectorError(RoundError):
    """A site's own vector that is not what it should be."""

    exit_code = 56
    code = "own-vector"
    public_sentence = "The vector that this site sent in the last round is not what it should be."


class SpoiledTotalError(RoundError):
    """A total that all sites refuse to open."""

    exit_code = 57
    code = "spoiled-total"

    def __init__(self, message: str) -> None:
        super().__init__(
            message, hint="SECURITY.md, “A spoiled total”: how to find the site, what to do then"
        )


class RunError(PpflError):
    """A run's folder or process that cannot be used."""

    exit_code = 62
    code = "run"
    public_sentence = "The run cannot go on."


class RecordError(RunError):
    """A journal, or a record in it, that is not what was written and signed."""

    exit_code = 63
    code = "record"
    public_sentence = "The record of the last round is not what was signed."


class PortInUseError(RunError):
    """A port that another program listens on."""

    exit_code = 46
    code = "port"


class BrowserError(RunError):
    """No browser that prints a page to a PDF file, or one that fails."""

    exit_code = 64
    code = "browser"


class DiskFullError(RunError):
    """A file for which there is no room."""

    exit_code = 60
    code = "disk-full"
    public_sentence = "The disk is full."


def write_error(message: str, error: OSError) -> RunError:
    """What to raise for a file that cannot be written; a full disk is an error of its own."""
    if error.errno in _FULL:
        hint = "make room: all up to the last complete round is kept, and a study goes on from it"
        return DiskFullError(f"{message}: {error.strerror}", hint=hint)
    return RunError(f"{message}: {error.strerror}")


def kind_of(error: Exception) -> type[PpflError] | None:
    """The kind of an error, None if it is none of ppfl's; a full disk has its own.

    Whoever was writing may have said it as an error of another kind: that of a key file, a model.
    """
    cause = error.__context__ if isinstance(error, PpflError) else error
    if isinstance(cause, OSError) and cause.errno in _FULL:
        return DiskFullError
    return type(error) if isinstance(error, PpflError) else None


def exit_code_of(error: PpflError | OSError) -> int:
    """The code to exit with."""
    kind = kind_of(error)
    return kind.exit_code if kind else _OTHER_FILE


def error_of(code: str, message: str) -> PpflError:
    """The error that a journal tells of by its code; one of no kind where the code is unknown."""
    kinds = [PpflError]
    for kind in kinds:
        if kind.code == code:
            return kind(message)
        kinds += kind.__subclasses__()
    return PpflError(message)
