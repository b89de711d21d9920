"""What ``import segwright`` offers: one function a command, over paths or objects.

Functions import what they need when they are called: a data check must not wait seconds for torch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright.core.deprecated import warn_renamed
from segwright.core.errors import DataError, SegwrightError, UsageError
from segwright.core.progress import progress, track
from segwright.core.types import LabelSpace, Sample
from segwright.data.check.runner import CheckResult, check_path
from segwright.data.dataset import Dataset, Split, open_dataset
from segwright.data.records import evenly_spread
from segwright.training.config import TrainConfig, load_config, parse_size

if TYPE_CHECKING:
    from segwright.evaluation.compare import Comparison
    from segwright.evaluation.evaluate import Evaluation
    from segwright.export.onnx import ExportResult
    from segwright.inference.import_weights import Imported
    from segwright.inference.predictor import Predictor
    from segwright.models.base import SegmentationModel
    from segwright.search.folds import CrossValidation
    from segwright.search.lr_range import LrRange
    from segwright.search.tune_postprocessing import TuningResult
    from segwright.search.tuning import Tuning
    from segwright.training.run import Run

__all__ = [
    "check",
    "compare",
    "convert",
    "create_model",
    "crf_figure",
    "cross_validate",
    "ensemble",
    "evaluate",
    "export",
    "import_weights",
    "list_models",
    "load",
    "lr_range",
    "open_dataset",
    "predict",
    "serve",
    "train",
    "tune",
    "tune_post",
]

PARITY_IMAGES = 6


def check(
    data: str | Path,
    *,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    html: str | Path | None = None,
) -> CheckResult:
    """Look through a dataset; ``html`` also writes a page."""
    result = check_path(data, format, images=images, masks=masks)
    if html is not None:
        from segwright.data.check.report_html import write_check_page

        write_check_page(result, html)
    return result


def create_model(
    name: str,
    *,
    classes: int,
    encoder: str | None = None,
    weights: str | Path | None = "auto",
    in_channels: int = 3,
    **arguments: Any,
) -> SegmentationModel:
    """A network of the catalog; see :func:`segwright.models.catalog.create_model`."""
    from segwright.models import catalog

    return catalog.create_model(
        name, classes=classes, encoder=encoder, weights=weights, in_channels=in_channels, **arguments
    )


def load(
    model: str | Path,
    *,
    device: str = "auto",
    precision: str = "fp32",
    post: str | None = None,
    tta: str | None = None,
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Predictor:
    """A predictor from a run folder, a bundle or an exported file; call it with a file or an array H×W×C (RGB).

    ``trust_external`` lets a saved model be built by another package, as ``smp:Unet`` is, with arguments out of the
    file: only for models whose origin you trust.
    """
    from segwright.inference import predictor

    return predictor.load(
        model, device=device, precision=precision, post=post, tta=tta, eight_bit=eight_bit,
        trust_external=trust_external,
    )  # fmt: skip


def train(
    data: Dataset | str | Path,
    *,
    model: str = "auto",
    encoder: str | None = "auto",
    minutes: float | None = None,
    epochs: int | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    start: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    **training: Any,
) -> Run:
    """Train on a dataset; what is left out is planned. Further keywords are settings of the training section
    (``lr=1e-3``, ``batch=8``, ``loss="ce+dice"``), ``weights`` is the model's; ``settings`` takes any dotted key."""
    values: dict[str, Any] = {"model.name": model, "model.encoder": encoder, "training.minutes": minutes}
    values["training.epochs"] = epochs
    if "weights" in training:
        values["model.weights"] = training.pop("weights")
    values |= {f"training.{key}": value for key, value in training.items()} | dict(settings or {})
    return train_run(data, values, out=out, resume=resume, start=start)


