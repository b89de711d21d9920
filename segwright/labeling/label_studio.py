"""Label Studio's backend protocol: ``segwright serve MODEL --label-studio URL`` answers under ``/label-studio``.

Five routes, apart from the service's own, whose names are the same: ``health``, ``setup``, ``predict``, ``webhook`` and
``metrics``. Label Studio sends tasks; their images are fetched from the configured server alone
(:mod:`.label_studio_fetch`), predicted as any other image of the service, and answered as one brush per class, which
together are the label mask pixel by pixel. With a label folder, annotations that people save become masks
(:mod:`.label_studio_store`); whoever may send requests to the service may change them, so without API keys it listens
on the loopback address alone. The image of a task is the one that the labeling configuration names, which Label Studio
sends with every annotation (:mod:`segwright.data.formats.label_studio_tasks`).

The protocol follows Label Studio 1.23 (``label_studio/ml``): a task that fails gets an empty list, because one answer
per task is expected and a prediction without regions would be stored as an empty one.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from segwright.core.counted import counted
from segwright.core.errors import DataError, LabelError, SegwrightError, UsageError
from segwright.core.types import IGNORE_INDEX, LabelSpace, UInt8Array
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.formats.file_tree import is_image
from segwright.data.formats.label_studio import draw_annotation
from segwright.data.formats.label_studio_tasks import (
    Interface,
    TaskImage,
    age,
    file_path,
    parse_config,
    preferred,
    task_images,
)
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
CLOUDS = ("s3://", "gs://", "azure-blob://")  # of cloud storages, which Label Studio resolves itself
CHOOSE_IMAGE = (
    "let the webhook send its payload, whose project has the labeling configuration, or save the model's connection "
    "again (Settings, Model)"
)


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


@dataclass
class _Fetched:
    """The last image that was fetched."""

    address: str = ""
    image: bytes = b""


class LabelStudioBackend:
    """The routes for one Label Studio server. UsageError for an unusable folder or address."""

    def __init__(self, service: Service, options: LabelStudioOptions, version: Callable[[], str]) -> None:
        self.service, self.options, self._version = service, options, version
        self.fetcher = HostFetcher(options.url, options.key, max_bytes=service.limits.max_bytes)
        space = service.model.predictor.label_space
        self.store = AnnotationFolder(options.folder, space) if options.folder is not None else None
        self.counts = Counts()
        self._versions: tuple[ServedModel, str] | None = None
        self._interfaces: dict[int, Interface] = {}  # of the projects that were seen, by their number
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
        config = tree.get("schema") or tree.get("label_config")
        _, labels = self._labeling(config)
        self._interface(tree.get("project"), config)
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
        self._interface(tree.get("project"), tree.get("label_config"))
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
        address = stored_at(task, labeling.address(task))
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
            task, project = tree.get("task"), tree.get("project")
            interface = self._interface(
                project if project is not None or not isinstance(task, Mapping) else task.get("project"),
                project.get("label_config") if isinstance(project, Mapping) else None,
            )
            found = await self._save(task, tree.get("annotation"), interface)
            return json_response({"status": "ok", "message": found})
        if action == "ANNOTATIONS_DELETED":
            gone = [one.get("id") for one in tree.get("annotations") or [] if isinstance(one, Mapping)]
            return json_response({"status": "ok", "message": self._removed(gone)})
        if action == "START_TRAINING":
            return json_response({"status": "ok", "message": self._start_training(tree.get("project"))})
        return json_response({"status": "ignored", "message": f"nothing is done at {action[:60]}"})

    def _interface(self, project: Any, config: Any) -> Interface | None:
        """The images of a project's labeling configuration: of ``config``, else of the last one that was seen.

        ``project``: as Label Studio sends it: an object with ``id``, a number, or "number.date".
        """
        number = project.get("id") if isinstance(project, Mapping) else project
        if isinstance(number, str):
            number = int(number.partition(".")[0]) if number.partition(".")[0].isdecimal() else None
        try:
            found = None if config is None else Interface.of(parse_config(config))
        except LabelError as error:
            logger.warning("label studio: %s", error)
            found = None
        if not isinstance(number, int):
            return found
        if found is not None and found.images:
            self._interfaces[number] = found
        return self._interfaces.get(number)

    def _removed(self, annotations: Sequence[Any]) -> str:
        """Remove the masks of annotations; returns what was done."""
        assert self.store is not None
        found = [name for one in annotations if isinstance(one, int) and (name := self.store.remove(one)) is not None]
        self.counts.removed += len(found)
        back = sorted({name for name in found if name in self.store.images})
        older = f"; of another annotation: {', '.join(back)}" if back else ""
        return f"removed: {', '.join(found) or 'nothing'}{older}"

    async def _save(
        self, task: Any, annotation: Any, interface: Interface | None, image: _Fetched | None = None
    ) -> str:
        """Store one annotation; returns the line for the log."""
        assert self.store is not None
        try:
            name = await self._stored(task, annotation, interface, image or _Fetched())
        except SegwrightError as error:
            self.counts.not_stored += 1
            number = task.get("id") if isinstance(task, Mapping) else None
            self.counts.last_error = f"task {number}: {error.message}: {error.found or ''}"
            logger.warning("label studio: the annotation of task %s is not stored: %s", number, error)
            return f"not stored: {error.message}"
        if name is None:
            return f"skipped; {self._removed([annotation.get('id')])}"
        self.counts.stored += 1
        return f"stored: {name}"

    async def _stored(self, task: Any, annotation: Any, interface: Interface | None, fetched: _Fetched) -> str | None:
        """The image's name; None for an annotation that was skipped. SegwrightError."""
        assert self.store is not None
        if not isinstance(task, Mapping) or not isinstance(annotation, Mapping) or not isinstance(task.get("id"), int):
            raise DataError("not an annotation with its task", found=str(task)[:80])
        if annotation.get("was_cancelled"):
            return None
        where = f"task {task['id']}"
        chosen = annotated_image(task.get("data"), annotation, interface, where)
        address = stored_at(task, chosen.address)
        loop = asyncio.get_running_loop()
        if fetched.address != address:
            fetched.image = await loop.run_in_executor(None, self.fetcher.image, address)
            fetched.address = address
        limits, names = self.service.limits.image_limits(), self.options.names
        space = self.service.model.predictor.label_space
        drawn = without_elsewhere(annotation, interface, chosen.name, where)

        def store() -> str:
            assert self.store is not None
            self.store.use(space)  # a model that was loaded since may have further classes
            mask, ending = annotation_mask(drawn, fetched.image, chosen.address, self.store.space, names, limits)
            return self.store.store(task["id"], drawn, chosen.address, fetched.image, ending, mask)

        return await loop.run_in_executor(None, store)

    def _start_training(self, project: Any) -> str:
        """Fetch all annotations of a project in the background; returns what happens."""
        number = project.get("id") if isinstance(project, Mapping) else None
        assert self.store is not None
        if not isinstance(number, int):
            return "not a project"
        if self._training is not None and not self._training.done():
            return "the annotations are being fetched already"
        interface = self._interface(project, project.get("label_config"))
        self._training = asyncio.ensure_future(self._fetch_all(number, interface))
        return (
            f"the project's annotations are written to {self.store.root.name}; the model in service stays until a "
            f"better one is promoted: segwright refine MODEL {self.store.root.name}"
        )

    async def _fetch_all(self, project: int, interface: Interface | None) -> None:
        assert self.store is not None
        loop = asyncio.get_running_loop()
        state: dict[str, Any] = {"project": project, "stored": 0, "not_stored": 0, "done": False}
        self.counts.training = state
        try:
            export = await loop.run_in_executor(None, lambda: self.fetcher.export(project, max_bytes=MAX_EXPORT))
            tasks = json.loads(export)
            for task in tasks if isinstance(tasks, list) else ():
                every = [one for one in task.get("annotations") or [] if isinstance(one, Mapping)]
                kept, fetched = [one for one in every if not one.get("was_cancelled")], _Fetched()
                counts = preferred(kept)
                for one in sorted(kept, key=age):
                    outcome = await self._save(task, one, interface, fetched)
                    if one is counts:
                        state["stored" if outcome.startswith("stored") else "not_stored"] += 1
                if isinstance(task.get("id"), int):
                    self.store.keep(task["id"], [one.get("id") for one in kept])
        except (SegwrightError, ValueError, AttributeError) as error:
            state["error"] = str(error)[:300]
            logger.error("label studio: the annotations of project %s are not fetched: %s", project, error)
        state["done"] = True
        logger.info("label studio: %s stored, %d not", counted(state["stored"], "annotation"), state["not_stored"])

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
    ending = Path(file_path(address)).suffix.lower()
    return mask, ending if is_image(f"x{ending}") else f".{info.format.lower()}"


