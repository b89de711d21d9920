"""Models: create, list, load, join, export, import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright.api.results import ModelInfo
from segwright.core.counted import counted
from segwright.core.deprecated import renamed_parameters
from segwright.core.errors import DataError, SegwrightError, UsageError
from segwright.core.types import LabelSpace, Sample
from segwright.data.dataset import open_dataset
from segwright.data.records import evenly_spread
from segwright.training.config import parse_size

if TYPE_CHECKING:
    from segwright.exporting.job import ExportResult
    from segwright.exporting.quantize import QuantizationData
    from segwright.inference.import_weights import Imported
    from segwright.inference.predictor import Predictor
    from segwright.models.base import SegmentationModel

__all__ = ["create_model", "ensemble", "export", "import_weights", "list_models", "load"]

PARITY_IMAGES = 6
CALIBRATION_IMAGES = 64
JUDGED_IMAGES = 200  # at most, spread evenly over the split


def create_model(
    name: str,
    *,
    classes: int,
    encoder: str | None = None,
    weights: str | Path | None = "auto",
    in_channels: int = 3,
    **arguments: Any,
) -> SegmentationModel:
    """Build a network of the catalog.

    Parameters
    ----------
    name : str
        A name that :func:`segwright.list_models` lists, a torchvision name, or ``smp:NAME`` / ``transformers:NAME``.
    classes : int, 1 to 255
        The number of classes.
    encoder : str, optional
        A timm encoder, for networks that take one.
    weights : "auto" or None or str or Path, default="auto"
        ``"auto"``: pretrained weights if they can be had; None: random; ``"imagenet"``, ``"torchvision:…"``, or a file.
    in_channels : int >= 1, default=3
        Channels of the images.
    **arguments
        Arguments of the network itself.

    Returns
    -------
    SegmentationModel
        ``model(images)`` takes uint8 N×H×W×C (or float N×C×H×W in 0 to 1) and returns ``SegOutput`` with ``logits``
        N×K×H×W.

    Raises
    ------
    UsageError
        Unknown network, encoder or argument.
    WeightsError
        The weights cannot be had, or do not fit.

    Examples
    --------
    >>> import segwright as sw
    >>> import torch
    >>> model = sw.create_model("leannet", classes=4, weights=None).eval()
    >>> tuple(model(torch.zeros(1, 40, 56, 3, dtype=torch.uint8)).logits.shape)
    (1, 4, 40, 56)
    """
    from segwright.models import catalog

    return catalog.create_model(
        name, classes=classes, encoder=encoder, weights=weights, in_channels=in_channels, **arguments
    )


def list_models(names: Sequence[str] = (), *, measure: bool = False, size: str = "352x480") -> list[ModelInfo]:
    """List the networks of the catalog.

    Parameters
    ----------
    names : sequence of str, optional
        Only these.
    measure : bool, default=False
        Also measure FLOPs, memory in training and latency on this machine.
    size : str, default="352x480"
        Image size (height x width) for ``measure``.

    Returns
    -------
    list of ModelInfo
        Name, group, encoder, parameters, stride, paper, license of the weights.

    Raises
    ------
    UsageError
        Unknown name, or a size that is none.

    Examples
    --------
    >>> import segwright as sw
    >>> [info.name for info in sw.list_models(["unet", "leannet"])]
    ['unet', 'leannet']
    """
    from segwright.models.profile import list_catalog

    rows = list_catalog(names, measure=parse_size(size) if measure else None)
    return [ModelInfo(**row) for row in rows]


@renamed_parameters(post="postprocess")
def load(
    model: str | Path,
    *,
    device: str = "auto",
    precision: str = "auto",
    postprocess: str | None = None,
    tta: str | None = None,
    eight_bit: str | None = None,
    trust_external: bool = False,
    runtime: str = "usual",
) -> Predictor:
    """Load a saved model for prediction.

    Parameters
    ----------
    model : str or Path
        A run folder, a bundle, or an exported file.
    device : str, default="auto"
        ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Of the network's arithmetic. ``"auto"``: fp32, or what the runtime was proven in.
    postprocess : str, optional
        A post-processing pipeline in place of the saved one; ``"none"``: no post-processing.
    tta : str, optional
        Test-time views, such as ``"flip,0.75,1,1.25"``.
    eight_bit : {"scaled", "raw"}, optional
        How 8-bit images are read by a model of deeper ones.
    trust_external : bool, default=False
        Let another package build the network, with arguments out of the file. Only for models whose origin you trust.
    runtime : {"usual", "auto", "torch", "onnxruntime", "openvino"}, default="usual"
        ``"usual"``: torch for a saved model, onnxruntime for an ``.onnx`` file. ``"auto"``: the fastest that
        :func:`segwright.benchmark` has proven on this machine, else the usual one; ``notes`` of the predictor name it.

    Returns
    -------
    Predictor
        Call it with a file or an array H×W×C (RGB): it returns a :class:`segwright.Prediction`.

    Raises
    ------
    BundleError
        There is no saved model, or it is damaged.

    Examples
    --------
    >>> import segwright as sw
    >>> predictor = sw.load("run", device="cpu")
    >>> predictor("image.png").labels.shape
    (64, 96)
    """
    from segwright.inference import predictor

    return predictor.load(
        model, device=device, precision=precision, post=postprocess, tta=tta, eight_bit=eight_bit,
        trust_external=trust_external, runtime_name=runtime,
    )  # fmt: skip


def export(
    model: str | Path | Sequence[str | Path],
    to: str = "onnx",
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    precision: str = "fp32",
    with_logits: bool = False,
    command: str = "",
    trust_external: bool = False,
) -> ExportResult:
    """Export a saved model, or several as one that averages their probabilities.

    The export is run and compared with the original on real images at several sizes before it is put in place.

    Parameters
    ----------
    model : str or Path or sequence of them
        A run folder or a bundle.
    to : {"onnx", "openvino", "torch", "triton", "bundle"}, default="onnx"
        The format: one file for onnxruntime and OpenVINO, a folder of OpenVINO's, a ``.pt2`` file of torch.export, a
        model repository for Triton, or the folder that segwright loads.
    out : str or Path, optional
        The exported file or folder.
    data : str or Path, optional
        Images to compare on. Left out: the data of the training if it is there, else generated scenes.
    precision : {"fp32", "int8"}, default="fp32"
        ``"int8"``, of an ONNX file: calibrated on the dataset's training images and judged on its other labeled images;
        written only if it loses at most 0.2 mIoU points and is at least 1.3 × as fast on this machine.
    with_logits : bool, default=False
        Also output the logits of every class.
    command : str, optional
        Kept in an exported ensemble.
    trust_external : bool, default=False
        As for :func:`segwright.load`.

    Returns
    -------
    ExportResult
        ``path``, ``format``, ``precision``, ``parity`` and ``latency_ms``.

    Raises
    ------
    ExportError
        The network cannot be exported, the export does not agree with the original, or int8 loses too much or is not
        faster; the error has both figures.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.export("run", out="streets.onnx", data="streets").parity.argmax_agreement > 0.999
    True
    """
    from segwright.exporting.export import export as export_model

    models = [model] if isinstance(model, str | Path) else list(model)
    if not models:
        raise UsageError("nothing to export", expected="a saved model or several", found="none")
    if precision not in ("fp32", "int8"):
        raise UsageError("unknown precision of an export", expected="fp32, int8", found=precision)
    samples, source = parity_samples(models[0], data)
    return export_model(
        models, to, out, samples=samples, source=source, with_logits=with_logits, command=command,
        trust_external=trust_external, quantization=None if precision == "fp32" else _labeled(models[0], data),
    )  # fmt: skip


def _labeled(model: str | Path, data: str | Path | None) -> QuantizationData:
    """Training images for the calibration of int8, and the labeled images that it is judged on."""
    from segwright.exporting.quantize import QuantizationData
    from segwright.inference.description import read_bundle
    from segwright.inference.predictor import find_bundle

    bundle = read_bundle(find_bundle(model))
    place = data if data is not None else bundle.training.get("data")
    if not isinstance(place, str | Path) or not str(place) or not Path(place).exists():
        raise UsageError(
            "int8 is calibrated on training images and judged by its mIoU", expected="labeled images",
            found=f"the training data, {place}, is not there" if place else "none", fix="give the dataset with --data",
        )  # fmt: skip
    dataset = open_dataset(str(place))
    train = dataset.splits.get("train", dataset.all)
    judged = next((dataset.splits[name] for name in ("val", "test") if name in dataset.splits), dataset.all)
    if dataset.label_space.names != bundle.label_space.names:
        raise UsageError(
            "int8 is judged on the model's own classes", expected=", ".join(bundle.label_space.names)[:300],
            found=", ".join(dataset.label_space.names)[:300], where=place,
        )  # fmt: skip
    return QuantizationData(
        [train[place] for place in evenly_spread(len(train), CALIBRATION_IMAGES)],
        [judged[place] for place in evenly_spread(len(judged), JUDGED_IMAGES)],
        str(place),
    )


def ensemble(models: Sequence[str | Path], out: str | Path, *, data: str | Path | None = None) -> Path:
    """Join several saved models into one bundle that returns the mean of their probabilities.

    The members' references and error models are dropped, as they hold for a member's own outputs alone:
    :func:`segwright.make_reference` and :func:`segwright.fit_error_model` make those of the ensemble.

    Parameters
    ----------
    models : sequence of str or Path
        Two or more run folders or bundles with equal classes.
    out : str or Path
        The new bundle's folder.
    data : str or Path, optional
        Images to verify it on, as for :func:`segwright.exporting`.

    Returns
    -------
    Path
        The bundle.

    Raises
    ------
    UsageError
        Fewer than two models.
    ModelError
        Their classes differ.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.ensemble(["run", "other-run"], "both")  # doctest: +SKIP
    PosixPath('both')
    """
    if len(models) < 2:
        raise UsageError("an ensemble is made of two models or more", found=str(len(models)))
    return export(models, "bundle", out, data=data).path


def import_weights(
    weights: str | Path,
    out: str | Path,
    *,
    model: str | None = None,
    classes: Sequence[str] | str | Path | None = None,
    config: str | Path | None = None,
    encoder: str | None = None,
    in_channels: int = 3,
    normalization: str | Mapping[str, Any] | None = None,
    **options: Any,
) -> Imported:
    """Make a saved model out of weights that were trained elsewhere.

    Parameters
    ----------
    weights : str or Path
        A ``.pth``, ``.ckpt`` or ``.safetensors`` file, or a folder with one.
    out : str or Path
        The new bundle's folder.
    model : str, optional
        The network, as for :func:`segwright.create_model`; not needed for mmsegmentation's checkpoints.
    classes : sequence of str, or str, or Path, optional
        The class names in the order of the outputs, or a file with them. None: those in mmsegmentation's checkpoint.
    config : str or Path, optional
        mmsegmentation's config of the network. None: the one in its checkpoint.
    encoder : str, optional
        The network's encoder.
    in_channels : int >= 1, default=3
        Channels of its images.
    normalization : {"imagenet", "none", "half", "raw"} or str or mapping, optional
        What the training did to pixels in 0 to 1.
    **options
        ``key``, ``prefix``, ``arguments``, ``command``; see
        :func:`segwright.inference.import_weights.import_weights`.

    Returns
    -------
    Imported
        ``path``, ``tensors``, ``layout``, ``notes``.

    Raises
    ------
    WeightsError
        Weights and network do not fit.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.import_weights("best.ckpt", "imported", model="smp:Unet", classes=["road", "sky"])  # doctest: +SKIP
    """
    from segwright.inference.import_weights import import_weights as make_bundle

    return make_bundle(
        weights, out, model=model, classes=classes, config=config, encoder=encoder, in_channels=in_channels,
        normalization=normalization, **options,
    )  # fmt: skip


def parity_samples(
    model: str | Path, data: str | Path | None, trust_external: bool = False
) -> tuple[list[Sample], str]:
    """Some images to compare an export on, and where they are from; ``model`` may be exported itself."""
    import cv2
    import numpy as np

    from segwright.demo.street_scene import draw_street
    from segwright.inference.description import read_bundle
    from segwright.inference.exported_files import find_exported, open_exported
    from segwright.inference.pixels import fit_channels
    from segwright.inference.predictor import find_bundle

    exported = find_exported(model)
    if exported is None:
        bundle = read_bundle(find_bundle(model))
    else:
        bundle = open_exported(exported, device="cpu", trust_external=trust_external).bundle
    channels = bundle.arguments.get("in_channels", bundle.preprocessing.get("channels", 3))
    channels = channels if isinstance(channels, int) and 1 <= channels <= 512 else 3
    known = bundle.training.get("data")
    if data is not None:
        samples = _data_samples(data, bundle.label_space)
        return samples, f"{counted(len(samples), 'image')} of {data}"
    why = ""
    if isinstance(known, str) and known:
        try:
            if not Path(known).exists():
                raise DataError("it is not there any more")
            samples = _data_samples(known, bundle.label_space)
            for sample in samples:
                fit_channels(sample.image, channels)
            return samples, f"{counted(len(samples), 'image')} of {known}"
        except SegwrightError as error:
            why = f"; its training data, {known}, cannot be used: {error.message}"
    hint = f"(give --data for your own{why})"
    if channels in (1, 3):
        drawn = [Sample(f"street-{i}", draw_street(f"parity/{i}", (240, 320))[0]) for i in range(3)]
        return drawn, f"3 street scenes drawn by segwright {hint}"
    rng = np.random.default_rng(0)
    noise = []
    for i in range(3):  # soft blobs, a different one in every channel: neither flat nor white
        small = rng.integers(0, 256, (16, 20, channels), np.uint8)
        blobs = np.stack([cv2.resize(small[..., c], (320, 240)) for c in range(channels)], axis=2)
        noise.append(Sample(f"noise-{i}", np.asarray(blobs, np.uint8)))
    return noise, f"3 images of noise in {channels} channels {hint}"


def _data_samples(path: str | Path, space: LabelSpace) -> list[Sample]:
    """Some samples of a dataset, with masks where its classes are those of the model."""
    dataset = open_dataset(str(path))
    split = dataset.splits.get("val", dataset.all)
    samples = [split[place] for place in evenly_spread(len(split), PARITY_IMAGES)]
    if dataset.label_space.names != space.names:
        samples = [Sample(sample.id, sample.image) for sample in samples]
    return samples
