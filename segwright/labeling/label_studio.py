"""Label Studio's backend protocol: ``segwright serve MODEL --label-studio URL`` answers under ``/label-studio``.

Five routes, apart from the service's own, whose names are the same: ``health``, ``setup``, ``predict``, ``webhook`` and
``metrics``. Label Studio sends tasks; their images are fetched from the configured server alone
(:mod:`.label_studio_fetch`), predicted as any other image of the service, and answered as one brush per class, which
together are the label mask pixel by pixel. With a label folder, annotations that people save become masks
(:mod:`.label_studio_store`).

The protocol follows Label Studio 1.23 (``label_studio/ml``): a task that fails gets an empty list, because one answer
per task is expected and a prediction without regions would be stored as an empty one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from segwright.core.errors import DataError, LabelError, SegwrightError, UsageError
from segwright.core.types import IGNORE_INDEX, LabelSpace, UInt8Array
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.formats.file_tree import is_image
from segwright.data.formats.label_studio import draw_annotation
from segwright.data.formats.label_studio_writing import brush_region
from segwright.data.formats.writing import IGNORE_NAME
from segwright.imageio import Limits
from segwright.imageio.headers import parse_header
from segwright.inference.prediction import Prediction
from segwright.labeling.label_studio_config import Labeling, match_classes, parse_names
from segwright.labeling.label_studio_fetch import HostFetcher, origin_of
from segwright.labeling.label_studio_store import AnnotationFolder
from segwright.labeling.label_studio_version import model_version
from segwright.serving.http import check_sender, read_body
from segwright.serving.limits import RequestRejected
from segwright.serving.models import ServedModel
from segwright.serving.responses import json_response
from segwright.serving.service import RequestContext, Service

logger = logging.getLogger("segwright.serve")

PREFIX = "/label-studio"
KEY_VARIABLE = "LABEL_STUDIO_API_KEY"
MAX_TASKS = 1000  # of one request
MAX_EXPORT = 1 << 30  # bytes of a project's export
SAVED = ("ANNOTATION_CREATED", "ANNOTATION_UPDATED")


@dataclass(frozen=True)
class LabelStudioOptions:
    """The options of ``serve --label-studio``."""

    url: str  # of the Label Studio server
    key: str | None = None  # an API key of it
    names: Mapping[str, str] = field(default_factory=dict)  # class → label of the project; "": not sent
    folder: Path | None = None  # where annotations go


@dataclass
class Counts:
    """What ``/label-studio/metrics`` shows."""

    tasks: int = 0
    predicted: int = 0
    failed: int = 0
    stored: int = 0
    not_stored: int = 0
    removed: int = 0
    last_error: str | None = None
    training: dict[str, Any] | None = None  # the last START_TRAINING


class LabelStudioBackend:
    """The routes for one Label Studio server. UsageError for an unusable folder or address."""

    def __init__(self, service: Service, options: LabelStudioOptions, version: Callable[[], str]) -> None:
        self.service, self.options, self._version = service, options, version
        self.fetcher = HostFetcher(options.url, options.key, max_bytes=service.limits.max_bytes)
        space = service.model.predictor.label_space
        self.store = AnnotationFolder(options.folder, space) if options.folder is not None else None
        self.counts = Counts()
        self._versions: tuple[ServedModel, str] | None = None
        self._training: asyncio.Task[None] | None = None

    def routes(self) -> list[Route]:
        """To be mounted in the service."""
        return [
            Route(f"{PREFIX}/health", self.health, methods=["GET"]),
            Route(f"{PREFIX}/setup", self.setup, methods=["POST"]),
            Route(f"{PREFIX}/predict", self.predict, methods=["POST"]),
            Route(f"{PREFIX}/webhook", self.webhook, methods=["POST"]),
            Route(f"{PREFIX}/metrics", self.metrics, methods=["GET"]),
            Route(f"{PREFIX}/versions", self.versions, methods=["GET"]),
        ]

    @property
    def version(self) -> str:
        """The version of the model in use: another one after a reload."""
        if self._versions is None or self._versions[0] is not self.service.model:
            self._versions = (self.service.model, self._version())
        return self._versions[1]

    async def health(self, request: Request) -> Response:
        """``GET health``: within the second that Label Studio waits."""
        return json_response({"status": "UP", "model_class": "segwright", "model_version": self.version})

    async def versions(self, request: Request) -> Response:
        """``GET versions``."""
        return json_response({"versions": [self.version]})

    async def metrics(self, request: Request) -> Response:
        """``GET metrics``: counts since the start."""
        return json_response({**vars(self.counts), "model_version": self.version})

    async def setup(self, request: Request) -> Response:
        """``POST setup``: whether the model fits the project's labels; 400 with the classes that do not.

        The access token and host that Label Studio sends are not used.
        """
        tree = await self._json(request)
        _, labels = self._labeling(tree.get("schema") or tree.get("label_config"))
        return json_response({"model_version": self.version, "labels": sorted(set(labels.values()))})

    def _labeling(self, config: Any) -> tuple[Labeling, dict[int, str]]:
        space = self.service.model.predictor.label_space
        try:
            labeling = Labeling.parse(config)
            return labeling, match_classes(space, labeling.labels, self.options.names)
        except LabelError as error:
            logger.warning("label studio: %s", error)
            raise RequestRejected(
                400, error.message, expected=error.expected, found=error.found, fix=error.fix
            ) from error

    async def predict(self, request: Request) -> Response:
        """``POST predict``: an answer per task, in order."""
        tree = await self._json(request)
        tasks = tree.get("tasks")
        if not isinstance(tasks, list) or len(tasks) > MAX_TASKS or not all(isinstance(t, dict) for t in tasks):
            raise RequestRejected(400, "no tasks", expected=f"a list of up to {MAX_TASKS} tasks", found=str(tasks)[:80])
        labeling, labels = self._labeling(tree.get("label_config"))
        results: list[Any] = []
        errors = []
        for task in tasks:
            self.counts.tasks += 1
            try:
                results.append(await self._predict(task, labeling, labels))
                self.counts.predicted += 1
            except SegwrightError as error:
                results.append([])
                errors.append(error)
                self.counts.failed += 1
                self.counts.last_error = f"task {task.get('id')}: {error.message}: {error.found or ''}"
                logger.warning("label studio: task %s is not predicted: %s", task.get("id"), error)
        if errors and len(errors) == len(tasks):
            first = errors[0]
            status = first.status if isinstance(first, RequestRejected) else 400
            raise RequestRejected(
                status, first.message, expected=first.expected, found=first.found, fix=first.fix
            ) from first
        return json_response({"results": results, "model_version": self.version})

    async def _predict(self, task: Mapping[str, Any], labeling: Labeling, labels: Mapping[int, str]) -> dict[str, Any]:
        address = labeling.address(task)
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(None, self.fetcher.image, address)
        _, prediction = await self.service.segment(image, RequestContext())
        regions = await loop.run_in_executor(None, brushes, prediction, labeling, labels)
        score = float(prediction.confidence.mean(dtype=np.float64))
        return {"result": regions, "score": score, "model_version": self.version}

    async def webhook(self, request: Request) -> Response:
        """``POST webhook``: saved annotations become masks, deleted ones go, START_TRAINING fetches all of a project.

        Label Studio looks at no answer; what cannot be stored is logged and counted.
        """
        tree = await self._json(request)
        action = str(tree.get("action"))
        if self.store is None:
            return json_response({"status": "ignored", "message": "serve with --label-folder to keep annotations"})
        if action in SAVED:
            found = await self._save(tree.get("task"), tree.get("annotation"))
            return json_response({"status": "ok", "message": found})
        if action == "ANNOTATIONS_DELETED":
            gone = [one.get("id") for one in tree.get("annotations") or [] if isinstance(one, Mapping)]
            removed = [name for one in gone if isinstance(one, int) and (name := self.store.remove(one)) is not None]
            self.counts.removed += len(removed)
            return json_response({"status": "ok", "message": f"removed: {', '.join(removed) or 'nothing'}"})
        if action == "START_TRAINING":
            return json_response({"status": "ok", "message": self._start_training(tree.get("project"))})
        return json_response({"status": "ignored", "message": f"nothing is done at {action[:60]}"})

    async def _save(self, task: Any, annotation: Any) -> str:
        """Store one annotation; returns the line for the log."""
        assert self.store is not None
        try:
            name = await self._stored(task, annotation)
        except SegwrightError as error:
            self.counts.not_stored += 1
            number = task.get("id") if isinstance(task, Mapping) else None
            self.counts.last_error = f"task {number}: {error.message}: {error.found or ''}"
            logger.warning("label studio: the annotation of task %s is not stored: %s", number, error)
            return f"not stored: {error.message}"
        if name is None:
            return "skipped"
        self.counts.stored += 1
        return f"stored: {name}"

    async def _stored(self, task: Any, annotation: Any) -> str | None:
        """The image's name; None for an annotation that was skipped. SegwrightError."""
        assert self.store is not None
        if not isinstance(task, Mapping) or not isinstance(annotation, Mapping) or not isinstance(task.get("id"), int):
            raise DataError("not an annotation with its task", found=str(task)[:80])
        if annotation.get("was_cancelled"):
            return None
        data = task.get("data")
        values = data.values() if isinstance(data, Mapping) else ()
        address = next((one for one in values if isinstance(one, str) and _names_image(one)), None)
        if address is None:
            raise DataError("the task names no image", found=str(data)[:200])
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(None, self.fetcher.image, address)
        limits, names = self.service.limits.image_limits(), self.options.names

        def store() -> str:
            assert self.store is not None
            mask, ending = annotation_mask(annotation, image, address, self.store.space, names, limits)
            return self.store.store(task["id"], annotation, address, image, ending, mask)

        return await loop.run_in_executor(None, store)

    def _start_training(self, project: Any) -> str:
        """Fetch all annotations of a project in the background; returns what happens."""
        number = project.get("id") if isinstance(project, Mapping) else None
        assert self.store is not None
        if not isinstance(number, int):
            return "not a project"
        if self._training is not None and not self._training.done():
            return "the annotations are being fetched already"
        self._training = asyncio.ensure_future(self._fetch_all(number))
        return (
            f"the project's annotations are written to {self.store.root.name}; the model in service stays until a "
            f"better one is promoted: segwright refine MODEL {self.store.root.name}"
        )

    async def _fetch_all(self, project: int) -> None:
        loop = asyncio.get_running_loop()
        state: dict[str, Any] = {"project": project, "stored": 0, "not_stored": 0, "done": False}
        self.counts.training = state
        try:
            path = f"/api/projects/{project}/export?exportType=JSON"
            export = await loop.run_in_executor(None, lambda: self.fetcher.get(path, max_bytes=MAX_EXPORT))
            tasks = json.loads(export)
            for task in tasks if isinstance(tasks, list) else ():
                kept = [one for one in task.get("annotations") or [] if not one.get("was_cancelled")]
                chosen = next((one for one in kept if one.get("ground_truth")), kept[-1] if kept else None)
                if chosen is not None:
                    outcome = await self._save(task, chosen)
                    state["stored" if outcome.startswith("stored") else "not_stored"] += 1
        except (SegwrightError, ValueError, AttributeError) as error:
            state["error"] = str(error)[:300]
            logger.error("label studio: the annotations of project %s are not fetched: %s", project, error)
        state["done"] = True
        logger.info("label studio: %d annotations stored, %d not", state["stored"], state["not_stored"])

    async def _json(self, request: Request) -> dict[str, Any]:
        check_sender(request.headers)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "application/json":
            raise RequestRejected(415, "the request body is not JSON", expected="application/json", found=kind[:80])
        limits = self.service.limits
        with self.service.reserve_body() as reserve:
            body = await read_body(request, limits.max_bytes, limits.body_seconds, reserve)
        try:
            tree = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestRejected(400, "the request body is no JSON", found=str(error)[:80]) from error
        if not isinstance(tree, dict):
            raise RequestRejected(400, "not a request of Label Studio", expected="an object", found=type(tree).__name__)
        return tree


