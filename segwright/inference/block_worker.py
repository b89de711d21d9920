"""One process of a run on several machines: it loads the model once and predicts blocks of images.

Every block is predicted by :func:`segwright.inference.batch.predict_source` into a temporary folder, as the plain
command predicts into its own, and then written to the destination.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import pickle
import platform
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.errors import SegwrightError
from segwright.core.version import __version__
from segwright.imageio import read_header
from segwright.inference.batch import RunOptions, predict_source
from segwright.inference.blocks import Block, Record
from segwright.inference.destination import Destination
from segwright.inference.exported_files import find_exported
from segwright.inference.ledger import OUTPUTS
from segwright.inference.output_options import OutputOptions
from segwright.inference.predictor import Predictor, find_bundle, load
from segwright.inference.shards import row_of, schema, shards

PARTS = (".bin", ".data")  # of an exported file's weights beside it


@dataclass(frozen=True)
class PackedModel:
    """The files of a saved model or an export, to be sent to other machines."""

    entry: str  # what is loaded, below the folder
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, model: str | Path) -> PackedModel:
        """Pack what a path names; BundleError if that is no model."""
        path = Path(model)
        exported = find_exported(path)
        if exported is None:
            root = find_bundle(path)
            names = [place for place in sorted(root.rglob("*")) if place.is_file()]
            return cls("model", {f"model/{one.relative_to(root).as_posix()}": one.read_bytes() for one in names})
        file = exported.file
        beside = [one for one in sorted(file.parent.iterdir()) if one.is_file() and one.name.startswith(file.stem)]
        parts = [one for one in beside if one == file or one.suffix in PARTS or one.name == f"{file.name}.data"]
        return cls(file.name, {one.name: one.read_bytes() for one in parts})

    def unpack(self, folder: Path) -> Path:
        """Write the files below ``folder``; the path to load."""
        for name, data in self.files.items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        return folder / self.entry


@dataclass(frozen=True)
class WorkerSetup:
    """What every process of a run has in common."""

    model: Any  # a reference to a PackedModel in the cluster, or one
    arguments: Mapping[str, Any]  # of :func:`segwright.inference.predictor.load`
    options: OutputOptions
    destination: Destination
    parquet: bool = False
    frames: int | None = None
    threads: int = 1
    metadata: Mapping[str, str] = field(default_factory=dict)  # of Parquet files
    version: str = __version__


class BlockWorker:
    """Predicts blocks; called by Ray with a batch of one. Nothing of it raises: errors are part of the answer."""

    def __init__(self, setup: WorkerSetup) -> None:
        self.setup = setup
        self.predictor: Predictor | None = None

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        answers = [json.dumps(self._answer(pickle.loads(data))) for data in batch["block"]]
        return {"answer": np.array(answers, dtype=object)}

    def _answer(self, block: Block) -> dict[str, Any]:
        try:
            if self.predictor is None:
                self.predictor = self._load()
        except Exception as error:
            return {"fatal": _text(error), "kind": type(error).__name__, "worker": _self()}
        try:
            return self.work(block)
        except Exception as error:
            return {"stopped": _text(error), "kind": type(error).__name__, "worker": _self()}

    def _load(self) -> Predictor:
        if self.setup.version != __version__:
            raise SegwrightError(
                "the machines have different versions of segwright", expected=self.setup.version, found=__version__,
                where=platform.node(), fix="install the same version on every machine",
            )  # fmt: skip
        packed = self.setup.model
        if not isinstance(packed, PackedModel):
            import ray

            packed = ray.get(packed)
        if self.setup.arguments.get("runtime_name") in ("usual", "torch") and "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(self.setup.threads)
        with tempfile.TemporaryDirectory(prefix="segwright-", ignore_cleanup_errors=True) as folder:
            return load(packed.unpack(Path(folder)), **self.setup.arguments)

    def work(self, block: Block) -> Record:
        """Predict a block and write its outputs, then its record, which is also returned."""
        assert self.predictor is not None
        with tempfile.TemporaryDirectory(prefix="segwright-", ignore_cleanup_errors=True) as place:
            out, table = Path(place) / "out", Path(place) / "areas.csv"
            options = replace(self.setup.options, areas=table if self.setup.options.areas is not None else None)
            result = predict_source(
                self.predictor, block.source(), out, options, run=RunOptions(frames=self.setup.frames)
            )
            if "stopped" in result:
                return {"stopped": result["stopped"], "kind": "OutputError", "worker": _self()}
            record = self._written(block, result, out)
            if options.areas is not None:
                with open(table, encoding="utf-8", newline="") as file:
                    record["areas"] = list(csv.reader(file))[1:]
        self.setup.destination.put(block.record, json.dumps(record).encode())
        return record

    def _written(self, block: Block, result: dict[str, Any], out: Path) -> Record:
        """Put what was predicted into ``out`` at the destination."""
        found = sorted(path for path in out.rglob("*") if path.is_file() and not path.name.startswith("."))
        if self.setup.parquet:
            files = self._as_shards(block, result, out, found)
        else:
            files = {}
            for path in found:
                name, data = path.relative_to(out).as_posix(), path.read_bytes()
                self.setup.destination.put(name, data)
                files[name] = _facts(data)
            for item in result["results"]:
                for key in OUTPUTS:
                    if key in item:
                        item[key] = self.setup.destination.label(Path(item[key]).relative_to(out).as_posix())
        names = {job.label: job.name for job in block.jobs}
        return {
            "block": block.id,
            "jobs": [job.key for job in block.jobs],
            "items": result["results"],
            "failed": [{**one, "name": names[one["file"]]} for one in result["failed"]],
            "notes": result["notes"],
            "files": files,
            "worker": _self(),
        }

    def _as_shards(self, block: Block, result: dict[str, Any], out: Path, found: list[Path]) -> dict[str, Any]:
        names = {job.label: job.name for job in block.jobs}
        listed = {Path(item[key]) for item in result["results"] for key in OUTPUTS if key in item}
        others = [path for path in found if path not in listed]
        rows = []
        for item in result["results"]:
            own = names[item["file"]]
            mask = Path(item["mask"]) if "mask" in item else None
            name = own if mask is None else mask.relative_to(out).with_suffix("").as_posix()
            beside = [path for path in others if path.relative_to(out).with_suffix("").as_posix() == name]
            rows.append(row_of(item, name, out, beside, _size(mask)))
            for key in OUTPUTS:
                item.pop(key, None)
        files, start = {}, 0
        form = schema(self.setup.options, self.setup.metadata)
        for number, (data, count) in enumerate(shards(rows, form)):
            name = block.shard(number)
            self.setup.destination.put(name, data)
            files[name] = _facts(data)
            for item in result["results"][start : start + count]:
                item["parquet"] = self.setup.destination.label(name)
            start += count
        return files


def _size(mask: Path | None) -> tuple[int | None, int | None]:
    """Height and width of a mask; None where there is none, or its header is beyond the limits of one image."""
    if mask is None:
        return None, None
    if mask.suffix == ".npy":
        height, width = np.load(mask, mmap_mode="r").shape
        return int(height), int(width)
    try:
        header = read_header(mask)
    except SegwrightError:
        return None, None
    return header.height, header.width


def _facts(data: bytes) -> list[Any]:
    return [len(data), hashlib.sha256(data).hexdigest()]


def _self() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _text(error: Exception) -> str:
    return str(error) if isinstance(error, SegwrightError) else f"{type(error).__name__}: {str(error)[:300]}"
