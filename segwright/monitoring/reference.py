"""The reference of a model: the records of held-out images, with what is true of them.

It is an attachment of the saved model. A journal is compared with it, and what is known of these images (pixels hit,
true and predicted per class) calibrates the estimate of accuracy without labels. Its images are known by their ids and
scenes; no image is kept, since a model is passed on where its data may not be. ``thumbnails=True`` adds small ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from segwright.core.atomic_io import without_nan
from segwright.core.errors import BundleError, DataError, LabelError, SegwrightError
from segwright.core.types import Float32Array, LabelSpace, UInt8Array
from segwright.core.version import __version__
from segwright.data.dataset import Split
from segwright.data.grouping import thumbnail
from segwright.data.records import evenly_spread
from segwright.evaluation.evaluate import match_label_spaces, to_model_indices
from segwright.evaluation.sequences import find_units
from segwright.imageio import encode_jpeg
from segwright.inference.attachments import Attachment
from segwright.inference.description import read_attachment
from segwright.inference.predictor import Predictor, find_bundle
from segwright.metrics.confusion import ConfusionMatrix, class_counts, nanmean
from segwright.monitoring.observation import (
    SCALARS,
    VECTORS,
    Observation,
    bounded_text,
    from_arrays,
    model_id,
    observe,
    to_arrays,
)

NAME = "reference"
FORMAT = "segwright-reference"
VERSION = 1
MOST_IMAGES = 2_000
THUMBNAIL = 64  # pixels of the longer side
LEAST_IMAGES = 2

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Reference:
    """N records of held-out images of one label space of K classes.

    ``scenes``: (N,) the sequence of each image, or its id. ``counts``: (N, 3, K) pixels of hits, truth and prediction
    at full size, as served; zero where ``labeled`` (N,) is False. ``thumbnails``: JPEG bytes, or empty.
    """

    rows: list[Observation]
    label_space: LabelSpace
    scenes: tuple[str, ...]
    counts: Int64Array
    labeled: npt.NDArray[np.bool_]
    model: str
    split: str = ""
    made: str = ""  # UTC
    version: str = ""  # of segwright
    settings: Mapping[str, Any] = field(default_factory=dict)
    fingerprint: Mapping[str, Any] = field(default_factory=dict)
    thumbnails: tuple[bytes, ...] = ()
    notes: tuple[str, ...] = ()  # what limits its use

    def __len__(self) -> int:
        return len(self.rows)

    def to_json(self) -> dict[str, Any]:
        """What it was made of, and the mean IoU of its images; not the rows."""
        hits, truth, predicted = self.counts[self.labeled].sum(axis=0) if self.labeled.any() else self.counts[0] * 0
        union = truth + predicted - hits
        iou = np.where(union > 0, hits / np.maximum(union, 1), np.nan)
        tree = {
            "images": len(self), "scenes": len(set(self.scenes)), "labeled": int(self.labeled.sum()),
            "miou": nanmean(iou), "model": self.model, "split": self.split, "made": self.made,
            "segwright": self.version, "settings": dict(self.settings), "thumbnails": len(self.thumbnails),
            "classes": list(self.label_space.names), "notes": list(self.notes),
        }  # fmt: skip
        return dict(without_nan(tree))


def settings_of(predictor: Predictor) -> dict[str, Any]:
    """How images are predicted, as far as records depend on it: the test-time augmentation and the precision."""
    dtype = getattr(predictor.runtime, "dtype", None)
    return {
        "tta": str(predictor.tta) if predictor.tta is not None else None,
        "precision": "fp32" if dtype is None else str(dtype).removeprefix("torch."),
        "postprocess": str(predictor.pipeline) if predictor.pipeline is not None else None,
    }


def make_reference(
    predictor: Predictor,
    split: Split,
    *,
    max_images: int = MOST_IMAGES,
    thumbnails: bool = False,
    fingerprint: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    advance: Callable[[int], None] = lambda count: None,
) -> Attachment:
    """Predict the images of ``split``, evenly chosen if there are more than ``max_images``, and keep their records.

    Images that cannot be read are left out; ``notes`` limit its use; ``advance`` is called after every image. DataError
    if fewer than two can be used, LabelError if the classes of model and data do not fit.
    """
    to_model = to_model_indices(match_label_spaces(predictor.label_space, split.label_space)[0])
    indices = list(range(len(split)))
    if len(indices) > max_images:
        indices = evenly_spread(len(split), max_images)
    was, predictor.observed = predictor.observed, True
    try:
        found = _observe_split(predictor, split, indices, to_model, thumbnails, advance)
    finally:
        predictor.observed = was
    rows, counts, labeled, small, alike, left_out = found
    if len(rows) < LEAST_IMAGES:
        raise DataError(
            "a reference takes two images or more", found=f"{len(rows)} that can be used, {left_out} that cannot",
            where=split.name, fix="name a split with more held-out images",
        )  # fmt: skip
    ids = [row.id for row in rows]
    arrays: dict[str, npt.NDArray[Any]] = {f"row.{key}": value for key, value in to_arrays(rows).items()}
    arrays["row.confidence_histogram"] = arrays["row.confidence_histogram"].astype(np.float16)
    arrays |= {"counts": np.stack(counts), "labeled": np.array(labeled, np.uint8)}
    if thumbnails:
        arrays["thumbnail.bytes"] = np.frombuffer(b"".join(small), np.uint8)
        arrays["thumbnail.ends"] = np.cumsum([len(one) for one in small]).astype(np.int64)
    description = {
        "format": FORMAT,
        "version": VERSION,
        "label_space": predictor.label_space.to_json(),
        "ids": ids,
        "scenes": [bounded_text(name) for name in find_units(ids, np.stack(alike)).sequences],
        "model": rows[0].model,
        "split": bounded_text(split.name),
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "segwright": __version__,
        "settings": settings_of(predictor),
        "fingerprint": dict(fingerprint or {}),
        "left_out": left_out,
        "notes": list(notes),
    }
    return Attachment(arrays, description)


def _observe_split(
    predictor: Predictor,
    split: Split,
    indices: list[int],
    to_model: UInt8Array | None,
    thumbnails: bool,
    advance: Callable[[int], None],
) -> tuple[list[Observation], list[Int64Array], list[bool], list[bytes], list[Float32Array], int]:
    name, classes = model_id(predictor), len(predictor.label_space)
    rows: list[Observation] = []
    counts: list[Int64Array] = []
    labeled: list[bool] = []
    small: list[bytes] = []
    alike: list[Float32Array] = []
    left_out = 0
    for index in indices:
        try:
            image, mask = split.read_image(index), split.read_mask(index)
            prediction = predictor.predict(image)
            count = np.zeros((3, classes), np.int64)
            if mask is not None:
                mask = mask if to_model is None else to_model[mask]
                count = class_counts(ConfusionMatrix(classes).update(prediction.labels, mask))
        except DataError:
            left_out += 1
            continue
        finally:
            advance(1)
        rows.append(observe(prediction, id=split.ids[index], model=name))
        counts.append(count)
        labeled.append(bool(count[1].any()))
        alike.append(thumbnail(image)[0])
        if thumbnails:
            small.append(thumbnail_jpeg(image))
    return rows, counts, labeled, small, alike, left_out


def thumbnail_jpeg(image: UInt8Array) -> bytes:
    """The bytes of an image (H, W, C) thinned to at most THUMBNAIL pixels per side."""
    step = max(1, -(-max(image.shape[:2]) // THUMBNAIL))
    thin = image[::step, ::step]
    return encode_jpeg(
        np.ascontiguousarray(thin[..., :3] if thin.shape[2] >= 3 else np.repeat(thin[..., :1], 3, 2)), 80
    )


def read_reference(folder: str | Path) -> Reference | None:
    """The reference of a saved model (a bundle or run folder); None if it has none, BundleError if it is damaged."""
    place = find_bundle(folder)
    attachment = read_attachment(place, NAME)
    return None if attachment is None else parse_reference(attachment, place)


def parse_reference(attachment: Attachment, where: str | Path = "") -> Reference:
    """The reference in an attachment; BundleError if it is damaged or of a newer version."""
    tree, arrays = attachment.description, attachment.arrays
    try:
        if tree.get("format") != FORMAT or int(tree["version"]) > VERSION:
            raise BundleError(
                "the reference is of another kind or a newer version", expected=f"{FORMAT} up to version {VERSION}",
                found=f"{str(tree.get('format'))[:50]} version {str(tree.get('version'))[:20]}", where=where,
                fix="install a newer segwright, or make it again: segwright reference MODEL DATA",
            )  # fmt: skip
        space = LabelSpace.from_json(tree["label_space"])
        ids, scenes = ([bounded_text(name) for name in tree[key]] for key in ("ids", "scenes"))
        count, classes = len(ids), len(space)
        columns = {key: arrays[f"row.{key}"] for key in (*SCALARS, *VECTORS)}
        counts, labeled = arrays["counts"].astype(np.int64), arrays["labeled"].astype(bool)
        shapes = {"counts": (count, 3, classes), "labeled": (count,)}
        wrong = [key for key, shape in shapes.items() if arrays[key].shape != shape]
        wrong += [key for key, value in columns.items() if len(value) != count]
        wrong += [key for key in ("shares", "expected_shares", "expected_hits", "components")
                  if columns[key].shape != (count, classes)]  # fmt: skip
        if wrong or len(scenes) != count or count < 1 or (counts < 0).any():
            raise ValueError(f"shapes of {', '.join(wrong) or 'ids and scenes'}")
        model = tree["model"]
        if not isinstance(model, str):
            raise ValueError("the model's id")
        return Reference(
            rows=from_arrays(columns, ids, [bounded_text(model)] * count),
            label_space=space,
            scenes=tuple(scenes),
            counts=counts,
            labeled=labeled,
            model=bounded_text(model),
            split=str(tree.get("split", ""))[:200],
            made=str(tree.get("made", ""))[:40],
            version=str(tree.get("segwright", ""))[:40],
            settings=_object(tree.get("settings")),
            fingerprint=_object(tree.get("fingerprint")),
            thumbnails=_thumbnails(arrays, count),
            notes=tuple(str(note)[:500] for note in tree.get("notes", [])[:20]),
        )
    except BundleError:
        raise
    except (LabelError, SegwrightError, KeyError, ValueError, TypeError, AttributeError, IndexError,
            OverflowError) as error:  # fmt: skip
        raise BundleError(
            "the reference is damaged",
            found=f"{type(error).__name__}: {str(error)[:200]}",
            where=where,
            fix="make it again: segwright reference MODEL DATA",
        ) from error


def _object(found: Any) -> dict[str, Any]:
    return {str(key): value for key, value in found.items()} if isinstance(found, Mapping) else {}


def _thumbnails(arrays: Mapping[str, npt.NDArray[Any]], count: int) -> tuple[bytes, ...]:
    if "thumbnail.bytes" not in arrays:
        return ()
    content, ends = arrays["thumbnail.bytes"].astype(np.uint8).tobytes(), arrays["thumbnail.ends"].astype(np.int64)
    if len(ends) != count or (np.diff(ends, prepend=0) < 0).any() or int(ends[-1]) != len(content):
        raise ValueError("thumbnails")
    return tuple(content[a:b] for a, b in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True))
