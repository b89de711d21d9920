"""Splits that a folder's files state: lists such as ``train.txt``, tables such as ``split.csv``, folders such as
``uavid_train``."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from segwright.core.errors import DataError
from segwright.data.formats.base import SPLIT_NAMES
from segwright.data.formats.file_tree import Folder, Tree, is_image, read_text
from segwright.data.formats.name_index import NameIndex
from segwright.data.formats.name_parts import split_of_part
from segwright.data.formats.split_tables import ENDINGS, MOST_TABLES, SplitTable, read_part, read_table
from segwright.data.records import Problem, Record

LIST_FOLDERS = ("", "splits", "lists", "ImageSets", "ImageSets/Segmentation")
DEPTH = 4  # of other folders whose lists are tried, such as ImageSets/2017
LINES_PER_IMAGE = 100  # a list of still more lines, and a hundred thousand, is of another dataset and is not searched
MOST_LISTS = 64  # lists in other folders: more are annotations


@dataclass
class _Lists:
    """The splits that the lists of one folder state."""

    folder: str
    given: dict[str, list[Record]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def named(self) -> int:
        return sum(map(len, self.given.values()))

    def ids(self) -> dict[str, frozenset[str]]:
        return {split: frozenset(record.id for record in records) for split, records in self.given.items()}


def listed_splits(
    tree: Tree, records: Sequence[Record], *, deep: bool = True
) -> tuple[dict[str, list[Record]], list[Problem]]:
    """(splits, findings) from train.txt, val.txt, test.txt: a name or a path per line, or a folder of images.

    A line means the file of that path, else the only one of that name where no folder of the line contradicts, else
    all images of the folder of that name. A line that begins with a hash is a comment. Lists that fit no file, and
    lines that fit none or several, are findings. Of the lists in folders further down (``deep``), those that name the
    most images are used. Where the usual places have no list, a table there states the splits (:mod:`.split_tables`).
    """
    tree.memo["split lists"] = True
    index = NameIndex(tree, records)
    problems: list[Problem] = _excluded(tree, index)
    used: _Lists | None = None
    others: list[str] = []
    for folder in LIST_FOLDERS:
        found = _lists_of(tree.folder(folder), folder, records, index)
        problems += found.problems if used is None else []
        if found.given and used is None:
            used = found
        elif used is not None and found.given and found.ids() != used.ids():
            others.append(folder)
    if used is not None and others:
        problems.append(_differ(used.folder, others))
    if used is None:
        used, more = _tables(tree, records, index)
        problems += more
    if used is None and deep:
        used, more = _further_down(tree, records, index)
        problems += more
    if index.by_name_alone:
        alone = tuple(index.by_name_alone)
        message = (
            f"{len(alone)} lines of the split lists name paths that are not here: matched by the file's name alone"
        )
        problems.append(Problem("note", "matched by name alone", message, alone, "write paths relative to the dataset"))
    return used.given if used is not None else {}, problems


def _tables(tree: Tree, records: Sequence[Record], index: NameIndex) -> tuple[_Lists | None, list[Problem]]:
    """(the table that names the most images, findings)."""
    tried: list[_Lists] = []
    problems: list[Problem] = []
    for folder in LIST_FOLDERS:
        listing = tree.folder(folder)
        names = [
            name
            for name in listing.files
            if name.lower().endswith(ENDINGS) and _split_of_list(name, loose=False) is None
        ]
        tried += _parts(listing, names, records, index)
        for name in names if len(names) <= MOST_TABLES else []:
            table = read_table(Path(listing.path, name))
            if table is None:
                problems += _not_understood(Path(listing.path, name))
                continue
            found = _table(table, records, index)
            problems += [] if found.given else found.problems
            tried += [found] if found.given else []
    if not tried:
        return None, problems
    best = max(tried, key=lambda found: found.named)
    problems += best.problems
    others = tuple(found.folder for found in tried if found.ids() != best.ids())
    if others:
        message = f"the splits of {best.folder} are used, those of {', '.join(others[:4])} differ"
        fix = "write the splits that are meant to train.txt, val.txt and test.txt in the root"
        problems.append(Problem("warning", "several split lists", message, others, fix))
    return best, problems


def _not_read(path: Path, message: str, fix: str | None) -> Problem:
    return Problem("warning", "list not read", message, (str(path),), fix)


def _not_understood(path: Path) -> list[Problem]:
    """A warning of a table that is called one of splits and states none that is known."""
    if path.suffix.lower() not in (".csv", ".tsv") or "split" not in _words(path.stem):
        return []
    message = f"{path.name} is not used for the splits: no column of it states train, val or test"
    fix = "write columns name,split with the words train, val and test; or remove it"
    return [_not_read(path, message, fix)]


def _excluded(tree: Tree, index: NameIndex) -> list[Problem]:
    """A warning of a list that by its name takes images out: they are read all the same."""
    problems = []
    listing = tree.folder()
    for name in listing.files:
        if not name.lower().endswith((".txt", ".lst")) or not set(_words(os.path.splitext(name)[0])) & _OUT:
            continue
        try:
            lines = _first_columns(Path(listing.path, name), most=100_000)
        except DataError:
            continue
        named = sum(map(index.has_name, lines))
        if lines and 2 * named >= len(lines):
            message = f"{name} names {named} images, which are read all the same"
            fix = "if it takes them out, move those images and their masks away; else rename the list"
            problems.append(_not_read(Path(listing.path, name), message, fix))
    return problems


_OUT = frozenset({"exclude", "excluded", "excludes", "blacklist", "blacklisted", "blocklist", "skip", "skipped",
                  "ignore", "ignored", "bad", "broken", "corrupt", "corrupted", "rejected", "removed"})  # fmt: skip


def _words(name: str) -> list[str]:
    """The words of a file's name."""
    return [word for word in re.split(r"[^a-z]+", name.lower()) if word]


