"""The configuration of a training run: frozen, checked, documented field by field.

``"auto"`` stands for what the planner decides from the data and the machine; a plan resolves it into a new object,
never in place. A YAML file holds the same sections; ``--set section.key=value`` overrides one value.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segwright.core.deprecated import renamed_attribute
from segwright.core.errors import ConfigError
from segwright.core.progress import is_main_process

Auto = Literal["auto"]
Size = tuple[int, int]  # (height, width) in pixels

USUAL_CLIP = 5.0  # largest norm of the gradient

LONGEST = 1 << 20  # characters of a config file
DEEPEST = 16  # levels of a config file
SHOWN = 120  # characters of a wrong value in an error

Fraction = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=100)]
Factor = Annotated[float, Field(gt=0, le=1000)]


# Settings of the training section that were renamed in 0.2; the old names work for one release.
RENAMED = {
    "turn": "muon_lr",
    "class_prior": "prior_bias_init",
    "late_loss": "final_phase_loss",
    "aux_fade": "aux_decay",
    "shard": "fsdp",
    "unfreeze": "unfreeze_fraction",
    "freeze_encoder": "freeze_encoder_fraction",
    "native_logits": "loss_at_native_stride",
    "oversample": "repeat_rare",
}
_warned: set[str] = set()


def current_key(key: str) -> str:
    """The name that the dotted setting ``key`` has now; a former name is reported once per process on stderr."""
    section, _, name = key.partition(".")
    new = RENAMED.get(name) if section == "training" else None
    if new is None:
        return key
    if name not in _warned and is_main_process():
        _warned.add(name)
        print(
            f"warning: training.{name} is now training.{new}; the old name works until the next release",
            file=sys.stderr,
        )
    return f"{section}.{new}"


class _PlainDumper(yaml.SafeDumper):
    """Writes equal values out, without the aliases that reading refuses."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