def annotated_image(fields: Any, annotation: Mapping[str, Any], interface: Interface | None, where: str) -> TaskImage:
    """The image of a task's data that an annotation is drawn on. DataError if there is none, or several."""
    found = task_images(fields, interface, where, CHOOSE_IMAGE)
    if interface is not None and interface.images and found and not found[0].name:
        keys = ", ".join(interface.annotated().values())
        raise LabelError(
            f"the task has no {keys}", expected="the address of an image", found=str(fields)[:200], where=where
        )
    if len(found) > 1:
        regions = annotation.get("result")
        targets = {str(one.get("to_name")) for one in regions or () if isinstance(one, Mapping)}
        found = [one for one in found if one.name in targets]
        if len(found) > 1:
            raise LabelError(
                "an annotation of several images", expected="regions on one image per task",
                found=", ".join(one.name for one in found), where=where, fix="give each image a task of its own",
            )  # fmt: skip
    if not found:
        raise DataError("the task names no image", found=str(fields)[:200], where=where)
    return found[0]


def without_elsewhere(
    annotation: Mapping[str, Any], interface: Interface | None, image: str, where: str
) -> Mapping[str, Any]:
    """An annotation without its regions on other images than ``image``."""
    regions = annotation.get("result")
    if interface is None or not image or not isinstance(regions, list):
        return annotation
    kept = [one for one in regions if not (isinstance(one, Mapping) and interface.is_elsewhere(one, image))]
    if len(kept) < len(regions):
        logger.warning("label studio: %s: %s on another image than %s", where,
                       counted(len(regions) - len(kept), "region", "is"), image)  # fmt: skip
    return {**annotation, "result": kept}


def stored_at(task: Mapping[str, Any], address: str) -> str:
    """The address under which Label Studio gives an image: of a cloud storage's URI the one that resolves it."""
    if not address.startswith(CLOUDS) or not isinstance(task.get("id"), int):
        return address
    return f"/tasks/{task['id']}/resolve/?fileuri={base64.urlsafe_b64encode(address.encode()).decode()}"


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
