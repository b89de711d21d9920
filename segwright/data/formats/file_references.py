"""Resolve the file names in annotations and lists: one set of rules for all formats.

A name is joined to the folder of the file that holds it, then to that folder's split and image folders
(``images/train``, ``train/images``, ``JPEGImages``), then to those of the folders above. What is left over may be
found by a looser match, the longest common end of the paths, but only where exactly one file fits, no other entry has
that file, it lies in no other split's folder, and no folder that the name gives contradicts. Every looser match is
reported, and so is every name without a file: an image is never replaced by another one of the same base name.
"""

from __future__ import annotations

import functools
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segwright.core.counted import counted
from segwright.data.formats.file_tree import Tree
from segwright.data.formats.folder_roles import describe_folder
from segwright.data.formats.name_parts import Spelling, composed, is_generic, spellings, split_of
from segwright.data.records import Problem
from segwright.imageio import EXTENSIONS

Noun = Literal["image", "mask", "segment PNG"]

SHOWN = 3  # examples in a message
MOST_ALIKE = 64  # files whose paths end alike that are looked at for a looser match: of more none is certain
MISSING_KINDS: dict[Noun, str] = {
    "image": "image missing",
    "mask": "mask missing",
    "segment PNG": "segment PNG missing",
}
AMBIGUOUS_KINDS: dict[Noun, str] = {
    "image": "image ambiguous",
    "mask": "mask ambiguous",
    "segment PNG": "segment PNG ambiguous",
}
_ANNOTATION_FOLDERS = frozenset({"annotations", "annotation", "annots", "labels", "json", "jsons"})


@dataclass(frozen=True, slots=True)
class Reference:
    """A file that an annotation or a list names."""

    name: str  # as it stands there
    annotation: Path | None = None  # the file that names it
    split: str | None = None  # the split that the file or the entry names
    folders: tuple[str, ...] = ()  # folders beside the annotation to look into first
    alternatives: tuple[str, ...] = ()  # other names of the file, for when there is none of the first


@dataclass
class Resolution:
    """The files that the references of a dataset resolve to."""

    paths: list[Path | None]  # one per reference
    loose: list[int] = field(default_factory=list)  # references that only a looser match found
    missing: list[int] = field(default_factory=list)  # references without a file
    ambiguous: list[int] = field(default_factory=list)  # of the missing: those that several files fit
    shared: dict[Path, list[int]] = field(default_factory=dict)  # files that several references name
    problems: list[Problem] = field(default_factory=list)  # looser matches and missing files; not the shared ones


def surroundings(tree: Tree) -> Tree:
    """The folder in which names are looked up: the root, or the folder around a root that is a file.

    An annotation file in a folder ``annotations`` has its images beside that folder.
    """
    if not tree.is_file:
        return tree
    if "surroundings" not in tree.memo:
        parent = tree.root.absolute().parent
        up = parent.parent if parent.name.lower() in _ANNOTATION_FOLDERS else parent
        tree.memo["surroundings"] = Tree(up)
    found: Tree = tree.memo["surroundings"]
    return found