def train_run(
    data: Dataset | str | Path,
    values: Mapping[str, Any],
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    start: str | Path | None = None,
    dry_run: bool = False,
    command: str = "",
    started: float | None = None,
) -> Run:
    """Train with dotted settings laid over a config file or the defaults; as the ``train`` command. ``started``: when
    ``minutes`` began to run, by ``time.monotonic()``; now, when left out."""
    from segwright.training.run import run_training

    started = time.monotonic() if started is None else started
    base = load_config(config) if config is not None else TrainConfig()
    settings = base.with_values({**values, **({"out": str(out)} if out is not None else {})})
    if resume and settings.out is None:
        raise UsageError("--resume needs the run folder", fix="segwright train DATA --resume --out FOLDER")
    if isinstance(data, str | Path):
        settings = settings.with_values({"data.path": str(data)})
        data = open_dataset(data, settings.data.format, images=settings.data.images, masks=settings.data.masks)
    return run_training(data, settings, resume=resume, start=start, dry_run=dry_run, command=command, started=started)


def cross_validate(
    data: Dataset | str | Path,
    values: Mapping[str, Any],
    folds: int,
    *,
    config: str | Path | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    start: str | Path | None = None,
    command: str = "",
) -> CrossValidation:
    """Train and score ``folds`` models on parts of a dataset; see :mod:`segwright.search.cross_validation`."""
    from segwright.search.cross_validation import cross_validate as train_folds

    data, settings = _configured(data, values, config, out)
    if resume and settings.out is None:
        raise UsageError("--resume needs the run folder", fix="segwright train DATA --folds K --resume --out FOLDER")
    return train_folds(data, settings, folds, resume=resume, start=start, command=command)


def lr_range(
    data: Dataset | str | Path,
    *,
    values: Mapping[str, Any] | None = None,
    config: str | Path | None = None,
    start: str | Path | None = None,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
) -> LrRange:
    """The loss while the learning rate rises, and a suggestion; nothing is trained or kept."""
    from segwright.search.lr_range import range_test
    from segwright.training.run import planned_trainer

    data, settings = _configured(data, values or {}, config, None)
    return range_test(planned_trainer(data, settings, start=start), low=low, high=high, steps=steps)


def _configured(
    data: Dataset | str | Path, values: Mapping[str, Any], config: str | Path | None, out: str | Path | None
) -> tuple[Dataset, TrainConfig]:
    base = load_config(config) if config is not None else TrainConfig()
    settings = base.with_values({**values, **({"out": str(out)} if out is not None else {})})
    if isinstance(data, str | Path):
        settings = settings.with_values({"data.path": str(data)})
        data = open_dataset(data, settings.data.format, images=settings.data.images, masks=settings.data.masks)
    return data, settings


