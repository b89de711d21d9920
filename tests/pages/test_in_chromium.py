"""Every page in a real browser: nothing on the console, controls act, axe-core finds nothing, nothing is fetched.

One browser for all; needs Chromium and the packages playwright and axe-playwright-python. axe-core (MPL-2.0) is part of
the latter and is used here only.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import made_pages
import pytest
from accessibility import violations

WIDTHS = (1440, 390)
SCHEMES = ("light", "dark")
MAKERS: dict[str, Callable[..., str]] = {
    "evaluation": lambda folder: made_pages.evaluation(),
    "comparison": lambda folder: made_pages.comparison(),
    "check": made_pages.check,
    "cross-validation": made_pages.cross_validation,
    "monitor": made_pages.monitor,
    "study": made_pages.study,
    "lr-range": lambda folder: made_pages.lr_range(),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    found = {}
    for name, make in MAKERS.items():
        found[name] = folder / f"{name}.html"
        (folder / name).mkdir()
        found[name].write_text(make(folder / name), encoding="utf-8")
    return found


class Opened:
    """A page with what went wrong on it."""

    def __init__(self, browser: Any, width: int = 1440, scheme: str = "light") -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.wrong: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.set_default_timeout(20_000)

    def file(self, path: Path) -> Any:
        self.page.goto(path.as_uri())
        return self.page

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()


def look_at(opened: Opened, name: str) -> None:
    """In light and dark, wide and narrow: no violation, no sideways scrolling."""
    page = opened.page
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in SCHEMES:
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (name, width, scheme)
            assert not (found := violations(page)), f"{name} at {width} px, {scheme}:\n" + "\n".join(found[:8])
    assert opened.wrong == [] and page.evaluate("window.broken") is None


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_page_is_accessible_and_fetches_nothing(browser: Any, files: dict[str, Path], name: str) -> None:
    with Opened(browser) as opened:
        page = opened.file(files[name])
        if name in ("evaluation", "comparison"):
            page.wait_for_selector(".viewer[data-ready]")
        look_at(opened, name)
        assert "built-in method" not in page.inner_text("body"), "a key of a dict that is also its method"
        assert [url for url in opened.requests if not url.startswith("data:")] == [files[name].as_uri()]


def test_the_theme_button_switches(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser, scheme="dark") as opened:
        page = opened.file(files["lr-range"])
        color = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(color)
        assert page.get_attribute("#theme", "aria-pressed") == "true"
        page.click("#theme")
        assert page.evaluate(color) != dark and page.get_attribute("#theme", "aria-pressed") == "false"
        page.emulate_media(media="print")
        assert page.evaluate(color) == "rgb(255, 255, 255)"


def test_tables_sort_by_mouse_and_keyboard(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser) as opened:
        page = opened.file(files["evaluation"])
        header = page.locator("section", has=page.locator("h2", has_text="Classes")).locator("th").nth(3)

        def column() -> list[float]:
            cells = header.locator("xpath=ancestor::table").locator("tbody tr td:nth-child(4)")
            return [float(text) for text in cells.all_inner_texts()]

        first = column()
        header.locator("button").click()
        assert column() == sorted(first, reverse=True) and header.get_attribute("aria-sort") == "descending"
        header.locator("button").press("Enter")
        assert column() == sorted(first) and header.get_attribute("aria-sort") == "ascending"


def test_figures_with_a_star_sort_as_numbers(browser: Any, files: dict[str, Path]) -> None:
    """A star marks a difference beyond chance: it is no part of the number."""
    shown = ["* +0.2", "-0.6", "* -17.3", "* +0.7", "–", "-5.1"]
    with Opened(browser) as opened:
        page = opened.file(files["comparison"])
        table = page.locator("table", has=page.locator("th", has_text="difference: ")).first
        table.evaluate(
            """(table, shown) => {
                const body = table.tBodies[0], row = body.rows[0];
                body.replaceChildren(...shown.map(text => {
                    const one = row.cloneNode(true);
                    one.cells[3].textContent = text;
                    return one;
                }));
            }""",
            shown,
        )
        table.locator("th").nth(3).locator("button").click()
        found = table.locator("tbody tr td:nth-child(4)").all_inner_texts()
        assert found == ["* +0.7", "* +0.2", "-0.6", "-5.1", "* -17.3", "–"]


class Viewer:
    """The controls of the viewer and what is drawn."""

    def __init__(self, page: Any) -> None:
        self.page = page
        page.wait_for_selector(".viewer[data-ready='0']")

    def pixels(self) -> str:
        return str(self.page.evaluate("document.querySelector('[data-part=canvas]').toDataURL()"))

    def at(self, x: int, y: int) -> list[int]:
        context = "document.querySelector('[data-part=canvas]').getContext('2d')"
        return list(self.page.evaluate(f"([x, y]) => [...{context}.getImageData(x, y, 1, 1).data]", [x, y]))

    def part(self, name: str) -> Any:
        return self.page.locator(f"[data-part={name}]")

    def look(self, key: str, against: str = "") -> None:
        self.page.check(f"input[data-part=view][value={key}]", force=True)
        self.part("against").select_option(against)


def test_every_control_of_the_viewer_acts(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser) as opened:
        viewer = Viewer(opened.file(files["evaluation"]))
        seen = {}
        for key in ("image", "truth", "prediction", "errors", "doubt"):
            viewer.look(key)
            seen[key] = viewer.pixels()
        assert len(set(seen.values())) == 5, "each view is another"
        viewer.look("prediction")
        for part in ("safe", "hatch", "names"):
            before = viewer.pixels()
            viewer.part(part).check()
            assert viewer.pixels() != before, part
        for part in ("safe", "hatch", "names"):
            viewer.part(part).uncheck()
        assert viewer.pixels() == seen["prediction"]
        viewer.part("opacity").fill("0")
        assert viewer.at(70, 60) == viewer.page.evaluate(
            "() => { const made = document.createElement('canvas'); [made.width, made.height] = [144, 96];"
            "const context = made.getContext('2d');"
            "context.drawImage(document.querySelector('.thumbs img'), 0, 0);"
            "return [...context.getImageData(70, 60, 1, 1).data]; }"
        ), "without opacity the image alone"
        viewer.part("opacity").fill("65")
        viewer.part("zoom").select_option("2")
        assert viewer.page.evaluate("(s => s.scrollWidth > s.clientWidth)(document.querySelector('[data-part=stage]'))")
        viewer.part("next").click()
        viewer.page.wait_for_selector(".viewer[data-ready='1']")
        assert viewer.part("count").inner_text() == "2 of 3" and viewer.pixels() != seen["prediction"]
        assert opened.wrong == []


def test_a_hidden_class_is_not_drawn(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser) as opened:
        viewer = Viewer(opened.file(files["evaluation"]))
        viewer.look("image")
        bare = [viewer.at(x, 60) for x in range(0, 144, 12)]
        viewer.look("truth")
        assert all(viewer.at(x, 60) != pixel for x, pixel in zip(range(0, 144, 12), bare, strict=True))
        boxes = viewer.page.locator("input[data-toggle]")
        assert boxes.count() == 4
        boxes.nth(0).uncheck()
        now = [viewer.at(x, 60) for x in range(0, 144, 12)]
        assert 0 < sum(a == b for a, b in zip(now, bare, strict=True)) < 12, "that class alone"
        viewer.part("none").click()
        assert [viewer.at(x, 60) for x in range(0, 144, 12)] == bare
        viewer.part("all").click()
        assert viewer.at(0, 60) != bare[0]


def test_the_slider_shows_one_view_left_and_another_right(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser) as opened:
        viewer = Viewer(opened.file(files["evaluation"]))
        places = [(10, 60), (130, 60)]
        alone = {}
        for key in ("image", "truth"):
            viewer.look(key)
            alone[key] = [viewer.at(*place) for place in places]
        viewer.look("image", against="truth")
        assert [viewer.at(*place) for place in places] == [alone["truth"][0], alone["image"][1]]
        viewer.part("split").focus()
        viewer.part("split").press("End")
        assert [viewer.at(*place) for place in places] == alone["truth"]
        viewer.part("split").press("Home")
        assert [viewer.at(*place) for place in places] == alone["image"]
        box = viewer.part("canvas").bounding_box()
        viewer.page.mouse.move(box["x"] + 5, box["y"] + box["height"] / 2)
        viewer.page.mouse.down()
        viewer.page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + box["height"] / 2)
        viewer.page.mouse.up()
        assert viewer.at(*places[0]) == alone["truth"][0] and float(viewer.part("split").input_value()) > 80
        assert "Truth left, Image right" in viewer.part("canvas").get_attribute("aria-label")


def test_the_viewer_works_by_keyboard_and_by_links(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser) as opened:
        viewer = Viewer(opened.file(files["evaluation"]))
        viewer.part("stage").focus()
        viewer.part("stage").press("4")
        assert viewer.page.locator("input[data-part=view]:checked").get_attribute("value") == "errors"
        viewer.part("stage").press("ArrowDown")
        assert (
            "Truth: " in viewer.part("readout").inner_text()
            and "Uncertainty: 0." in viewer.part("readout").inner_text()
        )
        link = viewer.page.locator("a[href='#images-3']").first
        link.press("Enter")
        viewer.page.wait_for_selector(".viewer[data-ready='2']")
        assert viewer.page.evaluate("document.activeElement.dataset.part") == "stage"
        viewer.page.keyboard.press("Tab")
        assert viewer.page.evaluate("document.activeElement.tagName") in ("INPUT", "BUTTON")
        viewer.page.goto(files["evaluation"].as_uri() + "#images-2")
        viewer.page.reload()
        viewer.page.wait_for_selector(".viewer[data-ready='1']")
        assert opened.wrong == []


def test_two_models_are_compared_in_the_viewer(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser) as opened:
        viewer = Viewer(opened.file(files["comparison"]))
        seen = []
        for key in ("image", "truth", "first", "second", "differ", "first_errors", "second_errors"):
            viewer.look(key)
            seen.append(viewer.pixels())
        assert len(set(seen)) == 7
        viewer.look("second", against="first")
        assert "<img src=x" in viewer.part("left").inner_text() and opened.wrong == []


def test_names_are_shown_as_they_are(browser: Any, files: dict[str, Path]) -> None:
    with Opened(browser) as opened:
        viewer = Viewer(opened.file(files["evaluation"]))
        names = viewer.page.locator(".toggles bdi").all_inner_texts()
        assert names[1] == made_pages.MARKUP and names[3] == made_pages.LONG and "\\u202e" in names[2]
        assert viewer.part("name").inner_text() in (made_pages.MARKUP, made_pages.LONG, names[2])


def test_paper_has_the_images_side_by_side(browser: Any, files: dict[str, Path], tmp_path: Path) -> None:
    with Opened(browser) as opened:
        viewer = Viewer(opened.file(files["evaluation"]))
        viewer.page.wait_for_selector(".viewer[data-printable]")
        viewer.page.pdf(path=tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
        assert viewer.page.locator(".paper-row").count() == 3
        assert viewer.page.locator(".paper-row canvas").count() == 3 * 4
        assert viewer.part("count").inner_text() == "1 of 3" and opened.wrong == []
