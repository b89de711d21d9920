"""The label page in Chromium against its own server: every tool, by mouse, finger and keyboard; what is kept."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accessibility import violations

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "labeling"))

import torch
from label_server import SPACE, LabelServer, write_photos
from slot_models import TINY

import segwright as sw
from segwright.inference.bundle import Bundle, save_bundle
from segwright.labeling.between import Between, BetweenOptions
from segwright.labeling.child import ChildCommand
from segwright.labeling.questions import Question, Selection
from segwright.labeling.store import stroke_of_mask
from segwright.models.catalog import create_model

SIZE = (120, 160)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LabelServer]:
    with LabelServer(write_photos(tmp_path / "photos")) as found:
        yield found


class Opened:
    """The page with what went wrong on it."""

    def __init__(self, browser: Any, server: LabelServer, width: int = 1440, name: str = "Anna", **rest: Any) -> None:
        self.server = server
        self.context = browser.new_context(viewport={"width": width, "height": 900 if width > 500 else 844}, **rest)
        self.context.add_init_script(f"localStorage.setItem('segwright-label-name', {name!r})")
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.allowed: tuple[str, ...] = ()
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.set_default_timeout(60_000)
        self.page.goto(server.url)
        self.asked()

    def asked(self) -> str:
        """The question on the image, once there is one."""
        self.page.wait_for_selector("body[data-asked]:not([data-asked=''])")
        return str(self.page.get_attribute("body", "data-asked"))

    def saved(self) -> None:
        self.page.wait_for_selector("body[data-waiting='0']")

    def shown(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The labels that the page holds of its image."""
        values = self.page.evaluate("Array.from(labelPage.image().labels)")
        return np.array(values, np.uint8).reshape(SIZE)

    def kept(self, number: int | None = None) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The labels that the server holds of it."""
        number = int(self.page.get_attribute("body", "data-image")) if number is None else number
        return self.server.service.store.labels(f"photo{number}.png", SIZE)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the image is in the window."""
        left, top = self.page.evaluate(f"labelPage.view.fromImage({x}, {y})")
        box = self.page.locator("#stage").bounding_box()
        return box["x"] + left, box["y"] + top

    def drag(self, *points: tuple[float, float]) -> None:
        self.page.mouse.move(*self.place(*points[0]))
        self.page.mouse.down()
        for point in points[1:]:
            self.page.mouse.move(*self.place(*point), steps=4)
        self.page.mouse.up()

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def agree(self) -> None:
        """Page and server hold the same labels, and nothing went wrong."""
        self.saved()
        assert (self.shown() == self.kept()).all()
        assert self.wrong == []

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        self.context.close()
        if kind is None:
            assert [text for text in self.wrong if not text.startswith(self.allowed or "-")] == []


def test_questions_are_answered_by_key(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server) as opened:
        first = opened.asked()
        opened.press("Enter")
        second = opened.asked()
        opened.press("3")
        third = opened.asked()
        opened.press("n")
        fourth = opened.asked()
        assert len({first, second, third, fourth}) == 4
        opened.saved()
        answered = server.service.store.answered("photo0.png")
        assert set(answered) == {first, second, third}
        strokes = server.service.store.strokes("photo0.png")
        assert [one.label for one in strokes] == [strokes[0].label, 2] and strokes[0].by == "Anna"
        opened.agree()
        opened.press("z", "z")  # the skip, then the answer: the question is open again
        assert opened.page.get_attribute("body", "data-asked") == second
        opened.agree()
        assert set(server.service.store.answered("photo0.png")) == {first}


def one_question_each(photos: Path, kinds: list[str]) -> Selection:
    """A question about the first image of each kind, the next about the second, …; the predicted class is the road."""
    mask = np.zeros(SIZE, bool)
    mask[10:20, 100:120] = True
    rows = [Question.of_mask(f"photo{n}.png", mask, kind=kind, predicted=0) for n, kind in enumerate(kinds)]
    return Selection(tuple(rows), (), photos)


