"""``check --html``: the dataset on one page: findings with their images, classes, sizes, samples."""

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
from segwright.core.counted import counted
from segwright.core.errors import SegwrightError
from segwright.core.progress import visible
from segwright.core.types import Color, LabelSpace, blend, distinct_colors
from segwright.data.annotations.rasterize import BACKGROUND_NAMES
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.label_outliers import LabelOutlier
from segwright.data.check.report_text import describe, objects_text
from segwright.data.check.rules import BY_KIND
from segwright.data.check.runner import CheckResult
from segwright.data.records import Dataset, Problem, Record, evenly_spread
from segwright.imageio import UInt8Array
from segwright.reports import Number

SAMPLES = 12
SHOWN = 4  # images per finding
FILES = 40  # file names per finding
PALE = 200  # a color with no channel darker
RED = np.array([235, 40, 40], np.uint8)
FEW = 6  # classes that never occur are listed by name beyond so many, and not in rows of zeros
COMMAND = re.compile(r"(?:segwright|exiftool|rio|gdal\w+|sed|mv|ffmpeg|git|pip) ")
STYLES = {"error": "bad", "warning": "warn", "note": "note"}  # CSS classes

Figure = tuple[bytes, str]  # an encoded image and its caption


def write_check_page(result: CheckResult, path: str | Path) -> Path:
    """Write one self-contained HTML file atomically and return its path.

    UsageError if the path is a file of the dataset, OutputError if it cannot be written.
    """
    refuse_data_file(path, result.root, b"<!doctype html")
    found = result.fingerprint
    examined = result.dataset is not None and found is not None and found.examined
    document = reports.page(
        "check.html.j2",
        title=f"Check: {visible(result.root.name)}",
        name=result.root.resolve().name or str(result.root),
        source=f"{result.format}: {result.root}",
        tiles=_headline(result),
        opened=[*result.notes, *(describe(found) if found is not None and found.examined else ())],
        findings=_findings(result),
        classes=_classes(result, found) if examined and found is not None and found.labeled else None,
        sizes=_sizes(found) if examined and found is not None else None,
        samples=_samples(result) if examined else None,
        command=f"segwright check {shlex.quote(str(result.root))} --html {shlex.quote(Path(path).name)}",
    )
    with typed_output(path):
        return reports.write_page(path, document)


def _safe_to_open(problem: Problem) -> bool:
    """Whether the files of a finding may be opened again."""
    rule = BY_KIND.get(problem.kind)
    return rule is None or rule.safe_to_open


def _headline(result: CheckResult) -> list[Number]:
    counts = {severity: sum(p.severity == severity for p in result.problems) for severity in STYLES}
    splits = ", ".join(f"{name} {count}" for name, count in result.splits.items())
    tiles = [
        Number("Errors", str(counts["error"]), "to be fixed before training" if counts["error"] else ""),
        Number("Warnings", str(counts["warning"]), counted(counts["note"], "note")),
        Number("Images", str(result.images), splits),
    ]
    found = result.fingerprint
    if found is not None:
        seen = sum(1 for images in found.class_images if images)
        tiles.append(Number("Classes", str(seen), f"of {len(found.class_names)} named occur"))
    return tiles


def _findings(result: CheckResult) -> list[dict[str, Any]]:
    by_file = {}
    for record in result.records:
        for path in (record.mask_path, record.image_path):
            if path is not None:
                by_file[str(path)] = record
    return [_finding(problem, result, by_file) for problem in result.problems]


def _finding(problem: Problem, result: CheckResult, by_file: dict[str, Record]) -> dict[str, Any]:
    shown = [visible(file) for file in problem.files[:FILES]]
    rest = len(problem.files) - len(shown)
    rule = BY_KIND.get(problem.kind)
    return {
        "kind": problem.kind,
        "about": "" if rule is None else rule.about,
        "severity": problem.severity,
        "style": STYLES[problem.severity],
        "message": problem.message,
        "fix": problem.fix,
        "fix_is_command": problem.fix is not None and COMMAND.match(problem.fix) is not None,
        "images": _thumbnails(problem, result, by_file) if _safe_to_open(problem) else [],
        "files_text": counted(len(problem.files), "file"),
        "listing": "\n".join([*shown, *([f"… and {rest} more: --json lists all"] if rest else [])]),
    }


