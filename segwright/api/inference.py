"""Use a model: predict, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright.api.data import choose_split, opened, seen_in_training
from segwright.api.models import load
from segwright.api.results import PredictResult
from segwright.core.counted import counted
from segwright.core.deprecated import renamed_parameters
from segwright.core.errors import UsageError
from segwright.core.progress import progress
from segwright.data.dataset import Dataset, Split

if TYPE_CHECKING:
    from segwright.evaluation.evaluation import Evaluation
    from segwright.inference.batch import Observe, RunOptions
    from segwright.inference.output_options import OutputOptions
    from segwright.inference.predictor import Predictor
    from segwright.inference.sources import Source
    from segwright.monitoring.recorder import JournalOptions

__all__ = ["as_predictor", "evaluate", "is_mask_folder", "predict"]


@renamed_parameters(post="postprocess")
def predict(
    model: str | Path | Predictor,
    source: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "predictions",
    device: str = "auto",
    postprocess: str | None = None,
    tta: str | None = None,
    confidence: bool = False,
    overlay: bool = True,
    mask_format: str = "palette",
    probabilities: str | bool | None = None,
    polygons: Sequence[str] = (),
    simplify: float = 0.0,
    areas: str | Path | None = None,
    video: bool = False,
    uncertainty: str | None = None,
    uncertainty_format: str = "png",
    quality: bool = False,
    eight_bit: str | None = None,
    overwrite: bool = False,
    resume: bool = False,
    frames: int | None = None,
    journal: str | Path | None = None,
    keep_images: float | str = 0.0,
    retention: float | str = "30d",
    journal_max_size: int | str = "1GB",
    trust_external: bool = False,
    runtime: str = "auto",
    result: dict[str, Any] | None = None,
) -> PredictResult:
    """Segment every image of one or several sources and write the masks.

    No source is ever written over, and no other file unless an earlier prediction wrote it or ``overwrite`` is set.

    Parameters
    ----------
    model : str or Path or Predictor
        A saved model, as for :func:`segwright.load`, or a loaded one.
    source : str or Path or sequence of them
        Images, folders, globs, tars, videos, GeoTIFFs; a camera's number or a stream's URL; ``"-"`` for standard input
        (an image, a tar or paths); a URL of fsspec, such as ``"s3://bucket/folder"``. Nothing else is fetched.
    out : str or Path, default="predictions"
        The folder of the outputs, or a URL of fsspec, such as ``"s3://bucket/masks"``.
    device, postprocess, tta, eight_bit, trust_external
        As for :func:`segwright.load`.
    runtime : {"auto", "usual", "torch", "onnxruntime", "openvino"}, default="auto"
        The fastest that :func:`segwright.benchmark` has proven for this model on this machine, else the usual one, as
        for :func:`segwright.load`. What only the network itself has (features of a journal, dropout) takes the usual.
    confidence, overlay : bool
        Also write the confidence as a gray PNG; the image with the classes' colors over it.
    mask_format : {"palette", "index", "values", "npy"}, default="palette"
        A PNG of class indices with the classes' colors (OpenCV reads the colors), a gray PNG of class indices, the
        values of the dataset's own masks, or an array.
    probabilities : {"npz", "npy"} or bool, optional
        Also write all probabilities, float16 K×H×W.
    polygons : sequence of {"geojson", "coco", "labelme"}, optional
        Also write polygons. Neighboring regions share their edges: there is no gap and no overlap.
    simplify : float, default=0
        Pixels by which an edge of a polygon may move if that saves corners; 0 follows the edges of the pixels.
    areas : str or Path, optional
        Also write a CSV file: pixels, share and area per image and class.
    video : bool, default=False
        For a video: one overlay video in place of files per frame.
    uncertainty : str, optional
        Also write how unsure each pixel is, by a measure such as ``"entropy"``, ``"tta"`` or ``"dropout(20)"``
        (:data:`segwright.inference.uncertainty.MEASURES`).
    uncertainty_format : {"png", "npy"}, default="png"
        Gray, 255 is 1.0; or float32 H×W in 0…1.
    quality : bool, default=False
        Also the estimate of the model's error model: ``results[i].quality`` has the estimated mIoU and IoU per class
        with intervals, and the regions with their probability of being wrong.
    overwrite : bool, default=False
        Replace files in ``out`` that no prediction wrote.
    resume : bool, default=False
        Continue a run that was stopped or killed: what is finished and unchanged is left out, and large rasters go on
        at the next window. UsageError if the model or the options were others.
    frames : int, optional
        The number of frames of a video, a camera or a stream after which it ends.
    journal : str or Path, optional
        A folder that gets a row per image (class shares, confidence, image statistics) for :func:`segwright.monitor`.
        A journal that cannot be written costs no prediction: lost rows are counted in the result.
    keep_images : float or str, default=0
        The share of images that the journal keeps, such as ``"1%"``.
    retention : float or str, default="30d"
        How long it keeps them: days, or such as ``"12h"`` or ``"2w"``. Older ones are removed while a journal is
        written.
    journal_max_size : int or str, default="1GB"
        The largest size of the journal's folder; its oldest files go.
    result : dict, optional
        Filled as the work goes on, for callers that may be interrupted.

    Returns
    -------
    PredictResult
        ``images``, ``results`` (a :class:`PredictedFile` per image), ``failed``, ``notes``, ``stopped``.

    Raises
    ------
    ImageReadError
        The only image cannot be read. Among several, a bad file is listed under ``failed`` and the others go on.
    UsageError
        There is nothing to predict, or an output would replace a source.

    Examples
    --------
    >>> import segwright as sw
    >>> done = sw.predict("run", "streets/images/test", out="masks", device="cpu")
    >>> done.images, done.failed
    (3, ())
    """
    from segwright.inference.batch import RunOptions, new_result
    from segwright.inference.exported_files import require_saved_model
    from segwright.inference.output_options import OutputOptions
    from segwright.inference.sources import open_sources

    if frames is not None and frames < 1:
        raise UsageError("there is nothing to predict", expected="frames of at least 1", found=str(frames))
    saved = "npz" if probabilities is True else probabilities or None
    options = OutputOptions(
        mask_format, overlay, confidence, saved, tuple(polygons), Path(areas) if areas is not None else None, video,
        uncertainty, uncertainty_format, quality, simplify,
    )  # fmt: skip
    require_saved_model(model)
    found = open_sources([source] if isinstance(source, str | Path) else list(source))
    predictor = as_predictor(
        model, device, postprocess, tta, eight_bit, trust_external,
        runtime if journal is None and not _of_network(uncertainty) else _own(runtime),
    )  # fmt: skip
    filled = result if result is not None else {}
    filled |= new_result(out)
    with ExitStack() as stack:
        observe = None
        if journal is not None:
            from segwright.monitoring.recorder import JournalOptions

            observe = stack.enter_context(
                _recorded(
                    predictor, model, JournalOptions(journal, keep_images, journal_max_size, retention), found, filled
                )
            )
        chosen = RunOptions(overwrite, resume, frames, _identity(predictor, found, resume))
        _predict_all(predictor, found, out, options, chosen, observe, filled)
    return PredictResult.from_json(filled)


def _identity(predictor: Predictor, source: Source, resume: bool) -> str:
    """The model's id where progress is kept; hashing the weights takes a moment."""
    from segwright.monitoring.observation import model_id

    large = any(path.suffix.lower() in (".tif", ".tiff") for path in source.files[:1])
    return model_id(predictor) if resume or large or len(source.files) > 1 or source.kind == "video" else ""


