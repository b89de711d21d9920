"""What the label page's routes do: images, strokes, questions, people, and the training between answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from segwright.core.errors import LabelError, OutputError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.strokes import Stroke, encode_labels
from segwright.labeling.page.images import TILE, LabelImages, encode_units
from segwright.labeling.page.presence import Leases
from segwright.labeling.page.queue import Asked, Queue
from segwright.labeling.store import Ack, LabelFolder
from segwright.serving.limits import RequestRejected, ServiceLimits

logger = logging.getLogger("segwright.label")
COMPACT_SECONDS = 2.0  # between two looks for masks that are behind
LISTED = 500  # images per request
QUESTIONS = 8  # per request


class Trainer(Protocol):
    """What trains between answers."""

    def state(self) -> dict[str, Any]:
        """For the page: what it does, the last round and its gain."""

    def on_answer(self) -> None:
        """A stroke was kept."""

    def start_now(self) -> None:
        """Start a round; UsageError if it cannot be."""

    def close(self) -> None:
        """End the child process."""


class LabelService:
    """One label folder, its images and its people."""

    def __init__(
        self,
        store: LabelFolder,
        images: LabelImages,
        queue: Queue,
        *,
        title: str,
        model: str | None = None,
        trainer: Trainer | None = None,
    ) -> None:
        self.store, self.images, self.queue = store, images, queue
        self.title, self.model, self.trainer = title, model, trainer
        self.limits = ServiceLimits(max_megabytes=8.0, body_seconds=30.0, stop_seconds=5.0)
        self.leases = Leases()
        self.threads = ThreadPoolExecutor(6, thread_name_prefix="label-page")
        self.stopping = False
        self.unwritten = ""  # why masks cannot be written now
        self._stop = threading.Event()
        self._compactor = threading.Thread(target=self._compact_behind, name="label-compact", daemon=True)

    def start(self) -> None:
        """Start to write masks behind the strokes, and make the first image ready."""
        self._compactor.start()
        self.images.prepare(0)

    async def reload(self, name: str | None = None) -> bool:
        """SIGHUP has no effect here: the model is replaced by training."""
        return False

    def close(self) -> None:
        """End threads and the training; masks are written if they can be."""
        self.stopping = True
        self._stop.set()
        if self.trainer is not None:
            self.trainer.close()
        self.threads.shutdown(wait=True, cancel_futures=True)
        if self._compactor.is_alive():
            self._compactor.join()
        self.images.close()
        self.store.close()

    def _compact_behind(self) -> None:
        took = 0.0
        while not self._stop.wait(max(COMPACT_SECONDS, 8 * took)):  # large masks take a ninth of a core at most
            began = time.monotonic()
            try:
                self.store.compact()
                self.store.shorten()
                self.unwritten = ""
            except OutputError as error:  # the journal has the strokes; the masks follow when there is space
                if not self.unwritten:
                    logger.error("label masks cannot be written: %s", error)
                self.unwritten = f"{error.found or error.message}: the strokes are kept, the masks follow later"
            except Exception:
                logger.exception("label masks cannot be written")
                self.unwritten = "label masks cannot be written, see the log; the strokes are kept"
            took = time.monotonic() - began

    # -----------------------------------------------------------------------------------------------------------------
    # Looking

    def describe(self) -> dict[str, Any]:
        """What the document itself needs."""
        return {"title": self.title, "tile": TILE, "images": len(self.images.names), "model": self.model}

    def state(self) -> dict[str, Any]:
        """Everything that is not about one image."""
        return {
            "key": self.store.info.key,
            "title": self.title,
            "model": self.model,
            "version": self.images.version,
            "classes": _classes(self.store.info.label_space),
            "images": len(self.images.names),
            "tile": TILE,
            **self._changing(),
        }

    def _changing(self) -> dict[str, Any]:
        summary = self.store.summary()
        counts = {
            key: summary[key] for key in ("clicks", "answers", "skips", "strokes", "seconds", "conflicts", "torn")
        }
        people = {name: self.images.names[number] for name, number in self.leases.people().items()}
        return {
            "counts": {**counts, "images": sum(1 for one in self.store.journal.images.values() if one.painted)},
            "people": people,
            "questions": self.queue.left(),
            "training": None if self.trainer is None else self.trainer.state(),
            "unwritten": self.unwritten,
        }

    def listed(self, first: int) -> dict[str, Any]:
        """A part of the list of images."""
        rows = []
        for number in range(first, min(first + LISTED, len(self.images.names))):
            name = self.images.names[number]
            found, entry = self.store.counts_of(name), self.store.counts.get(name, {})
            size = entry.get("size")
            share = entry["pixels"] / max(1, size[0] * size[1]) if size and "pixels" in entry else 0.0
            rows.append({"number": number, "name": name, "strokes": found.painted, "share": round(share, 4)})
        return {"images": rows, "count": len(self.images.names)}

    def image(self, number: int) -> dict[str, Any]:
        """Size and counts of one image; ImageReadError if it cannot be read."""
        height, width = self.images.size(number)
        name = self.images.names[number]
        conflicts = self.store.conflicts(name)
        undone = self.store.counts_of(name).undone
        return {
            "number": number,
            "name": name,
            "height": height,
            "width": width,
            "levels": max(0, int(np.ceil(np.log2(max(1.0, max(height, width) / TILE))))),
            "revision": self.store.revision(name),
            "conflicts": conflicts[-20:],
            "strokes": [
                {"id": one.id, "by": one.by, "kind": one.kind} for one in self.store.strokes(name)[-200:]
            ] if self.store.counts_of(name).spans else [],
            "undone": len(undone),
        }  # fmt: skip

    def labels(self, number: int) -> tuple[bytes, dict[str, str]]:
        """The label mask as runs; its revision as a header."""
        name = self.images.names[number]
        revision = self.store.revision(name)
        return encode_labels(self.store.labels(name, self.images.size(number))), {"x-revision": str(revision)}

    def prediction(self, number: int) -> tuple[bytes, dict[str, str]]:
        """The model's mask as runs; empty without a model."""
        found = self.images.prediction(number)
        return (b"", {}) if found is None else (found.encoded, {"x-version": str(found.version)})

    def units(self, number: int) -> tuple[bytes, dict[str, str]]:
        """The superpixels as runs."""
        return encode_units(self.images.units(number)), {}

    # -----------------------------------------------------------------------------------------------------------------
    # Changing

    def stroke(self, number: int, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a stroke. LabelError if it is none or does not fit the image; OutputError if it cannot be written."""
        name = self.images.names[number]
        if tree.get("image") not in (None, name):  # the page is older than the list of images
            number, name = self._named(str(tree["image"]))
        stroke = Stroke.from_json({**tree, "image": name, "at": ""})
        if stroke.runs and stroke.size != self.images.size(number):
            raise LabelError(
                "the stroke is about an image of another size", found=f"{stroke.size[1]}×{stroke.size[0]}",
                fix="reload the page",
            )  # fmt: skip
        ack = self.store.append(stroke)
        if self.trainer is not None and not ack.repeated:
            self.trainer.on_answer()
        return _ack(ack)

    def _named(self, name: str) -> tuple[int, str]:
        if name not in self.images.names:
            raise LabelError("no such image any more", found=name[:200], fix="put it back and start again")
        return self.images.names.index(name), name

    def questions(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """The next questions; with ``number`` those of one image."""
        by, page = _name(tree.get("by")), _name(tree.get("page"))
        have = [str(one) for one in tree.get("have") or ()][:200]
        if tree.get("number") is not None:
            number = tree["number"]
            if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(self.images.names):
                raise RequestRejected(404, "no such image", found=str(number)[:40])
            found = self.queue.of_image(number, by)
        else:
            found = self.queue.next(by, QUESTIONS, have, self.leases.busy(page))
        for number in list(dict.fromkeys(asked.number for asked in found))[:3]:
            self.images.prepare(number)
        return {"questions": [_question(asked) for asked in found], "left": self.queue.left()}

    def presence(self, tree: Mapping[str, Any]) -> dict[str, Any]:
        """Renew a lease; who else is at the image, and what changes with time."""
        by, page, number = _name(tree.get("by")), _name(tree.get("page")), tree.get("number")
        others: list[str] = []
        revision = 0
        if tree.get("leaving"):
            self.leases.release(page)
        elif isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(self.images.names):
            others = self.leases.take(page, by, number)
            revision = self.store.revision(self.images.names[number])
        return {"others": others, "revision": revision, "version": self.images.version, "model": self.model,
                **self._changing()}  # fmt: skip

    def train_now(self) -> dict[str, Any]:
        """Start a round of training; UsageError if there is no training, or it runs."""
        if self.trainer is None:
            raise UsageError("the page was started without training", fix="start it with --model and --train-every N")
        self.trainer.start_now()
        return self.trainer.state()


def _classes(space: LabelSpace) -> list[dict[str, Any]]:
    return [
        {"index": index, "name": name, "color": list(space.colors[index])} for index, name in enumerate(space.names)
    ]


def _name(text: Any) -> str:
    if not isinstance(text, str) or not 1 <= len(text) <= 80 or not text.isprintable():
        raise RequestRejected(400, "a name is needed", expected="1 to 80 printable characters", found=repr(text)[:60])
    return text


def _ack(ack: Ack) -> dict[str, Any]:
    tree: dict[str, Any] = {"revision": ack.revision, "conflict": ack.conflict, "repeated": ack.repeated}
    if ack.patch is not None:
        box, labels = ack.patch
        tree["patch"] = {"box": list(box), "runs": np.frombuffer(encode_labels(labels), "<u4").tolist()}
    return tree


def _question(asked: Asked) -> dict[str, Any]:
    one = asked.question
    return {
        "number": asked.number, "id": asked.id, "box": list(one.box), "runs": list(one.region), "kind": one.kind,
        "predicted": one.predicted, "score": one.score, "random": one.random, "size": list(one.image_size),
    }  # fmt: skip
