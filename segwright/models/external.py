"""Networks from outside: torchvision, segmentation_models_pytorch, transformers, or any module, under our contract.

``wrap(module, classes=…)`` takes a module that returns a tensor, a mapping with ``out``/``aux`` or ``logits``
(torchvision's OrderedDict, transformers' outputs) or a tuple whose first member are the logits.
``create_model("torchvision:NAME")``, ``"smp:NAME"`` and ``"transformers:TYPE"`` build the module as well, so that a
saved model can be built again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from segwright.core.errors import MissingExtraError, ModelError, UsageError, WeightsError
from segwright.models.base import IMAGENET_MEAN, IMAGENET_STD, Provenance, SegmentationModel, SegOutput, resize
from segwright.models.encoders.state_files import read_state_dict

# Of transformers' networks: the feature extractor and the classifier layers, by model type.
TRANSFORMERS_ROLES: dict[str, tuple[str, dict[str, list[str]]]] = {
    "segformer": ("segformer", {"logits": ["decode_head.classifier"]}),
    "upernet": ("backbone", {"logits": ["decode_head.classifier"], "aux": ["auxiliary_head.classifier"]}),
    "mobilenet_v2": ("mobilenet_v2", {"logits": ["segmentation_head.classifier.convolution"]}),
    "mobilevit": ("mobilevit", {"logits": ["segmentation_head.classifier.convolution"]}),
}


class ExternalModel(SegmentationModel):
    """Any module that takes normalized float N×C×H×W and returns logits at some resolution.

    ``size_divisor`` and ``minimum_size``: what the module demands of its input. Logits are brought to the image's
    size bilinearly. ``auxiliary``: names under which a mapping holds auxiliary logits, answered in training only.
    ``encoder``: the dotted name of the module's feature extractor; ``classifiers``: of its layers with one output
    channel per class, by output (``logits``, ``aux``). Without them fine-tuning to other classes, freezing and learning
    rates per part are refused, since a layer's role is never guessed.
    """

    def __init__(
        self,
        *,
        module: nn.Module,
        classes: int,
        in_channels: int = 3,
        size_divisor: int = 32,
        minimum_size: int = 1,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        align_corners: bool = False,
        auxiliary: Sequence[str] = ("aux",),
        encoder: str | None = None,
        classifiers: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        super().__init__(
            classes=classes,
            in_channels=in_channels,
            size_divisor=size_divisor,
            minimum_size=minimum_size,
            mean=mean,
            std=std,
        )
        self.module = module
        self.align_corners = align_corners
        self.auxiliary = tuple(auxiliary)
        self.encoder_name = encoder
        self.classifier_names = {output: tuple(names) for output, names in (classifiers or {}).items()}

    def encoder_modules(self) -> Sequence[nn.Module]:
        return () if self.encoder_name is None else (self.module.get_submodule(self.encoder_name),)

    def classifier_layers(self) -> Mapping[str, Sequence[nn.Module]]:
        return {
            output: tuple(self.module.get_submodule(name) for name in names)
            for output, names in self.classifier_names.items()
        }

    def forward_padded(self, x: Tensor) -> SegOutput:
        size = (x.shape[-2], x.shape[-1])
        answer = self.module(x)
        logits = logits_of(answer)
        if logits.shape[1] != self.classes:
            raise ModelError(
                "the network returns another number of classes",
                expected=str(self.classes),
                found=str(logits.shape[1]),
                where=type(self.module).__name__,
                fix="build it for that many classes, or give that number with classes=",
            )
        aux = {}
        if self.training and isinstance(answer, Mapping):
            aux = {name: answer[name] for name in self.auxiliary if isinstance(answer.get(name), Tensor)}
        return SegOutput(
            resize(logits, size, align_corners=self.align_corners), {name: resize(a, size) for name, a in aux.items()}
        )


def wrap(module: nn.Module, *, classes: int, **arguments: Any) -> ExternalModel:
    """``module`` under our contract; ``arguments`` as for :class:`ExternalModel`."""
    return ExternalModel(module=module, classes=classes, **arguments)


def logits_of(answer: Any) -> Tensor:
    """The logits in whatever a network returns; ModelError where there are none."""
    if isinstance(answer, Tensor):
        found: Any = answer
    elif isinstance(answer, Mapping):  # transformers' outputs are mappings too
        found = answer.get("out", answer.get("logits"))
    elif isinstance(answer, (tuple, list)) and answer:
        found = answer[0]
    else:
        found = getattr(answer, "logits", None)
    if not isinstance(found, Tensor) or found.ndim != 4:
        raise ModelError(
            "no logits in the network's output",
            expected="a tensor N×K×H×W, alone, first in a tuple, or under 'out' or 'logits'",
            found=type(answer).__name__,
            fix="wrap it in a module that returns the logits",
        )
    return found


def create(name: str, *, classes: int, in_channels: int, weights: str | None, **arguments: Any) -> SegmentationModel:
    """``torchvision:NAME``, ``smp:NAME`` or ``transformers:TYPE``; ``weights``: None, or a state dict file."""
    family, _, kind = name.partition(":")
    builders = {"torchvision": _torchvision, "smp": _smp, "transformers": _transformers}
    if family not in builders or not kind:
        raise UsageError("unknown network", expected="torchvision:NAME, smp:NAME or transformers:TYPE", found=name)
    if weights is not None and weights not in ("auto",):
        state = read_state_dict(weights)
    else:
        state = None
    try:
        model = builders[family](kind, classes, in_channels, arguments)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise UsageError(f"{family} cannot build {kind} so", found=f"{arguments}: {error}") from error
    if state is not None:
        try:
            model.module.load_state_dict(state)
        except RuntimeError as error:
            raise WeightsError("the weights do not fit the network", where=weights, found=str(error)[:400]) from error
        model.provenance = Provenance(str(weights), "as its publisher states", True)
    return model


def _torchvision(kind: str, classes: int, in_channels: int, arguments: dict[str, Any]) -> ExternalModel:
    import torchvision

    if kind not in torchvision.models.list_models(module=torchvision.models.segmentation):
        names = torchvision.models.list_models(module=torchvision.models.segmentation)
        raise UsageError("no such segmentation network in torchvision", expected=", ".join(names), found=kind)
    if in_channels != 3:
        raise UsageError(
            "torchvision's networks take three channels",
            found=str(in_channels),
            fix=f"create_model({kind!r}, …) is ours",
        )
    module = torchvision.models.get_model(kind, weights=None, weights_backbone=None, num_classes=classes, **arguments)
    if kind.startswith("lraspp"):
        classifiers = {"logits": ["classifier.low_classifier", "classifier.high_classifier"]}
    else:
        heads = {"logits": "classifier", "aux": "aux_classifier"}
        classifiers = {output: [f"{head}.4"] for output, head in heads.items() if getattr(module, head) is not None}
    return wrap(module, classes=classes, size_divisor=1, encoder="backbone", classifiers=classifiers)


def _smp(kind: str, classes: int, in_channels: int, arguments: dict[str, Any]) -> ExternalModel:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise MissingExtraError(
            "segmentation_models_pytorch is not installed", fix="pip install segmentation-models-pytorch"
        ) from error
    arguments = {"encoder_weights": None, **arguments}
    module = smp.create_model(kind, in_channels=in_channels, classes=classes, **arguments)
    # PAN halves its deepest feature three times more
    minimum = 8 * int(arguments.get("encoder_output_stride", 16)) if kind.lower() == "pan" else 1
    return wrap(
        module,
        classes=classes,
        in_channels=in_channels,
        minimum_size=minimum,
        encoder="encoder",
        classifiers={"logits": ["segmentation_head.head.4" if kind.lower() == "dpt" else "segmentation_head.0"]},
    )


def _transformers(kind: str, classes: int, in_channels: int, arguments: dict[str, Any]) -> ExternalModel:
    try:
        from transformers import AutoConfig, AutoModelForSemanticSegmentation
    except ImportError as error:
        raise MissingExtraError("transformers is not installed", fix="pip install 'segwright[hf]'") from error
    config = AutoConfig.for_model(kind, num_labels=classes, **arguments)
    if hasattr(config, "num_channels"):
        config.num_channels = in_channels
    elif in_channels != 3:
        raise UsageError(f"{kind} takes three channels", found=str(in_channels))
    module = AutoModelForSemanticSegmentation.from_config(config)  # type: ignore[no-untyped-call]
    encoder, classifiers = TRANSFORMERS_ROLES.get(kind, (None, None))
    return wrap(module, classes=classes, in_channels=in_channels, encoder=encoder, classifiers=classifiers)
