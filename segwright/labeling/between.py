"""Training between answers: rounds of ``refine`` in a child process, judged on labels that no round trained on.

Every fourth labeled image is held out. ``rounds/split.json`` records the side of an image before a round trains on it,
and nothing moves it: neither what else is labeled, nor what is erased. A round fine-tunes the model in use on the
others, compares both on the held-out labels, and the candidate is taken if it is not worse there. The labels that a
round uses are copied first: strokes go on meanwhile. Whatever happens to the child, labels do not depend on it.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright.core.atomic_io import write_json
from segwright.core.counted import counted
from segwright.core.errors import SegwrightError, UsageError
from segwright.core.progress import duration
from segwright.data.formats.label_folder import COUNTS_FILE, MASKS, holds_all, read_counts
from segwright.inference.description import find_bundle, is_bundle
from segwright.inference.lineage import bundle_id
from segwright.labeling.child import ChildCommand, end_leftover
from segwright.labeling.page.images import LabelImages
from segwright.labeling.page.queue import Queue
from segwright.labeling.questions import Selection
from segwright.labeling.store import LabelFolder

if TYPE_CHECKING:
    from segwright.inference.predictor import Predictor

logger = logging.getLogger("segwright.label")

ROUNDS = "rounds"
SPLIT_FILE = "split.json"
HOLD_OUT = 4  # one of so many labeled images is held out
FEWEST = 6  # labeled images, of which two are held out
POLL_SECONDS = 0.5


@dataclass(frozen=True)
class BetweenOptions:
    """When and how to train between answers. UsageError if a value is out of range."""

    every: int | None = 50  # answers and strokes; None: only when asked for
    minutes: float = 3.0  # of a round, the comparison included
    old: Path | None = None  # the data of the first model, replayed
    device: str = "auto"
    count: int = 200  # images whose regions are chosen after a round
    clicks: int = 10  # questions per image
    select: bool = True  # whether questions are chosen again after a round

    def __post_init__(self) -> None:
        if self.every is not None and self.every < 1:
            raise UsageError("a round of training needs answers", expected="1 or more, or never", found=str(self.every))
        if not 0 < self.minutes <= 1000:
            raise UsageError("a round's minutes are out of range", expected="up to 1000", found=str(self.minutes))


def held_out(images: Sequence[str], known: Mapping[str, bool] | None = None) -> tuple[list[str], list[str]]:
    """(train, held out) of the labeled images.

    ``known``: image → whether it is held out, of former rounds; these stay. Of the others, in their order, as many are
    held out as make it one of :data:`HOLD_OUT`, two of :data:`FEWEST`.
    """
    sides = {name: known[name] for name in images if name in known} if known else {}
    held = sum(sides.values())
    for name in images:
        if name not in sides:
            sides[name] = held < (len(sides) + 1 + HOLD_OUT // 2) // HOLD_OUT
            held += sides[name]
    return [name for name in images if not sides[name]], [name for name in images if sides[name]]


class Between:
    """The rounds of one label folder. ``load`` loads a saved model."""

    def __init__(
        self,
        store: LabelFolder,
        images: LabelImages,
        queue: Queue,
        model: Path,
        load: Callable[[Path], Predictor],
        options: BetweenOptions,
    ) -> None:
        self.store, self.images, self.queue = store, images, queue
        self.model, self.load, self.options = model, load, options
        self.folder = store.folder / ROUNDS
        self.rounds: list[dict[str, Any]] = read_rounds(store.folder)
        self.sides = read_sides(store.folder)  # image → whether it is held out, of all rounds so far
        self.since = 0  # strokes since the last round
        self.phase = "waiting"  # waiting, training, choosing, failed
        self.failure = ""
        self._began = 0.0
        self._child: ChildCommand | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._closed = False
        for place in self.folder.glob("*/pid"):
            end_leftover(place, str(place.parent))

    # -----------------------------------------------------------------------------------------------------------------
    # For the page

    def state(self) -> dict[str, Any]:
        """``state``, and lines to show: what happens now, the last gain with its interval, on what it rests."""
        last = self.rounds[-1] if self.rounds else None
        return {
            "state": "training" if self.phase == "choosing" else self.phase,
            "line": self._line(),
            "gain_line": gain_line(last) if last else "",
            "note": note_line(last) if last else "",
            "rounds": len(self.rounds),
        }

    def _line(self) -> str:
        number = len(self.rounds) + 1
        if self.phase == "training":
            passed = duration(time.monotonic() - self._began)
            return f"Round {number}: training for {passed} of {self.options.minutes:g} min"
        if self.phase == "choosing":
            return "Choosing the next questions with the new model"
        train, held = held_out(self._labeled(), self.sides)
        if len(train) + len(held) < FEWEST:
            first = f"Round {number} needs labels on {FEWEST} images, {len(train) + len(held)} have some"
        elif not train or not held:
            first = (
                f"Round {number} needs labels on an image that was not {'held out' if held else 'trained on'} before"
            )
        elif self.options.every is None:
            first = f"Round {number} starts when asked for"
        else:
            first = f"Round {number} starts after {max(1, self.options.every - self.since)} more answers or strokes"
        return f"{first}\n{self.failure}" if self.failure else first

    def on_answer(self) -> None:
        """Count a stroke; start a round if it is time."""
        self.since += 1
        every = self.options.every
        if every is not None and self.since >= every and self._thread_idle() and self._enough():
            self._start()

    def start_now(self) -> None:
        """Start a round; UsageError if one runs or there are too few labels."""
        if not self._thread_idle():
            raise UsageError("a round of training runs already", fix="wait for its end")
        if not self._enough():
            train, held = held_out(self._labeled(), self.sides)
            raise _too_few(train, held)
        self._start()

    def close(self) -> None:
        """End a round that runs; it is lost, the labels are not."""
        self._closed = True
        child = self._child
        if child is not None:
            child.stop()
        if self._thread is not None:
            self._thread.join()

    # -----------------------------------------------------------------------------------------------------------------
    # A round

    def _labeled(self) -> list[str]:
        """The images with labels, in the order of their first stroke; one whose labels are all erased or undone is none
        of them as soon as its mask is written."""
        store = self.store
        with store.reading():
            return [
                name
                for name, found in store.journal.images.items()
                if found.spans
                and (
                    (entry := store.counts.get(name, {})).get("pixels") != 0
                    or not holds_all(entry, found.end, store.journal.generation)
                )
            ]

    def _enough(self) -> bool:
        train, held = held_out(self._labeled(), self.sides)
        return len(train) + len(held) >= FEWEST and bool(train) and bool(held)

    def _thread_idle(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def _start(self) -> None:
        with self._lock:
            if not self._thread_idle() or self._closed:
                return
            self.since, self.failure, self._began, self.phase = 0, "", time.monotonic(), "training"
            self._thread = threading.Thread(target=self._work, name="label-train", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        try:
            self._round()
        except Exception as error:  # whatever happens to a round must not reach the page or its labels
            if not self._closed:
                logger.error("a round of training failed: %s", error)
                self.failure = f"The last round failed, every label is kept: {_short(error)}"
                self.phase = "failed"

    def _round(self) -> None:
        number = self._next_number()
        place = self.folder / f"{number:03d}"
        data, train, held = self._snapshot(place / "data")
        result = place / "result.json"
        old = [] if self.options.old is None else ["--with", self.options.old]
        self._run(
            place, "refine", self.model, data, "--minutes", self.options.minutes, "--out", place / "run",
            "--json", result, "--device", self.options.device, *old,
        )  # fmt: skip
        found = json.loads(result.read_text(encoding="utf-8"))
        entry = entry_of(found, number=number, parent=str(self.model), train=train, held=held)
        entry["seconds"] = round(time.monotonic() - self._began, 1)
        if entry["taken"]:
            candidate = Path(found["candidate"])
            predictor = self.load(candidate)
            self.images.replace_model(predictor)
            self.queue.drop()
            self.model = candidate
        self.rounds.append(entry)
        write_json(self.folder / "rounds.json", {"rounds": self.rounds})
        if entry["taken"] and self.options.select:
            self._choose(place)
        self.phase = "waiting"

    def _next_number(self) -> int:
        """A round that was cut short keeps its number."""
        given = [int(path.name) for path in self.folder.glob("*") if path.name.isdigit()]
        return max(given, default=0) + 1

    def _snapshot(self, data: Path) -> tuple[Path, list[str], list[str]]:
        """A label folder of the labels as they are now, with the held-out images as its val split."""
        self.store.compact()
        with self.store.reading():
            counts = {name: dict(entry) for name, entry in self.store.counts.items() if entry.get("pixels")}
        train, held = held_out([name for name in self._labeled() if name in counts], self.sides)
        if len(train) + len(held) < FEWEST or not train or not held:  # some were erased a moment ago
            raise _too_few(train, held)
        sides = {**self.sides, **dict.fromkeys(train, False), **dict.fromkeys(held, True)}
        write_sides(self.store.folder, sides)  # before anything is trained
        self.sides = sides
        for name in (*train, *held):
            target = data / MASKS / counts[name]["mask"]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.store.folder / MASKS / counts[name]["mask"], target)
        # The copy has no journal, which the places in it are of: without them the masks are all there is.
        kept = {name: {**counts[name], "bytes": 0, "generation": 0} for name in (*train, *held)}
        write_json(data / COUNTS_FILE, {**self.store.summary(), "images": kept})
        replace(self.store.info, val=tuple(held)).write(data)
        return data, train, held

    def _choose(self, place: Path) -> None:
        """Choose the next questions with the new model; a failure leaves those that are made image by image."""
        self.phase = "choosing"
        out = place / "selection.json"
        try:
            self._run(
                place, "select", self.model, self.store.info.images, "--count", self.options.count, "--clicks",
                self.options.clicks, "--labels", self.store.folder, "--out", out, "--sheet", place / "selection.html",
                "--device", self.options.device,
            )  # fmt: skip
            self.queue.use(Selection.load(out))
        except SegwrightError as error:
            logger.warning("questions could not be chosen again: %s", error)

    def _run(self, place: Path, *arguments: object) -> None:
        """Run a command to its end; SegwrightError with the end of its log if it fails."""
        processors = os.cpu_count() or 1
        child = ChildCommand(arguments, place / f"{arguments[0]}.log", threads=max(1, processors - 1))
        self._child = child
        (place / "pid").write_text(str(child.process.pid))
        if self._closed:
            child.stop()
        code = child.wait()
        self._child = None
        (place / "pid").unlink(missing_ok=True)
        if code != 0:
            raise SegwrightError(f"segwright {arguments[0]} did not finish", found=child.reason())


def _too_few(train: Sequence[str], held: Sequence[str]) -> UsageError:
    return UsageError(
        "too few images have labels", expected=f"{FEWEST}, some to train on and some held out",
        found=f"{len(train)} to train on, {len(held)} held out",
    )  # fmt: skip


def read_rounds(folder: Path) -> list[dict[str, Any]]:
    """The finished rounds of a label folder, oldest first."""
    try:
        rows = json.loads((folder / ROUNDS / "rounds.json").read_text(encoding="utf-8"))["rounds"]
        return [dict(row) for row in rows]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def read_sides(folder: Path) -> dict[str, bool]:
    """Image → whether it is held out, as the rounds of a label folder have used it; empty before the first round.

    Folders of earlier versions have no record of it: there, what the last round held out stays so, unless a round whose
    model was taken has trained on it.
    """
    try:
        tree = json.loads((folder / ROUNDS / SPLIT_FILE).read_text(encoding="utf-8"))
        return {str(name): key == "held" for key in ("train", "held") for name in tree[key]}
    except FileNotFoundError:
        return _sides_of_rounds(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            "the record of the held-out images is damaged", where=folder / ROUNDS / SPLIT_FILE, found=str(error)[:200],
            fix="restore it, or move the folder of the rounds away to begin again with the first model",
        ) from error  # fmt: skip


def write_sides(folder: Path, sides: Mapping[str, bool]) -> None:
    """The inverse of :func:`read_sides`; OutputError if it cannot be written."""
    tree = {key: [name for name, held in sides.items() if held == (key == "held")] for key in ("train", "held")}
    write_json(folder / ROUNDS / SPLIT_FILE, tree)


def _sides_of_rounds(folder: Path) -> dict[str, bool]:
    rows = read_rounds(folder)
    sides = {str(name): True for row in rows[-1:] for name in row.get("held", ())}
    for row in rows:
        if row.get("taken"):
            used = read_counts(folder / ROUNDS / f"{int(row['round']):03d}" / "data")
            sides |= dict.fromkeys(set(used) - {str(name) for name in row.get("held", ())}, False)
    return sides


def resumed_model(folder: Path, model: Path) -> Path:
    """The model to start with: that of the last round that was taken of those that began with ``model``.

    Rounds that began with another model are passed over: a folder may have been opened with several, and a slot holds
    another version after a promotion. The folder may also have been moved since, with its rounds.
    """
    current = model
    for row in read_rounds(folder):
        if row.get("taken") and _began_with(row, folder, current):
            current = _moved_along(folder, str(row["model"]))
    return current if _is_saved(current) else model


def _began_with(row: Mapping[str, Any], folder: Path, model: Path) -> bool:
    """Whether a round began with a model: by its weights; by its path in rounds of earlier versions."""
    id = row.get("parent_id")
    if id and _is_saved(model):
        return bool(id == bundle_id(find_bundle(model)))
    return _moved_along(folder, str(row["parent"])) == model


def _is_saved(model: Path) -> bool:
    return is_bundle(model) or is_bundle(model / "model")


def _moved_along(folder: Path, model: str) -> Path:
    """The path of a round's model where the label folder lies now; as it is for a model from elsewhere."""
    path = Path(model)
    inside = path.parts[-path.parts[::-1].index(ROUNDS) :] if ROUNDS in path.parts else ()
    place = folder.resolve() / ROUNDS / Path(*inside)
    return place if inside and place.exists() else path


