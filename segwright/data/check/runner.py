"""The data check: what is wrong with a dataset, and the fingerprint that plans training.

Every image and mask is read once, in worker processes that a broken file may crash (:mod:`segwright.imageio.sandbox`),
and comes back as some hundred numbers (:mod:`segwright.data.check.scan`). They are added up as they come
(:mod:`segwright.data.check.aggregate`), and the checks of :data:`CHECKS` judge the sums. Memory per image is about two
kilobytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from segwright.core.counted import counted
from segwright.core.deprecated import renamed_attribute, renamed_names
from segwright.core.errors import SegwrightError
from segwright.data.annotations.sparse import LabelRule
from segwright.data.check import file_rules, image_rules, label_rules, split_rules
from segwright.data.check.dataset_scan import DatasetScan, scan_dataset
from segwright.data.check.evidence import Evidence
from segwright.data.check.fingerprint import Fingerprint
from segwright.data.check.label_outliers import LabelOutlier
from segwright.data.check.label_rules import side_notes
from segwright.data.check.rules import BY_KIND, Check
from segwright.data.dataset import open_dataset
from segwright.data.records import Dataset, Problem, Record

SEVERITIES = ("error", "warning", "note")
# What is checked, in this order; :data:`segwright.data.check.rules.RULES` lists the findings that each can report.
CHECKS: tuple[Check, ...] = (
    file_rules.opening,  # what opening the dataset reported: missing, ambiguous and unread files, guesses
    file_rules.pairing,  # images without masks, masks without images
    file_rules.file_errors,  # files that cannot be used: truncated, empty, huge, damaged, of another size or place
    file_rules.unmapped_values,  # mask values outside the classes, anti-aliased masks
    file_rules.orientation,  # EXIF orientation of image and mask
    file_rules.file_contents,  # names that do not fit the content, decoder warnings
    file_rules.names,  # colliding and odd file names
    image_rules.mask_encodings,  # JPEG masks, 0/255 masks, masks stored in different ways
    image_rules.image_contents,  # blank, tiny and gray images, masks ignored all over, channels
    image_rules.bit_depths,  # 8-bit images among deeper ones
    label_rules.objects,  # annotated objects that cover no pixel
    label_rules.learnable,  # one class only, everything ignored
    label_rules.partial_labels,  # how much is labeled, where images are labeled in part
    label_rules.ignored_by_guess,  # a value taken for 'ignore' without a class list
    label_rules.rare_values,  # values of single masks, stray values, classes of a few pixels
    label_rules.equal_masks,
    label_rules.contradictions,  # equal images with different masks
    label_rules.names_alike,  # one class under two names
    label_rules.sides,  # left and right classes that flips do not exchange
    split_rules.classes,  # classes that never occur, or not in every split
    split_rules.label_shift,  # class shares that differ between train and another split
    split_rules.shared_files,  # one file in several splits
    split_rules.duplicates,  # copies and near-duplicates
    split_rules.label_outliers,  # regions that look like another class
)

# What follows from the absence of classes in all images: left out where only some were examined.
FOR_ALL_IMAGES = frozenset({label_rules.rare_values, split_rules.classes})

__getattr__ = renamed_names(__name__, {"inspect_path": "check_path", "inspect_dataset": "check_dataset"})


@dataclass(frozen=True)
class CheckResult:
    """The result of the check."""

    root: Path
    format: str
    images: int
    splits: dict[str, int]  # name → images, as the files give them; {"all": …} where they give none
    fingerprint: Fingerprint | None  # of the whole; None where the dataset could not be opened
    by_split: dict[str, Fingerprint]
    problems: tuple[Problem, ...]  # errors first
    notes: tuple[str, ...] = ()  # what was concluded while opening
    outliers: tuple[LabelOutlier, ...] = ()
    objects: Mapping[int, tuple[int, int]] = field(default_factory=dict)  # class → objects listed, objects with pixels
    labeled_shares: Mapping[str, float] = field(default_factory=dict, repr=False)  # id → share of labeled pixels
    dataset: Dataset | None = field(default=None, repr=False)
    records: tuple[Record, ...] = field(default=(), repr=False)  # that suspects point into
    examined: int | None = None  # images that were read; None: all, as they are where the time is not limited

    suspects = renamed_attribute("suspects", "outliers")

    @property
    def errors(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def warnings(self) -> tuple[Problem, ...]:
        return tuple(problem for problem in self.problems if problem.severity == "warning")

    def sample_note(self) -> str:
        """The note on images that were not examined for lack of time; empty if all were."""
        if self.examined is None:
            return ""
        return (
            f"{self.examined} of {counted(self.images, 'image')} examined, for lack of time: damaged files, copies and "
            "rare classes among the others are not found; segwright check DATA examines all"
        )

    @property
    def exit_code(self) -> int:
        """1 where there are errors, else 0."""
        return 1 if self.errors else 0

    def to_json(self) -> dict[str, Any]:
        """The dictionary that ``check --json`` writes."""
        found = self.fingerprint
        classes = [] if found is None else zip(found.class_names, found.class_pixels, found.class_images, strict=True)
        return {
            "format": self.format,
            "images": self.images,
            "examined": self.images if self.examined is None else self.examined,
            "splits": self.splits,
            "classes": [
                {"id": index, "name": name, "pixels": pixels, "images": images, **self._objects_json(index)}
                for index, (name, pixels, images) in enumerate(classes)
            ],
            "problems": [_problem_json(problem) for problem in self.problems],
            "notes": list(self.notes),
            "labels": self._labels_json(),
            "fingerprint": None if found is None else found.to_json(),
            "fingerprints": {name: one.to_json() for name, one in self.by_split.items()},
        }

    def _labels_json(self) -> dict[str, Any]:
        """How much of the images is labeled; the share of each image where they are labeled in part."""
        found = self.fingerprint
        partial = self.dataset is not None and self.dataset.partial
        sparse = any(one.sparse for one in (found, *self.by_split.values()) if one is not None)
        low, median, high = (1.0, 1.0, 1.0) if found is None else found.labeled_share
        return {
            "partial": partial or sparse,
            "sparse": sparse,
            "labeled_share": None if found is None else 1 - found.ignored_share,
            "per_image": {"lowest": low, "median": median, "highest": high},
            "images": {name: share for name, share in self.labeled_shares.items() if partial or sparse},
            "not_checked": list(label_rules.NOT_FOR_SPARSE) if sparse else [],
        }

    def _objects_json(self, label: int) -> dict[str, int]:
        """Object counts of a class, for formats with single objects."""
        if not self.objects:
            return {}
        listed, drawn = self.objects.get(label, (0, 0))
        return {"objects": listed, "objects_with_pixels": drawn}

    @classmethod
    def from_json(cls, found: Mapping[str, Any], dataset: Dataset) -> CheckResult:
        """The inverse of :meth:`to_json` for a check of ``dataset``, without the outliers, which it leaves out."""
        whole = found["fingerprint"]
        return cls(
            root=dataset.root,
            format=found["format"],
            images=found["images"],
            splits=dict(found["splits"]),
            fingerprint=None if whole is None else Fingerprint.from_json(whole),
            by_split={name: Fingerprint.from_json(one) for name, one in found["fingerprints"].items()},
            problems=tuple(Problem.from_json(one) for one in found["problems"]),
            notes=tuple(found["notes"]),
            objects={
                one["id"]: (one["objects"], one["objects_with_pixels"])
                for one in found["classes"]
                if one.get("objects")
            },
            dataset=dataset,
            examined=found["examined"] if found["examined"] < found["images"] else None,
        )


def _problem_json(problem: Problem) -> dict[str, Any]:
    """The problem with the id of its rule and where the rule is explained."""
    rule = BY_KIND.get(problem.kind)
    return {**problem.to_json(), "rule": rule and rule.id, "docs": rule and rule.docs}


def check_path(
    path: str | Path,
    format: str | None = None,
    *,
    images: str | None = None,
    masks: str | None = None,
    labels: LabelRule | Mapping[str, Any] | None = None,
    workers: int | None = None,
) -> CheckResult:
    """Open and check. A dataset that cannot be opened is a result with that one error, not an exception."""
    try:
        dataset = open_dataset(path, format, images=images, masks=masks, labels=labels)
    except SegwrightError as error:
        text = error.message if not error.found else f"{error.message}: {error.found}"
        files = (error.where or str(path),)
        problem = Problem("error", "cannot be opened", text, files, error.fix)
        return CheckResult(Path(path), "unknown", 0, {}, None, {}, (problem,))
    return check_dataset(dataset, workers=workers)


def _labeled_shares(scan: DatasetScan) -> dict[str, float]:
    """Id → share of its pixels that is labeled, of every image with a mask."""
    labeled = scan.totals.pixels.sum(axis=1, dtype=np.int64)
    pixels = scan.totals.sizes.prod(axis=1, dtype=np.int64).clip(1)
    return {
        record.id: round(float(labeled[i] / pixels[i]), 6)
        for i, record in enumerate(scan.records)
        if scan.totals.labeled[i]
    }


def check_dataset(dataset: Dataset, *, workers: int | None = None, seconds: float | None = None) -> CheckResult:
    """Read everything once and run the checks; what was read before (for the splits) is not read again.

    ``workers``: worker processes, as many as cores if None. 0 reads in this process, without the half second that
    workers take to start, and without their protection from files that crash a decoder. ``seconds``: a limit for
    reading; if it is not enough, images spread evenly over every split are examined, and a note has their number.
    """
    scan = scan_dataset(dataset, workers=workers, seconds=seconds)
    examined = None if scan.examined.all() else int(scan.examined.sum())
    evidence = Evidence(dataset, scan.records, scan.member, scan.totals, scan.overall, scan.by_split, examined)
    totals = scan.totals
    checks = [check for check in CHECKS if examined is None or check not in FOR_ALL_IMAGES]
    problems = [problem for check in checks for problem in check(evidence)]
    result = CheckResult(
        root=dataset.root,
        format=dataset.format,
        images=len(scan.records),
        splits={name: found.images for name, found in scan.by_split.items()},
        fingerprint=scan.overall,
        by_split=dict(scan.by_split),
        problems=tuple(sorted(problems, key=lambda problem: SEVERITIES.index(problem.severity))),
        notes=(*dataset.notes, *side_notes(dataset.label_space)),
        outliers=tuple(evidence.outliers),
        objects={label: pair for label, pair in sorted(totals.objects.items()) if label < len(totals.names)},
        labeled_shares=_labeled_shares(scan) if evidence.sparse or dataset.partial else {},
        dataset=dataset,
        records=scan.records,
        examined=examined,
    )
    return replace(result, notes=(*result.notes, *filter(None, [result.sample_note()])))