def test_enter_after_a_click_on_a_class_answers_the_next_question_and_not_the_class_again(
    browser: Any, server: LabelServer
) -> None:
    with Opened(browser, server) as opened:
        first = opened.asked()
        opened.page.click("#classes button >> nth=2")
        opened.page.wait_for_function("first => document.body.dataset.asked !== first", arg=first)
        expected = opened.page.evaluate("labelPage.questions.current.predicted")
        opened.press("Enter")
        opened.agree()
        assert [one.label for one in server.service.store.strokes("photo0.png")] == [2, expected] and expected != 2
        opened.page.focus("#classes button >> nth=3")  # by the keyboard a button stays what Enter presses
        opened.press("Enter")
        opened.agree()
        assert [one.label for one in server.service.store.strokes("photo0.png")][2:] == [3]


def test_the_two_questions_are_asked_as_the_selection_states_them(browser: Any, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    with (
        LabelServer(photos, selection=one_question_each(photos, ["check", "class"])) as server,
        Opened(browser, server) as opened,
    ):
        assert opened.page.inner_text("#question-text").split() == ["Is", "this", "1", "road", "?"]
        opened.press("Enter")
        opened.page.wait_for_selector("body[data-image='1']:not([data-asked=''])")
        text = opened.page.inner_text("#question-text").split()
        assert text == ["Which", "class", "is", "this?", "The", "model:", "1", "road"]
        opened.press("Enter")
        opened.saved()
        assert [one.label for one in server.service.store.strokes("photo1.png")] == [0]


def test_a_server_that_is_away_skips_no_question(browser: Any, tmp_path: Path) -> None:
    """Three images are loaded ahead; those after them cannot be, until the server is back."""
    photos = write_photos(tmp_path / "photos", 7)
    (photos / "photo6.png").write_bytes(b"no image")
    with (
        LabelServer(photos, selection=one_question_each(photos, ["check"] * 7)) as server,
        Opened(browser, server) as opened,
    ):
        opened.allowed = ("error: Failed to load resource",)
        opened.page.wait_for_function("() => [1, 2, 3].every(n => labelPage.images.get(n)?.ready)")
        opened.page.route("**/api/**", lambda route: route.abort())
        for _ in range(8):
            opened.press("Enter")
            opened.page.wait_for_timeout(100)
        opened.page.wait_for_selector("#unreadable:not([hidden])")
        assert "cannot be reached" in opened.page.inner_text("#unreadable")
        kinds = opened.page.evaluate("labelPage.outbox.waiting.map(one => one.kind)")
        assert kinds == ["answer"] * len(kinds) and 0 < len(kinds) < 6
        opened.page.unroute("**/api/**")
        opened.page.wait_for_selector("#unreadable", state="hidden")
        while opened.page.get_attribute("body", "data-asked"):
            opened.press("Enter")
            opened.page.wait_for_timeout(200)
        opened.saved()
        counts = [server.service.store.counts_of(f"photo{n}.png") for n in range(7)]
        assert [one.answers for one in counts] == [1] * 6 + [0]
        assert [one.skips for one in counts] == [0] * 6 + [1], "what can never be read is passed over"


def test_an_image_that_cannot_be_read_is_named(browser: Any, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 2)
    (photos / "torn.png").write_bytes((photos / "photo1.png").read_bytes()[:500])
    with LabelServer(photos) as server, Opened(browser, server) as opened:
        opened.allowed = ("error: Failed to load resource",)
        opened.page.evaluate("labelPage.open(2)")
        opened.page.wait_for_selector("#unreadable:not([hidden])")
        opened.page.wait_for_function("() => document.getElementById('image-name').textContent === 'torn.png'")
        assert not opened.page.inner_text("#share") and "--skip-bad" not in opened.page.inner_text("#unreadable")


PIXELS = """async whole => {
  const view = labelPage.view, frame = () => new Promise(done => requestAnimationFrame(done));
  if (whole) view.dirtyAll();
  await frame();
  await frame();
  const {width, height} = view.base;
  const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
  copy.drawImage(view.base, 0, 0);
  const data = copy.getImageData(0, 0, width, height).data;
  return Array.from(new Uint32Array(await crypto.subtle.digest("SHA-256", data)));
}"""


def test_what_is_painted_in_part_is_what_the_whole_would_be(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server) as opened:
        empty = opened.page.evaluate(PIXELS, True)
        opened.press("Enter", "3", "b", "4")  # two answers and a stroke: only their boxes are painted
        opened.drag((20, 30), (120, 70))
        opened.agree()
        part = opened.page.evaluate(PIXELS, False)
        assert part != empty
        assert part == opened.page.evaluate(PIXELS, True)
        opened.press("h", "+")  # hatched and zoomed, which paints everything, then an undo in part
        opened.page.evaluate(PIXELS, False)
        opened.press("z")
        opened.agree()
        assert opened.page.evaluate(PIXELS, False) == opened.page.evaluate(PIXELS, True)


def test_the_next_image_is_painted_before_it_is_opened(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server) as opened:
        for _ in range(8):  # until a question of the next image is among those that are held
            if opened.page.evaluate("new Set(labelPage.questions.upcoming()).has(1)"):
                break
            opened.press("Enter")
            opened.saved()
        opened.page.wait_for_function(
            "() => [...labelPage.view.parts.values()].some(part => part.image.number === 1 && !part.stale)"
        )
        opened.page.wait_for_function("() => labelPage.images.get(1).ready.tile(0, 0, 0, false)")
        opened.page.evaluate("labelPage.forget(1)")  # what is no longer kept leaves with it
        assert not opened.page.evaluate("[...labelPage.view.parts.values()].some(part => part.image.number === 1)")


def test_brush_eraser_undo_and_redo(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server) as opened:
        opened.press("b", "2")
        opened.drag((20, 20), (100, 20), (100, 60))
        opened.agree()
        painted = opened.shown()
        assert painted[20, 60] == 1 and painted[40, 100] == 1 and painted[60, 30] == 255
        opened.press("e")
        opened.drag((60, 10), (60, 30))
        opened.agree()
        erased = opened.shown()
        assert erased[20, 60] == 255 and erased[20, 25] == 1
        opened.press("z")
        opened.agree()
        assert (opened.shown() == painted).all()
        opened.press("Control+z")
        opened.agree()
        assert (opened.shown() == 255).all()
        opened.press("y", "y")
        opened.agree()
        assert (opened.shown() == erased).all()
        before = opened.page.evaluate("labelPage.tools.size")
        opened.press("]")
        assert opened.page.evaluate("labelPage.tools.size") > before


def test_a_polygon_is_closed_by_key_and_by_its_first_corner(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server) as opened:
        opened.press("p", "4")
        for corner in ((20, 20), (80, 20), (80, 60), (20, 60)):
            opened.page.mouse.click(*opened.place(*corner))
        opened.press("Enter")
        opened.agree()
        assert (opened.shown()[20:60, 20:80] == 3).all() and (opened.shown() == 3).sum() == 40 * 60
        opened.press("1")
        for corner in ((100, 80), (140, 80), (140, 110), (100, 80)):
            opened.page.mouse.click(*opened.place(*corner))
        opened.agree()
        assert 500 < (opened.shown() == 0).sum() < 700
        assert server.service.store.summary()["clicks"] == 4 + 3


def test_fill_takes_a_superpixel_or_the_predicted_segment(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server) as opened:
        opened.press("f", "3")
        opened.page.mouse.click(*opened.place(50.5, 50.5))
        opened.page.wait_for_timeout(300)
        opened.agree()
        filled = opened.shown()
        units = server.service.images.units(0)
        assert filled[50, 50] == 2 and 0 < (filled == 2).sum() <= (units == units[50, 50]).sum()
        assert set(np.unique(units[filled == 2])) == {units[50, 50]}
        opened.page.keyboard.down("Shift")
        opened.page.mouse.click(*opened.place(80.5, 100.5))
        opened.page.keyboard.up("Shift")
        opened.page.wait_for_timeout(300)
        opened.agree()
        assert (opened.shown()[90:] == 2).all(), "the band that the model predicts"


def test_the_keyboard_alone_is_enough(browser: Any, server: LabelServer) -> None:
    """Every kind of stroke, zoom and image without a pointer."""
    with Opened(browser, server) as opened:
        opened.press("b", "2", "Space", *["Shift+ArrowRight"] * 3, "Space")
        opened.press("p", "3", "Space", *["Shift+ArrowDown"] * 3, "Space", *["Shift+ArrowRight"] * 3, "Space", "Enter")
        opened.press("f", "1", *["Shift+ArrowUp"] * 8, "Space")
        opened.page.wait_for_timeout(300)
        opened.press("e", "Space", *["ArrowLeft"] * 3, "Space")
        opened.agree()
        kinds = [one.kind for one in server.service.store.strokes("photo0.png")]
        assert kinds == ["brush", "polygon", "fill", "eraser"]
        scale = opened.page.evaluate("labelPage.view.scale")
        opened.press("+", "+")
        assert opened.page.evaluate("labelPage.view.scale") > 1.5 * scale
        opened.press("r")
        assert abs(opened.page.evaluate("labelPage.view.scale") - scale) < 1e-6
        opened.press("PageDown")
        opened.page.wait_for_selector("body[data-image='1']")
        opened.press("v", "g")
        opened.page.wait_for_selector("body[data-image='0']")
        opened.press("?")
        assert opened.page.locator("#help-dialog").is_visible()
        opened.press("Escape")
        opened.page.wait_for_selector("#help-dialog", state="hidden")
        opened.press("l")
        opened.page.wait_for_selector("#list-rows button")
        opened.page.locator("#list-rows button").nth(2).press("Enter")
        opened.page.wait_for_selector("body[data-image='2']")
        opened.press("/")
        opened.page.keyboard.type("tre")
        opened.press("Enter")
        seen = []
        for _ in range(24):
            opened.press("Tab")
            seen.append(opened.page.evaluate("document.activeElement.id || document.activeElement.dataset.tool || ''"))
        assert {"skip", "brush", "undo", "shown", "opacity"} & set(seen), "buttons are reached by Tab as well"
        assert opened.wrong == []


def test_zoom_and_pan_keep_the_place_under_the_pointer(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server) as opened:
        x, y = opened.place(40, 30)
        opened.page.mouse.move(x, y)
        opened.page.mouse.wheel(0, -400)
        opened.page.wait_for_timeout(100)
        again = opened.place(40, 30)
        assert abs(again[0] - x) < 1 and abs(again[1] - y) < 1
        opened.drag((40, 30), (60, 40))  # the answer tool moves the image
        moved = opened.place(40, 30)
        assert moved != again
        opened.press("b", "1")
        opened.drag((50, 40), (70, 40))
        opened.agree()
        assert opened.shown()[40, 60] == 0


def test_a_stroke_waits_in_the_browser_until_it_is_on_the_disk(
    browser: Any, server: LabelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Opened(browser, server) as opened:
        opened.allowed = ("error: Failed to load resource",)
        real, full = os.fsync, [True]

        def fsync(handle: int) -> None:
            if full[0]:
                raise OSError(28, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", fsync)
        opened.press("b", "2")
        opened.drag((20, 20), (100, 20))
        opened.page.wait_for_selector("#alarm:not([hidden])")
        text = opened.page.inner_text("#alarm")
        assert "cannot be written" in text and "No space left" in text and "kept in this browser" in text
        painted = opened.shown()
        opened.drag((20, 80), (100, 80))
        opened.page.reload()  # even a page that ends holds them
        opened.page.wait_for_selector("#alarm:not([hidden])")
        opened.asked()
        assert (opened.shown() == 1).sum() > (painted == 1).sum()
        full[0] = False
        opened.saved()
        opened.page.wait_for_selector("#alarm", state="hidden")
        assert (opened.shown() == opened.kept()).all() and len(server.service.store.strokes("photo0.png")) == 2


def test_two_people_see_what_the_other_one_paints(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server) as anna, Opened(browser, server, name="Ben") as ben:
        assert anna.page.get_attribute("body", "data-image") != ben.page.get_attribute("body", "data-image")
        ben.page.evaluate("labelPage.open(0)")
        ben.page.wait_for_selector("#people[data-here='true']")
        assert "Anna" in ben.page.inner_text("#people")
        anna.press("b", "2")
        anna.drag((20, 20), (100, 20))
        anna.agree()
        for _ in range(60):
            if (ben.shown() == anna.shown()).all():
                break
            ben.page.wait_for_timeout(250)
        assert (ben.shown() == anna.shown()).all()
        ben.press("b", "3")
        ben.drag((60, 10), (60, 30))
        ben.agree()
        assert ben.kept(0)[20, 60] == 2, "the last stroke holds"
        assert "Ben over Anna" in ben.page.inner_text("#conflicts")


def test_a_round_of_training_shows_its_gain(browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`segwright refine` itself, in a child process, on labels of two of the model's four classes."""
    monkeypatch.setattr(ChildCommand, "_yield_to_others", lambda self: None)  # on a busy machine it would take minutes
    torch.manual_seed(0)
    network = create_model("leannet", classes=SPACE.classes, weights=None, **TINY)
    with torch.no_grad():  # road everywhere: right on half of the labels
        network.classifier_layers()["logits"][-1].bias[0] += 5
    base = save_bundle(
        tmp_path / "base", network, Bundle("leannet", SPACE, {**TINY, "in_channels": 3}, {"channels": 3})
    )

    def make(store: Any, images: Any, queue: Any) -> Between:
        options = BetweenOptions(every=None, minutes=0.2, device="cpu", select=False)
        return Between(store, images, queue, base, lambda path: sw.load(path, device="cpu"), options)

    photos = write_photos(tmp_path / "photos", 6)
    with LabelServer(photos, predictor=sw.load(base, device="cpu"), make_trainer=make) as server:
        for number in range(6):
            for label, top in ((0, 10), (1, 70)):
                mask = np.zeros(SIZE, bool)
                mask[top : top + 40, 10:150] = True
                name = f"photo{number}.png"
                server.service.store.append(stroke_of_mask(
                    mask, id=f"{number} {label}", image=name, by="Ben", kind="brush", label=label, clicks=1
                ))  # fmt: skip
        with Opened(browser, server) as opened:
            opened.press("Enter")  # an answer, and the key that starts a round
            opened.saved()
            opened.press("t")
            opened.page.wait_for_function("() => document.getElementById('training-gain').textContent", timeout=300_000)
            trainer = server.service.trainer
            assert isinstance(trainer, Between)
            shown, note = opened.page.inner_text("#training-gain"), opened.page.inner_text("#training-note")
            (found,) = trainer.rounds
            assert found["miou"][0] == pytest.approx(0.25, abs=0.05)
            before, after = (100 * value for value in found["miou"])
            assert shown.startswith(f"Round 1: mIoU {before:.1f} → {after:.1f} on held-out labels")
            assert f"{100 * found['miou_difference']:+.1f} points" in shown
            assert found["held"] == ["photo1.png", "photo5.png"] and "photo1.png, photo5.png" in note
            result = json.loads((server.folder / "rounds/001/result.json").read_text())
            answered = {server.service.store.strokes("photo0.png")[-1].label}
            assert {one["name"] for one in result["new"]["per_class"]} == {"road", "sky"} and answered <= set(range(4))
            assert server.service.images.version == int(found["taken"])
            opened.agree()


def test_one_finger_paints_and_two_zoom_on_a_phone(browser: Any, server: LabelServer) -> None:
    with Opened(browser, server, width=390, has_touch=True, is_mobile=True, device_scale_factor=2) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
        opened.page.tap("[data-tool=brush]")
        opened.page.tap("#classes button[data-index='1']")
        client = opened.context.new_cdp_session(opened.page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            places = [dict(zip(("x", "y"), opened.place(*point), strict=True), id=i) for i, point in enumerate(points)]
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

        touch("touchStart", (30, 30))
        for x in (50, 70, 90):
            touch("touchMove", (x, 30))
        touch("touchEnd")
        opened.agree()
        painted = opened.shown()
        assert painted[30, 60] == 1
        scale = opened.page.evaluate("labelPage.view.scale")
        begin = [opened.place(*point) for point in ((60, 60), (100, 60))]
        apart = [(begin[0][0] - 60, begin[0][1]), (begin[1][0] + 60, begin[1][1])]
        for kind, places in (("touchStart", begin[:1]), ("touchStart", begin), ("touchMove", apart), ("touchEnd", [])):
            points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
            client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        assert opened.page.evaluate("labelPage.view.scale") > 1.2 * scale
        opened.agree()
        assert (opened.shown() == painted).all(), "the first of two fingers leaves no stroke"


@pytest.mark.parametrize("width", [1440, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(browser: Any, server: LabelServer, width: int, scheme: str) -> None:
    with Opened(browser, server, width, color_scheme=scheme) as opened:
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        found = violations(opened.page)
        opened.press("b")
        opened.page.wait_for_timeout(100)
        found += violations(opened.page)
        for key, dialog in (("?", "#help-dialog"), ("l", "#list-dialog")):
            opened.page.locator("#stage").focus()
            opened.press(key)
            opened.page.wait_for_selector(f"{dialog}[open]")
            found += violations(opened.page)
            opened.press("Escape")
        opened.page.click("#name")
        found += violations(opened.page)
        assert not found, "\n".join(found[:8])
