"""``check --html``: the data set on one page: findings with the pictures they are about, classes, sizes, samples."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright import pages
from segwright.console import visible
from segwright.data.check_text import describe, objects_text
from segwright.data.drawing import BACKGROUND_NAMES
from segwright.data.fingerprint import Fingerprint
from segwright.data.inspect import CheckResult
from segwright.data.records import Dataset, Problem, Record, evenly_spread
from segwright.data.suspects import Suspect
from segwright.errors import SegwrightError
from segwright.files import refuse_data_file, typed_output
from segwright.images import UInt8Array
from segwright.types import Colour, LabelSpace, blend, distinct_colours

SAMPLES = 12
SHOWN = 4  # pictures a finding
FILES = 40  # file names a finding
PALE = 200  # a colour with no channel darker
RED = np.array([235, 40, 40], np.uint8)
# Files behind these findings have defeated a decoder, or are no pictures: they are named, not opened.
UNSAFE = frozenset(
    {"truncated file", "bomb-sized file", "disguised file", "empty file", "unreadable file", "kills the decoder"}
)
FEW = 6  # classes that never occur are listed by name beyond so many, and not in rows of zeros
COMMAND = re.compile(r"(?:segwright|exiftool|rio|gdal\w+|sed|mv|ffmpeg|git|pip) ")
KINDS = {"error": "bad", "warning": "warn", "note": "note"}


def write_check_page(result: CheckResult, path: str | Path) -> Path:
    """Write one self-contained HTML file, whole or not at all; returns its path.

    UsageError where a file of the data set stands there, OutputError where the system refuses.
    """
    refuse_data_file(path, result.root, b"<!doctype html")
    body = [_head(result), _findings(result)]
    found = result.fingerprint
    if found is not None and result.dataset is not None and found.examined:
        if found.labelled:
            body.append(_classes(result, found))
        body += [_sizes(found), _samples(result)]
    footer = f"segwright check {shlex.quote(str(result.root))} --html {shlex.quote(Path(path).name)}"
    document = pages.page(f"Check: {visible(result.root.name)}", *body, footer=footer)
    with typed_output(path):
        return pages.write_page(path, document)


def _head(result: CheckResult) -> pages.Markup:
    counts = {severity: sum(p.severity == severity for p in result.problems) for severity in KINDS}
    splits = ", ".join(f"{name} {count}" for name, count in result.splits.items())
    found = result.fingerprint
    tiles = [
        pages.Number("Errors", str(counts["error"]), "no training before they are mended" if counts["error"] else ""),
        pages.Number("Warnings", str(counts["warning"]), f"{counts['note']} note{'' if counts['note'] == 1 else 's'}"),
        pages.Number("Pictures", str(result.images), splits),
    ]
    if found is not None:
        seen = sum(1 for images in found.class_images if images)
        tiles.append(pages.Number("Classes", str(seen), f"of {len(found.class_names)} named occur"))
    name = result.root.resolve().name or str(result.root)
    lines = [*result.notes, *(describe(found) if found is not None and found.examined else ())]
    head = pages.heading(visible(name), f"{result.format}: {visible(str(result.root))}", kicker="Data check")
    opened = pages.details("What was found while opening", *(pages.paragraph(line) for line in lines))
    return pages.join((head, pages.numbers(tiles), opened if lines else ""))


def _findings(result: CheckResult) -> pages.Markup:
    if not result.problems:
        return pages.section("Findings", pages.paragraph("Nothing to complain of.", kind="good"))
    by_file = {}
    for record in result.records:
        for path in (record.mask_path, record.image_path):
            if path is not None:
                by_file[str(path)] = record
    return pages.section(
        "Findings",
        *(_finding(problem, result, by_file) for problem in result.problems),
        note="Errors keep a training from starting; warnings are worth a look; notes say what was concluded.",
    )


def _finding(problem: Problem, result: CheckResult, by_file: dict[str, Record]) -> pages.Markup:
    parts: list[object] = [
        pages.paragraph(pages.tag("strong", f"{problem.severity}: "), problem.message, kind=KINDS[problem.severity])
    ]
    if problem.fix:
        command = COMMAND.match(problem.fix) is not None
        parts.append(
            pages.paragraph(pages.tag("strong", "Fix: "), pages.tag("code" if command else "span", problem.fix))
        )
    thumbs = [] if problem.kind in UNSAFE else _thumbnails(problem, result, by_file)
    if thumbs:
        parts.append(pages.tag("div", *thumbs, class_="strip"))
    if problem.files:
        shown = [visible(file) for file in problem.files[:FILES]]
        rest = len(problem.files) - len(shown)
        listing = "\n".join([*shown, *([f"… and {rest} more: --json lists all"] if rest else [])])
        parts.append(
            pages.details("1 file" if len(problem.files) == 1 else f"{len(problem.files)} files", pages.code(listing))
        )
    return pages.card(*parts, title=problem.kind)


def _thumbnails(problem: Problem, result: CheckResult, by_file: dict[str, Record]) -> list[pages.Markup]:
    if result.dataset is None:
        return []
    suspects = {one.record: one for one in result.suspects} if problem.kind == "suspicious masks" else {}
    places = {record.id: index for index, record in enumerate(result.records)} if suspects else {}
    figures: list[pages.Markup] = []
    for file in problem.files:
        record = by_file.get(file)
        if record is None or len(figures) >= SHOWN:
            continue
        suspect = suspects.get(places.get(record.id, -1))
        drawn = _draw(result.dataset, record, suspect)
        if drawn is not None:
            figures.append(pages.figure(pages.encode_thumbnail(drawn, 300), _caption(record, suspect, result)))
    return figures


def _caption(record: Record, suspect: Suspect | None, result: CheckResult) -> str:
    if suspect is None or result.fingerprint is None:
        return visible(record.id)
    names = result.fingerprint.class_names
    return f"{visible(record.id)}: called {names[suspect.label]}, looks like {names[suspect.looks_like]}"


def _draw(dataset: Dataset, record: Record, suspect: Suspect | None = None) -> UInt8Array | None:
    """The picture with its labels laid over; values outside the classes in red, a suspect's region ringed."""
    try:
        image = _rgb(dataset.reader.image(record))
    except (SegwrightError, OSError, ValueError, MemoryError):
        return None
    try:
        mask = dataset.reader.mask(record)
        if mask is not None and mask.shape == image.shape[:2]:
            palette = np.zeros((256, 3), np.uint8)
            palette[: len(dataset.label_space)] = shown_colours(dataset.label_space)
            image = blend(image, palette[mask], 0.5)
    except SegwrightError:
        image = _mark_stray(dataset, record, image)
    if suspect is not None:
        height, width = image.shape[:2]
        centre = (round(suspect.x * width), round(suspect.y * height))
        radius = max(8, round(0.5 * float(np.sqrt(suspect.area * height * width))))
        thick = max(2, width // 150)
        cv2.circle(image, centre, radius, (255, 255, 255), thick + 2)
        cv2.circle(image, centre, radius, (235, 40, 40), thick)
    return image


def shown_colours(space: LabelSpace) -> tuple[Colour, ...]:
    """The classes' colours for drawing over pictures: a background leaves the picture as it is (black), and what is so
    pale or so grey that it would only wash a picture out gets a colour of its own."""
    own = distinct_colours(len(space))
    shown = []
    for index, (name, colour) in enumerate(zip(space.names, space.colours, strict=True)):
        if name.strip().lower() in BACKGROUND_NAMES:
            shown.append((0, 0, 0))
        elif min(colour) >= PALE or not any(colour):
            shown.append(own[index])
        else:
            shown.append(colour)
    return tuple(shown)


def _mark_stray(dataset: Dataset, record: Record, image: UInt8Array) -> UInt8Array:
    try:
        values = dataset.reader.values(record)
    except SegwrightError:
        return image
    if values is None or values.shape != image.shape[:2]:
        return image
    lookup = dataset.label_space.lookup()
    inside = (values >= 0) & (values < lookup.size)
    stray = ~inside | (lookup[np.where(inside, values, 0)] < 0)
    dimmed: npt.NDArray[Any] = image // 2
    return np.where(stray[..., None], RED, dimmed).astype(np.uint8)


def _rgb(image: UInt8Array) -> UInt8Array:
    if image.shape[2] == 3:
        return np.ascontiguousarray(image)
    bands = [0, 1, 2] if image.shape[2] > 3 else [0, 0, 0]
    return np.ascontiguousarray(image[..., bands])


def _classes(result: CheckResult, found: Fingerprint) -> pages.Markup:
    assert result.dataset is not None
    colours = shown_colours(result.dataset.label_space)
    absent = [
        name
        for index, (name, pixels) in enumerate(zip(found.class_names, found.class_pixels, strict=True))
        if not pixels and not result.objects.get(index, (0, 0))[0]
    ]
    absent = absent if len(absent) > FEW else []
    most = max(max(found.class_shares), 1e-9)
    parts = [name for name, one in result.by_split.items() if one.labelled]
    compare = parts if len(parts) > 1 else []
    rows = []
    for index, name in enumerate(found.class_names):
        if name in absent:
            continue
        share, scale = found.class_shares[index], found.scales[index]
        row: list[object] = [
            pages.join((pages.swatch(colours[index]), name)),
            pages.bar(share / most, colour=colours[index], label=f"{100 * share:.2f} %"),
            found.class_images[index],
            f"{scale.low:.0f} – {scale.median:.0f} – {scale.high:.0f}" if scale else "–",
        ]
        row += [objects_text(result, index)] if result.objects else []
        row += [f"{100 * result.by_split[part].class_shares[index]:.2f} %" for part in compare]
        rows.append(row)
    headers = ["class", "share of the labelled pixels", "pictures", "region size, px: 10 – 50 – 90 %"]
    headers += ["objects", *compare] if result.objects else compare
    numeric = range(2, len(headers))
    body: list[object] = [pages.table(headers, rows, numeric=list(numeric))]
    if absent:
        listed = ", ".join(absent)
        body.append(pages.paragraph(f"{len(absent)} classes never occur: {listed}.", kind="note"))
    if 1 < len(found.class_names) <= 40:
        body.append(pages.details("Which classes occur together", _together(found)))
    note = "Region size: the square root of a connected region's area. A region counts by its size."
    if result.objects:
        note += " Objects: those that are annotated; where some cover no pixel, how many do."
    return pages.section("Classes", *body, note=note)


def _together(found: Fingerprint) -> pages.Markup:
    counts = np.array(found.cooccurrence, np.float64)
    own = np.diag(counts)[:, None]
    shares = np.divide(counts, own, out=np.full_like(counts, np.nan), where=own > 0)
    return pages.join(
        (
            pages.paragraph("Of the pictures that show the row's class, how many show the column's, in per cent."),
            pages.heatmap(shares, found.class_names, rows="shows", columns="also"),
        )
    )


def _sizes(found: Fingerprint) -> pages.Markup:
    if found.same_size:
        text = f"All pictures are {found.width[0]} wide and {found.height[0]} high."
        return pages.section("Sizes", pages.paragraph(text))
    rows = [(f"{h}×{w}", n, f"{w / h:.2f}") for h, w, n in found.sizes]
    listing = pages.table(["height×width", "pictures", "width / height"], rows, numeric=[1, 2])
    if len({(h, w) for h, w, _ in found.sizes}) < 4:  # so few points are no picture of anything
        return pages.section("Sizes", pages.card(listing))
    series = [pages.Series("pictures", [w for _, w, _ in found.sizes], [h for h, _, _ in found.sizes])]
    return pages.section(
        "Sizes",
        pages.grid(
            pages.card(pages.scatter_chart(series, x_label="width", y_label="height"), title="Height by width, pixels"),
            pages.card(listing),
        ),
        note="The most frequent sizes.",
    )


def _samples(result: CheckResult) -> pages.Markup:
    """Pictures spread evenly over the data, with their labels."""
    assert result.dataset is not None
    bad = {file for problem in result.problems if problem.kind in UNSAFE for file in problem.files}
    usable = [r for r in result.records if str(r.image_path) not in bad and str(r.mask_path) not in bad]
    figures: list[pages.Markup] = []
    for place in evenly_spread(len(usable), SAMPLES):
        drawn = _draw(result.dataset, usable[place])
        if drawn is not None:
            figures.append(pages.figure(pages.encode_thumbnail(drawn, 320), visible(usable[place].id)))
    space = result.dataset.label_space
    occurring = result.fingerprint.class_pixels if result.fingerprint is not None else ()
    named = zip(space.names, shown_colours(space), occurring, strict=True)
    legend = pages.legend([(name, colour) for name, colour, pixels in named if pixels and any(colour)][:60])
    return pages.section("Samples", legend, pages.tag("div", *figures, class_="strip"))
