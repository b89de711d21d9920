"""A CSV, JSON or text file of pairs: an image and its mask per line, and optionally a split.

With a header, the columns are found by name (``image, mask, split`` and their usual variants); without, the first two
columns are image and mask. Paths may be relative to the list or absolute; those of another machine are found by
their ends below the list's folder.
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError
from segwright.data.formats.base import SPLIT_NAMES, Format, sort_splits, unique_ids
from segwright.data.formats.file_references import MISSING_KINDS, Reference, resolve_all, surroundings
from segwright.data.formats.file_tree import Tree, is_image, read_text, stem
from segwright.data.formats.folder_roles import Role, describe_folder, is_rendering
from segwright.data.formats.mask_encoding import infer_encoding
from segwright.data.formats.name_parts import split_of_part
from segwright.data.mask_files import ARRAY_ENDINGS
from segwright.data.readers import FileReader
from segwright.data.records import Dataset, Problem, Record
from segwright.data.text_files import delimiter_of, table_rows

IMAGE_COLUMNS = ("image", "images", "img", "image_path", "imagepath", "image_file", "picture", "photo", "filename",
                 "file_name", "file", "input", "x")  # fmt: skip
MASK_COLUMNS = ("mask", "masks", "label", "mask_path", "maskpath", "label_path", "annotation", "annotation_path", "gt",
                "seg", "segmentation", "target", "mask_file", "label_file", "y")  # fmt: skip
SPLIT_COLUMNS = ("split", "subset", "set", "fold", "part", "usage")
JSON_ENDINGS = (".json", ".jsonl")
ENDINGS = (".csv", ".tsv", ".txt", ".lst", *JSON_ENDINGS)
METADATA = ("metadata.csv", "metadata.jsonl")
MOSTLY = 0.9  # of the images of a list have a mask of their own
MAX_JSON = 64_000_000
MAX_BYTES = 500_000_000
_ELSEWHERE = re.compile(r"[/\\]|[A-Za-z]:|[a-z]+://")  # how an absolute path begins


@dataclass(frozen=True)
class Line:
    image: str
    mask: str | None
    split: str | None


def read_lines(path: Path) -> list[Line]:
    """The pairs of one list; empty where it is none. DataError where the file is no text."""
    try:
        if path.suffix.lower() in JSON_ENDINGS:
            rows = _objects(path)
        else:
            rows = _rows("\n".join(_without_comments(path)))
            rows = _beside(path, rows) or rows
    except csv.Error:
        return []  # somebody's text with a comma in it
    if not rows:
        return []
    header = [re.sub(r"[^a-z0-9]+", "_", cell.lower()).strip("_") for cell in rows[0]]
    image = _place(header, IMAGE_COLUMNS, _IMAGE_WORDS, _MASK_WORDS)
    mask = _place(header, MASK_COLUMNS, _MASK_WORDS, frozenset())
    split = _place(header, SPLIT_COLUMNS, frozenset(), frozenset())
    headed = image is not None and mask is not None and image != mask and not is_image(rows[0][image])
    if not headed or image is None or mask is None:
        if len(rows[0]) < 2 or not (is_image(rows[0][0]) and _is_mask(rows[0][1])):
            return []
        image, mask, body = 0, 1, rows
        split = 2 if len(rows[0]) > 2 and rows[0][2].lower() in SPLIT_NAMES else None
    else:
        body = rows[1:]
    listed_split = split_of_part(path.stem)
    if listed_split is None and path.name.lower() in METADATA:
        listed_split = split_of_part(path.parent.name)
    lines = []
    for row in body:
        cells = [*row, *[""] * 8]
        named = cells[split].lower() if split is not None else ""
        lines.append(Line(cells[image], cells[mask] or None, SPLIT_NAMES.get(named, named) or listed_split))
    # Names without an ending, as ids, only under a header that names them; numbers under x and y are coordinates
    points = header[image] == "x" and header[mask] == "y"
    return [
        line
        for line in lines
        if is_image(line.image) or (headed and _is_id(line.image) and not (points and line.image.isdecimal()))
    ]


def _objects(path: Path) -> list[list[str]]:
    """The rows of a JSON list of objects with an image and a mask each, or of such an object per line; [] for others.

    Lists under the names of splits (``{"training": [{"image": …, "label": …}]}``) give their splits.
    """
    if not path.is_file() or path.stat().st_size > MAX_JSON:  # a link to nothing, or annotations
        return []
    text = read_text(path, MAX_JSON)
    try:
        if path.suffix.lower() == ".jsonl":
            found: object = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            found = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if isinstance(found, dict):
        if listed := _columns(found):
            return listed
        named = {key: _columns(part) for key, part in found.items() if isinstance(part, dict)}
        if named and all(named.values()):
            return [["image", "mask", "split"], *([*row, key] for key, rows in named.items() for row in rows[1:])]
    by_split = {key: part for key, part in found.items() if isinstance(part, list)} if isinstance(found, dict) else {}
    parts = by_split if by_split else {"": found}
    rows: list[tuple[str, dict[str, object]]] = []
    for name, part in parts.items():
        if isinstance(part, list) and part and all(isinstance(one, dict) for one in part):
            rows += [(name, one) for one in part]
    if not rows:
        return []
    keys = [key for key in rows[0][1] if all(isinstance(one.get(key), str | None) for _, one in rows)]
    header = keys if not by_split or "split" in keys else [*keys, "split"]
    body = [[*(str(one.get(key) or "") for key in keys), name][: len(header)] for name, one in rows]
    return [header, *body]


def _is_header(line: str, body: str) -> bool:
    """Whether a comment heads columns of images and masks: as many as the first line below it has."""
    words = [word.lower() for word in re.split(r"[\s,;|]+", line)]
    named = bool({*words} & {*IMAGE_COLUMNS}) and bool({*words} & {*MASK_COLUMNS})
    return named and [len(row) for row in _rows(line)] == [len(row) for row in _rows(body)]


def _columns(found: Mapping[str, object]) -> list[list[str]]:
    """The pairs of ``{"a.jpg": "a.png"}``, or of two lists (``{"images": […], "masks": […]}``); [] for others."""
    flat = [(key, value) for key, value in found.items() if isinstance(value, str)]
    if any(is_rendering(os.path.dirname(value.replace("\\", "/"))) for _, value in flat):
        return []  # previews of the images
    if flat and len(flat) == len(found) and all(is_image(key) and _is_mask(value) for key, value in flat):
        return [["image", "mask"], *([key, value] for key, value in flat)]
    image = next((found[name] for name in IMAGE_COLUMNS if name in found), None)
    mask = next((found[name] for name in MASK_COLUMNS if name in found), None)
    if not isinstance(image, list) or not isinstance(mask, list) or not image or len(image) != len(mask):
        return []
    if not all(isinstance(one, str) and is_image(one) for one in image):
        return []
    if not all(isinstance(one, str) and _is_mask(one) for one in mask):
        return []
    return [["image", "mask"], *([str(left), str(right)] for left, right in zip(image, mask, strict=True))]


def _without_comments(path: Path) -> list[str]:
    """The lines of a list without comments, which begin with a hash; that of a header is taken off."""
    lines = read_text(path, MAX_BYTES).splitlines()
    if not any(line.lstrip().startswith("#") for line in lines):
        return lines
    kept: list[str] = []
    body = next((line for line in lines if line.strip() and not line.lstrip().startswith("#")), "")
    for line in lines:
        bare = line.lstrip().removeprefix("#").strip()
        if not line.lstrip().startswith("#"):
            kept.append(line)
        elif not kept and _is_header(bare, body):
            kept.append(bare)
        elif _begins_with_file(path.parent, line.strip()):
            kept.append(line)  # a file whose name begins so
    return kept


def _begins_with_file(folder: Path, line: str) -> bool:
    first = re.split(r"[,;|\t]", line)[0].strip()
    return any(_is_mask(name) and os.path.exists(folder / name) for name in {first, line.split()[0]})


def _beside(path: Path, rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The pairs of two lists, ``train_images.txt`` and ``train_masks.txt``, line by line; [] without the other."""
    if len(rows) < 2 or not all(len(row) == 1 and is_image(row[0]) for row in rows):
        return []
    for word, others in _LISTS.items():
        match = re.search(rf"(?i)(?<![a-z]){word}(?![a-z])", path.stem)
        for other in others if match is not None else ():
            assert match is not None
            partner = path.with_name(path.stem[: match.start()] + other + path.stem[match.end() :] + path.suffix)
            if not partner.is_file():
                continue
            masks = _rows("\n".join(_without_comments(partner)))
            if len(masks) == len(rows) and all(len(row) == 1 and _is_mask(row[0]) for row in masks):
                return [[image[0], mask[0]] for image, mask in zip(rows, masks, strict=True)]
    return []


