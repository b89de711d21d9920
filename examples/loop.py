"""The whole circle on generated street scenes: train by day → serve → night comes → alarm → select → label → refine →
promote → recovered.

    python examples/loop.py --out loop                      # some minutes; figures.json and images in loop/
    python examples/loop.py --out loop --docs docs/images   # also the images of docs/loop.md
    python examples/loop.py --out loop --redraw             # the images of a finished run again

Generated scenes know their truth, so a simulated annotator answers each question with the class that most pixels of
its region have, and every figure can be checked. Everything else is what a user would run; the service is a process of
its own, and the promotion reaches it while it runs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from loop_images import draw_images

import segwright as sw
from segwright.core.atomic_io import write_json
from segwright.data.strokes import Stroke
from segwright.demo.dataset import LABEL_SPACE, write_street_scenes
from segwright.demo.night import at_night
from segwright.imageio import read_image, read_mask, write_image
from segwright.labeling.questions import Selection
from segwright.labeling.store import LabelFolder

PATIENCE = 600.0  # seconds for the service to start, or to take a version over


@dataclass(frozen=True)
class Scale:
    """How large the story is."""

    size: tuple[int, int] = (96, 128)  # of an image, height and width in pixels
    train: int = 64  # day scenes to train on
    val: int = 40
    epochs: int = 40
    day: int = 60  # images that the service sees by day
    night: int = 80  # and at night, from which images are selected
    test: int = 24  # night scenes with truth, for the figures alone
    select: int = 24  # images to label
    clicks: int = 15  # questions per image
    refine_epochs: int | None = None  # as many as the default of `refine`
    rate: float = 1e-3  # false alarms per image that are accepted
    accepted_drop: float | None = 10.0  # points of IoU that a class may fall by, if the candidate is refused at first
    settings: tuple[tuple[str, Any], ...] = ()  # of both trainings


SMALL = Scale(
    size=(64, 96), train=24, val=24, epochs=14, day=24, night=30, test=8, select=14, clicks=10, refine_epochs=30,
    rate=1e-2, accepted_drop=None,
    settings=(("training.size", (64, 96)), ("training.workers", 1), ("training.logit_adjustment", False)),
)  # fmt: skip


@dataclass
class Story:
    """The folders of the story, and what has been found so far."""

    out: Path
    scale: Scale
    figures: dict[str, Any]

    @classmethod
    def load(cls, out: Path) -> Story:
        """The story of a finished run."""
        figures = json.loads((out / "figures.json").read_text(encoding="utf-8"))
        return cls(out, Scale(**figures["scale"]), figures)

    @property
    def day(self) -> Path:
        return self.out / "day"

    @property
    def night(self) -> Path:
        return self.out / "night"

    @property
    def slot(self) -> Path:
        return self.out / "service"

    @property
    def journal(self) -> Path:
        return self.out / "journal"

    def note(self, step: str, **values: Any) -> None:
        """Keep figures of a step and show them."""
        self.figures.setdefault(step, {}).update(values)
        print(f"{step}: {', '.join(f'{key} {_short(value)}' for key, value in values.items())}", flush=True)
        write_json(self.out / "figures.json", self.figures)


def _short(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)[:400]


def run_loop(out: Path, scale: Scale, *, live: bool = True) -> Story:
    """Go around once; ``live`` False predicts through ``sw.predict`` in place of a service."""
    story = Story(out, scale, {"scale": asdict(scale)})
    out.mkdir(parents=True, exist_ok=True)
    make_scenes(story)
    train_by_day(story)
    with service(story) if live else predictions(story) as send:
        see(story, send, "day")
        see(story, send, "night")
        select_regions(story)
        label(story)
        refine(story)
        promote(story)
        recovered(story, send)
    return story


# -- 1. the world ------------------------------------------------------------------------------------------------------


def make_scenes(story: Story) -> None:
    """Day scenes to train on, day and night scenes that the service will see, and night scenes for the figures."""
    scale = story.scale
    write_street_scenes(story.day, train=scale.train, val=scale.val, test=scale.day, size=scale.size)
    drawn = story.out / "drawn"
    write_street_scenes(drawn, train=scale.night, val=scale.night, test=scale.test, size=scale.size, seed=1)
    for split, name in (("train", "seen"), ("val", "later"), ("test", "test")):
        for index, path in enumerate(sorted((drawn / "images" / split).iterdir())):
            dark = at_night(read_image(path), seed=index + 1000 * len(name))
            write_image(story.night / "images" / name / path.name, dark)
            place = story.night / "masks" / name / path.name
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(drawn / "masks" / split / path.name, place)
    shutil.copyfile(drawn / "classes.txt", story.night / "classes.txt")


# -- 2. a model in service ---------------------------------------------------------------------------------------------


def train_by_day(story: Story) -> None:
    """Train on day scenes, and put the model into service: the slot is new, so there is nothing to compare with."""
    scale = story.scale
    run = sw.train(
        story.day, epochs=scale.epochs, weights=None, out=story.out / "by-day", device="cpu",
        settings=dict(scale.settings),
    )  # fmt: skip
    done = sw.promote(run.model, story.slot)
    story.note("train", val_miou=run.evaluation.miou if run.evaluation else None, version=done.version)
    story.note("train", day=score(story, story.day), night=score(story, story.night))


def score(story: Story, data: Path) -> float:
    """The mean IoU of the version in service on the test scenes."""
    return sw.evaluate(story.slot, data, split="test", device="cpu").miou


@contextmanager
def service(story: Story) -> Iterator[Any]:
    """`segwright serve SLOT --journal`, as a process of its own; yields a function that sends one image."""
    command = [
        sys.executable, "-m", "segwright", "serve", str(story.slot), "--port", "0", "--device", "cpu", "--journal",
        str(story.journal),
    ]  # fmt: skip
    with (
        open(story.out / "service.log", "wb") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env={**os.environ}) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(rb"http://\S+/", process.stdout.readline())
            assert found is not None, "the service did not start: see service.log"
            yield Client(found[0].decode())
        finally:
            process.terminate()
            process.wait(PATIENCE)


class Client:
    """A client of the service; it counts what was answered."""

    def __init__(self, url: str) -> None:
        self.url, self.answered = url, 0

    def __call__(self, path: Path) -> None:
        self.request("predict", path.read_bytes())
        self.answered += 1

    def request(self, route: str, body: bytes | None = None) -> bytes:
        """The body of a response; HTTPError for any other status than 200."""
        headers = {"content-type": "image/png"} if body is not None else {}
        asked = urllib.request.Request(self.url + route, body, headers)
        with urllib.request.urlopen(asked, timeout=PATIENCE) as response:
            return bytes(response.read())

    def wait_for(self, id: str) -> float:
        """Seconds until the service uses the version of these weights."""
        began = time.monotonic()
        while json.loads(self.request("model"))["id"] != id:
            assert time.monotonic() - began < PATIENCE, "the service did not take the version over"
            time.sleep(0.2)
        return time.monotonic() - began


class Predictions:
    """In place of a service: the same journal, written by ``sw.predict``."""

    def __init__(self, story: Story) -> None:
        self.story, self.answered = story, 0

    def __call__(self, path: Path) -> None:
        self.all([path])

    def all(self, paths: Sequence[Path]) -> None:
        """Predict images in order."""
        done = sw.predict(
            self.story.slot, list(paths), out=self.story.out / "masks", journal=self.story.journal, device="cpu",
            overwrite=True, overlay=False,
        )  # fmt: skip
        self.answered += done.images

    def wait_for(self, id: str) -> float:
        """Nothing to wait for."""
        return 0.0


@contextmanager
def predictions(story: Story) -> Iterator[Any]:
    """As :func:`service`, without a service."""
    yield Predictions(story)


# -- 3. night comes ----------------------------------------------------------------------------------------------------


def see(story: Story, send: Any, world: str) -> None:
    """The service sees a day, or a night; then the monitor looks at the journal."""
    folder = story.day / "images" / "test" if world == "day" else story.night / "images" / "seen"
    send_all(send, sorted(folder.iterdir()))
    found = watch(story, send, world)
    first = found.alarms[0] if found.alarms else None
    story.note(
        world, alarm=found.alarm, images=found.images, estimate=found.estimate.miou if found.estimate else None,
        first_alarm=first.index + 1 if first else None, text=first.text if first else "no alarm",
    )  # fmt: skip
    story.figures[world]["series"] = curves(found)
    write_json(story.out / "figures.json", story.figures)


def curves(found: sw.MonitorResult) -> dict[str, Any]:
    """The monitor's evidence of drift and its estimate of the accuracy, over the images; empty without them."""
    return {
        one.group: {
            "index": list(one.index), "value": list(one.value), "low": list(one.lows), "high": list(one.highs),
            "threshold": one.threshold,
        }
        for one in found.series if one.group in ("drift", "accuracy")
    }  # fmt: skip


