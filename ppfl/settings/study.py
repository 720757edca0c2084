"""What the hospitals agree on before they start: the study file."""

from __future__ import annotations

import hashlib
import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from ppfl.errors import DuplicateSiteError, SettingsError
from ppfl.settings.methods import check_methods

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
"""A name that is safe as a folder and as a table heading."""

Sha256 = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
"""A SHA-256 digest in lower-case hexadecimal, or empty where it is not yet known."""


_FEWEST_IN_A_MEAN = 5  # X-rays; in the mean of two or three, each can still be made out


class Section(BaseModel):
    """One table of a settings file: immutable, and nothing in it goes unread."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ImageOptions(Section):
    """How an X-ray becomes the network's input, and which images are held back."""

    size: int = Field(128, ge=32, le=1024, description="side of the square input, in pixels")
    normalisation: Literal["federation"] | tuple[float, float] = Field(
        "federation",
        description="mean and standard deviation of a pixel in [0, 1]; `federation` computes both "
        "under encryption, over the sites that have enrolled for the first round, for all rounds",
    )
    equalise: Literal["none", "histogram"] = Field(
        "none",
        description="`histogram`: every X-ray's grey levels are spread so that each is as common "
        "as the next, before it is resized; it costs a little at home and helps where a scanner "
        "renders differently (docs/inputs.md)",
    )
    cipher: Literal[
        "none",
        "unsafe_fixed_randomness",
        "unsafe_low_byte",
        "unsafe_no_randomness",
        "fresh_randomness",
    ] = Field(
        "none",
        description="what the network sees in place of a pixel, to measure what it costs and leaks "
        "(docs/reproduction.md): bytes of its ciphertext under one secret ρ, the last byte of it, "
        "its ciphertext with ρ = 1, or with a fresh ρ for each pixel, from which nothing is learnt",
    )
    cipher_bytes: Literal["correlated", "highest"] = Field(
        "correlated",
        description="which three bytes of a ciphertext are the network's channels under one ρ: "
        "those that correlate most with the grey level (below 0.99: the best again), or the "
        "highest of its scaled value",
    )
    cipher_secret: Literal["federation", "site"] = Field(
        "federation",
        description="the secret that ρ is drawn from: one for all sites, derived from the "
        "private key, or each site's own",
    )
    validation: float = Field(0.1, ge=0, lt=1, description="share of groups held back per round")
    test: float = Field(0.2, ge=0, lt=1, description="share of groups held back for the end")

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Self:
        if self.validation + self.test >= 1:
            raise ValueError("validation and test together must leave something to train on")
        if self.normalisation != "federation" and not self.normalisation[1] > 0:
            raise ValueError("the standard deviation in normalisation must be above 0")
        return self


class ModelOptions(Section):
    """The network and where it starts."""

    architecture: str = Field("mobilenet_v2", description="a classifier of torchvision.models")
    start: Literal["seed", "imagenet"] = Field(
        "seed", description="random weights from the study's seed, or pretrained on ImageNet"
    )
    start_sha256: Sha256 = Field("", description="digest of the starting parameters")
    batch_norm: Literal["average", "local", "group"] = Field(
        "average",
        description="`average`: weights, biases and running statistics are averaged like all "
        "else; `local`: none of them ever leaves the site (FedBN); `group`: group norm takes "
        "batch norm's place and its weights and biases, and there are no running statistics",
    )
    local_layers: tuple[str, ...] = Field(
        (),
        description="layers that each site trains for itself and that never leave it, by name: "
        "`features.0` is the stem of MobileNetV2, `classifier` its last layer",
    )
    train_from: str = Field(
        "",
        description="the first layer that is trained, by name; all before it stays as it starts, "
        "its batch norm's statistics too, and is neither sealed nor sent; empty: all are trained",
    )

    @property
    def has_local_layers(self) -> bool:
        """Whether some parameters never leave their site."""
        return self.batch_norm == "local" or bool(self.local_layers)


