"""``check --html``: the dataset on one page: findings with the images they are about, classes, sizes, samples."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from segwright import reports
from segwright.core.atomic_io import refuse_data_file, typed_output
from segwright.core.errors import SegwrightError
from segwright.core.progress import visible
from segwright.core.types import Color, LabelSpace, blend, distinct_colors
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.label_outliers import LabelOutlier
from segwright.data.check.report_text import describe, objects_text
from segwright.data.check.runner import CheckResult
from segwright.data.records import Dataset, Problem, Record, evenly_spread
from segwright.imageio import UInt8Array

SAMPLES = 12
SHOWN = 4  # images a finding
FILES = 40  # file names a finding
PALE = 200  # a color with no channel darker
RED = np.array([235, 40, 40], np.uint8)
# Files behind these findings have defeated a decoder, or are no images: they are named, not opened.
UNSAFE = frozenset(
    {"truncated file", "bomb-sized file", "disguised file", "empty file", "unreadable file", "kills the decoder"}
)
FEW = 6  # classes that never occur are listed by name beyond so many, and not in rows of zeros
COMMAND = re.compile(r"(?:segwright|exiftool|rio|gdal\w+|sed|mv|ffmpeg|git|pip) ")
KINDS = {"error": "bad", "warning": "warn", "note": "note"}


def write_check_page(result: CheckResult, path: str | Path) -> Path:
    """Write one self-contained HTML file, whole or not at all; returns its path.

    UsageError where a file of the dataset stands there, OutputError where the system refuses.
    """
    refuse_data_file(path, result.root, b"<!doctype html")
    body = [_head(result), _findings(result)]
    found = result.fingerprint
    if found is not None and result.dataset is not None and found.examined:
        if found.labeled:
            body.append(_classes(result, found))
        body += [_sizes(found), _samples(result)]
    footer = f"segwright check {shlex.quote(str(result.root))} --html {shlex.quote(Path(path).name)}"
    document = reports.page(f"Check: {visible(result.root.name)}", *body, footer=footer)
    with typed_output(path):
        return reports.write_page(path, document)


def _head(result: CheckResult) -> reports.Markup:
    counts = {severity: sum(p.severity == severity for p in result.problems) for severity in KINDS}
    splits = ", ".join(f"{name} {count}" for name, count in result.splits.items())
    found = result.fingerprint
    tiles = [
        reports.Number("Errors", str(counts["error"]), "no training before they are mended" if counts["error"] else ""),
        reports.Number(
            "Warnings", str(counts["warning"]), f"{counts['note']} note{'' if counts['note'] == 1 else 's'}"
        ),
        reports.Number("Images", str(result.images), splits),
    ]
    if found is not None:
        seen = sum(1 for images in found.class_images if images)
        tiles.append(reports.Number("Classes", str(seen), f"of {len(found.class_names)} named occur"))
    name = result.root.resolve().name or str(result.root)
    lines = [*result.notes, *(describe(found) if found is not None and found.examined else ())]
    head = reports.heading(visible(name), f"{result.format}: {visible(str(result.root))}", kicker="Data check")
    opened = reports.details("What was found while opening", *(reports.paragraph(line) for line in lines))
    return reports.join((head, reports.numbers(tiles), opened if lines else ""))


def _findings(result: CheckResult) -> reports.Markup:
    if not result.problems:
        return reports.section("Findings", reports.paragraph("Nothing to complain of.", kind="good"))
    by_file = {}
    for record in result.records:
        for path in (record.mask_path, record.image_path):
            if path is not None:
                by_file[str(path)] = record
    return reports.section(
        "Findings",
        *(_finding(problem, result, by_file) for problem in result.problems),
        note="Errors keep a training from starting; warnings are worth a look; notes say what was concluded.",
    )


def _finding(problem: Problem, result: CheckResult, by_file: dict[str, Record]) -> reports.Markup:
    parts: list[object] = [
        reports.paragraph(reports.tag("strong", f"{problem.severity}: "), problem.message, kind=KINDS[problem.severity])
    ]
    if problem.fix:
        command = COMMAND.match(problem.fix) is not None
        parts.append(
            reports.paragraph(reports.tag("strong", "Fix: "), reports.tag("code" if command else "span", problem.fix))
        )
    thumbs = [] if problem.kind in UNSAFE else _thumbnails(problem, result, by_file)
    if thumbs:
        parts.append(reports.tag("div", *thumbs, class_="strip"))
    if problem.files:
        shown = [visible(file) for file in problem.files[:FILES]]
        rest = len(problem.files) - len(shown)
        listing = "\n".join([*shown, *([f"… and {rest} more: --json lists all"] if rest else [])])
        parts.append(
            reports.details(
                "1 file" if len(problem.files) == 1 else f"{len(problem.files)} files", reports.code(listing)
            )
        )
    return reports.card(*parts, title=problem.kind)


def _thumbnails(problem: Problem, result: CheckResult, by_file: dict[str, Record]) -> list[reports.Markup]:
    if result.dataset is None:
        return []
    outliers = {one.record: one for one in result.outliers} if problem.kind == "suspicious masks" else {}
    places = {record.id: index for index, record in enumerate(result.records)} if outliers else {}
    figures: list[reports.Markup] = []
    for file in problem.files:
        record = by_file.get(file)
        if record is None or len(figures) >= SHOWN:
            continue
        outlier = outliers.get(places.get(record.id, -1))
        drawn = _draw(result.dataset, record, outlier)
        if drawn is not None:
            figures.append(reports.figure(reports.encode_thumbnail(drawn, 300), _caption(record, outlier, result)))
    return figures


def _caption(record: Record, outlier: LabelOutlier | None, result: CheckResult) -> str:
    if outlier is None or result.fingerprint is None:
        return visible(record.id)
    names = result.fingerprint.class_names
    return f"{visible(record.id)}: called {names[outlier.label]}, looks like {names[outlier.looks_like]}"


def _draw(dataset: Dataset, record: Record, outlier: LabelOutlier | None = None) -> UInt8Array | None:
    """The image with its labels laid over; values outside the classes in red, a suspect's region ringed."""
    try:
        image = _rgb(dataset.reader.image(record))
    except (SegwrightError, OSError, ValueError, MemoryError):
        return None
    try:
        mask = dataset.reader.mask(record)
        if mask is not None and mask.shape == image.shape[:2]:
            palette = np.zeros((256, 3), np.uint8)
            palette[: len(dataset.label_space)] = overlay_palette(dataset.label_space)
            image = blend(image, palette[mask], 0.5)
    except SegwrightError:
        image = _mark_unmapped(dataset, record, image)
    if outlier is not None:
        height, width = image.shape[:2]
        center = (round(outlier.x * width), round(outlier.y * height))
        radius = max(8, round(0.5 * float(np.sqrt(outlier.area * height * width))))
        thick = max(2, width // 150)
        cv2.circle(image, center, radius, (255, 255, 255), thick + 2)
        cv2.circle(image, center, radius, (235, 40, 40), thick)
    return image


def overlay_palette(space: LabelSpace) -> tuple[Color, ...]:
    """The classes' colors for drawing over images: a background leaves the image as it is (black), and what is so
    pale or so gray that it would only wash an image out gets a color of its own."""
    own = distinct_colors(len(space))
    shown = []
    for index, (name, color) in enumerate(zip(space.names, space.colors, strict=True)):
        if name.strip().lower() in BACKGROUND_NAMES:
            shown.append((0, 0, 0))
        elif min(color) >= PALE or not any(color):
            shown.append(own[index])
        else:
            shown.append(color)
    return tuple(shown)


def _mark_unmapped(dataset: Dataset, record: Record, image: UInt8Array) -> UInt8Array:
    try:
        values = dataset.reader.values(record)
    except SegwrightError:
        return image
    if values is None or values.shape != image.shape[:2]:
        return image
    lookup = dataset.label_space.lookup()
    inside = (values >= 0) & (values < lookup.size)
    unmapped = ~inside | (lookup[np.where(inside, values, 0)] < 0)
    dimmed: npt.NDArray[Any] = image // 2
    return np.where(unmapped[..., None], RED, dimmed).astype(np.uint8)


def _rgb(image: UInt8Array) -> UInt8Array:
    if image.shape[2] == 3:
        return np.ascontiguousarray(image)
    bands = [0, 1, 2] if image.shape[2] > 3 else [0, 0, 0]
    return np.ascontiguousarray(image[..., bands])


def _classes(result: CheckResult, found: Fingerprint) -> reports.Markup:
    assert result.dataset is not None
    colors = overlay_palette(result.dataset.label_space)
    absent = [
        name
        for index, (name, pixels) in enumerate(zip(found.class_names, found.class_pixels, strict=True))
        if not pixels and not result.objects.get(index, (0, 0))[0]
    ]
    absent = absent if len(absent) > FEW else []
    most = max(max(found.class_shares), 1e-9)
    parts = [name for name, one in result.by_split.items() if one.labeled]
    compare = parts if len(parts) > 1 else []
    rows = []
    for index, name in enumerate(found.class_names):
        if name in absent:
            continue
        share, scale = found.class_shares[index], found.scales[index]
        row: list[object] = [
            reports.join((reports.swatch(colors[index]), name)),
            reports.bar(share / most, color=colors[index], label=f"{100 * share:.2f} %"),
            found.class_images[index],
            f"{scale.low:.0f} – {scale.median:.0f} – {scale.high:.0f}" if scale else "–",
        ]
        row += [objects_text(result, index)] if result.objects else []
        row += [f"{100 * result.by_split[part].class_shares[index]:.2f} %" for part in compare]
        rows.append(row)
    headers = ["class", "share of the labeled pixels", "images", "region size, px: 10 – 50 – 90 %"]
    headers += ["objects", *compare] if result.objects else compare
    numeric = range(2, len(headers))
    body: list[object] = [reports.table(headers, rows, numeric=list(numeric))]
    if absent:
        listed = ", ".join(absent)
        body.append(reports.paragraph(f"{len(absent)} classes never occur: {listed}.", kind="note"))
    if 1 < len(found.class_names) <= 40:
        body.append(reports.details("Which classes occur together", _together(found)))
    note = "Region size: the square root of a connected region's area. A region counts by its size."
    if result.objects:
        note += " Objects: those that are annotated; where some cover no pixel, how many do."
    return reports.section("Classes", *body, note=note)


def _together(found: Fingerprint) -> reports.Markup:
    counts = np.array(found.cooccurrence, np.float64)
    own = np.diag(counts)[:, None]
    shares = np.divide(counts, own, out=np.full_like(counts, np.nan), where=own > 0)
    return reports.join(
        (
            reports.paragraph("Of the images that show the row's class, how many show the column's, in per cent."),
            reports.heatmap(shares, found.class_names, rows="shows", columns="also"),
        )
    )


def _sizes(found: Fingerprint) -> reports.Markup:
    if found.same_size:
        text = f"All images are {found.width[0]} wide and {found.height[0]} high."
        return reports.section("Sizes", reports.paragraph(text))
    rows = [(f"{h}×{w}", n, f"{w / h:.2f}") for h, w, n in found.sizes]
    listing = reports.table(["height×width", "images", "width / height"], rows, numeric=[1, 2])
    if len({(h, w) for h, w, _ in found.sizes}) < 4:  # so few points are no image of anything
        return reports.section("Sizes", reports.card(listing))
    series = [reports.Series("images", [w for _, w, _ in found.sizes], [h for h, _, _ in found.sizes])]
    return reports.section(
        "Sizes",
        reports.grid(
            reports.card(
                reports.scatter_chart(series, x_label="width", y_label="height"), title="Height by width, pixels"
            ),
            reports.card(listing),
        ),
        note="The most frequent sizes.",
    )


def _samples(result: CheckResult) -> reports.Markup:
    """Images spread evenly over the data, with their labels."""
    assert result.dataset is not None
    bad = {file for problem in result.problems if problem.kind in UNSAFE for file in problem.files}
    usable = [r for r in result.records if str(r.image_path) not in bad and str(r.mask_path) not in bad]
    figures: list[reports.Markup] = []
    for place in evenly_spread(len(usable), SAMPLES):
        drawn = _draw(result.dataset, usable[place])
        if drawn is not None:
            figures.append(reports.figure(reports.encode_thumbnail(drawn, 320), visible(usable[place].id)))
    space = result.dataset.label_space
    occurring = result.fingerprint.class_pixels if result.fingerprint is not None else ()
    named = zip(space.names, overlay_palette(space), occurring, strict=True)
    legend = reports.legend([(name, color) for name, color, pixels in named if pixels and any(color)][:60])
    return reports.section("Samples", legend, reports.tag("div", *figures, class_="strip"))
