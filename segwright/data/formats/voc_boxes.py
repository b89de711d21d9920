"""VOC's annotations for detection as weak labels: an XML with boxes per image, beside it or in ``Annotations/``.

Read only where the rule for sparse labels states what a box means (:mod:`segwright.data.annotations.sparse`): else they
are refused with the readings. Corners are pixel positions, counted from 1 and both inside, as VOC's development kit has
them. Of boxes that overlap the smaller is on top. Splits are given by folders, else by the lists of ``ImageSets/Main``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from segwright.core.errors import DataError, FormatError, LabelError
from segwright.core.progress import track
from segwright.data.annotations.rasterize import Drawing, annotated_space, fill_name
from segwright.data.annotations.sparse import LabelRule, box_choices
from segwright.data.formats.base import Format, label_rule, pairing_problems
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all
from segwright.data.formats.file_tree import Tree, is_image, read_bytes, read_ends, stem
from segwright.data.formats.name_parts import split_of
from segwright.data.formats.published_layout import assemble
from segwright.data.formats.shapes import Figure, Figures, FiguresReader, class_names, reading_of, unlisted_images
from segwright.data.records import Dataset, Problem, Record
from segwright.data.text_files import read_text

MAX_BYTES = 20_000_000
LOOKED_AT = 5
SPLITS = ("train", "val", "test")


@dataclass
class VocBoxesReader(FiguresReader):
    """Draws the larger box first."""

    def drawing(self, record: Record) -> Drawing | None:
        drawing = super().drawing(record)
        if drawing is not None:
            drawing.sort_by_area = True
        return drawing


def read_boxes(path: Path) -> tuple[str, Figures]:
    """(the image's name, its boxes) of one XML; LabelError naming it."""
    try:
        root = fromstring(read_bytes(path, MAX_BYTES))
        figures = [_figure(one) for one in root.iter("object")]
        height, width = (int(float(root.findtext(f"size/{side}") or 0)) for side in ("height", "width"))
        return (root.findtext("filename") or "").strip(), Figures(str(path), tuple(figures), height, width)
    except (ValueError, OverflowError, SyntaxError, DefusedXmlException, TypeError) as error:
        raise LabelError(
            "not an annotation of VOC",
            expected="<annotation> with <object>s, each with a <name> and a <bndbox> of numbers",
            found=str(error)[:120],
            where=path,
            fix="export it again",
        ) from error


def _figure(one: Any) -> Figure:
    sides = [float(one.findtext(f"bndbox/{side}") or "nan") - 1 for side in ("xmin", "ymin", "xmax", "ymax")]
    return Figure((one.findtext("name") or "").strip(), "pixel box", tuple(sides))


def _files(tree: Tree) -> list[Path]:
    """The XML files of folders whose first ones hold boxes."""
    if "voc boxes" not in tree.memo:
        found: list[Path] = []
        for _, listing in () if tree.is_file else tree.walk():
            paths = [Path(listing.path, name) for name in listing.files if name.lower().endswith(".xml")]
            if any("<bndbox>" in read_ends(path) for path in paths[:LOOKED_AT]):
                found += paths
        tree.memo["voc boxes"] = found
    return list(tree.memo["voc boxes"])


def detect(tree: Tree) -> str | None:
    rule: LabelRule = tree.memo.get("label rule", LabelRule())
    files = _files(tree) if rule.boxes != "auto" else []
    return f"{len(files)} XML files with boxes" if files else None


def open_voc_boxes(tree: Tree) -> Dataset:
    files, rule = _files(tree), label_rule(tree)
    if not files or rule.boxes == "auto":
        raise FormatError(
            "these are boxes, not masks: VOC's annotations for detection" if files else "no boxes of VOC",
            expected="an XML with boxes per image, and what a box means",
            found=tree.summary(), where=tree.root, fix=box_choices(),
        )  # fmt: skip
    read: list[tuple[Path, str, Figures]] = []
    problems: list[Problem] = []
    for path in track(files, "reading boxes"):
        try:
            read.append((path, *read_boxes(path)))
        except DataError as error:
            problems.append(Problem("error", "unreadable annotation", error.message, (str(path),), error.fix))
    references = [Reference(_image_name(tree, path, name), path, split_of(path.parent.name)) for path, name, _ in read]
    resolved = resolve_all(tree, references)
    twice = {image: numbers for image, numbers in resolved.shared.items() if len(numbers) > 1}
    if twice:
        problems.append(claimed_twice(references, twice, tree.root))
    kept = [
        (reference, image, figures)
        for reference, image, (_, _, figures) in zip(references, resolved.paths, read, strict=True)
        if image is not None and image not in twice
    ]
    figures = [figure for _, _, one in kept for figure in one.figures]
    if not figures:
        raise FormatError(
            "no box of an image that is here", expected=", ".join(r.name for r in references[:3]) or "<bndbox>",
            found=f"{len(read)} annotations; {tree.summary()}", where=tree.root, fix="put the images beside the XML",
        )  # fmt: skip
    choice = reading_of(rule, [one.figures for _, _, one in kept])
    names, listed = class_names(tree, {figure.label for figure in figures})
    space, index, background = annotated_space(names, rest_ignored=choice.reading.rest == "ignored")
    inside = "boxes in full"
    if rule.boxes == "core":
        inside = "the inner fifth of each box is its class, the rest of it ignored"
    fill = fill_name(space, background)
    notes = [
        f"{len(names)} classes{listed}; {inside}; what no box covers is {fill}; the smaller box is on top",
        *choice.notes,
        *choice.reading.notes(fill, strokes=False),
    ]
    reader = VocBoxesReader(space, index=index, background=background, reading=choice.reading)
    lone = unlisted_images(tree, [image for _, image, _ in kept])
    splits = _splits(tree)
    pairs = [(reference.split or splits.get(image.stem), image, None) for reference, image, _ in kept]
    problems += [*resolved.problems, *pairing_problems(lone, [])]
    return assemble(tree, "voc_boxes", pairs, reader, notes, problems, payloads=[one for _, _, one in kept])


def _image_name(tree: Tree, path: Path, name: str) -> str:
    """The image that an XML names; of one without a name that of its stem beside it or in JPEGImages."""
    if name:
        return name
    if "voc box images" not in tree.memo:
        images: dict[tuple[str, str], list[str]] = {}
        for _, listing in tree.walk():
            for file in filter(is_image, listing.files):
                images.setdefault((listing.path, stem(file)), []).append(file)
        tree.memo["voc box images"] = images
    places = [path.parent, *[path.parent.parent / folder for folder in ("JPEGImages", "images")]]
    beside = [file for place in places for file in tree.memo["voc box images"].get((str(place), path.stem), ())]
    return beside[0] if len(beside) == 1 else f"{path.stem}.jpg"


def _splits(tree: Tree) -> Mapping[str, str]:
    """Image → split, by the lists train.txt, val.txt and test.txt."""
    found: dict[str, str] = {}
    for relative, listing in () if tree.is_file else tree.walk():
        if relative.endswith("ImageSets/Main"):
            for split in SPLITS:
                if f"{split}.txt" in listing.files:
                    lines = read_text(Path(listing.path, f"{split}.txt")).splitlines()
                    found |= {stem(line.split()[0]): split for line in lines if line.strip()}
    return found


FORMAT = Format(
    "voc_boxes",
    "PASCAL VOC's boxes",
    "an XML with boxes per image, with --boxes core or fill",
    detect,
    open_voc_boxes,
)