class TrainingOptions(Section):
    """What every site does between two sums."""

    rounds: int = Field(10, ge=1, le=10_000)
    local_epochs: int = Field(1, ge=1, le=1_000, description="passes over the site's images")
    local_steps: int = Field(
        0,
        ge=0,
        le=100_000,
        description="steps in place of `local_epochs`, on images that are drawn anew each round; "
        "one step of `sgd` is FedSGD; 0: whole passes",
    )
    batch_size: int = Field(32, ge=2, le=4096)
    optimiser: Literal["adamw", "sgd", "scaffold"] = Field(
        "adamw",
        description="of each site's steps; `sgd` needs a higher learning_rate; `scaffold`: `sgd` "
        "whose steps control variates correct, which are sealed beside the parameters and double "
        "an update's bytes",
    )
    learning_rate: float = Field(1e-3, gt=0, le=10, description="highest rate of the optimiser")
    momentum: float = Field(0.0, ge=0, lt=1, description="of `sgd`")
    weight_decay: float = Field(0.01, ge=0, le=10)
    warmup: float = Field(
        0.1, ge=0, le=0.9, description="share of all steps in which the rate rises from 0"
    )
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weighting: bool = Field(
        True, description="a rare class counts as much as a common one in the loss"
    )
    logit_adjustment: float = Field(
        0.0,
        ge=0,
        le=4,
        description="τ: in training each class's logit gains τ · log of what the class counts at "
        "the site, so that the model does not learn the site's mix of classes; 0: not",
    )
    augmentation: bool = Field(
        True,
        description="small turns, shifts, zooms and changes of contrast; never upside down",
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of a training step's forward and backward pass; parameters, optimiser, "
        "running statistics and tests are float32 with either",
    )
    proximal_mu: float = Field(
        0.0,
        ge=0,
        le=100,
        description="pull towards the model that the round began with (FedProx); 0: none",
    )
    server_optimiser: Literal["average", "fedavgm", "fedadam", "fedyogi"] = Field(
        "average",
        description="what every site makes of the opened average: `average` takes it as the next "
        "model, the others step towards it, with momentum and with a step size for each parameter",
    )
    server_learning_rate: float = Field(
        0.0, ge=0, le=10, description="of `server_optimiser`; 0: 1 for `fedavgm`, else 0.01"
    )
    server_momentum: float = Field(
        0.9, ge=0, lt=1, description="of `server_optimiser`: β of FedAvgM, β₁ of the others"
    )
    server_beta2: float = Field(
        0.99, ge=0, lt=1, description="memory of the squares in `fedadam` and `fedyogi`"
    )
    server_tau: float = Field(
        1e-3, gt=0, le=1, description="τ of `fedadam` and `fedyogi`: the higher, the less adaptive"
    )
    frozen_statistics: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the rounds, at the end, in which batch norm's running statistics "
        "are used as they are and no longer estimated; one round at least unless it is 0",
    )
    personalise_epochs: int = Field(
        0,
        ge=0,
        le=1_000,
        description="passes in which, after the last round, each site trains the last layer on "
        "its own images alone, for a model of its own beside the study's",
    )

    @property
    def server_rate(self) -> float:
        """The rate of `server_optimiser`, which has one of its own where none is set."""
        adaptive = self.server_optimiser in ("fedadam", "fedyogi")
        return self.server_learning_rate or (0.01 if adaptive else 1.0)

    @property
    def frozen_rounds(self) -> int:
        """How many rounds at the end leave batch norm's running statistics as they are."""
        return max(1, round(self.frozen_statistics * self.rounds)) if self.frozen_statistics else 0


class EncryptionOptions(Section):
    """How an update is sealed."""

    custody: Literal["shared", "unsafe_plaintext"] = Field(
        "shared",
        description="`shared`: every site holds the private key, the coordinator none; "
        "`unsafe_plaintext`: no encryption at all, only to compare with",
    )
    key_fingerprint: Sha256 = Field("", description="fingerprint of the public key")
    s: int = Field(
        2,
        ge=1,
        le=3,
        description="a ciphertext has (s + 1)/s times its plaintext's bits; 1: Paillier, 2 and 3: "
        "Damgård and Jurik's generalisation under the same key",
    )
    value_bits: int = Field(14, ge=8, le=40, description="bits of a quantized value")
    headroom_bits: int = Field(
        0, ge=0, le=16, description="spare bits of a slot; 0: as many as the named sites need"
    )
    clipped_tolerance: float = Field(
        1e-4, ge=0, le=1, description="share of parameters out of range above which a site gives up"
    )


class FederationOptions(Section):
    """Who must take part, and how long a round may last."""

    sites: tuple[Name, ...] = Field(min_length=2, description="names of the sites")
    minimum_sites: int = Field(
        2,
        ge=2,
        description="a total of fewer sites is neither made nor opened; SECURITY.md says what "
        "that protects",
    )
    deadline_s: float = Field(3600.0, gt=0, description="seconds after which a round is closed")
    release_floor: int = Field(
        20,
        ge=0,
        description="sites release no metric computed from fewer images than these, and none by "
        "class while a class that has images has fewer",
    )
    keep_ciphertexts: bool = Field(
        False,
        description="the coordinator keeps every site's sealed update, so that `ppfl audit` can "
        "add each total up again; it is told beforehand how many bytes that takes, and whoever "
        "gets them and a private key can open each single update",
    )
    mean_xray_size: int = Field(
        0,
        ge=0,
        le=256,
        description="side of the federation's mean X-ray of each class, in pixels, and at most the "
        "input's; a site adds to it where it trains on `release_floor` images of the class, if "
        "`minimum_sites` sites do; 0: none is made",
    )

    @model_validator(mode="after")
    def _sites_are_distinct_and_enough(self) -> Self:
        if len(set(self.sites)) != len(self.sites):
            raise DuplicateSiteError(
                "federation.sites: two sites have one name", hint="give one of them another"
            )
        if self.minimum_sites > len(self.sites):
            raise ValueError(
                f"minimum_sites is {self.minimum_sites}, but only {len(self.sites)} are named"
            )
        if self.mean_xray_size and self.release_floor < _FEWEST_IN_A_MEAN:
            raise ValueError(
                f"mean_xray_size needs a release_floor of at least {_FEWEST_IN_A_MEAN}: "
                "the mean of few X-rays shows them"
            )
        return self


