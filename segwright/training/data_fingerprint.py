"""Digests of the data that a run trains on, so that a resumed run reports what changed since it stopped, and what
scores a model reports the images that the model was trained on.

``data.json`` in the run folder holds a digest per image; every checkpoint holds the digest of them all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from segwright.core.counted import counted
from segwright.data.dataset import Split

NAME = "data.json"
WHOLE = 1 << 20  # bytes: a file up to this size is read whole, of a larger one the beginning, the middle and the end
PIECE = 1 << 16
SHOWN = 3  # names in a line

Prints = dict[str, dict[str, list[str]]]  # split → image id → digests of the image and of its mask


def data_print(splits: Sequence[Split]) -> Prints:
    """The digests of the files of ``splits``; empty strings for records without a file of their own."""
    return {
        split.name: {
            record.id: [_digest(path) for path in (record.image_path, record.mask_path)] for record in split.records
        }
        for split in splits
    }


def digest(prints: Prints) -> str:
    """One digest of all files."""
    return hashlib.sha256(json.dumps(prints, sort_keys=True).encode()).hexdigest()


def read_print(folder: Path) -> Prints | None:
    """The digests that an earlier sitting of the run in ``folder`` wrote; None if missing or damaged."""
    try:
        found = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    usable = isinstance(found, dict) and all(
        isinstance(part, dict)
        and all(isinstance(d, list) and len(d) == 2 and all(isinstance(x, str) for x in d) for d in part.values())
        for part in found.values()
    )
    return found if usable else None


def seen_in_training(model: Path, split: Split) -> dict[str, bool] | None:
    """Image id → whether the run of ``model`` (its folder, or the model in it) was trained on the same file; None if
    there is no record of the run. The model of a cross-validation was trained on what any of its folds was."""
    place = model.resolve()
    prints = next(filter(None, map(_prints_of_run, (place, place.parent))), [])
    if not prints:
        return None
    files = {image for known in prints for image, _ in known.get("train", {}).values() if image}
    return {record.id: _digest(record.image_path) in files for record in split.records}


def _prints_of_run(folder: Path) -> list[Prints]:
    """That of a run, or those of the folds of a cross-validation."""
    own = read_print(folder)
    if own is not None:
        return [own]
    return [found for place in sorted(folder.glob("fold-*")) if (found := read_print(place)) is not None]


def training_note(seen: Mapping[str, bool] | None, *, consequence: str) -> str:
    """How many images the model was trained on, and the ``consequence``; "" if none of them, or if it is not known."""
    count = sum((seen or {}).values())
    if not seen or not count:
        return ""
    which = "this image" if len(seen) == 1 else f"{count} of these {counted(len(seen), 'image')}"
    return f"the model was trained on {which}: {consequence}"


def differences(before: Mapping[str, Mapping[str, list[str]]], now: Prints) -> list[str]:
    """The changes, one line per split and kind."""
    lines = []
    for split in sorted({*before, *now}):
        old, new = before.get(split, {}), now.get(split, {})
        both = [name for name in new if name in old]
        kinds = {
            "images more": [name for name in new if name not in old],
            "images less": [name for name in old if name not in new],
            "images with other pixels": [name for name in both if old[name][0] != new[name][0]],
            "images with another mask": [name for name in both if old[name][1] != new[name][1]],
        }
        for kind, names in kinds.items():
            if names:
                shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
                lines.append(f"{split}: {len(names)} {kind} ({shown})")
    return lines


def _digest(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        size = path.stat().st_size
        found = hashlib.blake2b(str(size).encode(), digest_size=12)
        with open(path, "rb") as file:
            if size <= WHOLE:
                found.update(file.read(WHOLE + 1))
            else:
                for start in (0, size // 2, size - PIECE):
                    file.seek(start)
                    found.update(file.read(PIECE))
        return found.hexdigest()
    except OSError:
        return "unreadable"
