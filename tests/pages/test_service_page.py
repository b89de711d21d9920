"""The service's page in a real browser: every control acts, axe-core finds nothing, nothing but the service is asked.

Most tests answer the page's requests in the browser; one has the service itself on a port.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import made_pages
import numpy as np
from accessibility import violations
from PIL import Image

from segwright.core.types import Float32Array, LabelSpace
from segwright.imageio import UInt8Array, encode_png
from segwright.inference.predictor import Predictor
from segwright.serving.app import create_app
from segwright.serving.limits import ServiceLimits
from segwright.serving.page import STATIC, service_page, static_file
from segwright.serving.server import bind, build_server

SERVICE = "http://service.test/"
SIZE = (80, 120)  # height, width
COLORS = ([200, 40, 40], [40, 160, 60], [30, 60, 200], [240, 200, 20])
CLASSES = [
    {"index": i, "name": name, "color": color}
    for i, (name, color) in enumerate(zip(made_pages.NAMES, COLORS, strict=True))
]
LABELS = (np.indices(SIZE)[1] * 3 // SIZE[1]).astype(np.uint8)  # three stripes; the fourth class is absent
DOUBT = np.tile(np.linspace(0, 255, SIZE[1]).astype(np.uint8), (SIZE[0], 1))
MODEL = {
    "name": made_pages.MARKUP, "architecture": "unet", "classes": CLASSES, "default": True,
    "metrics": {"val_miou": 0.7},
}  # fmt: skip
QUALITY = {
    "summary": "estimated mIoU 71 %, between 66 % and 76 % for 90 % of such images",
    "estimated_miou": {"iou": 0.71, "low": 0.66, "high": 0.76},
    "per_class": {made_pages.MARKUP: {"iou": 0.95, "low": 0.92, "high": 0.97}},
    "notes": ["a note"],
    "regions": [
        {"class": made_pages.MARKUP, "box": [12, 8, 24, 16], "area": 12, "probability_wrong": 0.93},
        {"class": "road", "box": [1, 2, 3, 4], "area": 12, "probability_wrong": 0.2},
    ],
}


def photo(seed: int = 0, kind: str = "PNG", **options: Any) -> bytes:
    pixels = np.full((*SIZE, 3), 90 + 20 * seed, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def answer(detail: bool = False, labels: UInt8Array = LABELS, quality: Any = None) -> dict[str, Any]:
    counts = np.bincount(labels.ravel(), minlength=len(CLASSES))
    height, width = labels.shape
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(COLORS)] = COLORS
    found: dict[str, Any] = {
        "height": height, "width": width, "milliseconds": 41.5, "mean_confidence": 0.912,
        "mask": base64.b64encode(encode_png(labels, palette)).decode(),
        "classes": [
            {**one, "pixels": int(count), "share": float(count) / labels.size}
            for one, count in zip(CLASSES, counts, strict=True)
        ],
    }  # fmt: skip
    if detail:
        found["uncertainty"] = base64.b64encode(encode_png(DOUBT[..., None])).decode()
        found["quality"] = quality or {"note": "no error model in this bundle"}
    return found


# Until then the contrast is that of colors on their way.
COLORS_CHANGED = """
Promise.all(document.getAnimations().filter(one => one instanceof CSSTransition).map(one => one.finished))
"""


class Served:
    """The page with a service that is played: ``status``, ``tree`` and ``gone`` change how it responds."""

    def __init__(self, browser: Any, width: int = 1440, models: Any = None, **rest: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, accept_downloads=True, **rest)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.expected: tuple[str, ...] = ()  # beginnings of console messages that the test provokes
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.gone, self.key, self.quality = False, "", None
        self.refuse: tuple[int, dict[str, Any]] | None = None
        self.models = [MODEL] if models is None else models
        self.labels: UInt8Array = LABELS
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.set_default_timeout(60_000)
        self.page.route("**/*", self.respond)
        self.page.goto(SERVICE)

    def respond(self, route: Any) -> None:
        path, _, query = route.request.url.removeprefix(SERVICE).partition("?")
        if route.request.url.startswith(("blob:", "data:")):
            route.continue_()
            return
        self.asked.append((f"{path}?{query}", route.request.headers))
        if self.gone:
            route.abort("connectionrefused")
        elif path == "":
            document, policy = service_page(ServiceLimits())
            headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
            route.fulfill(status=200, headers=headers, body=document)
        elif path.removeprefix("static/") in STATIC:
            name = path.removeprefix("static/")
            route.fulfill(status=200, content_type=STATIC[name], body=static_file(name))
        elif path == "health":
            route.fulfill(status=200, body="{}")
        elif self.key and route.request.headers.get("authorization") != f"Bearer {self.key}":
            route.fulfill(status=401, content_type="application/json", body='{"error": "an API key is needed"}')
        elif path == "models":
            route.fulfill(status=200, content_type="application/json", body=json.dumps({"models": self.models}))
        elif path.endswith("predict") and self.refuse:
            status, tree = self.refuse
            headers = {"content-type": "application/json", "retry-after": "1"}
            route.fulfill(status=status, headers=headers, body=json.dumps(tree))
        elif path.endswith("predict") and "geojson" in query:
            route.fulfill(status=200, content_type="application/geo+json", body='{"type": "FeatureCollection"}')
        elif path.endswith("predict"):
            found = answer("quality=true" in query, self.labels, self.quality)
            route.fulfill(status=200, content_type="application/json", body=json.dumps(found))
        else:
            route.fulfill(status=404, body="{}")

    def send(self, *names: str, content: bytes | None = None, kind: str = "image/png") -> None:
        files = [
            {"name": name, "mimeType": kind, "buffer": content or photo(i)}
            for i, name in enumerate(names or ("a.png",))
        ]
        self.page.set_input_files("#file", files)

    def drawn(self, name: str = "a.png") -> None:
        """Wait until the image is on the stage."""
        self.page.wait_for_selector(f'#result:not([hidden])[data-item="{name}"]')
        self.page.wait_for_selector("#stage[data-drawn]")
        self.settle()

    def settle(self) -> None:
        self.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def over(self, x: int, y: int) -> list[int]:
        """The drawing over the image at a pixel: red, green, blue, alpha."""
        self.settle()
        copied = """([x, y]) => {
          const canvas = document.createElement("canvas");
          canvas.width = canvas.height = 1;
          canvas.getContext("2d").drawImage(document.getElementById("over"), -x, -y);
          return [...canvas.getContext("2d").getImageData(0, 0, 1, 1).data];
        }"""
        return list(self.page.evaluate(copied, [x, y]))

    def has(self, x: int, y: int, color: list[int]) -> bool:
        """Whether the drawing has this color there; a canvas rounds colors that are not opaque."""
        return all(abs(a - b) <= 2 for a, b in zip(self.over(x, y), color, strict=False))

    def predictions(self) -> list[str]:
        return [path for path, _ in self.asked if "predict?" in path]

    def look(self, where: str) -> None:
        """In light and dark, wide and narrow: no violation, no sideways scrolling."""
        for width in (1440, 390):
            self.page.set_viewport_size({"width": width, "height": 900})
            for scheme in ("light", "dark"):
                self.page.emulate_media(color_scheme=scheme)
                self.page.evaluate(COLORS_CHANGED)
                assert self.page.evaluate("document.documentElement.scrollWidth") <= width, (where, width)
                assert not (found := violations(self.page)), f"{where} at {width} px, {scheme}:\n" + "\n".join(
                    found[:8]
                )

    def __enter__(self) -> Served:
        return self

    def __exit__(self, kind: Any, *_: object) -> None:
        try:
            if kind is None:
                assert [text for text in self.wrong if not text.startswith(self.expected or "-")] == []
                assert self.page.evaluate("window.broken") is None
        finally:
            self.context.close()


def test_the_document_has_nothing_inline_and_of_others() -> None:
    document, policy = service_page(ServiceLimits(max_megabytes=5), keeps_images=True)
    text = document.decode()
    assert " style=" not in text and "<style" not in text and "onclick" not in text and "http" not in text
    assert text.count("<script") == text.count("<script src=") + text.count('<script type="module" src=')
    assert "unsafe" not in policy and "script-src 'self';" in policy and "frame-ancestors 'none'" in policy
    assert "keeps some of the images" in text and "up to 5 MB" in text
    for name in STATIC:
        static = static_file(name).decode()
        assert not any(word in static for word in ("innerHTML", "eval(", "new Function", "@import", "https://")), name


def test_one_image_and_what_acts_on_it(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        page.wait_for_selector("text=mIoU 70.0 % on its validation images")
        assert page.inner_text("#title") == made_pages.MARKUP, "shown as text"
        served.look("the start")
        page.set_viewport_size({"width": 1440, "height": 900})
        served.send("a.png")
        served.drawn()
        assert served.has(20, 40, COLORS[0]) and served.has(100, 40, COLORS[2])
        alpha = served.over(20, 40)[3]
        assert page.locator("#legend tbody tr:visible").count() == 3, "absent classes are folded away"
        page.click("#rest")
        assert page.locator("#legend tbody tr:visible").count() == 4
        page.locator("#opacity").fill("20")
        assert served.over(20, 40)[3] < alpha
        page.uncheck("#legend input[data-index='0']")
        assert served.over(20, 40)[3] == 0 < served.over(60, 40)[3]
        page.click("#none")
        assert served.over(60, 40)[3] == 0
        page.click("#all")
        assert served.over(60, 40)[3] > 0
        page.hover("#title")
        page.check("#safe")
        assert not served.has(20, 40, COLORS[0])
        page.uncheck("#safe")
        page.check("#hatch")
        row = {tuple(served.over(x, 40)) for x in range(5, 25)}
        assert len(row) == 2, "plain and hatched pixels"
        page.uncheck("#hatch")
        page.click("#in")
        assert page.inner_text("#scale") == "1.5×" and page.is_enabled("#out")
        page.click("#out")
        page.click("#compare")
        assert page.evaluate("document.getElementById('over').style.clipPath") == "inset(0px 0px 0px 50%)"
        page.locator("#wipe").fill("25")
        assert page.evaluate("document.getElementById('over').style.clipPath") == "inset(0px 0px 0px 25%)"
        box = page.locator("#sheet").bounding_box()
        page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 5)
        assert 74 < float(page.input_value("#wipe")) < 76
        page.click("#compare")
        page.locator("input[value=none]").check(force=True)
        assert served.over(20, 40)[3] == 0
        served.look("a result")


def test_the_uncertainty_is_computed_when_it_is_wanted_and_the_estimate_shown(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        served.send("a.png")
        served.drawn()
        served.quality = QUALITY
        page.locator("input[value=doubt]").check(force=True)
        page.wait_for_selector("#stage[data-drawn=doubt]")
        assert [("quality" in path) for path in served.predictions()] == [False, True]
        assert served.over(2, 40)[:3] != served.over(117, 40)[:3] and page.is_visible("#ramp")
        assert page.inner_text("#iou") == "71 % (66 % to 76 %)" and page.is_visible("#gauge")
        assert "Estimated mIoU 71 %" in page.inner_text("#estimate") and "A note." in page.inner_text("#estimate")
        assert page.locator("#regions button").count() == 1, "the other region is rather right"
        page.click("#regions button")
        assert page.evaluate("document.getElementById('box').style.left") == "10%"
        assert "95 %" in page.inner_text("#legend")
        served.look("the uncertainty")
        served.quality = None
        served.send("b.png")
        served.drawn("b.png")
        assert "quality" in served.predictions()[-1], "from now on with each image"
        assert page.is_hidden("#gauge") and "has no error model" in page.inner_text("#estimate")


def test_files_that_are_saved(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        served.send("my street.png")
        served.drawn("my street.png")

        def saved(button: str) -> tuple[str, bytes]:
            with page.expect_download() as download:
                page.click(button)
            return download.value.suggested_filename, download.value.path().read_bytes()

        name, content = saved("#save-mask")
        assert name == "my street-mask.png"
        assert (np.asarray(Image.open(io.BytesIO(content))) == LABELS).all(), "the class indices themselves"
        name, content = saved("#save-overlay")
        overlay = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        assert name == "my street-overlay.png" and overlay.shape[:2] == SIZE and overlay[40, 20, 2] > 110
        name, content = saved("#save-polygons")
        assert name == "my street.geojson" and json.loads(content) == {"type": "FeatureCollection"}
        name, content = saved("#save-areas")
        lines = content.decode().splitlines()
        assert name == "my street-areas.csv" and lines[0] == "image,class,pixels,share"
        assert lines[1] == "my street.png,road,3200,0.333333"
        page.click("summary")
        command = page.inner_text("#curl")
        assert "--data-binary @'my street.png'" in command and f"'{SERVICE}predict?as=json'" in command
        page.click("#copy")
        page.wait_for_selector("#copied:text('opied')")


def test_several_images_after_another_by_keyboard(browser: Any) -> None:
    with Served(browser, width=390) as served:
        page = served.page
        served.send("a.png", "b.png", "c.png")
        page.wait_for_selector("#items:not(:has(button:not([data-state=done])))")
        assert page.locator("#items button").count() == 3 and len(served.predictions()) == 3
        served.drawn("a.png")
        page.locator("#items button").nth(2).press("Enter")
        served.drawn("c.png")
        assert page.locator("#items button").nth(2).get_attribute("aria-current") == "true"
        page.locator("#stage").focus()
        page.keyboard.press("Shift+ArrowLeft")
        page.keyboard.press("ArrowUp")
        assert page.inner_text("#readout").startswith("<script>") and page.is_visible("#cross")
        page.keyboard.press("+")
        assert page.inner_text("#scale") == "1.5×"
        reached = set()
        for _ in range(60):
            page.keyboard.press("Tab")
            reached.add(page.evaluate("document.activeElement.id || document.activeElement.value"))
        wanted = {"file", "opacity", "compare", "in", "safe", "hatch", "all", "detail", "save-mask", "theme"}
        assert wanted <= reached, wanted - reached
        served.look("several images")


def test_bad_files_are_explained(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        served.expected = ("error: Failed to load resource",)
        served.refuse = 400, {
            "error": "the image cannot be read", "found": "a HEIC or AVIF image, or a video", "fix": "save it as JPEG",
        }  # fmt: skip
        served.send("<b>x</b>.heic", content=b"\0\0\0\x18ftypheic", kind="image/heic")
        page.wait_for_selector("#problem:not([hidden])")
        shown = page.inner_text("#problem")
        assert (
            "<b>x</b>.heic" in shown and "The image cannot be read." in shown and "What helps: save it as JPEG" in shown
        )
        assert "Found: a HEIC" in shown and page.is_hidden("#result")
        served.look("a refused file")
        served.refuse = None
        served.send("good.png")
        served.drawn("good.png")
        assert page.is_hidden("#problem"), "the next image is shown, the message is gone"
        page.locator("#items button").nth(0).click()
        assert page.is_visible("#problem") and page.is_hidden("#result")
        served.refuse = None
        page.click("#again")
        page.wait_for_selector("#result:not([hidden])")


def test_an_image_that_is_too_large_is_scaled_down_if_wanted(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        served.expected = ("error: Failed to load resource",)
        served.refuse = 413, {"error": "the image has too many pixels", "expected": "at most 32 megapixels"}
        served.send("big.png")
        page.wait_for_selector("#smaller:visible")
        served.refuse = None
        page.click("#smaller")
        page.wait_for_selector("#result:not([hidden])")
        assert page.inner_text("#name") == "big.jpg" and len(served.predictions()) == 2


def test_a_service_that_goes_away_and_comes_back(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        served.expected = ("error: Failed to load resource",)
        page.wait_for_selector("text=on its validation images")
        served.gone = True
        served.send("a.png", "b.png")
        page.wait_for_selector("#lost:not([hidden])")
        assert "does not answer" in page.inner_text("#lost")
        assert not violations(page)
        served.gone = False
        served.drawn("a.png")
        page.wait_for_selector("#items:not(:has(button:not([data-state=done])))")
        assert page.is_hidden("#lost")


def test_a_busy_service_is_tried_again_and_can_be_given_up(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        served.expected = ("error: Failed to load resource",)
        served.refuse = 503, {"error": "too many requests"}
        served.send("a.png", "b.png")
        page.wait_for_selector("#doing:text('The service is busy')")
        served.refuse = None
        served.drawn("a.png")
        served.refuse = 503, {"error": "too many requests"}
        served.send("c.png")
        page.wait_for_selector("#doing:text('c.png is sent again')")
        page.click("#cancel")
        page.wait_for_selector("#items button[data-state=canceled]")
        assert page.is_hidden("#status")


def test_an_api_key_is_asked_for_and_never_shown(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        served.expected = ("error: Failed to load resource",)
        served.key = "secret-1"
        page.reload()
        page.wait_for_selector("#door[open]")
        assert not violations(page)
        page.fill("#key", "wrong")
        page.keyboard.press("Enter")
        page.wait_for_selector("#door-title:text('not accepted')")
        page.fill("#key", "secret-1")
        page.click("#enter")
        page.wait_for_selector("text=on its validation images")
        served.send("a.png")
        served.drawn()
        assert served.asked[-1][1]["authorization"] == "Bearer secret-1"
        page.click("summary")
        assert "$SEGWRIGHT_KEY" in page.inner_text("#curl") and "secret-1" not in page.content()


def test_one_of_several_models_is_chosen(browser: Any) -> None:
    models = [{**MODEL, "name": "street"}, {**MODEL, "name": "a b ö", "metrics": {}, "default": False}]
    with Served(browser, models=models) as served:
        page = served.page
        served.send("a.png")
        served.drawn()
        assert served.predictions()[-1].startswith("predict?")
        page.select_option("#models", "a b ö")
        page.wait_for_selector("#title:text('a b ö')")
        served.settle()
        page.wait_for_selector("#status[hidden]", state="attached")
        assert served.predictions()[-1].startswith("models/a%20b%20%C3%B6/predict?"), (
            "the image again, by the other model"
        )
        assert not violations(page)


def test_images_are_dropped_and_pasted(browser: Any) -> None:
    with Served(browser) as served:
        page = served.page
        data = base64.b64encode(photo()).decode()
        give = """([kind, data]) => {
          const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          if (data) transfer.items.add(new File([bytes], kind + ".png", {type: "image/png"}));
          dispatchEvent(kind === "drop" ? new DragEvent("drop", {dataTransfer: transfer})
            : new ClipboardEvent("paste", {clipboardData: transfer}));
        }"""
        page.evaluate(give, ["drop", data])
        served.drawn("drop.png")
        page.evaluate(give, ["paste", data])
        served.drawn("paste.png")
        page.evaluate(give, ["drop", ""])
        assert "This is not a file" in page.inner_text("#problem")


def test_the_camera_of_a_phone_is_offered(browser: Any) -> None:
    with Served(browser, width=390, has_touch=True, is_mobile=True) as served:
        assert (
            served.page.is_visible("#camera-row") and served.page.get_attribute("#camera", "capture") == "environment"
        )
        served.page.set_input_files("#camera", {"name": "p.jpg", "mimeType": "image/jpeg", "buffer": photo(1, "JPEG")})
        served.drawn("p.jpg")


def test_a_kind_that_browsers_cannot_show_has_its_classes_alone(browser: Any) -> None:
    with Served(browser) as served:
        served.send("a.tif", content=photo(0, "TIFF"), kind="image/tiff")
        served.drawn("a.tif")
        served.page.wait_for_selector("#unseen:visible")
        assert served.over(20, 40) == [*COLORS[0], 255]


def test_every_png_filter_is_decoded(browser: Any) -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 4, SIZE, np.uint8)
    with Served(browser) as served:
        for strategy in (cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_FILTER_SUB, cv2.IMWRITE_PNG_FILTER_UP,
                         cv2.IMWRITE_PNG_FILTER_AVG, cv2.IMWRITE_PNG_FILTER_PAETH):  # fmt: skip
            done, data = cv2.imencode(".png", noise * 60, [cv2.IMWRITE_PNG_FILTER, strategy])
            assert done
            values = served.page.evaluate(
                "async text => { const {bytesOf, decode} = await import('/static/png.js');"
                "const found = await decode(bytesOf(text)); return [found.width, ...found.values]; }",
                base64.b64encode(data.tobytes()).decode(),
            )
            assert values[0] == SIZE[1] and (np.array(values[1:]).reshape(SIZE) == noise * 60).all(), strategy


class Halves:
    """A network for which the left half of an image is its first class."""

    classes, in_channels = 4, 3

    def logits(self, images: UInt8Array) -> Float32Array:
        found = np.zeros((len(images), 4, *images.shape[1:3]), np.float32)
        found[:, 0, :, : images.shape[2] // 2] = 3
        found[:, 1, :, images.shape[2] // 2 :] = 3
        return found

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        logits = self.logits(images)
        return logits.argmax(1).astype(np.uint8), np.full(images.shape[:3], 0.9, np.float32)


@contextmanager
def service() -> Iterator[str]:
    """The service itself on a port, in a thread with a loop of its own."""
    ready, loop, hold = threading.Event(), asyncio.new_event_loop(), {}

    async def serve() -> None:
        hold["server"] = build_server(create_app(Predictor(Halves(), LabelSpace(made_pages.NAMES))), ready.set)
        await hold["server"]._serve([sock])

    sock, address = bind("127.0.0.1", 0)
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(120)
        yield f"http://127.0.0.1:{address.port}/"
    finally:
        hold["server"].should_exit = True
        thread.join(60)
        loop.close()


def test_with_the_service_itself_a_turned_photo_lies_under_its_classes(browser: Any) -> None:
    """EXIF orientation 6: browser and service turn it alike. Nothing but the service is asked."""
    exif = Image.Exif()
    exif[0x0112] = 6
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    page = context.new_page()
    wrong: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: wrong.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.set_default_timeout(120_000)
    with service() as url:
        page.goto(url)
        page.set_input_files(
            "#file", {"name": "turned.jpg", "mimeType": "image/jpeg", "buffer": photo(0, "JPEG", exif=exif.tobytes())}
        )
        page.wait_for_selector("#result:not([hidden])")
        page.wait_for_selector("#stage[data-drawn]")
        assert page.inner_text("#size") == f"{SIZE[0]} × {SIZE[1]} pixels", "turned"
        natural = page.evaluate(
            "[document.getElementById('image').naturalWidth, document.getElementById('over').width]"
        )
        assert natural == [SIZE[0], SIZE[0]]
        page.locator("input[value=doubt]").check(force=True)
        page.wait_for_selector("#stage[data-drawn=doubt]")
        assert not violations(page)
        assert all(one.startswith((url, "blob:", "data:")) for one in asked) and wrong == []
        page.set_input_files(
            "#file", {"name": "x.heic", "mimeType": "image/heic", "buffer": b"\0\0\0\x18ftypheic" * 40}
        )
        page.wait_for_selector("#problem:not([hidden])")
        assert "HEIC" in page.inner_text("#problem")
        assert page.request.get(url + "static/main.py").status == 404
    context.close()