class FileIndex:
    """All files under a root by path and by base name, in composed Unicode."""

    def __init__(self, tree: Tree) -> None:
        self.root = tree.root
        self.by_path: dict[str, list[str]] = {}
        self.by_name: dict[str, list[str]] = {}
        self.folders: list[str] = []
        self.places: dict[Path, tuple[str, str]] = {}  # annotation → its folder and stem
        self.filled: set[str] = set()  # folders with files in or below them
        self.with_images: set[str] = set()
        self._prefixes: dict[tuple[str, str, str | None, tuple[str, ...]], list[list[str]]] = {}
        self._generic: dict[str, list[str]] = {}  # folder → generic folders below it
        for relative, listing in tree.walk():
            self.folders.append(relative)
            for name in listing.files:
                path = f"{relative}/{name}" if relative else name
                self.by_path.setdefault(composed(path), []).append(path)
                self.by_name.setdefault(composed(name).casefold(), []).append(path)
            if any(os.path.splitext(name)[1].lower() in EXTENSIONS for name in listing.files):
                self.with_images.add(relative)
            if listing.files:
                parts = relative.split("/") if relative else []
                self.filled.update("/".join(parts[:end]) for end in range(len(parts) + 1))
        for relative in self.folders:
            parts = relative.split("/") if relative else []
            for up in range(1, min(len(parts), 3) + 1):
                if not is_generic(parts[-up]):
                    break
                self._generic.setdefault("/".join(parts[:-up]), []).append(relative)

    def exact(self, spelling: Spelling, folder: str, stem: str, split: str | None, first: tuple[str, ...]) -> list[str]:
        """The files that a name means by the rules for certain matches; several where it is ambiguous."""
        if spelling.absolute:
            start = str(self.root.absolute()).strip(os.sep).replace(os.sep, "/") + "/"
            inside = spelling.path.removeprefix(start)
            return self.by_path.get(inside, []) if inside != spelling.path else []
        for group in self._groups(folder, stem, split, first):
            found = dict.fromkeys(
                path for prefix in group for path in self.by_path.get(_joined(prefix, spelling.path), ())
            )
            if found:
                return list(found)
        return []

    def _groups(self, folder: str, stem: str, split: str | None, first: tuple[str, ...]) -> list[list[str]]:
        """Folders to join a name to, in ranks: within a rank none is better than another."""
        key = (folder, stem, split, first)
        if key not in self._prefixes:
            ranks: list[list[str]] = [[posixpath.join(folder, name)] for name in first]
            here: str | None = folder
            while here is not None:
                below = [path for path in self._generic.get(here, ()) if path in self.filled]
                own = [path for path in below if split is not None and split_of(path[len(here) :]) == split]
                plain = [path for path in below if split_of(path[len(here) :]) is None]
                ranks += [[here], own] if here == folder else [own, [here]]
                ranks += [[posixpath.join(here, stem)]] if stem else []
                ranks += [] if own else [plain]
                here = None if not here else posixpath.dirname(here)
            self._prefixes[key] = [rank for rank in ranks if rank]
        return self._prefixes[key]

    def loose(self, spelling: Spelling) -> tuple[int, list[str]]:
        """(common end in parts, files): those of the base name that share the longest end of the path."""
        parts = spelling.path.casefold().split("/")
        best: list[str] = self.by_name.get(parts[-1], [])
        most = _common_end(composed(best[0]).casefold().split("/"), parts) if len(best) == 1 else min(len(best), 1)
        if len(best) > 1:
            ends = (("/".join(parts[start:]), len(parts) - start) for start in range(len(parts) - 1))
            best, most = next(((self.by_end[end], n) for end, n in ends if end in self.by_end), (best, most))
        if 1 < len(best) <= MOST_ALIKE:  # of names that differ in letter case alone, the one as spelt
            spelt = [path for path in best if composed(path).split("/")[-1] == spelling.path.split("/")[-1]]
            best = spelt or best
        return most, best

    @functools.cached_property
    def by_end(self) -> dict[str, list[str]]:
        """Every end of a path with a folder, letter case aside, of the names that several files have → the files."""
        found: dict[str, list[str]] = {}
        for paths in self.by_name.values():
            for path in paths if len(paths) > 1 else ():
                parts = composed(path).casefold().split("/")
                for start in range(len(parts) - 1):
                    found.setdefault("/".join(parts[start:]), []).append(path)
        return found

    @functools.cached_property
    def folder_names(self) -> frozenset[str]:
        """The names of the folders, letter case aside."""
        return frozenset(path.split("/")[-1].casefold() for path in self.folders)


def file_index(tree: Tree) -> FileIndex:
    """The tree's index, made once."""
    around = surroundings(tree)
    if "index" not in around.memo:
        around.memo["index"] = FileIndex(around)
    found: FileIndex = around.memo["index"]
    return found


def resolve(tree: Tree, reference: Reference) -> Path | None:
    """The file that a name means for certain; None where none or several do."""
    found = _exact(file_index(tree), reference)
    return Path(surroundings(tree).root, found[0]) if len(found) == 1 else None


def _exact(index: FileIndex, reference: Reference) -> list[str]:
    folder, stem = _place(index, reference)
    for spelling in _all_spellings(reference):
        found = index.exact(spelling, folder, stem, reference.split, reference.folders)
        if len(found) > 1:  # composed and decomposed twins: the one as spelt
            literal = [path for path in found if path.endswith(reference.name)]
            found = literal if len(literal) == 1 else found
        if found:
            return found
    return []


def _all_spellings(reference: Reference) -> list[Spelling]:
    return [one for name in (reference.name, *reference.alternatives) for one in spellings(name)]