def entry_of(found: dict[str, Any], *, number: int, parent: str, train: list[str], held: list[str]) -> dict[str, Any]:
    """What is kept of a round. A candidate is taken if it is not worse on the held-out labels."""
    scores = found.get("new")
    entry: dict[str, Any] = {
        "round": number, "parent": parent, "model": found["candidate"], "train": len(train), "held": held,
        "parent_id": found.get("parent_id", ""), "taken": False, "verdict": found.get("verdict", ""),
    }  # fmt: skip
    if scores is not None:
        keys = ("images", "miou", "miou_difference", "ci95", "clear", "interval_over")
        entry |= {key: scores.get(key) for key in keys}
        entry["taken"] = scores["miou_difference"] is not None and scores["miou_difference"] >= 0
    return entry


def gain_line(entry: dict[str, Any]) -> str:
    """The gain of a round with its interval, in points of mIoU."""
    if entry.get("miou_difference") is None:
        return f"Round {entry['round']}: no gain can be given, the held-out labels have no class to score"
    before, after = (100 * value for value in entry["miou"])
    low, high = entry["ci95"]
    interval = "no interval" if low is None else f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}"
    kept = "" if entry["taken"] else "; not better, so the model before stays"
    return (
        f"Round {entry['round']}: mIoU {before:.1f} → {after:.1f} on held-out labels, "
        f"{100 * entry['miou_difference']:+.1f} points ({interval}){kept}"
    )


def note_line(entry: dict[str, Any]) -> str:
    """What the gain rests on."""
    count = len(entry["held"])
    names = ", ".join(entry["held"][:3]) + (", …" if count > 3 else "")
    return (
        f"Trained on labels of {counted(entry['train'], 'image')}; the labels of {count} ({names}) are held "
        "out in every round. "
        "Only labeled pixels are scored: people label what is doubtful, so this is lower than for whole images."
    )


def _short(error: Exception) -> str:
    text = str(error) if isinstance(error, SegwrightError) else f"{type(error).__name__}: {error}"
    return text[:600]
