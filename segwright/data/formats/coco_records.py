"""Make records from COCO JSONs: match annotations to images and images to files, count what cannot be drawn."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segwright.core.counted import counted
from segwright.core.errors import FormatError
from segwright.core.types import IGNORE_INDEX
from segwright.data.annotations.rasterize import Ledger, fill_name
from segwright.data.annotations.sparse import Choice, LabelRule, PointCount, Reading, box_choices, choose_reading
from segwright.data.formats.base import SPLIT_NAMES, sort_splits, unique_ids
from segwright.data.formats.coco_categories import Classes, category_name, spell_id
from segwright.data.formats.coco_reader import CocoReader, ObjectAnnotations, Panoptic
from segwright.data.formats.coco_shapes import Weak, box_of, is_crowd, visible_points, whole, why_not_drawn
from segwright.data.formats.coco_units import check_units
from segwright.data.formats.file_references import Reference, claimed_twice, resolve_all, surroundings
from segwright.data.formats.file_tree import Tree, is_image
from segwright.data.records import Dataset, Problem, Record

CROWDS_ARE_OBJECTS = 0.5  # share of crowds from which they are drawn; COCO's own sets have 0.01
CROWDS_ARE_MANY = 0.05  # share of ignored crowds that is worth a warning


@dataclass
class CocoFile:
    """One JSON: its path, its kind, and the split that its name or folder gives."""

    path: Path
    kind: str  # instances, stuff, panoptic
    split: str | None


def _without_objects(files: Sequence[CocoFile], data: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """A warning for files whose list of annotations is empty: all their images are background."""
    empty = [
        (str(file.path), len(part["images"]))
        for file, part in zip(files, data, strict=True)
        if part["annotated"] and not part["annotations"] and part["images"]
    ]
    if not empty:
        return []
    message = (
        f"{counted(sum(number for _, number in empty), 'image', 'is')} in JSON files that annotate no "
        "object: background"
    )
    fix = "if they are not annotated, remove the key annotations from the JSON, or the file"
    return [Problem("warning", "no objects", message, tuple(path for path, _ in empty), fix)]


def _deleted(files: Sequence[CocoFile], data: Sequence[Mapping[str, Any]]) -> list[Problem]:
    """A note for what a JSON lists and marks as deleted."""
    counts = [part.get("deleted", (0, 0)) for part in data]
    images, objects = (sum(count[place] for count in counts) for place in (0, 1))
    if not images and not objects:
        return []
    message = f"{counted(objects, 'object')} and {counted(images, 'image')} are marked as deleted, and left out"
    paths = tuple(str(file.path) for file, count in zip(files, counts, strict=True) if any(count))
    return [Problem("note", "marked as deleted", message, paths, "remove the key deleted from the JSON to keep them")]


# annotation, category id in one spelling, why it has no area, whether it is marked iscrowd
_Object = tuple[Mapping[str, Any], str, str | None, bool]


@dataclass(frozen=True, slots=True)
class _Entry:
    """An image of one JSON and its annotations."""

    file: CocoFile
    number: int  # of the file
    image: Mapping[str, Any]
    found: list[_Object]


class CocoRecords:
    """The records of one or several JSONs (train and val; instances and stuff of the same images)."""

    def __init__(
        self,
        tree: Tree,
        files: Sequence[CocoFile],
        data: Sequence[dict[str, Any]],
        classes: Classes,
        choice: Choice | None = None,
    ) -> None:
        self.tree, self.files, self.data, self.classes = tree, files, data, classes
        self.choice = choice or Choice(Reading(strokes=False))
        self.ledger = Ledger()
        self.problems = [*_without_objects(files, data), *_deleted(files, data)]
        self.boxes = 0
        self.points = PointCount()
        self.names = [{spell_id(c.get("id")): category_name(c) for c in part["categories"]} for part in data]
        self.objects: list[list[_Object]] = [
            [
                (
                    a,
                    spell_id(a.get("category_id")),
                    why_not_drawn(a.get("segmentation")),
                    "iscrowd" in a and is_crowd(a),
                )
                for a in part["annotations"]
            ]
            for part in data
        ]
        self.drawn_crowds = self._crowds()

    def _crowds(self) -> set[tuple[int, str]]:
        """(file, category) whose crowds are objects: most of all objects are crowds, or all of a category."""
        result: set[tuple[int, str]] = set()
        for number, file in enumerate(self.files):
            if file.kind == "panoptic":
                continue
            total: Counter[str] = Counter()
            crowds: Counter[str] = Counter()
            total.update(key for _, key, reason, _ in self.objects[number] if reason is None)
            crowds.update(key for _, key, reason, crowd in self.objects[number] if crowd and reason is None)
            share = sum(crowds.values()) / max(sum(total.values()), 1)
            drawn = {key for key in total if crowds[key] and (share > CROWDS_ARE_OBJECTS or crowds[key] == total[key])}
            result |= {(number, key) for key in drawn}
            as_objects = sum(crowds[key] for key in drawn)
            ignored = sum(crowds.values()) - as_objects
            if as_objects:
                self.classes.notes.append(
                    f"{file.path.name}: {counted(as_objects, 'object')} marked iscrowd are drawn as objects, for "
                    + ("most objects are marked so" if share > CROWDS_ARE_OBJECTS else "all of their category are")
                )
            if ignored:
                self.classes.notes.append(f"{file.path.name}: {ignored} crowds are ignored")
            if ignored > CROWDS_ARE_MANY * sum(total.values()):
                message = (
                    f"{ignored} of {counted(sum(total.values()), 'object')} of {file.path.name} are marked "
                    "iscrowd and become "
                    "ignored pixels"
                )
                fix = "if they are brush masks of single objects, as CVAT marks them, set iscrowd to 0"
                self.problems.append(Problem("warning", "crowds ignored", message, (str(file.path),), fix))
        return result

    def _entries(self) -> list[_Entry]:
        """Every image of every file with its annotations; what belongs to no listed image is lost."""
        entries = []
        for number, (file, part) in enumerate(zip(self.files, self.data, strict=True)):
            by_id: dict[str, list[Mapping[str, Any]]] = {}
            for image in part["images"]:
                by_id.setdefault(spell_id(image["id"]), []).append(image)
            twice = {key for key, images in by_id.items() if len({str(i["file_name"]) for i in images}) > 1}
            exact = {(type(i["id"]), str(i["id"])): key for key in twice for i in by_id[key]}
            split_ids = {
                key for key in twice if len({(type(i["id"]), str(i["id"])) for i in by_id[key]}) == len(by_id[key])
            }
            grouped: dict[Any, list[_Object]] = {}
            for one in self.objects[number]:
                annotation = one[0]
                raw = annotation.get("image_id")
                key = spell_id(raw)
                if key not in by_id:
                    self._lose(number, annotation, "its image id is not listed")
                elif key in twice and (key not in split_ids or (type(raw), str(raw)) not in exact):
                    self._lose(number, annotation, "several images have its image id")
                else:
                    grouped.setdefault((type(raw), str(raw)) if key in twice else key, []).append(one)
            for image in part["images"]:
                key = spell_id(image["id"])
                place = (type(image["id"]), str(image["id"])) if key in twice else key
                entries.append(_Entry(file, number, image, grouped.get(place, [])))
        return entries

    def _lose(self, number: int, annotation: Mapping[str, Any], reason: str) -> None:
        for item in annotation.get("segments_info") or (annotation,):
            key = spell_id(item.get("category_id"))
            self.ledger.lose(self.names[number].get(key, f"category {key}"), reason)

    def _payload(self, entry: _Entry) -> Any:
        """The payload of an image's record; None if its file has no annotations at all."""
        index, names = self.classes.index[entry.number], self.names[entry.number]
        if entry.file.kind == "panoptic":
            return self._panoptic(entry)
        if not self.data[entry.number]["annotated"]:
            return None
        regions, kept = [], []
        height, width = whole(entry.image.get("height")), whole(entry.image.get("width"))
        points: list[tuple[str, float, float]] = []
        for annotation, key, reason, crowd in entry.found:
            name = names.get(key, f"category {key}")
            weak = self._weak(annotation) if reason is not None else None
            if weak is not None and key in index:
                points += [(name, x, y) for x, y in weak.points]
                regions.append((index[key], weak, False))
                kept.append(name)
            elif reason is not None:
                self.boxes += bool(annotation.get("bbox"))
                self.ledger.lose(name, f"{reason}, a box alone" if annotation.get("bbox") else reason)
            elif key not in names:
                self.ledger.lose(name, "the category is not listed")
            elif key in index:  # else what the format's own conventions leave out
                ignored = crowd and (entry.number, key) not in self.drawn_crowds
                regions.append((index[key], annotation["segmentation"], ignored))
                kept.append(name)
        self.ledger.kept.update(kept)
        self.points.add(points, height, width)
        return ObjectAnnotations(str(entry.file.path), height, width, tuple(regions))

    def _weak(self, annotation: Mapping[str, Any]) -> Weak | None:
        """What an annotation without an outline labels; None where that is nothing, or is not read."""
        reading = self.choice.reading
        if reading.strokes and (points := visible_points(annotation)):
            return Weak(reading.rule, points)
        box = box_of(annotation) if reading.rule.boxes != "auto" else None
        return None if box is None else Weak(reading.rule, box=box)

    def _panoptic(self, entry: _Entry) -> Panoptic | None:
        index, names = self.classes.index[entry.number], self.names[entry.number]
        for annotation, *_ in entry.found:
            png = self.pngs.get((entry.number, str(annotation["file_name"])))
            if png is None:
                continue
            segments = []
            for segment in annotation["segments_info"]:
                key = spell_id(segment.get("category_id"))
                if key not in index:
                    self.ledger.lose(names.get(key, f"category {key}"), "the category is not listed")
                else:
                    self.ledger.keep(names[key])
                ignored = is_crowd(segment) or key not in index
                segments.append((int(segment["id"]), IGNORE_INDEX if ignored else index[key]))
            return Panoptic(png, tuple(segments))
        return None

    def _find_pngs(self, entries: Sequence[_Entry]) -> None:
        """The segment PNGs of panoptic JSONs: in the folder that has the JSON's name, or beside it."""
        self.pngs: dict[tuple[int, str], Path] = {}
        asked = [
            (e.number, str(a["file_name"]), e.file) for e in entries if e.file.kind == "panoptic" for a, *_ in e.found
        ]
        if not asked:
            return
        references = []
        for _, name, file in asked:
            year = f"panoptic_{file.split}2017"
            references.append(Reference(name, file.path, file.split, (file.path.stem, year, f"panoptic_{file.split}")))
        found = resolve_all(self.tree, references, "segment PNG")
        self.pngs = {asked[i][:2]: path for i, path in enumerate(found.paths) if path is not None}
        self.problems += found.problems

    def dataset(self) -> Dataset:
        entries = self._entries()
        references = [Reference(str(e.image["file_name"]), e.file.path, e.file.split) for e in entries]
        found = resolve_all(self.tree, references)
        self.problems += found.problems
        self._find_pngs(entries)
        claims: dict[Path, list[_Entry]] = {}
        pngs = set(self.pngs.values())
        for entry, path in zip(entries, found.paths, strict=True):
            if path is not None and path not in pngs:
                claims.setdefault(path, []).append(entry)
        payloads: dict[Path, Any] = {}
        contested: dict[Path, list[int]] = {}
        for path, claimants in claims.items():
            if len(claimants) > 1 and not self._agree(claimants):
                contested[path] = found.shared[path]
                continue
            payloads[path] = self._merged(claimants)
        if contested:
            self.problems.append(claimed_twice(references, contested, surroundings(self.tree).root))
        return self._made(payloads, claims, [str(references[i].name) for i in found.missing], bool(contested))

    def _agree(self, claimants: Sequence[_Entry]) -> bool:
        """Whether the entries for one file complement each other (stuff and instances) or are equal."""
        by_kind: dict[str, list[_Entry]] = {}
        for entry in claimants:
            by_kind.setdefault(entry.file.kind, []).append(entry)
        if len({spell_id(entry.image["id"]) for entry in claimants}) > 1 and len(by_kind) > 1:
            return False
        return all(
            all(self._content(one) == self._content(alike[0]) for one in alike[1:]) for alike in by_kind.values()
        )

    def _content(self, entry: _Entry) -> list[Any]:
        names = self.names[entry.number]
        return [
            (names.get(key), a.get("segmentation"), a.get("segments_info"), crowd) for a, key, _, crowd in entry.found
        ]

    def _merged(self, claimants: Sequence[_Entry]) -> Any:
        chosen = {entry.file.kind: entry for entry in reversed(claimants)}
        parts = [part for part in (self._payload(entry) for entry in chosen.values()) if part is not None]
        if not parts or not isinstance(parts[0], ObjectAnnotations):
            return parts[0] if parts else None
        first = next(part for part in parts)
        regions = tuple(region for part in parts for region in part.regions)
        return ObjectAnnotations(first.source, first.height, first.width, regions)

    def _made(
        self, payloads: Mapping[Path, Any], claims: Mapping[Path, Sequence[_Entry]], missing: list[str], contested: bool
    ) -> Dataset:
        if not payloads:
            raise FormatError(
                "several JSON files annotate the same images differently" if contested and not missing else
                "none of the JSON's images is there",
                expected=", ".join(missing[:3]) or "one JSON file per split, or stuff and instances of the same ids",
                found="; ".join(problem.message for problem in self.problems)[:600] or self.tree.summary(),
                where=self.tree.root,
                fix="open one of the JSON files itself" if contested and not missing else "copy the images there",
            )  # fmt: skip
        self._refuse_nothing(payloads)
        for number, file in enumerate(self.files):
            if file.kind != "panoptic":
                own = [entry for path in payloads for entry in claims[path] if entry.number == number]
                self.problems += check_units(((e.image, a) for e in own for a, *_ in e.found), file.path)
        ids = unique_ids([(path.parent.name, path.stem, path.suffix) for path in payloads])
        records = {
            path: Record(name, path, None, payload) for name, (path, payload) in zip(ids, payloads.items(), strict=True)
        }
        splits: dict[str, dict[Path, None]] = {}
        for path in records:
            for entry in claims[path]:
                stated = entry.image.get("split", entry.image.get("subset"))
                split = entry.file.split or SPLIT_NAMES.get(str(stated).lower())
                if split is not None:
                    splits.setdefault(split, {})[path] = None
        given = {split: [records[path] for path in paths] for split, paths in splits.items()}
        if len(given) == 1 and len(next(iter(given.values()))) < len(records):
            given = {}
        fix = "export the outlines (polygons or masks) of all objects, with the images and categories they belong to"
        fix += f"; {box_choices()}" if self.boxes else ""
        folders = {str(path.parent) for path in records}
        walked = surroundings(self.tree).walk()
        used = {str(path) for path in claims}
        near = [os.path.join(one.path, name) for _, one in walked if one.path in folders for name in one.files]
        lone = tuple(path for path in near if path not in used and is_image(path))
        if lone:
            message = f"{counted(len(lone), 'image')} beside those of the JSON are in no JSON: they are not used"
            self.problems.append(Problem("note", "images not listed", message, lone))
        return Dataset(
            root=self.tree.root,
            format="coco",
            reader=CocoReader(self.classes.space, background=self.classes.background, reading=self.choice.reading),
            records=tuple(records.values()),
            given=sort_splits(given),
            notes=[
                f"{counted(len(self.classes.space), 'class')} from the JSON's categories",
                *self.classes.notes,
                *self.choice.notes,
                *self._reading_notes(),
            ],
            problems=[*self.ledger.problems(fix), *self.choice.problems, *self.problems],
        )

    def _refuse_nothing(self, payloads: Mapping[Path, Any]) -> None:
        """FormatError where no object is left to draw."""
        if not self.ledger.nothing_left:
            return
        only_boxes = self.boxes and self.boxes == sum(self.ledger.lost.values())
        raise FormatError(
            "these are boxes, not outlines: the annotations of a detection dataset" if only_boxes else
            "none of the objects can be drawn",
            expected="annotations with a segmentation, an image and a category that are listed",
            found=f"{counted(sum(self.ledger.lost.values()), 'object')}, none drawn: {self.ledger.summary()}",
            where=self.files[0].path if len(self.files) == 1 else self.tree.root,
            fix=f"export the outlines (polygons or masks) of all objects{f'; {box_choices()}' if only_boxes else ''}",
        )  # fmt: skip

    def _reading_notes(self) -> list[str]:
        reading = self.choice.reading
        bare = [a for objects in self.objects for a, _, reason, _ in objects if reason is not None]
        fill = fill_name(self.classes.space, self.classes.background)
        notes = reading.notes(fill, strokes=any(map(visible_points, bare)))
        if reading.rule.boxes == "core":
            notes.append("of a box without an outline the inner fifth is its class, the rest of it ignored")
        return notes + self.points.notes()


def choose_for(rule: LabelRule, data: Sequence[Mapping[str, Any]]) -> Choice:
    """How key points without an outline are read, by the annotations of every image."""
    counts: dict[tuple[int, str], list[int]] = {}
    for number, part in enumerate(data):
        for annotation in part["annotations"]:
            one = counts.setdefault((number, spell_id(annotation.get("image_id"))), [0, 0])
            drawn = why_not_drawn(annotation.get("segmentation")) is None or "segments_info" in annotation
            if not drawn and visible_points(annotation):
                one[0] += 1
            elif drawn or (rule.boxes != "auto" and box_of(annotation) is not None):
                one[1] += 1
    return choose_reading(rule, [(strokes, outlines) for strokes, outlines in counts.values()])
