"""A plain folder of images and masks in any of the usual layouts, with or without a class list beside it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.counted import counted
from segwright.core.errors import DataError, FormatError, LabelError, NameClashError
from segwright.data.formats.base import Format, pairing_problems, sort_splits, unique_ids
from segwright.data.formats.bit_depth import range_of
from segwright.data.formats.file_tree import Folder, Tree, is_image
from segwright.data.formats.folder_roles import describe_folder, is_rendering, rendered_from
from segwright.data.formats.glob_hints import suggested_globs
from segwright.data.formats.mask_encoding import encoding_of, infer_encoding
from segwright.data.formats.mask_histogram import Look, look_at, mask_value_histogram
from segwright.data.formats.name_matching import NamedFile, Pairing, Rival, looks_like_labels, pair_files
from segwright.data.formats.name_parts import is_generic
from segwright.data.formats.refusals import hint as known_refusal
from segwright.data.formats.same_images import drop_copies
from segwright.data.formats.split_lists import listed_splits, splits_of_names, splits_of_siblings
from segwright.data.formats.stacks import Page, find_stacks, paged, read_page, splits_by_name
from segwright.data.formats.tool_masks import matlab_order, refuse_own_colors
from segwright.data.formats.writing import OutputSample, write_classes
from segwright.data.label_maps import is_generated_name
from segwright.data.mask_files import ARRAY_ENDINGS, MaskPixels
from segwright.data.readers import FileReader, pack_colors
from segwright.data.records import Dataset, Problem, Record, ValueRange, evenly_spread
from segwright.imageio import DEFAULT_LIMITS, Limits, UInt8Array, write_bytes
from segwright.imageio.decode import integers
from segwright.imageio.sandbox import map_isolated

_OBJECTS = re.compile(r"(?i)instances?(?:ids?)?$|^instance|segmentationobject")
_WORDS = re.compile(r"[^\W\d_]+(?:[ _-][^\W\d_]+)*")
_TRACKS = re.compile(r"(?i)man_(?:seg|track)[_\d]*\.tiff?")
MOST_NAMED = 40  # folders that could be classes
SAMPLED_STACKS = 4  # of which three pages are looked at for their depth


@dataclass(frozen=True)
class Collision:
    """Why a record has no one mask: the files that share its name."""

    files: tuple[str, ...]


class FolderReader(FileReader):
    """A file reader that refuses an image whose mask is not certain, instead of taking either; stacks by pages."""

    def is_full_file(self, record: Record) -> bool:
        return not isinstance(record.payload, Page)

    def read_bands(self, record: Record) -> npt.NDArray[Any]:
        if not isinstance(record.payload, Page) or record.image_path is None:
            return super().read_bands(record)
        return read_page(record.image_path, record.payload.number, self.limits)

    def read_mask_values(self, record: Record) -> npt.NDArray[Any] | None:
        if not isinstance(record.payload, Page) or record.mask_path is None:
            return super().read_mask_values(record)
        return self.decode(mask_page(record.mask_path, record.payload.number, self.limits), record.mask_path)

    def mask(self, record: Record) -> UInt8Array | None:
        if isinstance(record.payload, Collision):
            raise NameClashError(
                "several files share this name, and which mask belongs to which image is not certain",
                expected="one image and one mask per name",
                found=", ".join(record.payload.files),
                where=record.image_path,
                fix="rename them apart",
            )
        return super().mask(record)


def mask_page(path: Path, number: int, limits: Limits = DEFAULT_LIMITS) -> npt.NDArray[Any]:
    """H×W or H×W×3: one page of a mask that is a stack."""
    return integers(read_page(path, number, limits), path)


def detect(tree: Tree) -> str | None:
    if tree.is_file:
        return None
    pairing = pair_tree(tree)
    if not pairing.paired and not pairing.collisions and not pairing.rivals:
        return None
    if pairing.by_suffix and known_refusal(tree) is not None:
        return None
    return f"{counted(pairing.paired, 'image')} with masks, paired by {'content' if pairing.guessed else 'name'}"


def pair_tree(tree: Tree) -> Pairing:
    """The pairing of all images under the root, found once."""
    if "pairing" not in tree.memo:
        made = pair_files(tree)
        if _masks_alone(made):
            made = _exchanged(made)
        drop_copies(made)
        tree.memo["pairing"] = made
    found: Pairing = tree.memo["pairing"]
    return found


def open_folder(tree: Tree) -> Dataset:
    return open_pairing(tree, "folder", FolderReader)


def open_pairing(tree: Tree, name: str, reader: type[FolderReader], look: Look = look_at) -> Dataset:
    """The dataset of a paired folder, under a format's name and with its reader."""
    pairing = pair_tree(tree)
    if pairing.rivals:
        raise _several(tree, pairing)
    if _masks_alone(pairing):
        raise _no_images(tree, pairing)
    if not pairing.paired and not pairing.collisions:
        raise FormatError(
            "no image has a mask",
            expected="folders such as images/ and masks/, or files such as x.jpg and x_mask.png",
            found=tree.summary(),
            where=tree.root,
            fix="name the folders images and masks, or name the format with --format, or pair the files with --images "
            "GLOB --masks GLOB",
        )
    if not pairing.paired and (folders := _image_folders(pairing)):
        raise _several_images(tree, pairing, folders)
    records, by_folder = _records(pairing)
    stacks = find_stacks(records)
    mask_paths = [record.mask_path for record in records if record.mask_path is not None]
    mask_paths = mask_paths or [m.path for _, masks in pairing.collisions for m in masks]
    refuse_own_colors(mask_paths)
    if stacks:
        pages = [record for record in paged(records, stacks) if record.mask_path is not None]
        seen = mask_value_histogram(len(pages), lambda i: _look_at_page(pages[i], look))
        coding = encoding_of(seen, _class_folders(tree, pairing), tree.root)
        coding = replace(coding, notes=(*coding.notes, f"{len(stacks)} stacks: each page is a sample"))
        by_folder = by_folder or splits_by_name(records, stacks)
    else:
        coding = infer_encoding(mask_paths, _class_folders(tree, pairing), tree.root, look)
        _refuse_tracks(mask_paths, coding.label_space.names, tree.root)
    listed, findings = listed_splits(tree, records)
    lone, problems = _problems(pairing, records)
    given = listed or _with_masks(by_folder)
    made = reader(coding.label_space, coding.color_table, source=coding.source)
    if stacks:
        made.bands, made.value_range = _depth_of_stacks([r for r in records if r.id in stacks], stacks)
    return Dataset(
        root=tree.root,
        format=name,
        reader=made,
        records=paged(records, stacks),
        given=sort_splits({split: paged(members, stacks) for split, members in given.items()}),
        notes=[
            *coding.notes,
            *_named_folders(pairing, coding.label_space.names),
            *(f"{rival.name} is not read: {rival.why}" for rival in pairing.unread),
        ],
        problems=[*_guesses(pairing), *matlab_order(mask_paths), *findings, *problems, *coding.problems],
        unpaired_images=tuple(lone),
        unpaired_masks=tuple(item.path for item in pairing.lone_masks),
    )