def _parts(listing: Folder, names: Sequence[str], records: Sequence[Record], index: NameIndex) -> list[_Lists]:
    """The splits of ``train.csv`` beside ``val.csv`` (or ``.json``), where two of them at least name images."""
    found = _Lists("")
    used = []
    for name in names:
        split = SPLIT_NAMES.get(os.path.splitext(name)[0].lower())
        table = None if split is None or split in found.given else read_part(Path(listing.path, name), split)
        one = _Lists(name) if table is None else _table(table, records, index)
        if split is not None and one.given.get(split):
            found.given[split] = one.given[split]
            found.problems += one.problems
            used.append(name)
    found.folder = ", ".join(used)
    return [found] if len(used) > 1 else []


def _table(table: SplitTable, records: Sequence[Record], index: NameIndex) -> _Lists:
    """The splits by the column whose cells name the most images; a finding where the table states none for certain."""
    found = _Lists(table.path.name)
    most = LINES_PER_IMAGE * len(records) + 100_000

    def fitting(names: Sequence[str]) -> int:
        # a probe: what a cell of another column is like, or is not, is no finding
        return sum(map(index.has_name, names))

    best: Mapping[str, Sequence[str]] = {}
    hits = 0
    for reading in table.readings:
        if sum(map(len, reading.values())) <= most and (count := sum(map(fitting, reading.values()))) > hits:
            best, hits = reading, count
    if not table.stated and 2 * hits <= len(records):
        return found
    if 2 * hits >= max(sum(map(len, best.values())), 1):
        for split, names in best.items():
            _read_list(found, table.path, split, list(names), index, quiet=False)
    elif table.why and len(table.names) <= most and fitting(table.names) >= min(len(records), 2):
        message = f"{table.path.name} is not used for the splits: {table.why}"
        fix = "write the splits to train.txt, val.txt and test.txt in the root, a name per line"
        found.problems.append(_not_read(table.path, message, fix))
    elif best or split_of_part(table.path.stem) or "split" in table.path.stem.lower():
        total = max((sum(map(len, reading.values())) for reading in table.readings), default=0)
        message = f"{table.path.name} is not used: {hits} of its {total} entries name an image"
        if total:
            found.problems.append(_not_read(table.path, message, "correct or remove it"))
    return found


def lists_by_name(
    tree: Tree, records: Sequence[Record], lists: Mapping[str, Sequence[Path]]
) -> tuple[dict[str, list[Record]], list[Problem]]:
    """(splits, findings) from lists that another file names, each split → its lists."""
    index = NameIndex(tree, records)
    given: dict[str, list[Record]] = {}
    problems: list[Problem] = []
    for split, paths in lists.items():
        for path in paths:
            found = _Lists(path.name)
            lines = _first_columns(path, most=LINES_PER_IMAGE * len(records) + 100_000)
            _read_list(found, path, split, lines, index, quiet=False)
            given.setdefault(split, []).extend(found.given.get(split, []))
            problems += found.problems
    return {split: members for split, members in given.items() if members}, problems