class Section(BaseModel):
    """Frozen, and closed against unknown keys: a typing mistake is an error, not a silent default."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=False, allow_inf_nan=False)


class DataConfig(Section):
    """Where the images are."""

    path: str = Field("", description="folder or file of the dataset")
    format: str | None = Field(None, description="name of a data format; recognized when left out")
    images: str | None = Field(None, description="glob of the images, relative to the path; with `masks`")
    masks: str | None = Field(None, description="glob of the masks, relative to the path; with `images`")
    unlabeled_pixels: Literal["auto", "ignore", "background", "by-image"] = Field(
        "auto", description="what points, lines, boxes and outlines do not cover; ignored for points and lines alone"
    )
    boxes: Literal["auto", "fill", "core"] = Field(
        "auto",
        description="boxes as labels: in full, or the inner fifth and the rest ignored; by the format when auto",
    )
    point_radius: float | None = Field(None, ge=0, le=1000, description="pixels around a labeled point; 2 if left out")
    line_width: float | None = Field(None, ge=1, le=1000, description="pixels across a labeled line; 3 if left out")
    skip_bad: bool = Field(False, description="leave unusable files out instead of refusing to train")
    fold: int | None = Field(None, ge=0, description="which fold of `folds` is the validation split")
    folds: int = Field(5, ge=2, le=1000, description="number of folds when `fold` is given")

    def labels(self) -> dict[str, Any]:
        """The rule for sparse labels, as ``open_dataset`` takes it."""
        return self.model_dump(include={"unlabeled_pixels", "boxes", "point_radius", "line_width"})


class ModelConfig(Section):
    """Which network."""

    name: str = Field("auto", description="a name of `segwright models`, or auto")
    encoder: str | None = Field("auto", description="a timm encoder, auto, or none where the network has its own")
    weights: str | None = Field("auto", description="auto, none, imagenet, torchvision:…, or a path")
    in_channels: Annotated[int, Field(ge=1, le=4096)] | Auto = Field(
        "auto", description="channels of an image; from the data when auto"
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="further arguments of the network")

    @field_validator("weights", "encoder", mode="before")
    @classmethod
    def _none_is_none(cls, value: object) -> object:
        value = str(value) if isinstance(value, Path) else value
        return None if isinstance(value, str) and value.lower() in ("none", "null", "") else value


class Phase(Section):
    """A stretch of the run with one crop size and batch; small images first learn more in the same time."""

    until: float = Field(1.0, gt=0, le=1, description="fraction of the run at which the phase ends")
    size: Size = Field(description="height and width of a training crop in pixels")
    scale: tuple[float, float] = Field((0.5, 2.0), description="range of the zoom on the image")
    batch: int = Field(8, ge=1, le=65536, description="images per step")

    @field_validator("size")
    @classmethod
    def _size(cls, value: Size) -> Size:
        return check_size(value)

    @field_validator("scale")
    @classmethod
    def _scale(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError("scale is a range of positive numbers, low then high")
        return value


class AugmentConfig(Section):
    """How an image is varied in training: one composed warp and one color step."""

    strength: Literal["none", "light", "medium", "strong"] | Auto = Field("auto", description="strength by name")
    flip: bool = Field(True, description="mirror left and right")
    vertical_flip: bool = Field(False, description="mirror up and down as well, where up means nothing")
    flip_pairs: tuple[tuple[str, str], ...] | Auto = Field(
        "auto", description="classes that a mirror image exchanges: auto (left and right by name), none, [[a, b], …]"
    )
    rotation: Annotated[float, Field(ge=0, le=180)] | Auto = Field(
        "auto", description="largest rotation in degrees, 0 to 180"
    )
    class_aware: Fraction | Auto = Field("auto", description="fraction of the crops centered on a rare class, 0 to 1")
    paste: Fraction | Auto = Field(
        "auto", description="fraction of the crops into which half of the classes of another crop are pasted, 0 to 1"
    )

    @field_validator("flip_pairs", mode="before")
    @classmethod
    def _no_pairs(cls, value: object) -> object:
        return () if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "")) else value


class TrainingConfig(Section):
    """How the weights are found."""

    epochs: int | None = Field(None, ge=1, le=1_000_000, description="passes over the training images")
    minutes: float | None = Field(
        None, gt=0, le=1_000_000, description="wall-clock budget; the schedule follows the time used"
    )
    size: Size | Auto = Field("auto", description="height and width of a training crop; auto plans phases")
    batch: Annotated[int, Field(ge=1, le=65536)] | Auto = Field("auto", description="images per step")
    accumulate: int = Field(1, ge=1, le=65536, description="steps whose gradients are added before one update")
    phases: tuple[Phase, ...] = Field((), description="planned when empty")
    loss: str = Field("auto", description="a loss or a weighted sum of losses by name")
    class_weights: str | tuple[float, ...] = Field(
        "auto", description="none, inverse, median, sqrt-median, effective, or K numbers"
    )
    repeat_rare: Fraction | Auto = Field(
        "auto",
        description="images that show a class which fewer than this fraction show are repeated; 0: none",
    )
    prior_bias_init: bool | Auto = Field("auto", description="a new last layer starts at the classes' frequencies")
    logit_adjustment: bool | Auto = Field(
        "auto",
        description="shift the class scores after training to the best mean IoU; kept if validation shows a gain",
    )
    aux_weight: float = Field(0.4, ge=0, le=100, description="weight of the auxiliary heads' losses")
    aux_decay: bool = Field(False, description="the auxiliary weight falls to 0 over the run")
    final_phase_loss: str | None = Field(None, description="a loss added in the last phase, such as 0.5*jaccard")
    sparse_labels: bool | Auto = Field(
        "auto",
        description="crops of masks with few labeled pixels are laid around one, and none is lost by resampling",
    )
    loss_at_native_stride: bool = Field(False, description="train on logits at the network's own stride, where it can")
    optimizer: str = Field("auto", description="adamw, adam, sgd, rmsprop, …")
    lr: Rate | Auto = Field("auto", description="peak learning rate, above 0 and at most 100")
    muon_lr: float = Field(
        0.06, gt=0, lt=1, description="of muon: peak rotation of a kernel per step, as a fraction of its norm"
    )
    encoder_lr_factor: Annotated[float, Field(ge=0, le=1000)] | Auto = Field(
        "auto", description="learning rate of a pretrained encoder ÷ the head's, 0 to 1000"
    )
    head_lr_factor: float = Field(1.0, gt=0, le=1000, description="learning rate of the last layers ÷ the rest's")
    weight_decay: Annotated[float, Field(ge=0, le=10)] | Auto = Field(
        "auto", description="decoupled weight decay; norms and biases get none"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="of SGD and RMSprop")
    schedule: Literal["cosine", "poly", "step", "plateau", "one-cycle", "constant"] = Field(
        "cosine", description="cosine, poly, step, plateau, one-cycle, constant"
    )
    warmup: Fraction | Auto = Field(
        "auto", description="fraction of the run over which the learning rate rises, 0 to 1"
    )
    clip: float | None = Field(USUAL_CLIP, gt=0, le=1e6, description="largest norm of the gradient")
    ema: Annotated[float, Field(ge=0, lt=1)] | Auto | None = Field(
        "auto", description="decay of the averaged weights that are validated and saved"
    )
    swa: float | None = Field(
        None, gt=0, lt=1, description="fraction of the run after which weights are averaged equally"
    )
    norm_statistics: Literal["averaged", "measured"] | Auto = Field(
        "auto", description="batch-norm statistics of averaged weights: averaged, or measured on training images"
    )
    freeze_encoder_fraction: float = Field(0.0, ge=0, le=1, description="fraction of the run with the encoder frozen")
    unfreeze_fraction: float = Field(
        0.0, ge=0, le=1, description="fraction of the run over which its stages are released after that"
    )
    freeze_bn: bool = Field(False, description="batch norms keep their statistics")
    early_stopping: int | None = Field(None, ge=1, description="validations without a better mIoU before stopping")
    validate_every: Annotated[int, Field(ge=0, le=1_000_000)] | Auto = Field(
        "auto", description="epochs between validations; 0: by the time they take"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="of order, augmentation and initial weights")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, mps")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field("auto", description="arithmetic of the network")
    compile: bool | Auto = Field("auto", description="torch.compile")
    workers: Annotated[int, Field(ge=0, le=4096)] | Auto = Field("auto", description="threads that prepare batches")
    cache: bool | Auto = Field("auto", description="keep decoded images in memory")
    deterministic: bool = Field(False, description="equal seeds give equal weights, on a GPU as well")
    save_every_steps: int | None = Field(None, ge=1, description="steps between checkpoints, beside the time rule")
    save_every_seconds: float = Field(60.0, gt=0, le=1e7, description="seconds between checkpoints")
    sync_bn: bool = Field(True, description="batch norm statistics over all processes")
    fsdp: bool = Field(False, description="shard weights, gradients and optimizer state over the processes (FSDP)")
    trackers: tuple[str, ...] | Auto = Field(
        "auto", description="tensorboard, mlflow, wandb; auto: TensorBoard where it is installed"
    )

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, tree: object) -> object:
        if not isinstance(tree, Mapping) or not RENAMED.keys() & tree.keys():
            return tree
        both = [f"{old} and {new}" for old, new in RENAMED.items() if old in tree and new in tree]
        if both:
            raise ValueError(f"one of {both[0]}, which are the same setting")
        return {current_key(f"training.{name}").partition(".")[2]: value for name, value in tree.items()}

    @field_validator("size", mode="before")
    @classmethod
    def _parse_size(cls, value: object) -> object:
        return parse_size(value) if isinstance(value, str) and value != "auto" else value

    @field_validator("size")
    @classmethod
    def _size(cls, value: Size | Auto) -> Size | Auto:
        return value if value == "auto" else check_size(value)

    @field_validator("class_weights", mode="before")
    @classmethod
    def _weights(cls, value: object) -> object:
        if not isinstance(value, list | tuple):
            return value
        numbers = [n for n in value if isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n < float("inf")]
        if len(numbers) != len(value) or not any(numbers):
            raise ValueError("one number per class, none negative, not all 0, such as [1, 2, 0.5]")
        return tuple(float(n) for n in numbers)

    @model_validator(mode="after")
    def _one_budget(self) -> TrainingConfig:
        if self.epochs is not None and self.minutes is not None:
            raise ValueError("give epochs or minutes, not both")
        return self


for _old, _new in RENAMED.items():
    setattr(TrainingConfig, _old, renamed_attribute(_old, _new))


class UnlabeledConfig(Section):
    """Self-training on images without labels, beside the labeled ones (training/self_training.py)."""

    path: str | None = Field(None, description="folder, glob or dataset of images that are used without labels")
    own: Literal["none", "images", "pixels"] = Field(
        "none",
        description="unlabeled parts of the dataset itself: none; images: those without a mask; "
        "pixels: these, and the ignored (255) pixels of the training masks",
    )
    ratio: float = Field(2.0, gt=0, le=64, description="unlabeled images per labeled image of an update")
    weight: float = Field(1.0, ge=0, le=100, description="weight of the loss on pseudo-labels")
    start: float = Field(0.2, ge=0, lt=1, description="fraction of the run that trains on labels alone")
    ramp: Fraction = Field(0.2, description="fraction of the run over which the weight then rises, 0 to 1")
    accept: float = Field(
        0.8,
        gt=0,
        le=1,
        description="what counts is as confident as this fraction of its class's labeled pixels that are right",
    )
    floor: Fraction = Field(0.5, description="confidence below which no pseudo-label counts, 0 to 1")
    ceiling: float = Field(0.95, gt=0, le=1, description="confidence from which every pseudo-label counts")
    momentum: float = Field(0.99, ge=0, lt=1, description="of the thresholds' statistics, per update")
    mix: Literal["labeled", "cutmix", "classmix", "none"] | Auto = Field(
        "auto",
        description="pasted into an unlabeled image: half of the classes of a labeled one; of another unlabeled one a "
        "rectangle, or half of the classes; nothing",
    )
    strength: Literal["none", "light", "medium", "strong"] = Field(
        "strong", description="color change of the view that is trained on; the teacher sees none"
    )
    judge: bool = Field(False, description="train once more without the unlabeled images, and compare on validation")

    @model_validator(mode="after")
    def _bounds(self) -> UnlabeledConfig:
        if self.floor > self.ceiling:
            raise ValueError("floor is at most ceiling")
        return self

    @property
    def active(self) -> bool:
        """Whether a run with this config trains on pseudo-labels."""
        return self.path is not None or self.own != "none"


class TrainConfig(Section):
    """The whole of a run."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()
    unlabeled: UnlabeledConfig = UnlabeledConfig()
    out: str | None = Field(None, description="run folder; runs/<date>-<data>-<model> when left out")

    def with_values(self, values: Mapping[str, Any]) -> TrainConfig:
        """A new config with dotted keys replaced: ``{"training.lr": 1e-3}``."""
        tree = self.model_dump()
        for key, value in values.items():
            _place(tree, key, value)
        return build(TrainConfig, tree)

    def to_yaml(self) -> str:
        tree = self.model_dump(mode="json")
        text: str = yaml.dump(tree, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
        return text


ConfigType = TypeVar("ConfigType", bound=Section)


def build(kind: type[ConfigType], tree: Mapping[str, Any]) -> ConfigType:
    """A config from nested dicts; ConfigError names the key, what it takes and what was found."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        key = _key(first["loc"], unknown=first["type"] == "extra_forbidden")
        raise ConfigError(
            f"the setting {key or 'training'} does not fit",
            expected=first["msg"].removeprefix("Value error, ").replace("Input should be '", "one of '"),
            found=_short(first.get("input")),
            fix=_suggest(kind, key),
        ) from error


def _key(place: tuple[int | str, ...], *, unknown: bool) -> str:
    """The dotted key of a place in pydantic's words, which also name the alternative of a union: constrained-float."""
    last = len(place) - 1 if unknown else None  # an unknown key is shown as it was written
    kept = (part for i, part in enumerate(place) if i == last or isinstance(part, int) or _names_a_field(part))
    return ".".join(str(part) for part in kept)


def _names_a_field(part: str) -> bool:
    return part.isidentifier() and part not in ("auto", "int", "float", "bool", "str")


def load_config(path: str | Path) -> TrainConfig:
    """A :class:`TrainConfig` from a YAML file (safe loader: no tags, no objects)."""
    path = Path(path)
    try:
        with open(path, "rb") as file:  # a pipe too, as of a shell's <(…)
            data = file.read(4 * LONGEST + 1)
        if len(data) > 4 * LONGEST:
            raise ConfigError("the config file is too large", expected=f"at most {LONGEST} characters", where=path)
        tree = _plain_yaml(data.decode("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError("no such config file", where=path, fix="check the path") from error
    except OSError as error:
        raise ConfigError("cannot read the config file", found=error.strerror or str(error), where=path) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError("cannot read the config file", found=_first_line(error), where=path) from error
    if not isinstance(tree, dict):
        raise ConfigError("a config file holds sections", expected="data:, model:, training: …", where=path)
    return build(TrainConfig, tree)


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """``["training.lr=1e-3"]`` → ``{"training.lr": 0.001}``; values are read as YAML."""
    values: dict[str, Any] = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals or "." not in key:
            raise ConfigError(
                "--set takes section.key=value", found=item, fix="for example --set training.weight_decay=0.05"
            )
        try:
            value = _plain_yaml(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError("--set holds a value that cannot be read", found=_short(item)) from error
        # YAML 1.1 reads 1e-3 as text: only 1.0e-3 is a number there
        if isinstance(value, str):
            with contextlib.suppress(ValueError):
                value = float(value)
        values[key.strip()] = value
    return values


def _plain_yaml(text: str) -> Any:
    """The tree of a YAML text; ValueError where it is too long or deep, or holds anchors and aliases, which a few lines
    of multiply without end."""
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, more than {LONGEST}")
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("anchors and aliases (& and *) are not taken: write the values out")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"nested deeper than {DEEPEST} levels")
    return yaml.safe_load(text)


def _short(value: object) -> str:
    """A value for an error, at most ``SHOWN`` characters of it."""
    text = repr(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + " …"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def parse_size(text: str) -> Size:
    """``"352x480"`` → (352, 480), height first; one number is a square."""
    parts = text.lower().replace("×", "x").split("x")
    try:
        numbers = [int(part) for part in parts]
    except ValueError as error:
        raise ConfigError("a size is height x width", expected="for example 352x480", found=text) from error
    if len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2:
        raise ConfigError("a size is height x width", expected="for example 352x480", found=text)
    try:
        return check_size((numbers[0], numbers[1]))
    except ValueError as error:
        raise ConfigError(str(error), found=text[:100]) from error


def check_size(size: Size) -> Size:
    if not all(1 <= side <= 65536 for side in size):
        raise ValueError("a size is height and width in pixels, 1 to 65536")
    return size


def _place(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = current_key(key).split(".")
    node = tree
    for section in sections:
        child = node.get(section)
        if not isinstance(child, dict):
            raise ConfigError(f"no section {section!r}", expected=", ".join(tree), found=key)
        node = child
    if last not in node and sections != ["model", "arguments"]:
        raise ConfigError(f"no setting {key!r}", expected=", ".join(sorted(node)), found=last)
    node[last] = value


def _suggest(kind: type[Section], key: str) -> str | None:
    field_owner: Any = kind
    for part in key.split(".")[:-1]:
        field = getattr(field_owner, "model_fields", {}).get(part)
        field_owner = field.annotation if field else None
    field = getattr(field_owner, "model_fields", {}).get(key.split(".")[-1]) if field_owner else None
    return None if field is None or field.description is None else f"{key} is: {field.description}"