def _order_doubt(path: Path) -> list[Problem]:
    """A warning where two lists hold the same names in another order, and are read line by line."""
    if path.suffix.lower() in JSON_ENDINGS:
        return []
    pairs = _beside(path, _rows("\n".join(_without_comments(path))))
    names = [(stem(os.path.basename(image)), stem(os.path.basename(mask))) for image, mask in pairs]
    wrong = [f"{image} with {mask}" for (image, mask), (left, right) in zip(pairs, names, strict=True) if left != right]
    if not wrong or {left for left, _ in names} != {right for _, right in names}:
        return []
    message = f"{path.name} and the list of masks hold the same names in another order, and are paired line by line"
    fix = "order the lists alike, or remove them: images and masks of equal names pair without a list"
    return [Problem("warning", "masks guessed", f"{message}: {wrong[0]}", tuple(wrong), fix)]


_LISTS = {"images": ("masks", "labels", "annotations", "gts", "gt", "targets"),
          "image": ("mask", "label", "annotation", "gt", "target"),
          "imgs": ("masks", "labels", "anns", "gts", "gt"), "img": ("mask", "label", "ann", "gt")}  # fmt: skip


def _rows(text: str) -> list[list[str]]:
    first = text.partition("\n")[0]
    if delimiter_of(first) in first:
        return table_rows(text)
    return [line.split() for line in text.splitlines() if line.strip()]