def _place(index: FileIndex, reference: Reference) -> tuple[str, str]:
    """(folder relative to the index's root, stem) of the annotation."""
    if reference.annotation is None:
        return "", ""
    if reference.annotation not in index.places:
        relative = os.path.relpath(reference.annotation.absolute(), index.root.absolute()).replace(os.sep, "/")
        outside = relative.startswith("../")
        index.places[reference.annotation] = (
            ("", "") if outside else (posixpath.dirname(relative), reference.annotation.stem)
        )
    return index.places[reference.annotation]


def resolve_all(tree: Tree, references: Sequence[Reference], noun: Noun = "image") -> Resolution:
    """Resolve the names of all annotation files of a dataset together, for a file belongs to one entry only."""
    index, root = file_index(tree), surroundings(tree).root
    exact = [_exact(index, reference) for reference in references]
    chosen = [found[0] if len(found) == 1 else None for found in exact]
    owners: dict[str, list[int]] = {}
    for number, path in enumerate(chosen):
        if path is not None:
            owners.setdefault(path, []).append(number)
    open_ones = [number for number, path in enumerate(chosen) if path is None and not exact[number]]
    faithful = {
        references[number].annotation
        for number, path in enumerate(chosen)
        if path is not None and _specific(posixpath.dirname(references[number].name.replace("\\", "/")))
    }
    wanted: dict[str, list[int]] = {}
    several = {number for number, found in enumerate(exact) if len(found) > 1}
    for number in open_ones:
        found = _looser(index, references[number], owners, references[number].annotation in faithful)
        if len(found) == 1:
            wanted.setdefault(found[0], []).append(number)
        elif found:
            several.add(number)
    result = Resolution([None] * len(references))
    for path, numbers in wanted.items():
        if len({references[number].name for number in numbers}) == 1:  # one name in several annotation files
            result.loose += numbers
            owners.setdefault(path, []).extend(numbers)
            for number in numbers:
                chosen[number] = path
        else:
            several.update(numbers)
    result.paths = [None if path is None else Path(root, path) for path in chosen]
    result.missing = [number for number, path in enumerate(chosen) if path is None]
    result.ambiguous = sorted(several & set(result.missing))
    result.shared = {Path(root, path): numbers for path, numbers in owners.items() if len(numbers) > 1}
    result.loose.sort()
    result.problems = _problems(references, result, root, noun, index)
    return result


def _looser(index: FileIndex, reference: Reference, owners: Mapping[str, object], faithful: bool) -> list[str]:
    """The files that a looser match leaves for a name: none, the one, or several that fit alike."""
    folder, _ = _place(index, reference)
    for spelling in _all_spellings(reference):
        end, alike = index.loose(spelling)
        found = [
            path
            for path in alike[:MOST_ALIKE]
            if path not in owners and _admits(index, reference, spelling, path, end, folder, faithful)
        ]
        if len(found) > 1 or (found and len(alike) <= MOST_ALIKE):
            return found
    return []


def _admits(
    index: FileIndex, reference: Reference, spelling: Spelling, path: str, end: int, folder: str, faithful: bool
) -> bool:
    """Whether a looser match is allowed: no other split's folder, no folder that contradicts."""
    there, named = path.split("/")[:-1], spelling.path.split("/")[:-1]
    split, covered = split_of("/".join(there)), there[len(there) - end + 1 :]
    if reference.split is not None and split not in (None, reference.split) and split_of("/".join(covered)) is None:
        return False  # in another split's folder, which the name does not give
    left, right = there[: len(there) - end + 1], named[: len(named) - end + 1]  # what the common end does not cover
    lost = [part for part in right if not is_generic(part) and part != ".."]
    if lost and faithful and not spelling.absolute:
        return False  # other names of this file fit with their folders: so would this one
    if left and right and not is_generic(left[-1]) and not is_generic(right[-1]) and right[-1] != index.root.name:
        return False  # cam1/000.jpg is no cam2/000.jpg
    if right and not left and _exists(index, right[-1]):
        return False  # the folder that the name gives is there, the file is not in it
    own = next((part for part in folder.split("/") if part and not is_generic(part)), None)
    if own is not None and there[:1] != [own] and folder.split("/")[0] == own:
        # The annotation's own folder holds images: one of another folder is not among them.
        return not any(f == own or f.startswith(f"{own}/") for f in index.with_images)
    return True


def _exists(index: FileIndex, name: str) -> bool:
    return not is_generic(name) and name.casefold() in index.folder_names


def _specific(folder: str) -> bool:
    return any(part not in ("", ".", "..") and not is_generic(part) for part in folder.split("/"))


def _common_end(left: list[str], right: list[str]) -> int:
    count = 0
    for a, b in zip(reversed(left), reversed(right), strict=False):
        if a != b:
            break
        count += 1
    return count


