"""Prediction on several machines with Ray Data: the same files as of one machine, each exactly once.

Images go from their store to the worker that predicts them and its outputs from there to the destination; through Ray
go only the model, once, lists of files and records. See :mod:`segwright.inference.blocks` for what makes a run exact.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segwright.core.errors import ModelError, UsageError
from segwright.core.version import __version__
from segwright.inference.batch import PALETTE_NOTE, RunOptions, run_settings
from segwright.inference.block_worker import BlockWorker, PackedModel, WorkerSetup
from segwright.inference.blocks import (
    PLAN,
    RUN,
    SHARD,
    STATE,
    SUMMARY,
    Block,
    Job,
    Plan,
    Progress,
    Record,
    alone,
    check_once,
    check_resumable,
    in_blocks,
    jobs_of,
    plan_of,
    read_progress,
    record_name,
)
from segwright.inference.destination import Destination, probe
from segwright.inference.image_outputs import ImageOutputs
from segwright.inference.output_options import OutputOptions
from segwright.inference.outputs import OutputFolder, Written
from segwright.inference.predictor import Predictor
from segwright.inference.ray_cluster import cluster, cluster_size, default_workers
from segwright.inference.shards import require_parquet
from segwright.inference.sources import Source
from segwright.inference.tables import AreaTable

FILES_PER_BLOCK, MOST_FILES = 32, 100_000
PER_WORKER = 4  # blocks at least, so that the workers end together
RETRIES = 2  # of a block whose process died; then its files are tried one by one
LAST_RETRIES = 1  # of such a file
MOST_NAMED = 4


@dataclass(frozen=True)
class RayOptions:
    """How a run is spread. UsageError for a number out of range."""

    address: str | None = None  # see :func:`segwright.inference.ray_cluster.cluster`
    workers: int | None = None  # processes; None: as many as the cluster has room for
    threads: int = 1  # of each
    block: int | None = None  # files that are recorded together; None: some tens
    parquet: bool = False  # instead of files per image

    def __post_init__(self) -> None:
        for name, value in (
            ("workers", self.workers),
            ("worker threads", self.threads),
            ("files per block", self.block),
        ):
            if value is not None and not 1 <= value <= MOST_FILES:
                raise UsageError(f"no number of {name}", expected=f"1 to {MOST_FILES}", found=str(value))


@dataclass
class ClusterRun:
    """One run. ``arguments``: of :func:`segwright.inference.predictor.load`, in every process; ``model_id``: names the
    weights; ``advance`` gets the number of files that are finished."""

    model: str | Path
    predictor: Predictor
    source: Source
    destination: Destination
    options: OutputOptions
    run: RunOptions
    ray: RayOptions
    arguments: Mapping[str, Any]
    model_id: str
    result: dict[str, Any]
    advance: Callable[[int], None] = lambda count: None
    records: dict[str, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if "coco" in self.options.polygons:
            raise UsageError(
                "COCO polygons are one file over all images, which several machines do not write", found="coco",
                fix="--polygons geojson or labelme, or without --ray",
            )  # fmt: skip
        if self.ray.parquet:
            require_parquet()
        self.settings = json.loads(json.dumps({
            "model": self.model_id, **run_settings(self.predictor, self.options), "parquet": self.ray.parquet,
            "frames": self.run.frames, "runtime": self.arguments.get("runtime_name"),
        }, default=str))  # fmt: skip

    def work(self) -> None:
        """Predict what is not yet there, and prove that everything is there once; the result is in ``result``."""
        self.result["notes"] += self.source.notes
        self.jobs = jobs_of(self.source)
        _refuse_overlap(self.jobs, self.source, self.destination)
        plan = self._prepare()
        resumed = sum(len(record["items"]) for record in plan.kept.values())
        if resumed:
            self.result["resumed"] = resumed
        self.records = dict(plan.kept)
        self.advance(len(self.jobs) - len(plan.jobs))
        try:
            if plan.jobs:
                self._predict(plan.jobs)
        finally:
            self._collect()
        if "stopped" not in self.result:
            self._finish()

    # -- before -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> Plan:
        """Check the destination, take over an earlier run's records, and claim the names to be written."""
        store = self.destination
        probe(store, f"{STATE}/probe", b"")
        earlier = read_progress(store)
        if self.run.resume:
            check_resumable(store, self.settings)
            plan = plan_of(earlier, self.jobs)
        else:
            plan = Plan(list(self.jobs), {}, list(earlier.records))
        self._refuse_foreign(earlier, plan)
        for id in plan.stale:  # the record first: files without one do not count
            store.remove(record_name(id))
        for id, record in plan.kept.items():
            if record != earlier.records[id]:
                store.put(record_name(id), json.dumps(record).encode())
        kept = {name for record in plan.kept.values() for name in record["files"]}
        for name in earlier.files if self.ray.parquet else ():  # of blocks without a record, which readers would see
            if SHARD.fullmatch(name) and name not in kept:
                store.remove(name)
        claimed = earlier.claimed | {key[0] for record in earlier.records.values() for key in record["jobs"]}
        store.put(PLAN, json.dumps(sorted(claimed | {job.name for job in plan.jobs})).encode())
        store.put(RUN, json.dumps({"settings": self.settings, "segwright": __version__}, indent=1).encode())
        store.remove(SUMMARY)
        return plan

    def _refuse_foreign(self, earlier: Progress, plan: Plan) -> None:
        """UsageError if a file that no prediction wrote, or an earlier run's Parquet files, would be written over."""
        outputs = ImageOutputs(self.predictor, OutputFolder(Path()), self.options, self._note)
        if self.run.overwrite:
            return
        foreign = []
        if self.ray.parquet:
            ours = RUN in earlier.files
            parts = [name for name in earlier.files if "/" not in name and name.endswith(".parquet")]
            foreign = [name for name in parts if not (self.run.resume and ours and SHARD.fullmatch(name))]
        else:
            for job in plan.jobs:
                paths = outputs.mask_paths(job.name, job.path)
                paths += [outputs.path(job.name, ending) for ending in outputs.endings()]
                for name in (path.as_posix() for path in paths):
                    unknown = name in earlier.files and not earlier.owned(name)
                    recorded = name in earlier.written
                    if unknown and (recorded or job.name not in earlier.claimed):
                        foreign.append(name)
        if foreign:
            raise UsageError(
                "the output place contains other files with these names",
                expected="unused names, or unchanged files of an earlier prediction",
                found=_some(foreign),
                where=self.destination.shown,
                fix="--resume to continue an earlier run, another place with --out, or --overwrite to replace them",
            )

    def _note(self, text: str) -> None:
        if text not in self.result["notes"]:
            self.result["notes"].append(text)

    # -- the work ---------------------------------------------------------------------------------------------------

    def _predict(self, jobs: Sequence[Job]) -> None:
        packed = PackedModel.of(self.model)
        size = sum(len(data) for data in packed.files.values())
        threads = self.ray.threads
        started = self.ray.workers or min(default_workers(threads), len(jobs))
        with cluster(self.ray.address, started, threads, size) as ray:
            workers, gpus = cluster_size(ray, str(self.arguments.get("device")), self.ray.workers, threads)
            setup = WorkerSetup(
                ray.put(packed), self.arguments, self.options, self.destination, self.ray.parquet, self.run.frames,
                threads, {"segwright.settings": json.dumps(self.settings), "segwright.version": __version__,
                          "segwright.classes": json.dumps(list(self.predictor.label_space.names))},
            )  # fmt: skip
            del packed
            block = self.ray.block or max(1, min(FILES_PER_BLOCK, len(jobs) // (workers * PER_WORKER)))
            blocks = in_blocks(jobs, block, self.settings)
            left = self._round(ray, blocks, setup, workers, gpus, RETRIES)
            if left and "stopped" not in self.result:  # a process died several times: which file is it?
                singles = [one for lost in left for one in alone(lost, self.settings)]
                left = self._round(ray, singles, setup, workers, gpus, LAST_RETRIES)
                if "stopped" not in self.result:
                    self._lost(left)

    def _round(
        self, ray: Any, blocks: Sequence[Block], setup: WorkerSetup, workers: int, gpus: int, retries: int
    ) -> list[Block]:
        """Predict blocks; those without an answer, because their process died in every try."""
        waiting = {block.id: block for block in blocks}
        context = ray.data.DataContext.get_current()
        before = context.max_errored_blocks, context.enable_progress_bars
        context.max_errored_blocks, context.enable_progress_bars = -1, False
        try:
            rows = [{"block": pickle.dumps(block)} for block in blocks]
            warnings.simplefilter("ignore", DeprecationWarning)  # of Ray itself
            answers = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
                BlockWorker, fn_constructor_args=(setup,), batch_size=1, batch_format="numpy",
                compute=ray.data.ActorPoolStrategy(
                    size=min(workers, len(blocks)),
                    # Of single files one at a time: a file that kills its process takes no other with it.
                    max_tasks_in_flight_per_actor=1 if retries == LAST_RETRIES else 2,
                ),
                num_cpus=setup.threads, num_gpus=gpus, max_restarts=-1, max_task_retries=retries,
            )  # fmt: skip
            for row in answers.iter_rows():
                answer = json.loads(row["answer"])
                if "fatal" in answer:
                    raise ModelError("a worker cannot load the model", found=answer["fatal"], where=answer["worker"])
                if "stopped" in answer:
                    self.result["stopped"] = f"{answer['stopped']} (worker {answer['worker']})"
                    break
                self.records[answer["block"]] = answer
                self.advance(len(waiting.pop(answer["block"]).jobs))
        finally:
            context.max_errored_blocks, context.enable_progress_bars = before
        return list(waiting.values())

    def _lost(self, blocks: Sequence[Block]) -> None:
        """List files whose process died every time."""
        for block in blocks:
            for job in block.jobs:
                failed = {
                    "file": job.label, "name": job.name, "kind": "ImageReadError",
                    "error": f"{job.label}: the process that predicted it died {LAST_RETRIES + 1} times "
                    "(memory, or a crash of a library)",
                }  # fmt: skip
                record = {
                    "block": block.id, "jobs": [job.key], "items": [], "failed": [failed], "notes": [], "files": {},
                    "worker": "",
                }  # fmt: skip
                self.destination.put(block.record, json.dumps(record).encode())
                self.records[block.id] = record
            self.advance(len(block.jobs))

    # -- after ------------------------------------------------------------------------------------------------------

    def _collect(self) -> None:
        """Put what the records hold into the result, in the order of the sources."""
        order = {job.label: number for number, job in enumerate(self.jobs)}
        records = list(self.records.values())
        items = [item for record in records for item in record["items"]]
        self.result["results"] = sorted(
            items, key=lambda one: (order[one["file"]], one.get("frame", one.get("page", 0)))
        )
        failed = [one for record in records for one in record["failed"]]
        failed.sort(key=lambda one: (order[one["file"]], one.get("frame", 0)))
        self.result["failed"] = [{key: value for key, value in one.items() if key != "name"} for one in failed]
        self.result["images"] = len(items)
        self.result["workers"] = {
            worker: sum(len(record["jobs"]) for record in records if record["worker"] == worker)
            for worker in sorted({record["worker"] for record in records} - {""})
        }
        for text in sorted({note for record in records for note in record["notes"]} | set(self.predictor.notes)):
            if text != PALETTE_NOTE or not self.ray.parquet:
                self._note(text)
        if self.options.areas is not None:
            table = AreaTable(self.options.areas)
            rows: list[list[str]] = [row for record in records for row in record.get("areas", ())]
            rows.sort(key=lambda row: order[row[0]])
            table.add(rows)
            table.finish()
            self.result["areas"] = str(self.options.areas)

    def _finish(self) -> None:
        """Prove that every image is there once, and write the summary, which is the mark of a complete run."""
        failed = check_once(self.records, self.jobs, self.destination, self.ray.parquet)
        written = {name: entry for record in self.records.values() for name, entry in record["files"].items()}
        if self.destination.local:  # so that the plain command takes the files for predictions
            folder = OutputFolder(Path(self.destination.place))
            folder.written |= {name: Written(entry[1], entry[0]) for name, entry in written.items()}
            folder.finish()
        summary = {
            "complete": True, "sources": len(self.jobs), "images": self.result["images"], "failed": failed,
            "settings": self.settings, "segwright": __version__, "files": dict(sorted(written.items())),
        }  # fmt: skip
        self.destination.put(SUMMARY, json.dumps(summary).encode())
        self.result["summary"] = self.destination.label(SUMMARY)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:MOST_NAMED]) + (f", … {len(names)} in all" if len(names) > MOST_NAMED else "")


def _refuse_overlap(jobs: Sequence[Job], source: Source, destination: Destination) -> None:
    """UsageError if outputs would lie among the sources, where the next run would read them."""
    inside = []
    if destination.local:
        out = Path(destination.place)
        if source.kind == "folder" and source.root.resolve() in (out, *out.parents):
            inside = [str(source.root)]
        else:
            inside = [job.label for job in jobs if job.origin is None and out in job.path.resolve().parents]
    else:
        top = destination.place.rstrip("/") + "/"
        places = [(str(getattr(job.origin, "path", "")), job.label) for job in jobs]
        inside = [label for place, label in places if place.startswith(top)]
    if inside:
        raise UsageError(
            "the outputs would lie among the sources", found=_some(inside), where=destination.shown,
            expected="a folder or URL beside them", fix="another place with --out",
        )  # fmt: skip
