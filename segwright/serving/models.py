"""The models of a service: one or several by name, each with its versions if it is a slot.

The current model of every name is loaded from the start. Other versions are loaded by the first request for them, and
unloaded, the least recently used first, when there are too many or their files exceed the limit of memory.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segwright.core.errors import ModelError, SegwrightError, UsageError
from segwright.inference.predictor import Predictor
from segwright.inference.quality import ATTACHMENT
from segwright.monitoring.observation import model_id
from segwright.monitoring.recorder import JournalOptions, RecordedModel, Recorder
from segwright.serving.limits import RequestRejected

logger = logging.getLogger("segwright.serve")

MAX_VERSIONS = 4  # versions loaded at a time, beside the current ones
MAX_NAME = 100  # characters
WARM_UP_SIZE = (96, 128)


class Versions(Protocol):
    """The versions of a slot."""

    def names(self) -> list[str]:
        """The oldest first."""
        ...

    def load(self, name: str) -> Predictor: ...

    def size(self, name: str) -> int:
        """The bytes of its files."""
        ...


@dataclass(frozen=True)
class FolderVersions:
    """Versions that are folders: ``listed`` names them, ``folder`` finds one, ``load_model`` loads it."""

    listed: Callable[[], list[str]]
    folder: Callable[[str], Path]
    load_model: Callable[[Path], Predictor]

    def names(self) -> list[str]:
        return self.listed()

    def load(self, name: str) -> Predictor:
        return self.load_model(self.folder(name))

    def size(self, name: str) -> int:
        return files_size(self.folder(name))


@dataclass(frozen=True)
class ModelSource:
    """Where a served model comes from. ``load`` loads it again for a reload; ``watch``: a file or folder whose change
    has the same effect; ``bytes``: the size of its files."""

    name: str
    load: Callable[[], Predictor] | None = None
    watch: Path | None = None
    versions: Versions | None = None
    journal: JournalOptions | None = None
    bytes: int = 0


@dataclass(frozen=True)
class ServedModel:
    """A predictor in use and its name."""

    predictor: Predictor
    name: str
    recorded: RecordedModel | None = None  # where its predictions are recorded
    version: str | None = None  # of a slot, if it was asked for
    since: float = field(default_factory=time.time)

    @functools.cached_property
    def id(self) -> str:
        """Of the weights, as in a journal and in a lineage."""
        return model_id(self.predictor)

    def metadata(self) -> dict[str, Any]:
        """The part of a JSON response that describes the model."""
        return {"model": self.name, "id": self.id, **self.pipeline_info()}

    def pipeline_info(self) -> dict[str, str | None]:
        """The post-processing pipeline and the test-time augmentation."""
        pipeline, views = self.predictor.pipeline, self.predictor.tta
        return {"post": str(pipeline) if pipeline else None, "tta": str(views) if views else None}

    def describe(self) -> dict[str, Any]:
        """The content of ``/model``, without what the service adds."""
        predictor, bundle = self.predictor, self.predictor.bundle
        space = predictor.label_space
        return {
            "name": self.name,
            "id": self.id,
            **self.pipeline_info(),
            "architecture": bundle.architecture if bundle else None,
            "classes": [
                {"index": index, "name": name, "color": list(space.colors[index])}
                for index, name in enumerate(space.names)
            ],
            "channels": predictor.runtime.in_channels,
            "value_range": predictor.value_range.to_json() if predictor.value_range else None,
            "device": device_of(predictor),
            "metrics": _object(bundle.metrics) if bundle else {},
            "licenses": _object(bundle.licenses) if bundle else {},
            "reference": "reference" in predictor.attachments,
            "quality": ATTACHMENT in predictor.attachments,
            "loaded": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.since)),
        }


class ModelEntry:
    """One name: its current model and its source."""

    def __init__(self, source: ModelSource, predictor: Predictor, recorder: Recorder | None) -> None:
        self.source, self.recorder = source, recorder
        self.current = ServedModel(predictor, source.name, recorder.current if recorder is not None else None)
        self.reloading = False

    @property
    def name(self) -> str:
        return self.source.name

    def version_names(self) -> list[str]:
        """The versions that can be asked for, the oldest first; none if the model is no slot. Reads the disk."""
        return self.source.versions.names() if self.source.versions is not None else []

    def describe(self) -> dict[str, Any]:
        """The current model with its version and the other ones of the slot."""
        names = self.version_names()
        version = next((name for name in names if name.endswith(f"-{self.current.id}")), None)
        return {**self.current.describe(), "model_version": version, "model_versions": names}

    def load_again(self) -> ServedModel:
        """Load the model and test it. Raises whatever is wrong with it."""
        assert self.source.load is not None
        predictor = self.source.load()
        smoke_test(predictor)
        return ServedModel(predictor, self.name, self._attach(predictor))

    def load_version(self, version: str) -> ServedModel:
        """Load a version and test it."""
        assert self.source.versions is not None
        predictor = self.source.versions.load(version)
        smoke_test(predictor)
        return ServedModel(predictor, self.name, self._attach(predictor), version)

    def _attach(self, predictor: Predictor) -> RecordedModel | None:
        return self.recorder.attach(predictor, self.name) if self.recorder is not None else None


class ModelTable:
    """The models by name, the default one first; to be used on one event loop. ``max_bytes``: of the files of all
    loaded models together, None: only the number of versions is limited."""

    def __init__(self, entries: Sequence[ModelEntry], max_bytes: int | None = None) -> None:
        self.entries: Mapping[str, ModelEntry] = {entry.name: entry for entry in entries}
        self.default = entries[0]
        self.max_bytes = max_bytes
        self._loaded: OrderedDict[tuple[str, str], tuple[ServedModel, int]] = OrderedDict()
        self._loading = asyncio.Lock()  # one at a time: two would both find room for themselves

    def __iter__(self) -> Iterator[ModelEntry]:
        return iter(self.entries.values())

    def entry(self, name: str | None) -> ModelEntry:
        """The entry of a name, None: the default one; RequestRejected with 404 if there is none."""
        if name is None:
            return self.default
        found = self.entries.get(name)
        if found is None:
            raise RequestRejected(404, "no such model", expected=_listed(list(self.entries)), found=name[:80])
        return found

    def version(self, name: str, version: str) -> str:
        """The full name of a version, which may be given by its number; RequestRejected with 404 if there is none."""
        entry = self.entry(name)
        names = entry.version_names()
        for one in names:
            if version == one or (version.isascii() and version.isdigit() and _number(one) == version.lstrip("0")):
                return one
        if not names:
            raise RequestRejected(
                404, "the model has no versions", found=version[:80],
                fix=f"serve a slot to have versions (segwright promote), or ask /models/{name}/predict",
            )  # fmt: skip
        raise RequestRejected(404, "no such version", expected=_listed(names[::-1]), found=version[:80])

    def loaded_bytes(self) -> int:
        """The size of the files of all loaded models."""
        return sum(entry.source.bytes for entry in self) + sum(size for _, size in self._loaded.values())

    def loaded_count(self) -> int:
        """The number of loaded models, the current ones included."""
        return len(self.entries) + len(self._loaded)

    async def get(self, name: str | None, version: str | None) -> ServedModel:
        """The current model of a name, or a version, which is loaded if needed.

        RequestRejected: 404 for an unknown name or version, 507 for a version that does not fit into the memory
        limit, 500 for one that cannot be loaded.
        """
        entry = self.entry(name)
        if version is None:
            return entry.current
        key = entry.name, self.version(entry.name, version)
        if key[1].endswith(f"-{entry.current.id}"):
            return entry.current
        async with self._loading:
            found = self._loaded.get(key)
            if found is None:
                found = await self._load(entry, key)
            self._loaded.move_to_end(key)
            return found[0]

    async def _load(self, entry: ModelEntry, key: tuple[str, str]) -> tuple[ServedModel, int]:
        assert entry.source.versions is not None
        size = entry.source.versions.size(key[1])
        self._make_room(size)
        try:
            model = await asyncio.get_running_loop().run_in_executor(None, entry.load_version, key[1])
        except SegwrightError as error:  # a damaged version is no fault of the request, and no name of a file is sent
            logger.error("version %s of %s cannot be loaded: %s", key[1], entry.name, error)
            raise RequestRejected(
                500, "the version cannot be loaded", found=key[1], fix="see the service's log, or another version"
            ) from error
        self._loaded[key] = model, size
        return self._loaded[key]

    def _make_room(self, size: int) -> None:
        """Unload versions until one of ``size`` bytes fits; RequestRejected with 507 if it never does."""
        current = sum(entry.source.bytes for entry in self)
        if self.max_bytes is not None and current + size > self.max_bytes:
            raise RequestRejected(
                507, "the version does not fit into the memory for models",
                expected=f"at most {self.max_bytes / 1e6:.0f} MB of models",
                found=f"{size / 1e6:.0f} MB beside the current {current / 1e6:.0f} MB",
                fix="a larger --models-memory",
            )  # fmt: skip
        while self._loaded and (
            len(self._loaded) >= MAX_VERSIONS
            or (self.max_bytes is not None and self.loaded_bytes() + size > self.max_bytes)
        ):
            (name, version), _ = self._loaded.popitem(last=False)
            logger.info("unloaded: version %s of %s", version, name)


def check_sources(sources: Sequence[ModelSource], max_bytes: int | None = None) -> None:
    """UsageError for a name that cannot be part of an address, a name given twice, or models that are too large
    together."""
    seen: set[str] = set()
    for source in sources:
        name = source.name
        if not name.strip() or name in (".", "..") or len(name) > MAX_NAME or "/" in name or not name.isprintable():
            raise UsageError(
                "not a name for a served model", expected=f"1 to {MAX_NAME} printable characters without /",
                found=repr(name)[:80], fix="NAME=PATH gives a model another name",
            )  # fmt: skip
        if name in seen:
            raise UsageError(
                "two models have one name", expected="a name for each", found=name, fix="NAME=PATH gives one of them "
                "another name",
            )  # fmt: skip
        seen.add(name)
    total = sum(source.bytes for source in sources)
    if max_bytes is not None and total > max_bytes:
        each = ", ".join(f"{source.name} {source.bytes / 1e6:.0f} MB" for source in sources)
        raise UsageError(
            "the models do not fit into the memory for models", expected=f"at most {max_bytes / 1e6:.0f} MB",
            found=f"{total / 1e6:.0f} MB ({each})"[:300], fix="a larger --models-memory, or fewer models",
        )  # fmt: skip


def files_size(path: Path) -> int:
    """The bytes of a file, or of the files in a folder; 0 for what cannot be read."""
    try:
        files = path.iterdir() if path.is_dir() else [path]
        return sum(file.stat().st_size for file in files if file.is_file())
    except OSError:
        return 0


def device_of(predictor: Predictor) -> str:
    """``cuda:0``, ``cpu``, or the device of onnxruntime."""
    device = getattr(predictor.runtime, "device", None)
    if device is not None:
        return str(device)
    session = getattr(predictor.runtime, "session", None)
    providers = session.get_providers() if session is not None else []
    return "cuda (onnxruntime)" if "CUDAExecutionProvider" in providers else "cpu (onnxruntime)"


def smoke_test(predictor: Predictor) -> None:
    """Predict one small image of noise; ModelError if the output is wrong."""
    noise = np.random.default_rng(0).integers(0, 256, (*WARM_UP_SIZE, predictor.runtime.in_channels), np.uint8)
    labels = predictor.predict(noise).labels
    if labels.shape != WARM_UP_SIZE:
        raise ModelError("the network's output has another size", expected=str(WARM_UP_SIZE), found=str(labels.shape))


def _object(found: Any) -> dict[str, Any]:
    """A mapping from a model's description with string keys; {} for anything else that a file may hold."""
    return {str(name): value for name, value in found.items()} if isinstance(found, Mapping) else {}


def _number(version: str) -> str:
    return version.partition("-")[0].lstrip("0")


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