def _named_folders(pairing: Pairing, classes: Sequence[str]) -> list[str]:
    """A note on folders of pairs that could be called by their classes, where the masks have two values: the foreground
    of ``cats/masks`` and ``dogs/masks`` is one class."""
    if tuple(classes) != ("background", "foreground"):
        return []
    folders = sorted({image.free for image, mask in pairing.pairs if mask is not None})
    last = [folder.rpartition("/")[2] for folder in folders]
    if not 1 < len(folders) <= MOST_NAMED or not all(_WORDS.fullmatch(part) and not is_generic(part) for part in last):
        return []
    return [
        f"the foreground in {', '.join(folders)} is one class, whatever the folder is called; if they are classes, "
        "give the masks of each a value of its own"
    ]


def _look_at_page(record: Record, look: Look) -> npt.NDArray[Any] | MaskPixels:
    assert record.mask_path is not None
    if not isinstance(record.payload, Page):
        return look(record.mask_path)
    return mask_page(record.mask_path, record.payload.number)


def _depth_of_stacks(records: Sequence[Record], stacks: Mapping[str, int]) -> tuple[int, ValueRange | None]:
    """(bands of a page, the range of numbers that are not 8 bit), from a spread of the pages."""
    rasters = []
    for record in records[:SAMPLED_STACKS]:
        count = stacks[record.id]
        for number in sorted({0, count // 2, count - 1}):
            assert record.image_path is not None
            rasters.append(read_page(record.image_path, number))
    bands = 3 if rasters[0].shape[2] == 1 else rasters[0].shape[2]
    same = [raster for raster in rasters if raster.shape[2] == rasters[0].shape[2]]
    return bands, None if same[0].dtype == np.uint8 else range_of(same, same[0].shape[2])


def _refuse_tracks(masks: Sequence[Path], names: Sequence[str], where: Path) -> None:
    """LabelError for the Cell Tracking Challenge's masks, which number cells however few a mask holds."""
    tracked = [path.name for path in masks if _TRACKS.fullmatch(path.name)]
    if len(tracked) < len(masks) or len(names) <= 2 or not all(map(is_generated_name, names)):
        return
    raise LabelError(
        "the values of the masks number objects, not classes: the Cell Tracking Challenge's cells",
        expected="one value per class",
        found=f"{counted(len(tracked), 'mask')} such as {tracked[0]}, {len(names)} values",
        where=where,
        fix="write the cells as one value: tifffile.imwrite(path, (mask > 0).astype(numpy.uint8)); if the values are "
        "classes after all, name them beside the masks in classes.csv (id,name)",
    )


def _guesses(pairing: Pairing) -> list[Problem]:
    folders = {os.path.basename(mask.folder) for _, mask in pairing.pairs if mask is not None}
    if folders and all(_OBJECTS.search(folder) for folder in folders):
        named = ", ".join(sorted(folders)[:4])
        text = f"the masks lie in {named}: by that name they number objects, not classes, and are read as classes"
        fix = "use the masks of classes (VOC's SegmentationClass); if these are classes, rename the folder to masks"
        return [Problem("warning", "masks guessed", text, fix=fix)]
    masks = [mask for _, mask in pairing.pairs if mask is not None]
    if masks and all(is_rendering(mask.folder) or rendered_from(mask.stem) is not None for mask in masks):
        text = f"by their names the masks are predictions or overlays of a model, such as {masks[0].name}"
        fix = "if people drew them, rename them or their folder to masks; else put the drawn masks beside the images"
        return [Problem("warning", "masks guessed", text, fix=fix)]
    if pairing.guessed is None:
        return []
    return [
        Problem(
            "warning",
            "masks guessed",
            f"no name distinguishes images and masks: {pairing.guessed}",
            fix="otherwise name them with --images GLOB --masks GLOB, or call the folders images and masks",
        )
    ]


def _several(tree: Tree, pairing: Pairing) -> FormatError:
    """The refusal of folders that could all be the masks: what each holds, and the command that chooses one."""
    images = [image for image, _ in pairing.pairs] or [i for left, _ in pairing.collisions for i in left]
    masks = {item for rival in pairing.rivals for item in rival.masks}
    glob = _folder_glob([image for image in images if image not in masks])
    first = pairing.rivals[0]
    listed = "; ".join(
        f"{rival.name} ({counted(len(rival.masks), 'mask')} for {counted(rival.images, 'image')}: {_holds(rival)})"
        for rival in pairing.rivals[:6]
    )
    choices = " or ".join(
        f"--images {shlex.quote(glob)} --masks {shlex.quote(rival.name)}" for rival in pairing.rivals[:3]
    )
    return FormatError(
        "several folders could be the masks of the same images, and which to read is not certain",
        expected="one mask per image",
        found=listed,
        where=tree.root,
        fix=f"choose: segwright check {shlex.quote(str(tree.root))} {choices}; or list the pairs in a CSV with columns "
        f"image,mask (such as {os.path.join(images[0].folder, images[0].name)},"
        f"{os.path.join(first.masks[0].folder, first.masks[0].name)})",
    )


def _masks_alone(pairing: Pairing) -> bool:
    """Whether what was taken for the images are masks, too: by the names of their folders, and by their content."""
    images = [image for image, mask in pairing.pairs if mask is not None]
    if not images or any(describe_folder(folder, loose=True)[0] != "mask" for folder in {i.folder for i in images}):
        return False
    looked_at = [images[place] for place in evenly_spread(len(images), 3)]
    return all(looks_like_labels(image.path) for image in looked_at)


def _exchanged(pairing: Pairing) -> Pairing:
    """The pairing with images and masks exchanged where the content states it: photos in labels, masks in labels_gt."""
    pairs = [(image, mask) for image, mask in pairing.pairs if mask is not None]
    looked_at = [pairs[place][1] for place in evenly_spread(len(pairs), 3)]
    if pairing.collisions or pairing.rivals or any(looks_like_labels(mask.path) is not False for mask in looked_at):
        return pairing
    left = [image for image, mask in pairing.pairs if mask is None]
    found: list[tuple[NamedFile, NamedFile | None]] = [(mask, image) for image, mask in pairs]
    found = sorted([*found, *((mask, None) for mask in pairing.lone_masks)], key=lambda pair: pair[0].path)
    photos, labels = (_folder_glob([pair[place] for pair in pairs]) for place in (1, 0))
    guessed = f"by their content {photos} are taken for the images, {labels} for the masks"
    return replace(pairing, pairs=found, lone_masks=left, guessed=guessed)


def _no_images(tree: Tree, pairing: Pairing) -> FormatError:
    first = next(pair for pair in pairing.pairs if pair[1] is not None)
    folders = ", ".join(f"{item.folder}/ ({item.name})" for item in first if item is not None)
    return FormatError(
        "masks, and no images to them",
        expected="images beside the masks, under equal names",
        found=folders,
        where=tree.root,
        fix="put the images beside them: images/x.jpg for masks/x.png, or JPEGImages/x.jpg for SegmentationClass/x.png "
        "(CVAT: export with 'Save images')",
    )


def _image_folders(pairing: Pairing) -> list[str]:
    """The folders whose images all claim the same masks, as the two dates of a change detection set do."""
    folders: dict[str, str] = {}
    for images, masks in pairing.collisions:
        own = {image.folder: image for image in images}
        if len(masks) != 1 or len(own) != len(images) or len(own) < 2:
            return []
        folders |= {_last_part(folder): folder for folder in own}
    globs = {part: _folder_glob([i for left, _ in pairing.collisions for i in left if _last_part(i.folder) == part])
             for part in folders}  # fmt: skip
    return list(globs.values())


def _last_part(folder: str) -> str:
    return os.path.basename(folder)


def _several_images(tree: Tree, pairing: Pairing, folders: Sequence[str]) -> FormatError:
    masks = _folder_glob([mask for _, masks in pairing.collisions for mask in masks])
    choices = " or ".join(f"--images {shlex.quote(glob)}" for glob in folders[:4])
    image, mask = pairing.collisions[0][0][0], pairing.collisions[0][1][0]
    return FormatError(
        "several folders hold images for the same masks, and which to read is not certain",
        expected="one image per mask",
        found=f"{counted(len(pairing.collisions), 'mask')} in {masks}, images in {', '.join(folders)}",
        where=tree.root,
        fix=f"choose: segwright check {shlex.quote(str(tree.root))} {choices} --masks {shlex.quote(masks)}; or list "
        f"the pairs in a CSV with columns image,mask (such as {os.path.join(image.folder, image.name)},"
        f"{os.path.join(mask.folder, mask.name)}); dates or bands that belong together go into one file of many bands",
    )


def _folder_glob(images: Sequence[NamedFile]) -> str:
    split = [folder.split("/") for folder in dict.fromkeys(image.folder for image in images)]
    if not split or len({len(parts) for parts in split}) > 1:
        return "**/*"
    parts = [column[0] if len(set(column)) == 1 else "*" for column in zip(*split, strict=True)]
    return "/".join([*(part for part in parts if part), "*"])


def _holds(rival: Rival) -> str:
    """The values or colors of a folder's first mask, to distinguish the folders in an error."""
    try:
        content = next(map_isolated(look_at, [rival.masks[0].path], result=MaskPixels)).get()
    except DataError as error:
        return error.message
    pixels = content.pixels
    if pixels.ndim == 2:
        values = np.unique(pixels).tolist()
        return f"values {', '.join(map(str, values[:6]))}{', …' if len(values) > 6 else ''}"
    return f"{len(np.unique(pack_colors(pixels)))} colors" if pixels.dtype == np.uint8 else "channels of 16 bits"


def _with_masks(given: Mapping[str, list[Record]]) -> dict[str, list[Record]]:
    """The splits by folders without those that hold no mask at all: lone images make none, but for a test part."""
    return {
        name: records for name, records in given.items() if name == "test" or any(record.labeled for record in records)
    }


def hint(tree: Tree) -> FormatError | None:
    """The error if it is unknown which folders hold the masks: what was found, and the options to choose."""
    if tree.is_file:
        return None
    counts = {
        relative or ".": [name for name in listing.files if is_image(name) or name.lower().endswith(ARRAY_ENDINGS)]
        for relative, listing in tree.walk()
    }
    filled = {folder: names for folder, names in counts.items() if names}
    if len(filled) < 2:
        return _flat_hint(tree, next(iter(filled.items()), None))
    listed = "; ".join(
        f"{folder}/ ({counted(len(names), 'file')}, {names[0]})" for folder, names in list(filled.items())[:12]
    )
    root = shlex.quote(str(tree.root))
    globs = suggested_globs(tree, filled)
    named = ""
    if globs is not None:
        masks = " or ".join(f"--masks {shlex.quote(masks)}" for masks in globs[1])
        named = f"name them: segwright check {root} --images {shlex.quote(globs[0])} {masks}; or "
    return FormatError(
        "images, and which files are their masks is not clear",
        expected="folders called images and masks, files such as x.jpg and x_mask.png, or a list of pairs",
        found=listed + ("" if len(filled) <= 12 else f"; … ({len(filled)} folders)"),
        where=tree.root,
        fix=f"{named}write a CSV with columns image,mask, a pair per line; or name the format with --format",
    )


def _flat_hint(tree: Tree, only: tuple[str, list[str]] | None) -> FormatError | None:
    """The error for one folder with two endings, equally frequent (``_rgb.png``, ``_ids.png``): the globs to use."""
    if only is None:
        return None
    folder, names = only
    by_ending: dict[str, list[str]] = {}
    for name in names:
        by_ending.setdefault(min((name.rpartition(sign)[2] for sign in "_-"), key=len), []).append(name)
    if len(by_ending) != 2 or len({len(found) for found in by_ending.values()}) > 1 or len(names) < 4:
        return None
    ends = [
        os.path.commonprefix([name[::-1] for name in found])[::-1]  # noqa: RUF071 - of names, letter by letter
        for found in by_ending.values()
    ]
    examples = [found[0] for found in by_ending.values()]
    if looks_like_labels(Path(tree.root, folder, examples[0])) and not looks_like_labels(
        Path(tree.root, folder, examples[1])
    ):
        ends.reverse()
    globs = [shlex.quote(os.path.join("" if folder == "." else folder, f"*{end}")) for end in ends]
    root = shlex.quote(str(tree.root))
    return FormatError(
        "images and masks in one folder, and which files are the masks is not clear",
        expected="files such as x.jpg and x_mask.png, folders called images and masks, or a list of pairs",
        found=" and ".join(f"{counted(len(found), 'file')} such as {found[0]}" for found in by_ending.values()),
        where=tree.root,
        fix=f"name them: segwright check {root} --images {globs[0]} --masks {globs[1]}, or the other way round; or "
        "write a CSV with columns image,mask, a pair per line",
    )


def _class_folders(tree: Tree, pairing: Pairing) -> list[Folder]:
    """Folders that may hold class lists: the root, the folders with masks and those above them."""
    with_masks = sorted({mask.folder for _, mask in pairing.pairs if mask is not None} - {""})
    parents: list[str] = []
    for folder in with_masks:
        if os.path.isabs(folder):  # of an absolute glob: what lies above the root of the data is not the user's data
            if os.path.commonpath([folder, tree.root.absolute()]) != str(tree.root.absolute()):
                continue
            folder = os.path.relpath(folder, tree.root.absolute())
        while folder := os.path.dirname(folder):
            parents.append(folder)
    return [tree.folder(folder) for folder in ("", *sorted(set(parents)), *with_masks[:64])]


def _records(pairing: Pairing) -> tuple[list[Record], dict[str, list[Record]]]:
    collided = {
        image: Collision(tuple(str(item.path) for item in (*images, *masks)))
        for images, masks in pairing.collisions
        for image in images
    }
    items = [image for image, _ in pairing.pairs]
    ids = unique_ids([(item.folder, item.stem, os.path.splitext(item.name)[1]) for item in items])
    records: list[Record] = []
    given: dict[str, list[Record]] = {}
    for name, (image, mask) in zip(ids, pairing.pairs, strict=True):
        record = Record(name, image.path, None if mask is None else mask.path, collided.get(image))
        records.append(record)
        split = image.split or (mask.split if mask is not None else None)
        if split is not None:
            given.setdefault(split, []).append(record)
    if not given:
        placed = list(zip(items, records, strict=True))
        given = splits_of_siblings([(item.folder, record) for item, record in placed])
        given = given or splits_of_names([(item.name, record) for item, record in placed])
    return records, given


def _problems(pairing: Pairing, records: list[Record]) -> tuple[list[Path], list[Problem]]:
    """(images that lack their mask, findings). A test part that has no masks at all is as published: no finding."""
    masked_splits = {image.split for image, mask in pairing.pairs if mask is not None}
    collided = {image for images, _ in pairing.collisions for image in images}
    lone: list[NamedFile] = [
        image
        for image, mask in pairing.pairs
        if mask is None and image not in collided and (image.split != "test" or "test" in masked_splits)
    ]
    problems = pairing_problems([item.path for item in lone], [item.path for item in pairing.lone_masks])
    spelt: dict[str, list[str]] = {}
    for record in records:
        spelt.setdefault(record.id.casefold(), []).append(str(record.image_path))
    alike = tuple(path for paths in spelt.values() if len(paths) > 1 for path in paths)
    if alike:
        message = f"{len(alike)} names differ in letter case alone"
        problems.append(
            Problem("warning", "names collide", message, alike, "rename them: other systems cannot hold both")
        )
    for images, masks in pairing.collisions:
        problems.append(
            Problem(
                "error",
                "names collide",
                f"{counted(len(images), 'image')} and {counted(len(masks), 'mask')} share the name {images[0].stem!r}",
                tuple(str(item.path) for item in (*images, *masks)),
                "rename them apart",
            )
        )
    return [item.path for item in lone], problems


def write_folder(dataset: Dataset, samples: Iterator[OutputSample], out: Path) -> None:
    """images/[split/]x.jpg, masks/[split/]x.png, classes.csv."""
    palette = dataset.label_space.palette()
    for sample in samples:
        data, ending = sample.image
        split = sample.split or ""
        write_bytes(out / "images" / split / f"{sample.name}{ending}", data)
        mask = sample.mask_png(palette)
        if mask is not None:
            write_bytes(out / "masks" / split / f"{sample.name}.png", mask)
    write_classes(dataset, out)


FORMAT = Format(
    "folder",
    "a folder of images and masks",
    "images/ and masks/ (or img/ label/, train/ trainannot/, x.jpg x_mask.png, …), paired by name",
    detect,
    open_folder,
    hint,
    writer=write_folder,
)