def send_all(send: Any, paths: Sequence[Path]) -> None:
    """Send images one after the other."""
    if isinstance(send, Predictions):
        send.all(paths)
        return
    for path in paths:
        send(path)


def watch(story: Story, send: Any, name: str) -> sw.MonitorResult:
    """Look at the journal, once it has a row per image: a service writes them a moment after its responses."""
    began = time.monotonic()
    while len(sw.read_journal(story.journal)) < send.answered and time.monotonic() - began < PATIENCE:
        time.sleep(0.5)
    page = story.out / f"monitor-{name}.html"
    return sw.monitor(story.journal, story.slot, rate=story.scale.rate, html=page)


# -- 4. what to label, and the labels ----------------------------------------------------------------------------------


def select_regions(story: Story) -> None:
    """The night images, and the regions of them, that are worth the most clicks."""
    scale = story.scale
    found = sw.select(
        story.slot, story.night / "images" / "seen", count=scale.select, clicks=scale.clicks, device="cpu",
        out=story.out / "selection.json",
    )  # fmt: skip
    story.note("select", images=len(found.images), questions=len(found.items))


def label(story: Story) -> None:
    """Answer every question with the class that most pixels of its region have: one click each, as strokes of the label
    folder that `segwright label` writes. The masks are partial, 255 where nothing was answered."""
    selection = Selection.load(story.out / "selection.json")
    images, labels = story.night / "images" / "seen", story.out / "labels"
    as_predicted = 0
    store = LabelFolder.open(labels, images, LABEL_SPACE, model=str(story.slot))
    try:
        for number, one in enumerate(selection.items):
            truth = read_mask(story.night / "masks" / "seen" / one.image)
            inside = truth[one.mask() & (truth != 255)]
            if inside.size == 0:
                continue  # nobody could answer that
            answer = int(np.bincount(inside).argmax())
            as_predicted += answer == one.predicted
            store.append(Stroke(
                id=f"answer-{number}", image=one.image, by="simulated", kind="answer", label=answer, box=one.box,
                runs=one.region, size=one.image_size, clicks=1,
            ))  # fmt: skip
        store.compact()
    finally:
        store.close()
    counted = json.loads((labels / "labels.json").read_text(encoding="utf-8"))
    masks = [
        mask for mask in map(sw.open_dataset(labels).all.read_mask, range(len(counted["images"]))) if mask is not None
    ]
    share = float(np.mean([(mask != 255).mean() for mask in masks]))
    story.note("label", clicks=counted["clicks"], images=len(masks), as_predicted=as_predicted, labeled_share=share)