def brushes(prediction: Prediction, labeling: Labeling, labels: Mapping[int, str]) -> list[dict[str, Any]]:
    """One brush per label that occurs, in the order of the classes; two classes of one label share a brush."""
    found, sure = prediction.labels, prediction.confidence
    classes: dict[str, list[int]] = {}
    for index, label in labels.items():
        classes.setdefault(label, []).append(index)
    regions = []
    for label, indices in classes.items():
        mask = np.isin(found, indices)
        if mask.any():
            score = float(sure[mask].mean(dtype=np.float64))
            more = {"origin": "prediction", "score": score}
            regions.append(brush_region(mask, label, labeling.from_name, labeling.to_name, **more))
    return regions


def annotation_mask(
    annotation: Mapping[str, Any],
    image: bytes,
    address: str,
    space: LabelSpace,
    names: Mapping[str, str],
    limits: Limits,
) -> tuple[UInt8Array, str]:
    """(mask, ending of the image's file) of an annotation of the image. LabelError, ImageReadError.

    What no region covers is the class named "background", or 255 (not labeled) if the model has none. Of two classes
    with one label the first is meant.
    """
    info = parse_header(image, address, limits, None)
    index: dict[str, int] = {}
    for number, name in enumerate(space.names):
        index.setdefault(names.get(name) or name, number)
    index.setdefault(IGNORE_NAME, IGNORE_INDEX)
    fill = next((i for i, name in enumerate(space.names) if name.strip().lower() in BACKGROUND_NAMES), IGNORE_INDEX)
    mask, problems = draw_annotation(annotation, index, info.size, fill, address)
    for problem in problems:
        logger.warning("label studio: %s: %s", address, problem.message)
    ending = Path(_file(address)).suffix.lower()
    return mask, ending if is_image(f"x{ending}") else f".{info.format.lower()}"