def tune(
    data: Dataset | str | Path,
    out: str | Path,
    *,
    minutes: float,
    trial_minutes: float | None = None,
    final_minutes: float | None = None,
    architectures: Sequence[str] = (),
    config: str | Path | None = None,
    values: Mapping[str, Any] | None = None,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Tuning:
    """Search for better settings than the planned ones; see :func:`segwright.search.tune.tune`."""
    from segwright.search.tune import require_optuna
    from segwright.search.tune import tune as search

    require_optuna()  # before the data is looked through
    data, base = _configured(data, values or {}, config, None)
    return search(
        data,
        base,
        Path(out),
        minutes=minutes,
        trial_minutes=trial_minutes,
        final_minutes=final_minutes,
        architectures=architectures,
        resume=resume,
        say=say,
    )


def evaluate(
    model: str | Path | Predictor,
    data: Split | Dataset | str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    post: str | None = None,
    tta: str | None = None,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    skip_bad: bool = False,
    match: str = "names",
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Evaluation:
    """Score a model (a run folder, bundle, ``.onnx`` file or predictor) on a split that has masks.

    ``skip_bad`` leaves unreadable files out and lists them; ``match`` brings the model's classes to the data's by
    ``names`` or by ``index``. Images are seen as :meth:`Predictor.read` sees them, by the model's value range;
    ``eight_bit`` as there.
    """
    from segwright.evaluation.evaluate import evaluate as evaluate_predictor
    from segwright.inference.split_reader import as_model_sees

    predictor = _predictor(model, device, post, tta, eight_bit, trust_external)
    if not isinstance(data, Split):
        data = choose_split(_opened(data, format, images, masks), split)
    seen = as_model_sees(data, predictor)
    found = evaluate_predictor(predictor, seen, skip_bad=skip_bad, match=match)
    found.notes += predictor.notes
    return found


def evaluate_path(
    model: Path,
    data: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    post: str | None = None,
    tta: str | None = None,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    skip_bad: bool = False,
    match: str = "names",
    raw_values: bool = False,
    report: Path | None = None,
    command: str = "",
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Evaluation:
    """As the ``evaluate`` command: ``model`` may also be a folder of masks made by any tool, whose values are class
    indices or, with ``raw_values``, what the dataset's own mask files hold."""
    from segwright.evaluation.masks import evaluate_masks
    from segwright.evaluation.report import RunFacts, write_report

    chosen = choose_split(open_dataset(data, format, images=images, masks=masks), split)
    a_run = (model / "model.json").is_file() or (model / "model" / "model.json").is_file()
    if model.is_dir() and not a_run:
        found = evaluate_masks(model, chosen, raw_values=raw_values, skip_missing=skip_bad)
    else:
        from segwright.inference.split_reader import as_model_sees

        predictor = load(model, device=device, post=post, tta=tta, eight_bit=eight_bit, trust_external=trust_external)
        found = evaluate(predictor, chosen, skip_bad=skip_bad, match=match)
        chosen = as_model_sees(chosen, predictor)  # the report shows what was scored
    if report is not None:
        write_report(report, found, chosen, RunFacts(title=f"{model.name} on {chosen.name}", command=command))
    return found


def compare(
    models: Sequence[Path],
    data: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Comparison:
    """Several models on the same images. UsageError for fewer than two, or one that is given twice."""
    from segwright.evaluation.compare import compare as compare_evaluations

    if len(models) < 2:
        raise UsageError("a comparison takes two models or more", found=str(len(models)))
    places: dict[Path, Path] = {}
    for model in map(Path, models):
        place = model.resolve()
        place = place.parent if place.name == "model" and place.is_dir() else place  # of a run, not in it
        if place in places:
            raise UsageError(
                "one model is given twice",
                expected="different models",
                found=f"{places[place]} and {model}",
                fix="leave one out; an evaluation of it alone: segwright evaluate MODEL DATA",
            )
        places[place] = model
    chosen = choose_split(open_dataset(data, format, images=images, masks=masks), split)
    found = {}
    for model in models:
        predictor = load(model, device=device, eight_bit=eight_bit, trust_external=trust_external)
        found[str(model)] = evaluate(predictor, chosen)
    return compare_evaluations(found)


def predict(
    model: str | Path | Predictor,
    source: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "predictions",
    device: str = "auto",
    post: str | None = None,
    tta: str | None = None,
    confidence: bool = False,
    overlay: bool = True,
    mask_format: str = "palette",
    probabilities: str | bool | None = None,
    polygons: Sequence[str] = (),
    areas: str | Path | None = None,
    video: bool = False,
    eight_bit: str | None = None,
    overwrite: bool = False,
    trust_external: bool = False,
    result: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Segment every image of ``source``, or of several sources, into ``out``; see
    :class:`segwright.inference.batch.OutputOptions` for what is written.

    A file that cannot be predicted is listed under ``failed``, and the others go on; the error of a single image is
    raised. No source is ever written over, and no other file unless an earlier prediction wrote it or ``overwrite`` is
    set. ``result`` is filled as the work goes on.
    """
    from segwright.inference.batch import OutputOptions, new_result, predict_source
    from segwright.inference.sources import open_sources

    saved = "npz" if probabilities is True else probabilities or None
    options = OutputOptions(
        mask_format, overlay, confidence, saved, tuple(polygons), Path(areas) if areas is not None else None, video
    )
    found = open_sources([source] if isinstance(source, str | Path) else list(source))
    predictor = _predictor(model, device, post, tta, eight_bit, trust_external)
    filled = result if result is not None else {}
    filled |= new_result(Path(out))
    if found.kind == "image":  # perhaps a large one: progress by its windows
        with ExitStack() as stack:

            def windows(count: int) -> Callable[[int], None]:
                return stack.enter_context(progress("predicting", count))

            return predict_source(
                predictor, found, Path(out), options, overwrite=overwrite, windows=windows, result=filled
            )
    with progress("predicting", len(found) or None) as advance:
        return predict_source(predictor, found, Path(out), options, overwrite=overwrite, advance=advance, result=filled)


def serve(
    model: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    precision: str = "fp32",
    post: str | None = None,
    tta: str | None = None,
    max_concurrent_requests: int = 32,
    batch: int | None = None,
    max_megabytes: float = 32.0,
    max_megapixels: float = 32.0,
    upload_timeout: float = 30.0,
    predict_timeout: float = 120.0,
    eight_bit: str | None = None,
    watch: bool = False,
    trust_external: bool = False,
    message: Callable[[str], None] = print,
    queue: int | None = None,
    timeout: float | None = None,
    say: Callable[[str], None] | None = None,
) -> None:
    """Serve a model over HTTP until SIGINT or SIGTERM; accepted requests are finished before it returns.

    ``batch``: images of one size per run of the network; None: 8 on a GPU, 1 on a CPU. ``upload_timeout``: seconds to
    receive an image; ``predict_timeout``: seconds of the network for one. ``eight_bit`` as for :func:`predict`.
    ``watch`` reloads the model when its files change, as SIGHUP does. ``message`` gets lines for the user, such as the
    URL once the service listens; requests are logged to ``segwright.serve``. ``queue``, ``timeout`` and ``say`` are the
    former names of ``max_concurrent_requests``, ``upload_timeout`` and ``message``. For other ASGI servers see
    :func:`segwright.serving.app.create_app`. UsageError for a port that cannot be bound, BundleError for what is not a
    model, MissingExtraError without the extra ``serve``.
    """
    if queue is not None:
        warn_renamed("serve(queue=…)", "max_concurrent_requests=…")
        max_concurrent_requests = queue
    if timeout is not None:
        warn_renamed("serve(timeout=…)", "upload_timeout=…")
        upload_timeout = timeout
    if say is not None:
        warn_renamed("serve(say=…)", "message=…")
        message = say
    from segwright.inference.predictor import find_bundle
    from segwright.serving.limits import ServiceLimits
    from segwright.serving.server import log_to_stderr, serve_model

    path = Path(model)
    limits = ServiceLimits(
        max_megabytes=max_megabytes, max_megapixels=max_megapixels, max_concurrent_requests=max_concurrent_requests,
        batch=batch, body_seconds=upload_timeout, header_seconds=min(10.0, upload_timeout),
        predict_seconds=predict_timeout,
    )  # fmt: skip

    def load_model() -> Predictor:
        return load(
            path, device=device, precision=precision, post=post, tta=tta, eight_bit=eight_bit,
            trust_external=trust_external,
        )  # fmt: skip

    watched = None if not watch else path if path.suffix.lower() == ".onnx" else find_bundle(path)
    log_to_stderr()
    place = path.resolve()
    folder = place.parent if place.name == "model" else place  # of a run, not in it
    name = place.stem if place.is_file() else folder.name
    serve_model(load_model, limits, name=name, host=host, port=port, watch=watched, message=message)


def export(
    model: str | Path | Sequence[str | Path],
    to: str = "onnx",
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    with_logits: bool = False,
    command: str = "",
    trust_external: bool = False,
) -> ExportResult:
    """Export a saved model, or several as one that averages their probabilities, compared on images: of ``data``,
    else of the data it was trained on, else drawn. ``to``: ``onnx`` or ``bundle``."""
    from segwright.export.onnx import export as export_model

    models = [model] if isinstance(model, str | Path) else list(model)
    if not models:
        raise UsageError("nothing to export", expected="a saved model or several", found="none")
    samples, source = parity_samples(models[0], data)
    return export_model(
        models, to, out, samples=samples, source=source, with_logits=with_logits, command=command,
        trust_external=trust_external,
    )  # fmt: skip


def ensemble(models: Sequence[str | Path], out: str | Path, *, data: str | Path | None = None) -> Path:
    """Several saved models as one, a bundle in the folder ``out``: it answers the mean of their probabilities.
    ``data``: images to verify that on. UsageError for fewer than two; ModelError where their classes differ."""
    if len(models) < 2:
        raise UsageError("an ensemble is made of two models or more", found=str(len(models)))
    return export(models, "bundle", out, data=data).path


def parity_samples(model: str | Path, data: str | Path | None) -> tuple[list[Sample], str]:
    """Some images to compare an export on, and where they are from."""
    import cv2
    import numpy as np

    from segwright.demo.street_scene import draw_street
    from segwright.inference.bundle import read_bundle
    from segwright.inference.predictor import find_bundle, fit_channels

    bundle = read_bundle(find_bundle(model))
    channels = bundle.arguments.get("in_channels", bundle.preprocessing.get("channels", 3))
    channels = channels if isinstance(channels, int) and 1 <= channels <= 512 else 3
    known = bundle.training.get("data")
    if data is not None:
        samples = _data_samples(data, bundle.label_space)
        return samples, f"{len(samples)} images of {data}"
    why = ""
    if isinstance(known, str) and known:
        try:
            if not Path(known).exists():
                raise DataError("it is not there any more")
            samples = _data_samples(known, bundle.label_space)
            for sample in samples:
                fit_channels(sample.image, channels)
            return samples, f"{len(samples)} images of {known}"
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


def import_weights(
    weights: str | Path,
    out: str | Path,
    *,
    model: str,
    classes: Sequence[str] | str | Path,
    encoder: str | None = None,
    in_channels: int = 3,
    normalization: str | Mapping[str, Any] | None = None,
    **options: Any,
) -> Imported:
    """Make a saved model of weights that were trained elsewhere; see
    :func:`segwright.inference.import_weights.import_weights`."""
    from segwright.inference.import_weights import import_weights as make_bundle

    return make_bundle(
        weights, out, model=model, classes=classes, encoder=encoder, in_channels=in_channels,
        normalization=normalization, **options,
    )  # fmt: skip


def tune_post(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    keep: bool = True,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    minutes: float = 10.0,
    tta: str | None = None,
    chains: Sequence[str] = (),
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> TuningResult:
    """Search post-processing on ``data``; a winner is saved into the model when ``keep`` is set.

    ``tta``: the test-time views that the model will be used with. ``chains`` are tried first, before them the one that
    the model has already. Where nothing is kept, that one stays as it is.
    """
    from segwright.data.splits import sequence_of
    from segwright.inference.bundle import load_bundle, save_bundle
    from segwright.inference.predictor import find_bundle
    from segwright.inference.split_reader import as_model_sees
    from segwright.search.tune_postprocessing import tune_post as search_post

    if Path(model).is_file():
        raise UsageError(
            "post-processing is tuned before the export",
            expected="a run folder or a bundle",
            found="an exported file",
            where=model,
            fix="tune the run folder, then export it again: the export takes the chain along",
        )
    folder = find_bundle(model)
    network, bundle = load_bundle(folder, trust_external=trust_external)
    predictor = load(folder, device=device, post="none", tta=tta, eight_bit=eight_bit, trust_external=trust_external)
    chosen = as_model_sees(
        choose_split(open_dataset(data, format, images=images, masks=masks), split or "val"), predictor
    )
    known = [bundle.postprocess] if bundle.postprocess else []
    # Frames of one sequence err together: the bootstrap does not draw them one by one.
    groups = [sequence_of(name) for name in chosen.ids]
    result = search_post(predictor, chosen, minutes=minutes, chains=[*known, *chains], groups=groups)
    if tta:
        result = replace(result, notes=(*result.notes, f"All with the test-time views {tta}; without them it differs."))
    if keep and result.kept:
        metrics = {**bundle.metrics, "postprocess": {**result.to_json(), "tta": tta}}
        save_bundle(folder, network, replace(bundle, postprocess=result.chain, metrics=metrics))
    elif keep and known:
        result = replace(result, notes=(*result.notes, f"The model's own chain stays as it was: {known[0]}."))
    return result


def crf_figure(
    model: str | Path | Predictor,
    data: Dataset | Split | str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    crf: str | None = None,
    count: int = 3,
    ids: Sequence[str] = (),
    iterations: Sequence[int] = (1, 2, 10),
    belief: str | None = None,
    width: int = 320,
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Path:
    """Write the papers' figure of a CRF at work on ``count`` images of a split, or on those named by ``ids``.

    ``crf`` is one step of a chain; left out, it is the one of the model's own chain, else DeepLab v1's. ``belief`` also
    shows the probability of a class. See :func:`segwright.evaluation.crf_figure.crf_figure`.
    """
    from segwright.evaluation.crf_figure import FigureRow
    from segwright.evaluation.crf_figure import crf_figure as draw
    from segwright.inference.split_reader import as_model_sees
    from segwright.postprocess.pipeline import parse_chain

    predictor = _predictor(model, device, "none", None, eight_bit, trust_external)
    saved = predictor.bundle.postprocess if predictor.bundle is not None else None
    links = parse_chain(crf or saved or "", predictor.label_space.names).links
    found = next((link.crf for link in links if link.crf is not None), None)
    if crf is not None and (found is None or len(links) > 1):
        raise UsageError("the figure shows one CRF", expected="such as crf(deeplab-v1)", found=crf)
    chosen = as_model_sees(
        data if isinstance(data, Split) else choose_split(_opened(data, format, images, masks), split), predictor
    )
    names = list(chosen.ids)
    missing = [name for name in ids if name not in names]
    if missing:
        raise UsageError("no such image in the split", expected=", ".join(names[:6]) + ", …", found=", ".join(missing))
    places = [names.index(name) for name in ids] or sorted(
        {round((i + 0.5) * len(names) / count - 0.5) for i in range(min(count, len(names)))}
    )
    same = chosen.label_space.names == predictor.label_space.names  # else the masks' numbers mean other classes
    rows = []
    for place in track(places, "drawing"):
        image = chosen.read_image(place)
        probabilities = predictor.predict(image, probabilities=True).probabilities
        assert probabilities is not None
        rows.append(FigureRow(image, probabilities, chosen.read_mask(place) if same else None))
    return draw(rows, predictor.label_space, out, crf=found, iterations=iterations, belief=belief, width=width)


def convert(
    data: str | Path,
    to: str,
    out: str | Path,
    *,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
) -> dict[str, Any]:
    """Write a dataset in another format."""
    from segwright.data.convert import convert as convert_dataset

    dataset = open_dataset(data, format, images=images, masks=masks)
    convert_dataset(dataset, to, out)
    return {"from": dataset.format, "to": to, "images": len(dataset), "out": str(out)}


def list_models(names: Sequence[str] = (), *, measure: bool = False, size: str = "352x480") -> list[dict[str, Any]]:
    """The catalog as rows; ``measure`` adds what was measured on this machine."""
    from segwright.models.profile import list_catalog

    return list_catalog(names, measure=parse_size(size) if measure else None)


def choose_split(data: Dataset, name: str | None) -> Split:
    """The named split; left out: test, else val, else everything there is, which its note then says."""
    splits = data.splits
    if name is not None:
        if name not in splits and name != "all":
            raise DataError(f"no split {name!r}", expected=", ".join([*splits, "all"]), where=data.root)
        return data.all if name == "all" else splits[name]
    for usual in ("test", "val"):
        if usual in splits and _has_masks(splits[usual]):
            return splits[usual]
    known = ", ".join(f"{split.name} ({len(split)})" for split in splits.values())
    chosen = Split("all", data.records, data.reader)
    chosen.note = (
        f"no split test or val with masks (found: {known}): all {len(chosen)} images are scored, and those that the "
        "model was trained on may be among them"
    )
    return chosen


def _predictor(
    model: str | Path | Predictor,
    device: str,
    post: str | None,
    tta: str | None,
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Predictor:
    if isinstance(model, str | Path):
        return load(model, device=device, post=post, tta=tta, eight_bit=eight_bit, trust_external=trust_external)
    return model


def _has_masks(split: Split) -> bool:
    return any(record.labeled for record in split.records)


def _opened(
    data: Dataset | str | Path, format: str | None, images: str | None = None, masks: str | None = None
) -> Dataset:
    return open_dataset(data, format, images=images, masks=masks) if isinstance(data, str | Path) else data