def _is_mask(name: str) -> bool:
    return is_image(name) or name.lower().endswith(ARRAY_ENDINGS)


def _is_id(name: str) -> bool:
    return 0 < len(name) <= 300 and not os.path.splitext(name)[1] and not name.startswith("{")


_IMAGE_WORDS = frozenset({"image", "images", "img", "picture", "photo", "input", "rgb", "frame", "scan"})
_MASK_WORDS = frozenset({"mask", "masks", "label", "labels", "seg", "segmentation", "annotation", "gt", "groundtruth",
                         "target", "truth"})  # fmt: skip


def _place(header: Sequence[str], names: Sequence[str], words: frozenset[str], but: frozenset[str]) -> int | None:
    """The column of one of the names, else the only one whose name holds one of the words."""
    known = next((header.index(name) for name in names if name in header), None)
    if known is not None:
        return known
    able = [i for i, name in enumerate(header) if set(name.split("_")) & words and not set(name.split("_")) & but]
    return able[0] if len(able) == 1 else None


def _lists(tree: Tree) -> list[Path]:
    """The root itself, or the lists in it that hold pairs which exist."""
    if "lists" in tree.memo:
        return list(tree.memo["lists"])
    if tree.is_file:
        candidates = [tree.root] if tree.root.suffix.lower() in ENDINGS else []
    else:
        listing = tree.folder()
        candidates = [Path(listing.path, name) for name in listing.files if name.lower().endswith(ENDINGS)]
        candidates += [  # Hugging Face's imagefolder: train/metadata.jsonl
            Path(inner.path, name)
            for relative, inner in tree.walk(depth=2)
            if relative and split_of_part(relative.rpartition("/")[2])
            for name in inner.files
            if name.lower() in METADATA
        ]
    found = []
    for path in candidates:
        try:
            every = [line for line in read_lines(path) if line.mask is not None]
        except DataError:
            if tree.is_file:
                raise
            continue
        if not every or _are_classes(every):
            continue
        lines = every[:20]
        ids = not is_image(lines[0].image)
        pairs = [
            (_resolve(tree, path, line.image, "image"), _resolve(tree, path, line.mask or "", "mask")) for line in lines
        ]
        if all(_are_images(image, mask) for image, mask in pairs):
            continue  # a list of images with several to a line
        there = sum(image is not None and mask is not None for image, mask in pairs)
        if there and (not ids or 2 * there >= len(lines)):
            found.append(path)
    tree.memo["lists"] = found
    return found


