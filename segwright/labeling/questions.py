"""What people are asked: regions of images in the order of their value, as one JSON file that every tool reads.

A question is about one connected region of one image. ``check``: is the predicted class right? ``class``: which class
do most of its pixels have? Regions are run lengths along the rows of their bounding box, background first; in JSON
they are numbers with spaces between them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from segwright.core.atomic_io import write_json
from segwright.core.errors import DataError, LabelError, SegwrightError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.annotations.rle import decode_rows, encode_rows

FORMAT = "segwright selection"
VERSION = 1
MOST_BYTES = 2 << 30  # of a file: some million questions
KINDS = ("check", "class")

BoolMask = npt.NDArray[np.bool_]
Kind = Literal["check", "class"]


@dataclass(frozen=True)
class Question:
    """One question about one connected region of one image."""

    image: str  # the path below Selection.root, with slashes
    image_size: tuple[int, int]  # height, width
    box: tuple[int, int, int, int]  # left, top, right, bottom in pixels; right and bottom are not part of it
    region: tuple[int, ...]  # run lengths along the rows of the box, background first
    kind: Kind = "class"
    predicted: int | None = None  # class index; None without a model
    score: float = 0.0  # the expected value of the answer; comparable within one selection
    random: bool = False  # drawn at random, as the control

    def __post_init__(self) -> None:
        height, width = self.image_size
        left, top, right, bottom = self.box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise LabelError(
                "a question's box lies outside its image",
                expected=f"left, top, right, bottom within {width}×{height}",
                found=str(self.box),
                where=self.image,
            )
        if self.kind not in KINDS:
            raise LabelError("unknown kind of question", expected=", ".join(KINDS), found=str(self.kind)[:40])
        if self.kind == "check" and self.predicted is None:
            raise LabelError("a question of kind check needs the predicted class", where=self.image)
        lengths = self.region
        if any(length < 0 for length in lengths) or sum(lengths) != (right - left) * (bottom - top):
            raise LabelError(
                "a question's run lengths do not fill its box",
                expected=f"lengths from 0 up that sum to {(right - left) * (bottom - top)}",
                found=f"{len(lengths)} lengths that sum to {sum(lengths)}",
                where=self.image,
            )
        if not math.isfinite(self.score):
            raise LabelError("a question's score is not finite", found=str(self.score), where=self.image)

    @classmethod
    def of_mask(cls, image: str, mask: BoolMask, **rest: Any) -> Question:
        """The question about the True pixels of a mask (H, W); LabelError if there is none."""
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size == 0:
            raise LabelError("a region has no pixels", where=image)
        box = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
        inner = mask[box[1] : box[3], box[0] : box[2]]
        size = (int(mask.shape[0]), int(mask.shape[1]))
        return cls(image, size, box, tuple(encode_rows(inner)), **rest)

    @property
    def pixels(self) -> int:
        """The number of pixels of the region."""
        return sum(self.region[1::2])

    @property
    def inner(self) -> tuple[slice, slice]:
        """The rows and columns of the box, to index an image or a mask with."""
        left, top, right, bottom = self.box
        return slice(top, bottom), slice(left, right)

    def patch(self) -> BoolMask:
        """The region as a mask of its box."""
        left, top, right, bottom = self.box
        return decode_rows(self.region, bottom - top, right - left, self.image)

    def mask(self) -> BoolMask:
        """The region as a mask (H, W) of the image."""
        found = np.zeros(self.image_size, bool)
        found[self.inner] = self.patch()
        return found

    def to_json(self) -> dict[str, Any]:
        """JSON values; ``from_json`` gives the same question."""
        return {
            "image": self.image,
            "image_size": list(self.image_size),
            "box": list(self.box),
            "region": " ".join(map(str, self.region)),  # as text: one line, whatever the indentation
            "kind": self.kind,
            "predicted": self.predicted,
            "score": round(self.score, 6),
            "random": self.random,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Question:
        """KeyError, TypeError, ValueError or LabelError for anything else."""
        height, width = (int(side) for side in data["image_size"])
        left, top, right, bottom = (int(side) for side in data["box"])
        predicted = data.get("predicted")
        return cls(
            image=_inside(data["image"]),
            image_size=(height, width),
            box=(left, top, right, bottom),
            region=tuple(int(length) for length in str(data["region"]).split()),
            kind=data.get("kind", "class"),
            predicted=None if predicted is None else int(predicted),
            score=float(data.get("score", 0.0)),
            random=bool(data.get("random", False)),
        )


@dataclass(frozen=True)
class SelectedImage:
    """An image that was chosen."""

    image: str  # the path below Selection.root, with slashes
    image_size: tuple[int, int]  # height, width
    score: float = 0.0  # the mean score of its regions, weighted by their pixels
    random: bool = False  # drawn at random, as the control
    stands_for: tuple[str, ...] = ()  # near-duplicates of it, which were left out

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "image": self.image,
            "image_size": list(self.image_size),
            "score": round(self.score, 6),
            "random": self.random,
            "stands_for": list(self.stands_for),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> SelectedImage:
        """KeyError, TypeError or ValueError for anything else."""
        height, width = (int(side) for side in data["image_size"])
        return cls(
            _inside(data["image"]), (height, width), float(data.get("score", 0.0)), bool(data.get("random", False)),
            tuple(str(name) for name in data.get("stands_for", ())),
        )  # fmt: skip


@dataclass(frozen=True)
class Selection:
    """The chosen images and the questions about them, the most valuable first."""

    items: tuple[Question, ...]
    images: tuple[SelectedImage, ...]
    root: Path  # the folder that image paths start from
    label_space: LabelSpace | None = None  # of the model; None without one
    models: tuple[str, ...] = ()  # the models that were asked, as they were given
    seed: int = 0
    clicks: int = 0  # questions per image that were wanted
    considered: int = 0  # images that were looked at
    failed: tuple[tuple[str, str], ...] = ()  # file, why it could not be used
    notes: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)  # how it was chosen

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Question]:
        return iter(self.items)

    @property
    def model(self) -> str | None:
        """The first model; None without one."""
        return self.models[0] if self.models else None

    def path(self, item: Question | SelectedImage) -> Path:
        """The file of an image."""
        return self.root / item.image

    def of_image(self, image: str) -> tuple[Question, ...]:
        """The questions about one image, the most valuable first."""
        return tuple(item for item in self.items if item.image == image)

    def to_json(self) -> dict[str, Any]:
        """The whole selection as JSON values, as it is saved."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "root": str(self.root),
            "models": list(self.models),
            "label_space": None if self.label_space is None else self.label_space.to_json(),
            "seed": self.seed,
            "clicks": self.clicks,
            "considered": self.considered,
            "settings": dict(self.settings),
            "images": [image.to_json() for image in self.images],
            "questions": [item.to_json() for item in self.items],
            "failed": [{"file": file, "error": error} for file, error in self.failed],
            "notes": list(self.notes),
        }

    def save(self, path: str | Path) -> Path:
        """Write the selection as JSON and return the path."""
        return write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path, root: str | Path | None = None) -> Selection:
        """Read a saved selection; ``root``: where its images are now, if they were moved. DataError otherwise."""
        path = Path(path)
        tree = _read(path)
        if not isinstance(tree, dict) or tree.get("format") != FORMAT:
            raise DataError(
                "not a selection",
                expected=f'a JSON object with "format": "{FORMAT}"',
                found=type(tree).__name__ if not isinstance(tree, dict) else str(tree.get("format"))[:60],
                where=path,
                fix="make one: segwright select MODEL IMAGES --out selection.json",
            )
        if tree.get("version") != VERSION:
            raise DataError(
                "a selection of another version",
                expected=f"version {VERSION}",
                found=str(tree.get("version"))[:40],
                where=path,
                fix="update segwright, or select again",
            )
        try:
            return cls._from_json(tree, root)
        except (SegwrightError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            text = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError("the selection is damaged", found=text[:300], where=path, fix="select again") from error

    @classmethod
    def _from_json(cls, tree: Mapping[str, Any], root: str | Path | None) -> Selection:
        space = tree.get("label_space")
        found = cls(
            items=tuple(Question.from_json(item) for item in tree["questions"]),
            images=tuple(SelectedImage.from_json(image) for image in tree["images"]),
            root=Path(tree["root"] if root is None else root),
            label_space=None if space is None else LabelSpace.from_json(space),
            models=tuple(str(model) for model in tree.get("models", ())),
            seed=int(tree.get("seed", 0)),
            clicks=int(tree.get("clicks", 0)),
            considered=int(tree.get("considered", 0)),
            failed=tuple((str(one["file"]), str(one["error"])) for one in tree.get("failed", ())),
            notes=tuple(str(note) for note in tree.get("notes", ())),
            settings=dict(tree.get("settings", {})),
        )
        check_classes(found.items, found.label_space)
        return found


def check_classes(items: Sequence[Question], label_space: LabelSpace | None) -> None:
    """LabelError if a question predicts a class that the label space does not have."""
    most = 255 if label_space is None else label_space.classes
    for item in items:
        if item.predicted is not None and not 0 <= item.predicted < most:
            raise LabelError(
                "a question's class is not in the label space",
                expected=f"0 to {most - 1}",
                found=str(item.predicted),
                where=item.image,
            )


def _inside(name: Any) -> str:
    """The path of an image below the root; UsageError for one that leaves it, as a file from elsewhere may hold."""
    path = PurePosixPath(str(name))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise UsageError("an image's path leaves the folder of the images", found=str(name)[:200])
    return str(name)


def _read(path: Path) -> Any:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise DataError("the selection is too large", expected=f"at most {MOST_BYTES} bytes", where=path)
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(
            "the selection cannot be read", found=error.strerror or str(error), where=path, fix="check the path"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError("the selection is no JSON", found=str(error)[:200], where=path, fix="select again") from error