@contextmanager
def _recorded(
    predictor: Predictor,
    model: str | Path | Predictor,
    options: JournalOptions,
    source: Source,
    result: dict[str, Any],
) -> Iterator[Observe]:
    """Write a row per prediction into a journal; the numbers of rows are put into ``result``."""
    from segwright.monitoring.recorder import Recorder

    inside = [path for path in source.files if Path(options.folder).resolve() in Path(path).resolve().parents]
    if inside:
        raise UsageError(
            "the journal's folder holds images that are predicted", found=str(inside[0]), where=options.folder,
            fix="another folder for the journal: kept images would be sources of the next prediction",
        )  # fmt: skip
    name = Path(model).resolve().name if isinstance(model, str | Path) else ""
    was = predictor.observed
    recorder = Recorder(options, predictor, name)
    try:
        yield lambda image, prediction: recorder.current.record(prediction, image)
    finally:
        predictor.observed = was
        recorder.close()
        result["journal"] = recorder.summary()
        result["notes"] += [note for note in recorder.notes if note not in result["notes"]]
        if result["journal"]["lost"]:
            why = result["journal"].get("reason", "see the log")
            result["notes"].append(f"journal: {counted(result['journal']['lost'], 'row', 'is')} lost: {why}")


def _predict_all(
    predictor: Predictor,
    found: Source,
    out: Path | str,
    options: OutputOptions,
    chosen: RunOptions,
    observe: Observe | None,
    filled: dict[str, Any],
) -> None:
    from segwright.inference.batch import predict_source

    if found.kind == "image":  # perhaps a large one: progress by its windows
        with ExitStack() as stack:

            def windows(count: int) -> Callable[[int], None]:
                return stack.enter_context(progress("predicting", count))

            predict_source(predictor, found, out, options, run=chosen, windows=windows, observe=observe, result=filled)
    else:
        with progress("predicting", len(found) or None) as advance:
            predict_source(predictor, found, out, options, run=chosen, advance=advance, observe=observe, result=filled)


