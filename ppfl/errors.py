"""Every exception that ppfl raises on purpose.

    PpflError
    ├── SettingsError              a study, site or scenario file is wrong
    │   ├── StudyMismatchError     a site and the coordinator hold different studies
    │   ├── ApprovalError          a site's installed code is not what it approved
    │   └── KitError               a site's kit that is damaged, or meant for another site
    ├── KeyMaterialError           a key or key file cannot be used
    │   ├── InvalidKeyError        numbers that are no key of the kind they claim to be
    │   ├── KeyFileError           a key file that cannot be read, or would be overwritten
    │   ├── WrongPassphraseError   a private key file that this passphrase does not open
    │   ├── KeyMismatchError       another key than the study names
    │   └── CertificateError       a TLS certificate that cannot be used
    ├── MalformedMessageError      bytes from a peer that are not what they must be
    ├── DataError                  a data folder, table or image that cannot be used
    │   ├── UnreadableImageError   one image file that cannot be decoded
    │   └── VaultError             a vault file that cannot be opened
    ├── ModelError                 an architecture or parameters that cannot be used
    ├── ValueRangeError            values that the quantizer must not accept
    │   ├── NotFiniteError         NaN or infinity among the parameters
    │   └── ClippingError          too many values outside their tensor's range
    ├── RoundError                 a round that cannot go on
    │   ├── QuorumError            fewer sites than the study needs
    │   ├── DuplicateAnswerError   a site that answered twice
    │   ├── StaleRoundError        a message of another round than the current one
    │   ├── EnrolmentError         sums of enrolment that a site refuses to open
    │   ├── OwnVectorError         a site's own vector that is not what it should be
    │   └── SpoiledTotalError      a total that all sites refuse to open
    └── RunError                   a run's folder or process that cannot be used

``code`` and ``public_sentence`` are all that may cross to the coordinator: the text of an
exception can hold a path, and a path can hold a patient's name.
"""

from __future__ import annotations

from typing import ClassVar


class PpflError(Exception):
    """Anything that ppfl raises on purpose.

    Args:
        message: what was found and what was needed; for the eyes of this process's owner.
        hint: the next thing to do, or empty.
    """

    code: ClassVar[str] = "error"
    public_sentence: ClassVar[str] = "The site could not do what was asked."

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class SettingsError(PpflError):
    """A study, site or scenario file is wrong."""

    code = "settings"
    public_sentence = "The site's own settings do not allow this study."


class StudyMismatchError(SettingsError):
    """A site and the coordinator hold different studies."""

    code = "study-mismatch"
    public_sentence = "The coordinator's study is not the one this site agreed to."


class ApprovalError(SettingsError):
    """A site's installed code is not what it approved."""

    code = "approval"
    public_sentence = "The site has not approved the code that is installed there."


class KitError(SettingsError):
    """A site's kit that is damaged, or meant for another site."""


class KeyMaterialError(PpflError):
    """A key or key file cannot be used."""

    code = "key"
    public_sentence = "The site's key cannot be used."


class InvalidKeyError(KeyMaterialError):
    """Numbers that are no key of the kind they claim to be."""


class KeyFileError(KeyMaterialError):
    """A key file that cannot be read, or would be overwritten."""


class WrongPassphraseError(KeyMaterialError):
    """A private key file that this passphrase does not open."""

    code = "passphrase"
    public_sentence = "The site could not open its private key."


class KeyMismatchError(KeyMaterialError):
    """Another key than the study names."""

    code = "key-mismatch"
    public_sentence = "The site's key is not the key of this study."


class CertificateError(KeyMaterialError):
    """A TLS certificate that cannot be used."""


class MalformedMessageError(PpflError):
    """Bytes from a peer that are not what they must be."""

    code = "malformed-message"
    public_sentence = "The site received bytes that are not a valid message of this study."


class DataError(PpflError):
    """A data folder, table or image that cannot be used."""

    code = "data"
    public_sentence = "The site's X-rays cannot be used as they are."


class UnreadableImageError(DataError):
    """One image file that cannot be decoded."""


class VaultError(DataError):
    """A vault file that cannot be opened."""


class ModelError(PpflError):
    """An architecture or parameters that cannot be used."""

    code = "model"
    public_sentence = "The model cannot be built or loaded at the site."


class ValueRangeError(PpflError):
    """Values that the quantizer must not accept."""

    code = "value-range"
    public_sentence = "The site's update holds values that cannot be sealed."


class NotFiniteError(ValueRangeError):
    """NaN or infinity among the parameters."""

    code = "not-finite"
    public_sentence = "The site's training ended in NaN or infinity; its update was not sent."


class ClippingError(ValueRangeError):
    """Too many values outside their tensor's range."""

    code = "clipping"
    public_sentence = "Too many of the site's values fell outside their range; nothing was sent."


class RoundError(PpflError):
    """A round that cannot go on."""

    code = "round"
    public_sentence = "The round cannot go on at this site."


class QuorumError(RoundError):
    """Fewer sites than the study needs."""

    code = "quorum"
    public_sentence = "The total is not a sum of as many sites as the study demands."


class DuplicateAnswerError(RoundError):
    """A site that answered twice."""

    code = "duplicate-answer"
    public_sentence = "The site answered twice in one round."


class StaleRoundError(RoundError):
    """A message of another round than the current one."""

    code = "stale-round"
    public_sentence = "The message belongs to a round that this site has already left."


class EnrolmentError(RoundError):
    """Sums of enrolment that a site refuses to open."""

    code = "enrolment"
    public_sentence = "The sums of enrolment are none that the study allows to be opened."


class OwnVectorError(RoundError):
    """A site's own vector that is not what it should be."""

    code = "own-vector"
    public_sentence = "The vector that this site sent in the last round is not what it should be."


class SpoiledTotalError(RoundError):
    """A total that all sites refuse to open."""

    code = "spoiled-total"

    def __init__(self, message: str) -> None:
        super().__init__(
            message, hint="SECURITY.md, “A spoiled total”: how to find the site, what to do then"
        )


class RunError(PpflError):
    """A run's folder or process that cannot be used."""

    code = "run"
    public_sentence = "The run cannot go on."