_UPLOADED = re.compile(r"^data/upload/\d+/")  # where Label Studio stores what was uploaded: nobody has that folder


def _problems(
    references: Sequence[Reference], result: Resolution, root: Path, noun: Noun, index: FileIndex
) -> list[Problem]:
    problems = []
    if result.loose:
        pairs = [
            (references[number].name, os.path.relpath(result.paths[number] or root, root)) for number in result.loose
        ]
        shown = "; ".join(f"{name} → {path}" for name, path in pairs[:SHOWN])
        sure = all(path.endswith(_UPLOADED.sub("", composed(name).lstrip("./"))) for name, path in pairs)
        problems.append(
            Problem(
                "note" if sure else "warning",
                "file found by a looser match",
                f"{counted(len(pairs), 'file', 'is')} not at their stated paths and were found by the end of "
                f"the path: {shown}",
                tuple(str(result.paths[number]) for number in result.loose),
                "make sure that they are the same files, or correct the names",
            )
        )
    absent = sorted(set(result.missing) - set(result.ambiguous))
    if absent:
        where = _sources(references, absent)
        names = [references[number].name for number in absent]
        problems.append(
            Problem(
                "error",
                MISSING_KINDS[noun],
                f"{counted(len(names), 'file')} that {where} names are missing, of {len(references)}: "
                f"{', '.join(names[:SHOWN])}{', …' if len(names) > SHOWN else ''}{_elsewhere(index, names)}",
                tuple(names),
                "copy them to their stated paths, or remove their entries",
            )
        )
    if result.ambiguous:
        names = [references[number].name for number in result.ambiguous]
        first = [path for spelling in spellings(names[0]) for path in index.loose(spelling)[1]]
        problems.append(
            Problem(
                "error",
                AMBIGUOUS_KINDS[noun],
                f"{counted(len(names), 'file')} that {_sources(references, result.ambiguous)} names could "
                "each be one of several, "
                f"such as {names[0]}: {', '.join(dict.fromkeys(first))}"[:600],
                tuple(names),
                "write the names with their folders, as paths from the annotation file",
            )
        )
    return problems


def _sources(references: Sequence[Reference], numbers: Sequence[int]) -> str:
    files = dict.fromkeys(reference.annotation.name for reference in (references[n] for n in numbers)
                          if reference.annotation is not None)  # fmt: skip
    return " or ".join([*files][:4]) or "the annotation"


def _elsewhere(index: FileIndex, names: Sequence[str]) -> str:
    """Paths of files with the same base names that were not used."""
    folders = dict.fromkeys(
        posixpath.dirname(path) or "."
        for name in names[:100]
        for spelling in spellings(name)[:1]
        for path in index.by_name.get(spelling.path.split("/")[-1].casefold(), [])[:MOST_ALIKE]
    )
    if folders:
        return f" (files of these names in {', '.join([*folders][:4])} are not taken for them)"
    for name in names[:100]:
        for spelling in spellings(name)[:1]:
            base, ending = posixpath.splitext(spelling.path.split("/")[-1].casefold())
            for other in sorted(EXTENSIONS - {ending}) if ending in EXTENSIONS else ():
                for path in index.by_name.get(base + other, ()):
                    if describe_folder(posixpath.dirname(path), loose=True)[0] != "mask":
                        return f" ({path} is there, with another ending: if it is the same image, correct the name)"
    return ""


def claimed_twice(references: Sequence[Reference], shared: Mapping[Path, Sequence[int]], root: Path) -> Problem:
    """The error for files that several entries name with different annotations."""
    first, numbers = next(iter(shared.items()))
    sources = " and ".join(dict.fromkeys(str(references[n].annotation) for n in numbers))
    return Problem(
        "error",
        "file claimed twice",
        f"{counted(len(shared), 'file', 'is')} named by several entries with different annotations, such as "
        f"{os.path.relpath(first, root)} in {sources}; they are left out",
        tuple(str(path) for path in shared),
        "write the names with their folders, open one annotation file itself, or remove the others",
    )


def _joined(prefix: str, path: str) -> str:
    """``normpath(join(prefix, path))`` for a path that is normalized itself."""
    if path.startswith(".."):
        return posixpath.normpath(posixpath.join(prefix, path))
    folder = _normalized(prefix)
    return path if folder == "." else f"{folder}/{path}"


@functools.lru_cache(maxsize=4096)
def _normalized(folder: str) -> str:
    return posixpath.normpath(folder)