# -- 5. the next version -----------------------------------------------------------------------------------------------


def refine(story: Story) -> None:
    """Fine-tune the version in service on the clicks, with replay of day scenes."""
    scale = story.scale
    found = sw.refine(
        story.slot, story.out / "labels", old=story.day, epochs=scale.refine_epochs, out=story.out / "refined",
        device="cpu", settings=dict(scale.settings),
    )  # fmt: skip
    assert found.new is not None and found.old is not None
    story.note("refine", new=found.new.to_json(), old=found.old.to_json(), verdict=found.verdict())


def promote(story: Story) -> None:
    """Into service, if it is better on the new images and no class has fallen on the old ones."""
    refused = None
    try:
        done = sw.promote(story.out / "refined", story.slot)
    except sw.PromotionRefusedError as error:
        refused = str(error)
        done = sw.promote(story.out / "refined", story.slot, max_class_drop=story.scale.accepted_drop)
    story.note("promote", version=done.version, why=done.why, refused=refused)
    story.note("lineage", lines=sw.read_lineage(story.slot).lines())


# -- 6. recovered ------------------------------------------------------------------------------------------------------


def recovered(story: Story, send: Any) -> None:
    """The running service has the new version, and the night is no news to it."""
    id = sw.read_lineage(story.slot).model.id
    seconds = send.wait_for(id)
    paths = sorted((story.night / "images" / "later").iterdir())
    send_all(send, paths)
    found = watch(story, send, "later")
    story.note(
        "recovered", day=score(story, story.day), night=score(story, story.night), seconds_to_reload=seconds,
        alarm=found.alarm, images=found.images, text=found.alarms[0].text if found.alarms else "no alarm",
        answered=send.answered, estimate=found.estimate.miou if found.estimate else None,
    )  # fmt: skip
    story.figures["recovered"]["series"] = curves(found)
    write_json(story.out / "figures.json", story.figures)


def main() -> None:
    """Run the story and draw its images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("loop"), help="a new folder for everything")
    parser.add_argument("--docs", type=Path, help="where the images of the documentation go")
    parser.add_argument("--small", action="store_true", help="a small story, as the test runs it")
    parser.add_argument("--redraw", action="store_true", help="draw the images of the finished run in --out again")
    given = parser.parse_args()
    if given.redraw:
        story = Story.load(given.out)
    elif given.out.exists():
        parser.error(f"{given.out} exists: name a new folder, or --redraw")
    else:
        story = run_loop(given.out, SMALL if given.small else Scale())
    draw_images(story, given.docs or given.out / "images")


if __name__ == "__main__":
    main()