@renamed_parameters(post="postprocess")
def evaluate(
    model: str | Path | Predictor,
    data: Split | Dataset | str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    postprocess: str | None = None,
    tta: str | None = None,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    labels: Mapping[str, Any] | None = None,
    skip_bad: bool = False,
    match: str = "names",
    raw_values: bool = False,
    convention: str = "pooled",
    probabilities: bool = False,
    slices: str | Path | None = None,
    label_errors: str | Path | None = None,
    uncertainty: str | None = None,
    corruption: str | Sequence[str] | None = None,
    report: str | Path | None = None,
    report_images: int | None = None,
    command: str = "",
    eight_bit: str | None = None,
    trust_external: bool = False,
    runtime: str = "auto",
) -> Evaluation:
    """Score a model, or masks made by any tool, on a split that has masks.

    Parameters
    ----------
    model : str or Path or Predictor
        A run folder, a bundle, an ``.onnx`` file or a loaded predictor; or a folder of masks named as the images, whose
        values are class indices.
    data : Split or Dataset or str or Path
        What to score on.
    split : str, optional
        A split of ``data``, or ``"all"``. Left out: ``test``, else ``val``, else all images with a note.
    device, postprocess, tta, eight_bit, trust_external
        As for :func:`segwright.load`. Images are read by the model's value range.
    runtime : {"auto", "usual", "torch", "onnxruntime", "openvino"}, default="auto"
        The fastest that :func:`segwright.benchmark` has proven for this model on this machine, else the usual one, as
        for :func:`segwright.load`. What only the network itself has (features of a journal, dropout) takes the usual.
    format, images, masks, labels
        How to read the dataset, as for :func:`segwright.check`.
    skip_bad : bool, default=False
        Leave unusable files out, and list them.
    match : {"names", "index"}, default="names"
        Bring the model's classes to the data's by name, or by index.
    raw_values : bool, default=False
        Masks of a folder hold the dataset's own file values.
    convention : str, default="pooled"
        Also compute what another tool would print: ``torchvision``, ``mmseg``, ``smp``, ``torchmetrics``,
        ``cityscapes``, ``voc``, ``ultralytics``; see ``convention_result`` of the result.
    probabilities : bool, default=False
        Also compute the Brier score, the log loss and the classwise calibration error. An image takes longer then, by
        about a tenth with 11 classes on a CPU. Masks have no probabilities.
    slices : str or Path, optional
        Also score parts of the data (``parts["slices"]``): ``"auto"`` by object size, boundary distance, brightness,
        blur and the classes that occur, alone and in pairs; a CSV file with a column ``id`` by its other columns too.
    label_errors : str or Path, optional
        Also rank likely label errors (``parts["label_errors"]``) and write them into this folder, as
        :func:`segwright.find_label_errors` does.
    uncertainty : str, optional
        Also how well measures of uncertainty find the errors (``parts["uncertainty"]``), such as ``"entropy,tta"``.
    corruption : str or sequence of str, optional
        Also score the images under corruptions (``parts["corruptions"]``), each beside the clean score: names of
        :func:`segwright.corrupt`, with a strength of 1 to 5 (``"fog:5"``; 3 if left out), or ``"all"``, ``"all:5"``.
        One further pass each.
    report : str or Path, optional
        Also write a page.
    report_images : int, optional
        How many images the page shows; 24 if left out.
    command : str, optional
        The command line, shown in the report.

    Returns
    -------
    Evaluation
        ``miou``, ``pixel_accuracy``, per-class and per-image figures; ``figures`` has all of them by name and
        ``intervals`` their 95 % intervals; ``reliability()``; ``to_json()``.

    Raises
    ------
    DataError
        There is no such split, or nothing in it is labeled.
    ModelError
        The classes of model and data do not fit.
    UsageError
        An unknown convention or corruption, or probabilities or corruptions of a folder of masks.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.evaluate("run", "streets", split="test", device="cpu")
    >>> found.images, 0 <= found.miou <= 1
    (3, True)
    >>> found = sw.evaluate("run", "streets", split="test", device="cpu", corruption="fog:5")
    >>> [str(one) for one in found.parts["corruptions"].scores]
    ['fog:5']
    """
    from segwright.evaluation.evaluate import evaluate as evaluate_predictor
    from segwright.evaluation.examples import examples_for_report
    from segwright.evaluation.parts import EvaluationParts
    from segwright.evaluation.risk_coverage import UncertaintyCollector
    from segwright.evaluation.robustness import evaluate_corrupted, parse_corruptions
    from segwright.inference.exported_files import require_saved_model
    from segwright.inference.split_reader import as_model_sees
    from segwright.metrics.conventions import find_convention
    from segwright.training.data_fingerprint import training_note

    examples = examples_for_report(report_images)
    find_convention(convention)  # before any file is read
    corruptions = None if corruption is None else parse_corruptions(corruption)
    parts = EvaluationParts(slices, label_errors)
    of_masks = isinstance(model, str | Path) and is_mask_folder(Path(model))
    if not of_masks:
        require_saved_model(model)
    chosen = data if isinstance(data, Split) else choose_split(opened(data, format, images, masks, labels), split)
    if isinstance(model, str | Path) and of_masks:
        from segwright.evaluation.masks import evaluate_masks

        _refuse_for_masks(model, probabilities or bool(uncertainty), corruptions is not None)
        found = evaluate_masks(
            Path(model), chosen, raw_values=raw_values, skip_missing=skip_bad, examples=examples,
            convention=convention, collectors=parts.collectors(chosen),
        )  # fmt: skip
    else:
        predictor = as_predictor(
            model, device, postprocess, tta, eight_bit, trust_external,
            runtime if not _of_network(uncertainty) else _own(runtime),
        )  # fmt: skip
        chosen = as_model_sees(chosen, predictor)
        unsure = [] if uncertainty is None else [UncertaintyCollector(predictor, uncertainty)]
        found = evaluate_predictor(
            predictor, chosen, skip_bad=skip_bad, match=match, probabilities=probabilities, examples=examples,
            convention=convention, collectors=[*parts.collectors(chosen), *unsure],
        )  # fmt: skip
        for one in unsure:
            found.parts["uncertainty"] = one.table(found.independent.groups)
        if corruptions is not None:
            found.parts["corruptions"] = evaluate_corrupted(predictor, chosen, found, corruptions, match=match)
        found.notes += predictor.notes
    seen = None if of_masks else seen_in_training(model, chosen)
    if note := training_note(seen, consequence="these figures do not hold for other images"):
        found.notes.append(note)
    parts.finish(found, chosen, seen)
    if report is not None:
        from segwright.evaluation.report import RunFacts, write_report

        name = Path(model).name if isinstance(model, str | Path) else "model"
        write_report(Path(report), found, chosen, RunFacts(title=f"{name} on {chosen.name}", command=command))
    return found