def _are_images(image: Path | None, mask: Path | None) -> bool:
    """Whether both files of a pair are photos of one folder of images: a mask is no JPEG there."""
    if image is None or mask is None or image.parent != mask.parent or image == mask:
        return False
    jpegs = all(path.suffix.lower() in (".jpg", ".jpeg") for path in (image, mask))
    named = re.search(rf"^{re.escape(image.stem)}[_\-. ]|[_\-. ]{re.escape(image.stem)}$", mask.stem)  # x_mask.jpg
    return jpegs and describe_folder(image.parent.name)[0] == "image" and named is None


def _are_classes(lines: Sequence[Line]) -> bool:
    """Whether the second column holds numbers of classes (``image,label``, as for classification), and no masks."""
    masks = [line.mask or "" for line in lines]
    if not all(mask.isdecimal() for mask in masks):
        return False
    return len(set(masks)) < MOSTLY * len({line.image for line in lines}) or any(is_image(line.image) for line in lines)


def detect(tree: Tree) -> str | None:
    lists = _lists(tree)
    return f"pairs listed in {', '.join(path.name for path in lists)}" if lists else None


def _resolve(tree: Tree, path: Path, name: str, role: Role) -> Path | None:
    """The file that one cell of a list means; None where that is not certain."""
    if _is_id(name):
        return _by_id(tree, name, role)
    return resolve_all(tree, [Reference(name, path)]).paths[0]


def _by_id(tree: Tree, name: str, role: Role) -> Path | None:
    """The only file of that stem that does not lie in a folder of the other role."""
    around = surroundings(tree)
    if "stems" not in around.memo:
        stems: dict[str, list[tuple[Path, Role | None]]] = {}
        for relative, listing in around.walk():
            kind = describe_folder(relative, loose=True)[0]
            for file in listing.files:
                if _is_mask(file):
                    stems.setdefault(stem(file), []).append((Path(listing.path, file), kind))
        around.memo["stems"] = stems
    found = around.memo["stems"].get(name.replace("\\", "/").rpartition("/")[2], [])
    able: list[Path] = [path for path, kind in found if kind in (None, role)]
    if role == "image":
        able = [path for path in able if is_image(path.name)]
    if len(able) > 1:  # of x.jpg and x.png the second can hold a mask
        jpegs = [path for path in able if path.suffix.lower() in (".jpg", ".jpeg")]
        able = jpegs if role == "image" else [path for path in able if path not in jpegs]
    return able[0] if len(able) == 1 else None


def open_pairs(tree: Tree) -> Dataset:
    lists = _lists(tree)
    if not lists:
        raise FormatError("no list of pairs", expected="a CSV with columns image and mask, or two paths per line",
                          found=tree.summary(), where=tree.root)  # fmt: skip
    lines = [(path, line) for path in lists for line in read_lines(path)]
    problems: list[Problem] = []
    notes: list[str] = []
    images = _resolve_all(tree, [(path, line.image) for path, line in lines], "image", problems, notes)
    masks = _resolve_all(tree, [(path, line.mask or "") for path, line in lines], "mask", problems, notes)
    found: list[tuple[Path, Path | None, str | None]] = []
    no_image: list[Path] = []
    for (_, line), image, mask in zip(lines, images, masks, strict=True):
        if image is None:
            no_image += [mask] if mask is not None else []
        else:
            found.append((image, mask, line.split))
    problems += [doubt for path in lists for doubt in _order_doubt(path)]
    by_id = [(i, m) for (_, line), i, m in zip(lines, images, masks, strict=True) if _is_id(line.image)]
    problems += [*_other_masks(by_id), *_unlisted(tree, images, masks)]
    rows = len(found)
    found = list(dict.fromkeys(found))
    if len(found) < rows:
        notes.append(f"{counted(rows - len(found), 'row')} of the list repeat others, and count once")
    ids = unique_ids([(os.path.basename(image.parent), stem(image.name), image.suffix) for image, _, _ in found])
    records = [Record(name, image, mask) for name, (image, mask, _) in zip(ids, found, strict=True)]
    given: dict[str, list[Record]] = {}
    for record, (_, _, split) in zip(records, found, strict=True):
        if split is not None:
            given.setdefault(split, []).append(record)
    names = {path.name for path in lists}
    beside = Tree(lists[0].parent).folder()
    beside = replace(beside, files=tuple(name for name in beside.files if name not in names))
    coding = infer_encoding([mask for _, mask, _ in found if mask is not None], [beside], tree.root)
    return Dataset(
        root=tree.root,
        format="pairs",
        reader=FileReader(coding.label_space, coding.color_table, source=coding.source),
        records=tuple(records),
        given=sort_splits(given),
        notes=[*coding.notes, *notes],
        problems=[*problems, *coding.problems],
        unpaired_images=tuple(image for image, mask, _ in found if mask is None),
        unpaired_masks=tuple(no_image),
    )