def _further_down(tree: Tree, records: Sequence[Record], index: NameIndex) -> tuple[_Lists | None, list[Problem]]:
    """(the lists of the folder that name the most images, findings)."""
    tried: list[_Lists] = []
    files = 0
    for relative, listing in tree.walk(depth=DEPTH):
        files += sum(_split_of_list(name, loose=True) is not None for name in listing.files)
        if files > MOST_LISTS:
            break
        tried.append(_lists_of(listing, relative, records, index, loose=True))
    tried = [found for found in tried if found.given]
    if not tried:
        return None, []
    best = max(tried, key=lambda found: found.named)
    problems = list(best.problems)
    others = [found.folder for found in tried if found.ids() != best.ids()]
    return best, [*problems, *([_differ(best.folder, others)] if others else [])]


def _differ(used: str, others: Sequence[str]) -> Problem:
    """A warning of folders with lists of other splits than those that are used."""
    message = f"the lists in {used or 'the root'} are used, those in {', '.join(others[:4])} differ"
    fix = "copy the lists that are meant to train.txt, val.txt and test.txt in the root, and remove the others"
    return Problem("warning", "several split lists", message, tuple(others), fix)


def _split_of_list(name: str, *, loose: bool) -> str | None:
    stem, ending = os.path.splitext(name)
    if ending.lower() not in (".txt", ".lst"):
        return None
    exact = SPLIT_NAMES.get(stem.lower())
    return exact if exact is not None or not loose else split_of_part(stem)


def _lists_of(
    listing: Folder, folder: str, records: Sequence[Record], index: NameIndex, *, loose: bool = False
) -> _Lists:
    """The lists in one folder; ``loose`` also takes ``train_id.txt``, and is silent of lists that do not fit.

    Of several lists for one split (``train.txt, training.txt``; ``train_0.txt, train_1.txt``) the plainest name counts,
    then the first; a finding names those that differ.
    """
    found = _Lists(folder)
    used: dict[str, str] = {}
    others: list[str] = []
    splits = {name: split for name in listing.files if (split := _split_of_list(name, loose=loose)) is not None}
    for name in sorted(splits, key=lambda name: _plainness(name, splits[name])):
        split, path = splits[name], Path(listing.path, name)
        try:
            lines = _first_columns(path, most=LINES_PER_IMAGE * len(records) + 100_000)
        except DataError as error:
            if not loose:
                found.problems.append(_not_read(path, f"{name}: {error.message}", error.fix))
            continue
        one = _Lists(folder)
        _read_list(one, path, split, lines, index, quiet=loose)
        if split not in found.given:
            found.given |= one.given
            found.problems += one.problems
            used |= dict.fromkeys(one.given, name)
        elif one.given and one.ids()[split] != found.ids()[split]:
            others.append(name)
    if others:
        chosen = [used[split] for split in dict.fromkeys(splits[name] for name in others)]
        message = f"of several lists for one split {', '.join(chosen)} {'is' if len(chosen) == 1 else 'are'} used, and "
        message += f"{', '.join(others[:4])} {'differs' if len(others) == 1 else 'differ'}"
        fix = "write the splits that are meant to train.txt, val.txt and test.txt in the root, and remove the others"
        found.problems.append(Problem("warning", "several split lists", message, tuple(others), fix))
    return found


def _plainness(name: str, split: str) -> tuple[int, bool]:
    """An order of names: ``train.txt``, ``train.lst``, ``training.txt``, ``train_id.txt``."""
    stem, ending = os.path.splitext(name.lower())
    return 0 if stem == split else 1 if stem in SPLIT_NAMES else 2, ending != ".txt"