def _thumbnails(problem: Problem, result: CheckResult, by_file: dict[str, Record]) -> list[Figure]:
    if result.dataset is None:
        return []
    outliers = {one.record: one for one in result.outliers} if problem.kind == "suspicious masks" else {}
    places = {record.id: index for index, record in enumerate(result.records)} if outliers else {}
    figures: list[Figure] = []
    for file in problem.files:
        record = by_file.get(file)
        if record is None or len(figures) >= SHOWN:
            continue
        outlier = outliers.get(places.get(record.id, -1))
        drawn = _draw(result.dataset, record, outlier)
        if drawn is not None:
            figures.append((reports.encode_thumbnail(drawn, 300), _caption(record, outlier, result)))
    return figures


def _caption(record: Record, outlier: LabelOutlier | None, result: CheckResult) -> str:
    if outlier is None or result.fingerprint is None:
        return visible(record.id)
    names = result.fingerprint.class_names
    return f"{visible(record.id)}: labeled {names[outlier.label]}, looks like {names[outlier.looks_like]}"


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
    """The classes' colors for drawing over images: background is transparent (black), and a color too pale or too dark
    to be seen over an image is replaced."""
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


def _classes(result: CheckResult, found: Fingerprint) -> dict[str, Any]:
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
        cells: list[object] = [
            found.class_images[index],
            f"{scale.low:.0f} – {scale.median:.0f} – {scale.high:.0f}" if scale else "–",
        ]
        cells += [objects_text(result, index)] if result.objects else []
        cells += [f"{100 * result.by_split[part].class_shares[index]:.2f} %" for part in compare]
        rows.append(
            {
                "name": name,
                "color": colors[index],
                "bar": share / most,
                "share": f"{100 * share:.2f} %",
                "cells": cells,
            }
        )
    headers = ["class", "share of the labeled pixels", "images", "region size, px: 10 – 50 – 90 %"]
    headers += ["objects", *compare] if result.objects else compare
    note = "Region size: the square root of a connected region's area. Regions are weighted by their size."
    if result.objects:
        note += " Objects: the number of annotated objects, and if some cover no pixel, how many do."
    together = _together(found) if 1 < len(found.class_names) <= 40 else None
    return {"note": note, "headers": headers, "rows": rows, "absent": absent, "together": together}


def _together(found: Fingerprint) -> reports.Markup:
    counts = np.array(found.cooccurrence, np.float64)
    own = np.diag(counts)[:, None]
    shares = np.divide(counts, own, out=np.full_like(counts, np.nan), where=own > 0)
    return reports.heatmap(shares, found.class_names, rows="contains", columns="also")


def _sizes(found: Fingerprint) -> dict[str, Any]:
    if found.same_size:
        return {"sentence": f"All images are {found.width[0]} px wide and {found.height[0]} px high."}
    chart = None
    if len({(h, w) for h, w, _ in found.sizes}) >= 4:  # fewer points show nothing
        series = [reports.Series("images", [w for _, w, _ in found.sizes], [h for h, _, _ in found.sizes])]
        chart = reports.scatter_chart(series, x_label="width, px", y_label="height, px")
    rows = [(f"{h}×{w}", n, f"{w / h:.2f}") for h, w, n in found.sizes]
    return {"sentence": "", "chart": chart, "rows": rows}


def _samples(result: CheckResult) -> dict[str, Any]:
    """Images spread evenly over the data, with their labels."""
    assert result.dataset is not None
    bad = {file for problem in result.problems if not _safe_to_open(problem) for file in problem.files}
    usable = [r for r in result.records if str(r.image_path) not in bad and str(r.mask_path) not in bad]
    figures: list[Figure] = []
    for place in evenly_spread(len(usable), SAMPLES):
        drawn = _draw(result.dataset, usable[place])
        if drawn is not None:
            figures.append((reports.encode_thumbnail(drawn, 320), visible(usable[place].id)))
    space = result.dataset.label_space
    occurring = result.fingerprint.class_pixels if result.fingerprint is not None else ()
    named = zip(space.names, overlay_palette(space), occurring, strict=True)
    legend = [(name, color) for name, color, pixels in named if pixels and any(color)][:60]
    return {"legend": legend, "images": figures}
