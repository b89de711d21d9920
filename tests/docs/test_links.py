"""Every link of README and docs leads somewhere: files, images and anchors; nothing is taken from the network."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from doc_blocks import ROOT, pages

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
MADE = {"reference/cli.md", "reference/config.md", "reference/api.md", "project/contributing.md", "project/security.md",
        "project/changelog.md"}  # fmt: skip


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them, and those that it names itself."""
    text = page.read_text(encoding="utf-8")
    found = set(re.findall(r'id="([^"]+)"', text))
    for heading in re.findall(r"^#+ (.*)$", _FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)).strip().lower()
        found.add(re.sub(r"[\s]+", "-", plain))
    return found


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        if place.is_relative_to(ROOT / "docs") and str(place.relative_to(ROOT / "docs")) in MADE:
            continue
        assert place.exists(), f"{page.name}: {target}"
        if anchor and place.suffix == ".md":
            assert anchor in anchors(place), f"{page.name}: {target}: {sorted(anchors(place))}"


def test_the_navigation_lists_pages_that_exist() -> None:
    def listed(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry if isinstance(entry, list) else list(entry.values()) if isinstance(entry, dict) else []
        return [name for value in values for name in listed(value)]

    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(listed(yaml.safe_load(text)["nav"]))
    docs = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    assert named - MADE <= docs


def test_the_images_of_the_docs_are_small() -> None:
    images = [path for path in (ROOT / "docs" / "images").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in images) < 4_000_000
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages())
    unused = [path.name for path in images if path.name not in text]
    assert not unused, unused


def test_the_site_takes_nothing_from_the_network() -> None:
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert settings["theme"]["font"] is False and "repo_url" not in settings
    assert not any("://" in str(name) for kind in ("extra_css", "extra_javascript") for name in settings.get(kind, []))