def as_predictor(
    model: str | Path | Predictor,
    device: str,
    postprocess: str | None,
    tta: str | None,
    eight_bit: str | None = None,
    trust_external: bool = False,
    runtime: str = "usual",
) -> Predictor:
    """The predictor itself, or the one of a saved model."""
    if isinstance(model, str | Path):
        return load(
            model, device=device, postprocess=postprocess, tta=tta, eight_bit=eight_bit, trust_external=trust_external,
            runtime=runtime,
        )  # fmt: skip
    return model


def is_mask_folder(path: Path) -> bool:
    """Whether ``path`` is a folder of masks and no saved model."""
    from segwright.inference.exported_files import find_exported

    is_run = (path / "model.json").is_file() or (path / "model" / "model.json").is_file()
    return path.is_dir() and not is_run and find_exported(path) is None


def _refuse_for_masks(model: str | Path, probabilities: bool, corruptions: bool) -> None:
    """UsageError for what only a model has."""
    if probabilities:
        raise UsageError(
            "masks have no probabilities", expected="a model", found=str(model),
            fix="leave --probabilities and --uncertainty out",
        )  # fmt: skip
    if corruptions:
        raise UsageError(
            "corrupted images need a model to predict them", expected="a model", found=str(model),
            fix="leave --corruption out",
        )  # fmt: skip


def _own(runtime: str) -> str:
    """The runtime for what only the network itself gives."""
    return "usual" if runtime == "auto" else runtime


def _of_network(uncertainty: str | None) -> bool:
    """Whether a measure of uncertainty runs the network's own layers, which an exported file has not."""
    return uncertainty is not None and any(name in uncertainty for name in ("dropout", "ensemble"))