class Study(Section):
    """A study: everything that must be equal at every site for a sum to mean something."""

    version: Literal[1] = 1
    name: Name
    classes: tuple[str, ...] = Field(min_length=2, max_length=100)
    seed: int = Field(2022, ge=0, lt=2**32)
    images: ImageOptions = ImageOptions()
    model: ModelOptions = ModelOptions()
    training: TrainingOptions = TrainingOptions()
    encryption: EncryptionOptions = EncryptionOptions()
    federation: FederationOptions

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        if len(set(self.classes)) != len(self.classes):
            raise ValueError("two classes have one name")
        if len(self.federation.sites) > 2**self.headroom_bits:
            raise ValueError(
                f"{len(self.federation.sites)} sites need more headroom_bits: "
                f"{self.headroom_bits} allow {2**self.headroom_bits}"
            )
        if self.images.cipher != "none" and self.encryption.custody == "unsafe_plaintext":
            raise ValueError("cipher images need a key: custody unsafe_plaintext has none")
        if self.images.cipher != "none" and self.federation.mean_xray_size:
            raise ValueError("mean X-rays are made of X-rays, not of cipher images")
        check_methods(self.model, self.training)
        return self

    @property
    def keeps_at_site(self) -> bool:
        """Whether a site's round depends on what its own earlier rounds have left there."""
        return self.model.has_local_layers or self.training.optimiser == "scaffold"

    @property
    def headroom_bits(self) -> int:
        """Spare bits of a slot, so that the values of all named sites add up within it."""
        return self.encryption.headroom_bits or (len(self.federation.sites) - 1).bit_length()

    @property
    def mean_xray_size(self) -> int:
        """Side of the mean X-rays in pixels, 0 if none is made; no pixel is made up for them."""
        return min(self.federation.mean_xray_size, self.images.size)

    def fingerprint(self) -> str:
        """SHA-256 in hexadecimal over the study's canonical JSON; equal studies, equal digests.

        A setting that came later counts only where it is not what went without saying before, so
        that the record of an older study can still be checked.
        """
        told = self.model_dump(mode="json")
        if self.training.logit_adjustment == 0:  # came later
            del told["training"]["logit_adjustment"]
        canonical = json.dumps(told, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()

    def to_toml(self) -> str:
        """The study as the text of a TOML file."""
        return tomli_w.dumps(self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """The study in a TOML file.

        Raises:
            SettingsError: the file is missing, is no TOML, or breaks a rule; the message names
                the key and the rule.
        """
        return read_settings(path, cls)

    @classmethod
    def parse(cls, text: str, *, where: str) -> Self:
        """The study in the text of such a file; raises as ``read`` does."""
        return parse_settings(text, cls, where=where)


def check_name(name: str, *, where: str) -> str:
    """A site's name, if it is safe as a file's; ``where`` begins the message.

    Raises:
        SettingsError: it holds anything but letters, digits, `_`, `.` and `-`, or is too long.
    """
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise SettingsError(
            f"{where}: {name!r} is no name for a site",
            hint="up to 64 letters, digits, _ . and -, the first a letter or digit",
        ) from None


S = TypeVar("S", bound=Section)


def read_settings(path: Path, kind: type[S]) -> S:
    """The settings in a TOML file, checked against their model.

    Raises:
        SettingsError: the file is missing, is no TOML, or breaks a rule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not a readable TOML file: {error}") from None
    return parse_settings(text, kind, where=str(path))


def parse_settings(text: str, kind: type[S], *, where: str) -> S:
    """The settings in a TOML text, checked against their model; ``where`` begins the message.

    Raises:
        SettingsError: the text is no TOML, or breaks a rule.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{where}: not a readable TOML file: {error}") from None
    return check_settings(table, kind, where=where)


def absolute_paths(settings: S, base: Path) -> S:
    """The settings with every path, also in the tables inside, made absolute from ``base``."""
    changes: dict[str, Any] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Path):
            changes[name] = base / value
        elif isinstance(value, Section):
            changes[name] = absolute_paths(value, base)
    return settings.model_copy(update=changes)


def check_settings(table: dict[str, Any], kind: type[S], *, where: str) -> S:
    """The settings in a table, checked against their model.

    Raises:
        DuplicateSiteError: two sites of a study have one name.
        SettingsError: a key is unknown, missing or out of bounds; ``where`` begins the message.
    """
    try:
        return kind.model_validate(table)
    except DuplicateSiteError as error:
        raise DuplicateSiteError(f"{where}: {error}", hint=error.hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = first["msg"].removeprefix("Value error, ")  # pydantic's, before a rule of ours
        raise SettingsError(": ".join(filter(None, (where, key, what)))) from None