def _other_masks(found: Sequence[tuple[Path | None, Path | None]]) -> list[Problem]:
    """A warning where ids give images the masks of other ids, and masks of their own are among them."""
    pairs = [(image, mask) for image, mask in found if image is not None and mask is not None]
    masks = {mask.stem for _, mask in pairs}
    wrong = [(image, mask) for image, mask in pairs if image.stem != mask.stem and image.stem in masks]
    if not wrong:
        return []
    image, mask = wrong[0]
    message = (
        f"the list pairs {counted(len(wrong), 'image')} with a mask of another name, though masks of their own names "
        f"are there, such as {image.name} with {mask.name}: read as listed"
    )
    fix = "if the list holds something else than pairs, remove it: images and masks of equal names pair without it"
    return [Problem("warning", "masks guessed", message, tuple(str(image) for image, _ in wrong), fix)]


def _unlisted(tree: Tree, images: Sequence[Path | None], masks: Sequence[Path | None]) -> list[Problem]:
    """A note of the images in the folders of those that are listed, and of no mask, which no list names."""
    listed = {str(path) for path in (*images, *masks) if path is not None}
    with_images, with_masks = ({os.path.dirname(path) for path in map(str, paths)} for paths in (images, masks))
    left = [
        os.path.join(listing.path, name)
        for _, listing in surroundings(tree).walk()
        if listing.path in with_images - with_masks
        for name in listing.files
        if is_image(name) and os.path.join(listing.path, name) not in listed
    ]
    if not left:
        return []
    message = f"{counted(len(left), 'image', 'is')} in no list, such as {os.path.basename(left[0])}, and not read"
    return [Problem("note", "images not listed", message, tuple(left), "add them to the list if they have masks")]


def _resolve_all(
    tree: Tree, names: Sequence[tuple[Path, str]], role: Role, problems: list[Problem], notes: list[str]
) -> list[Path | None]:
    """The files that a column means; what is missing or not certain is added to the problems."""
    result: list[Path | None] = [None] * len(names)
    ids = [place for place, (_, name) in enumerate(names) if name and _is_id(name)]
    rest = [place for place, (_, name) in enumerate(names) if name and not _is_id(name)]
    for place in ids:
        result[place] = _by_id(tree, names[place][1], role)
    missing = tuple(names[place][1] for place in ids if result[place] is None)
    if missing:
        message = (
            f"{counted(len(missing), 'file')} that the list names are not there, or fit several: "
            f"{', '.join(missing[:3])}"
        )
        problems.append(Problem("warning", "listed but missing", message, missing, "write whole names, with endings"))
    resolution = resolve_all(tree, [Reference(names[place][1], names[place][0]) for place in rest], role)
    for place, path in zip(rest, resolution.paths, strict=True):
        result[place] = path
    foreign = all(_ELSEWHERE.match(names[rest[number]][1]) for number in resolution.loose)
    for problem in resolution.problems:
        if problem.kind in MISSING_KINDS.values():
            problems.append(replace(problem, kind="listed but missing"))
        elif not (foreign and problem.kind == "file found by a looser match"):
            problems.append(problem)
        else:  # paths of another machine, which nobody expects to be here
            notes.append(problem.message)
    return result


FORMAT = Format(
    "pairs",
    "a list of pairs",
    "a CSV with columns image and mask, or a text file of two paths per line",
    detect,
    open_pairs,
)