def _file(address: str) -> str:
    """The path that an address is about: of local files the one after ``d=``."""
    parts = urlsplit(address)
    return parts.query.removeprefix("d=") if parts.query.startswith("d=") else parts.path


def _names_image(address: str) -> bool:
    try:
        return is_image(_file(address))
    except ValueError:
        return False


def label_studio_routes(
    url: str,
    model: Path,
    name: str,
    key_file: str | Path | None = None,
    labels: str = "",
    folder: str | Path | None = None,
) -> Callable[[Service], list[Route]]:
    """What :func:`segwright.serving.app.create_app` takes as ``more``, from the options of ``serve``.

    UsageError for an address that is none, or a key that cannot be read.
    """
    origin_of(url)
    key = read_key(key_file)
    kept = None if folder is None else Path(folder)

    def routes(service: Service) -> list[Route]:
        names = parse_names(labels, service.model.predictor.label_space)
        options = LabelStudioOptions(url, key, names, kept)
        return LabelStudioBackend(service, options, lambda: model_version(model, name)).routes()

    return routes


def read_key(path: str | Path | None) -> str | None:
    """The API key in a file, else in ``LABEL_STUDIO_API_KEY``; None without one. UsageError for an unusable file."""
    try:
        text = os.environ.get(KEY_VARIABLE, "") if path is None else Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError("the file of the API key cannot be read", found=str(error)[:200], where=str(path)) from error
    key = text.strip()
    if path is not None and not key:
        raise UsageError("the file of the API key is empty", where=str(path))
    if not key.isascii() or any(sign.isspace() for sign in key) or len(key) > 4096:
        raise UsageError("not an API key of Label Studio", expected="one word", found=f"{len(key)} characters")
    return key or None
