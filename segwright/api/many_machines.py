"""Predict on several machines."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segwright.api.models import load
from segwright.api.results import PredictResult
from segwright.core.errors import BundleError, UsageError
from segwright.core.progress import progress

__all__ = ["predict_on_ray"]


def predict_on_ray(
    model: str | Path,
    source: str | Path | Sequence[str | Path],
    *,
    out: str | Path = "predictions",
    address: str | None = None,
    workers: int | None = None,
    worker_threads: int = 1,
    block: int | None = None,
    parquet: bool = False,
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
    trust_external: bool = False,
    runtime: str = "usual",
    result: dict[str, Any] | None = None,
) -> PredictResult:
    """Segment the images of one or several sources on many processes or machines, with Ray Data.

    The files are those of :func:`segwright.predict` with ``runtime="usual"``, byte for byte. Every image is there once:
    outputs are written whole or not at all, a record per block of images makes them count, and the end of a run proves
    that every image is in exactly one record. A worker that dies loses nothing.

    Parameters
    ----------
    model : str or Path
        A saved model or an exported file, here or at a URL of fsspec. It is sent to the workers, which load it once.
    source : str or Path or sequence of them
        As for :func:`segwright.predict`, without cameras, streams and standard input. The workers read it themselves:
        local paths must be on a disk that all machines share.
    out : str or Path, default="predictions"
        A folder that all machines share, or a URL of fsspec such as ``"s3://bucket/masks"``; not among the sources.
    address : str, optional
        ``"HOST:PORT"`` of a Ray cluster, ``"auto"`` for the one that this machine belongs to, ``"local"`` for processes
        of this machine alone. Left out: the environment variable ``RAY_ADDRESS``, else ``"local"``.
    workers : int >= 1, optional
        Processes, each with the model. Left out: as many as the cluster has processors, or GPUs.
    worker_threads : int >= 1, default=1
        Processors of each worker.
    block : int >= 1, optional
        Files that are recorded together, and that a kill at most costs a worker. Left out: up to 32.
    parquet : bool, default=False
        Write Parquet files, a row per image, instead of files per image; see :mod:`segwright.inference.shards`.
    device, postprocess, tta, eight_bit, trust_external
        As for :func:`segwright.load`.
    confidence, overlay, mask_format, probabilities, polygons, simplify, areas, video, frames
        As for :func:`segwright.predict`; no COCO polygons, which are one file over all images.
    uncertainty, uncertainty_format, quality, overwrite
        As for :func:`segwright.predict`.
    resume : bool, default=False
        Continue a run that was stopped or killed: what is finished and unchanged is left out. UsageError if the model
        or the options were others.
    runtime : {"usual", "torch", "onnxruntime", "openvino"}, default="usual"
        The same on every machine: a proof of a faster one (:func:`segwright.benchmark`) is of one machine alone.
    result : dict, optional
        Filled as the work goes on, for callers that may be interrupted.

    Returns
    -------
    PredictResult
        As of :func:`segwright.predict`, with ``workers``, the files of each process, and ``summary``, the mark of a
        complete run. Its fields are paths; ``result`` has the URLs as they are.

    Raises
    ------
    MissingExtraError
        The extra ``ray``, or the package of a URL's file system, is not installed.
    UsageError
        The cluster does not answer, or is too small; an output would replace a source or a file of somebody else.
    OutputError
        The bucket does not exist, or cannot be written.
    ModelError
        A worker cannot load the model.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.predict_on_ray("run", "s3://bucket/images", out="s3://bucket/masks", address="auto")  # doctest: +SKIP
    """
    from segwright.inference.batch import RunOptions, new_result
    from segwright.inference.destination import open_destination
    from segwright.inference.output_options import OutputOptions
    from segwright.inference.ray_cluster import import_ray
    from segwright.inference.ray_data import ClusterRun, RayOptions
    from segwright.inference.sources import open_sources
    from segwright.monitoring.observation import model_id

    if frames is not None and frames < 1:
        raise UsageError("there is nothing to predict", expected="frames of at least 1", found=str(frames))
    spread = RayOptions(address, workers, worker_threads, block, parquet)
    saved = "npz" if probabilities is True else probabilities or None
    options = OutputOptions(
        mask_format, overlay, confidence, saved, tuple(polygons), Path(areas) if areas is not None else None, video,
        uncertainty, uncertainty_format, quality, simplify,
    )  # fmt: skip
    import_ray()
    sources = [source] if isinstance(source, str | Path) else list(source)
    if "-" in map(str, sources):
        raise UsageError("standard input is read by one machine", fix="the same command without --ray")
    found, destination = open_sources(sources), open_destination(out)
    arguments = {
        "device": device, "post": postprocess, "tta": tta, "eight_bit": eight_bit, "trust_external": trust_external,
        "runtime_name": "usual" if runtime == "auto" else runtime,
    }  # fmt: skip
    filled = result if result is not None else {}
    filled |= new_result(Path(destination.shown))
    filled["out"] = destination.shown
    with _local(model) as place:
        predictor = load(
            place, device="cpu", postprocess=postprocess, tta=tta, eight_bit=eight_bit, trust_external=trust_external,
            runtime=str(arguments["runtime_name"]),
        )  # fmt: skip
        with progress("predicting", len(found) or None) as advance:
            ClusterRun(
                place, predictor, found, destination, options, RunOptions(overwrite, resume, frames), spread, arguments,
                model_id(predictor), filled, advance,
            ).work()  # fmt: skip
    return PredictResult.from_json(filled)


@contextmanager
def _local(model: str | Path) -> Iterator[Path]:
    """The model at a path, or a temporary copy of the one at a URL."""
    if not isinstance(model, str | Path):
        raise UsageError("the workers load the model themselves", expected="a path or URL", found=type(model).__name__)
    if "://" not in str(model):
        yield Path(model)
        return
    from segwright.inference.destination import open_destination
    from segwright.inference.origins import relative_name

    store = open_destination(str(model).rstrip("/"))
    with tempfile.TemporaryDirectory(prefix="segwright-") as folder:
        place = Path(folder) / store.place.rpartition("/")[2]
        names = list(store.files()) if not _is_file(store.place) else []
        for name in names:
            target = place / relative_name(name)  # of somebody's store: it may hold steps upwards
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(store.read(name) or b"")
        if not names:
            parent, _, own = store.place.rpartition("/")
            data = type(store)(store.shown, parent, store.system).read(own)
            if data is None:
                raise BundleError(
                    "no saved model at the URL", expected="a bundle or an exported file", where=store.shown
                )
            place.write_bytes(data)
        yield place


def _is_file(place: str) -> bool:
    from segwright.inference.exported_files import SUFFIXES

    return Path(place).suffix.lower() in SUFFIXES