def _read_list(found: _Lists, path: Path, split: str, lines: list[str], index: NameIndex, *, quiet: bool) -> None:
    """Add the images of one list, or the finding that it fits none."""
    name = path.name
    lines = index.without_comments(lines)
    cells = _cells(lines[0]) if len(lines) == 1 else []
    if 2 * sum(map(index.has_name, cells)) > len(cells):
        lines = cells
    words = [[line] if index.has_name(line) else line.replace(",", " ").split()[:1] for line in lines]
    lines = [word for first in words for word in first]  # an entry of a table may be empty
    meant = [index.find(line) for line in lines]
    kept = [record for one in meant if isinstance(one, list) for record in one]
    fitting = sum(isinstance(one, list) for one in meant)
    if not lines and not quiet and split in ("train", "val"):
        message = f"{name} names no image: there is no split {split}"
        found.problems.append(_not_read(path, message, "fill or remove it"))
    if not lines or fitting < 0.5 * len(lines):
        if lines and not quiet:
            message = f"{name} is not used: {fitting} of its {len(lines)} lines name an image"
            found.problems.append(_not_read(path, message, "correct or remove it"))
        return
    found.given[split] = list({record.id: record for record in kept}.values())
    several = [line for line, one in zip(lines, meant, strict=True) if one == "several"]
    missing = [line for line, one in zip(lines, meant, strict=True) if one is None]
    if several:
        message = f"{len(several)} lines of {name} fit several images: write their paths"
        found.problems.append(Problem("warning", "ambiguous in a list", message, tuple(several), "write whole paths"))
    if missing:
        message = f"{len(missing)} names in {name} have no image"
        found.problems.append(Problem("warning", "listed but missing", message, tuple(missing), "correct the list"))


def splits_of_siblings(placed: Sequence[tuple[str, Record]]) -> dict[str, list[Record]]:
    """Splits by folders that differ in the word of a split alone: ``uavid_train/…`` beside ``uavid_val/…``.

    ``placed``: the images' folders, relative to the root, and their records. {} where not every image lies in one.
    """
    skeletons: dict[tuple[int, str], set[str]] = {}
    for folder in {folder for folder, _ in placed}:
        for place, part in enumerate(folder.split("/")):
            split = split_of_part(part)
            if split is not None:
                skeletons.setdefault((place, _SPLIT_WORD.sub("", part.lower())), set()).add(split)
    telling = {key for key, splits in skeletons.items() if len(splits) > 1 and key[1]}
    given: dict[str, list[Record]] = {}
    for folder, record in placed:
        found = {
            split_of_part(part)
            for place, part in enumerate(folder.split("/"))
            if (place, _SPLIT_WORD.sub("", part.lower())) in telling and split_of_part(part) is not None
        }
        if len(found) != 1:
            return {}
        given.setdefault(str(found.pop()), []).append(record)
    return given


def splits_of_names(names: Sequence[tuple[str, Record]]) -> dict[str, list[Record]]:
    """Splits by the word of a split that every file name begins with: ``train_1.bmp`` beside ``testA_1.bmp``."""
    given: dict[str, list[Record]] = {}
    for name, record in names:
        match = _FIRST_WORD.match(name)
        if match is None:
            return {}
        given.setdefault(SPLIT_NAMES[match[1].lower()], []).append(record)
    return given if "train" in given and len(given) > 1 else {}


_FIRST_WORD = re.compile(r"((?i:training|train|validation|valid|val|testing|test))(?![a-z])")
_SPLIT_WORD = re.compile(r"training|train|validation|valid|val|testing|test")


def _first_columns(path: Path, most: int) -> list[str]:
    """The lines, without what follows a file's name in them; DataError for more than ``most`` lines."""
    text = read_text(path)
    if (count := text.count("\n")) > most:
        raise DataError(
            "a list of more lines than any list of these images",
            expected=f"at most {most} lines", found=f"{count} lines", where=path, fix="correct or remove it",
        )  # fmt: skip
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and _cells(lines[0]):
        return [lines[0].replace("\\", "/")]
    lines = [line[1:-1].strip() if line[0] in "\"'" and line[-1] == line[0] else line for line in lines]
    rows = [(line, line.replace(",", " ").split()) for line in lines]
    return [(row[0] if is_image(row[0]) else whole).replace("\\", "/") for whole, row in rows if row]


def _cells(line: str) -> list[str]:
    """All names of a list in one line (``0.jpg, 1.jpg`` or ``['0.jpg', '1.jpg']``); [] for any other line."""
    parts = [part.strip().strip("\"'") for part in line.strip("[]()").split(",")]
    kinds = {is_image(part) for part in parts}
    return parts if len(parts) > 1 and all(parts) and len(kinds) == 1 else []
