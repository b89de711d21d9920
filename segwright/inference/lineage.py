"""Where a saved model came from: the models it was trained from, the data of each training, and the clicks spent on it.

The record is part of ``model.json`` (``training.lineage``), so it travels with the model. It is a flat list: what made
these weights, and an entry per ancestor with its weights' id, so that two lines that meet again are no problem. A
model saved before there were lineages gets an entry from what its training recorded.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segwright.core.counted import counted
from segwright.core.errors import BundleError
from segwright.core.unreadable import UNREADABLE
from segwright.inference.description import WEIGHTS, Bundle, read_bundle
from segwright.inference.predictor import find_bundle, load

if TYPE_CHECKING:
    import torch

KEY = "lineage"  # in Bundle.training
# What a label folder counts: clicks, annotators, seconds; and regions whose clicks are not known. Ours, Label Studio's.
LABELS = ("labels.json", "annotations.json")
LABEL_FOLDER = "label_folder.json"  # has the key by which copies of one label folder are known
MOST_ANCESTORS = 500
MOST_LABELS_BYTES = 256 << 20
_ROUND = re.compile(r"[/\\]rounds[/\\][0-9]+[/\\]data$")  # the labels of a round of `segwright label`


@dataclass(frozen=True)
class DataUsed:
    """A dataset that a training took images from."""

    role: str  # "train"; of a refinement "new" and "old"
    path: str
    fingerprint: str = ""  # SHA-256 over the digests of the files; empty if it was not recorded
    images: int = 0  # that were trained on
    clicks: int = 0  # that its labels took, as its label folder counts them
    annotators: int = 0
    seconds: float = 0.0  # that people spent on it
    uncounted: int = 0  # regions whose clicks are not known, such as brushes of another tool
    source: str = ""  # the key of the label folder that it is a state of; empty for other datasets

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> DataUsed:
        return cls(
            str(tree.get("role", "train")), str(tree.get("path", "")), str(tree.get("fingerprint", "")),
            int(tree.get("images", 0)), int(tree.get("clicks", 0)), int(tree.get("annotators", 0)),
            float(tree.get("seconds", 0.0)), int(tree.get("uncounted", 0)), str(tree.get("source", "")),
        )  # fmt: skip


@dataclass(frozen=True)
class Ancestor:
    """A model and how it was made. ``id``: of the weights, as in a journal; empty within the model's own record."""

    id: str = ""
    name: str = ""  # of its folder
    made_by: str = "train"  # train, refine, or an import
    created: str = ""  # UTC, ISO 8601
    data: tuple[DataUsed, ...] = ()
    parents: tuple[str, ...] = ()  # their ids
    val_miou: float | None = None

    @property
    def clicks(self) -> int:
        """The clicks spent on the data of this step."""
        return sum(used.clicks for used in self.data)

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "made_by": self.made_by,
            "created": self.created,
            "data": [used.to_json() for used in self.data],
            "parents": list(self.parents),
            "val_miou": self.val_miou,
        }

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> Ancestor:
        miou = tree.get("val_miou")
        return cls(
            str(tree.get("id", "")), str(tree.get("name", "")), str(tree.get("made_by", "train")),
            str(tree.get("created", "")), tuple(DataUsed.from_json(used) for used in tree.get("data", ())),
            tuple(str(parent) for parent in tree.get("parents", ())), None if miou is None else float(miou),
        )  # fmt: skip


@dataclass(frozen=True)
class Lineage:
    """A model and its ancestors."""

    model: Ancestor
    ancestors: Mapping[str, Ancestor] = field(default_factory=dict)  # by id

    @property
    def clicks(self) -> int:
        """All clicks spent. The clicks of one dataset are counted once, by the largest number recorded of it; all
        rounds of a label folder, and wherever it was moved, are one dataset."""
        return sum(max(used.clicks for used in states) for states in self._datasets())

    @property
    def uncounted(self) -> int:
        """Regions whose clicks are not known, of each dataset once: the clicks are at least :attr:`clicks`."""
        return sum(max(used.uncounted for used in states) for states in self._datasets())

    def _datasets(self) -> list[list[DataUsed]]:
        """The states of each dataset that were trained on. Records without a key are known by their paths."""
        every = [used for one in (self.model, *self.ancestors.values()) for used in one.data]
        places = [_ROUND.sub("", used.path) for used in every]
        keys = {place: used.source for place, used in zip(places, every, strict=True) if used.source}
        found: dict[tuple[str, str], list[DataUsed]] = {}
        for place, used in zip(places, every, strict=True):
            key = used.source or keys.get(place, "")
            found.setdefault((key, "" if key else place), []).append(used)
        return list(found.values())

    def record(self) -> dict[str, Any]:
        """What is saved in the model: its own entry without an id (weights may still change), and the ancestors."""
        own = replace(self.model, id="")
        return {"model": own.to_json(), "ancestors": [one.to_json() for one in self.ancestors.values()]}

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model.to_json(),
            "ancestors": [one.to_json() for one in self.ancestors.values()],
            "clicks": self.clicks,
            "uncounted": self.uncounted,
        }

    def lines(self) -> list[str]:
        """The tree as text, the model first; an ancestor that two lines share is shown once in full."""
        found: list[str] = []
        shown: set[str] = set()

        def add(one: Ancestor, depth: int) -> None:
            indent = "   " * depth
            score = "" if one.val_miou is None else f", val mIoU {one.val_miou:.3f}"
            when = one.created[:10]
            found.append(f"{indent}{one.id or '?'}  {one.name}  ({one.made_by}{', ' if when else ''}{when}{score})")
            if one.id in shown:
                return
            shown.add(one.id)
            found.extend(f"{indent}   {line}" for line in map(_data_line, one.data))
            for parent in one.parents if depth < MOST_ANCESTORS else ():
                add(self.ancestors.get(parent, Ancestor(parent, "not recorded", "?")), depth + 1)

        add(self.model, 0)
        rest = f", and those of {counted(self.uncounted, 'region')} that are not known" if self.uncounted else ""
        found.append(f"clicks in all: {self.clicks}{rest}")
        return found


def _data_line(used: DataUsed) -> str:
    what = f"{used.role}: {used.path}, {counted(used.images, 'image')}" if used.images else f"{used.role}: {used.path}"
    if used.fingerprint:
        what += f", fingerprint {used.fingerprint[:12]}"
    if used.clicks:
        what += f", {used.clicks} clicks"
    if used.uncounted:
        what += f", {counted(used.uncounted, 'region')} whose clicks are not known"
    if used.annotators:
        what += f" of {counted(used.annotators, 'annotator')}"
    return what


def state_id(state: Mapping[str, torch.Tensor]) -> str:
    """The first 16 hexadecimal digits of the SHA-256 of weights by name: the model's id in journals and lineages."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def bundle_id(folder: Path) -> str:
    """The id of the weights of a bundle, without building its network; BundleError if they cannot be read."""
    from safetensors.torch import load_file

    try:
        return state_id(load_file(str(folder / WEIGHTS)))
    except UNREADABLE as error:
        raise BundleError("the weights cannot be read", found=str(error)[:300], where=folder) from error


def read_lineage(model: str | Path) -> Lineage:
    """The lineage of a run folder, a bundle or an exported file; BundleError if there is none or it is damaged."""
    if Path(model).is_file():
        exported = load(model, device="cpu")
        if exported.bundle is None:
            raise BundleError("the exported file holds no description", where=model)
        return lineage_of(exported.bundle, getattr(exported.runtime, "weights_id", None) or "", Path(model).name)
    folder = find_bundle(model)
    bundle, place = read_bundle(folder), Path(model).resolve()
    name = place.parent.name if place.name == "model" else place.name
    return lineage_of(bundle, bundle_id(folder), name)


def lineage_of(bundle: Bundle, id: str, name: str) -> Lineage:
    """The lineage that a description holds, or the one entry that an older one gives."""
    found = bundle.training.get(KEY)
    miou = bundle.metrics.get("val_miou")
    score = float(miou) if isinstance(miou, int | float) else None
    if isinstance(found, Mapping) and isinstance(found.get("model"), Mapping):
        try:
            own = Ancestor.from_json(found["model"])
            listed = [Ancestor.from_json(one) for one in list(found.get("ancestors", ()))[:MOST_ANCESTORS]]
        except (TypeError, ValueError, AttributeError) as error:
            raise BundleError("the lineage in the model cannot be read", found=str(error)[:200], where=name) from error
        known = {one.id: one for one in listed}
        return Lineage(replace(own, id=id, name=name, val_miou=score), known)
    path = bundle.training.get("data")
    used = (DataUsed("train", str(path)),) if path else ()
    return Lineage(Ancestor(id, name, "train" if path else "import", data=used, val_miou=score))


def descended(parents: Sequence[Lineage], made_by: str, data: Sequence[DataUsed], created: str = "") -> Lineage:
    """The lineage of a model that is made now from ``parents`` (none: from new weights) and ``data``."""
    ancestors: dict[str, Ancestor] = {}
    for parent in parents:
        ancestors |= parent.ancestors
        ancestors[parent.model.id] = parent.model
    ids = tuple(parent.model.id for parent in parents)
    created = created or datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kept = dict(list(ancestors.items())[-MOST_ANCESTORS:])
    return Lineage(Ancestor("", "", made_by, created, tuple(data), ids), kept)


def data_used(role: str, root: Path, fingerprint: str, images: int) -> DataUsed:
    """A dataset as used, with the clicks that its label folder counts, if it is one."""
    counted = _label_counts(root)
    annotators = counted.get("annotators", 0)
    return DataUsed(
        role, str(root.resolve()), fingerprint, images, _count(counted.get("clicks")),
        len(annotators) if isinstance(annotators, list | Mapping) else _count(annotators),
        float(_count(counted.get("seconds"))), _uncounted(counted), _key_of(root),
    )  # fmt: skip


def _label_counts(root: Path) -> Mapping[str, Any]:
    return next((found for name in LABELS if (found := _read_tree(root / name)) is not None), {})


def _key_of(root: Path) -> str:
    """The key of a label folder, or of the state of one that a round was trained on; empty for another dataset."""
    key = (_read_tree(root / LABEL_FOLDER) or {}).get("key")
    return key[:80] if isinstance(key, str) else ""


def _read_tree(file: Path) -> Mapping[str, Any] | None:
    """A JSON object; empty if it cannot be read, None if there is no such file."""
    try:
        if not file.is_file() or file.stat().st_size > MOST_LABELS_BYTES:
            return None
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, Mapping) else {}


def _uncounted(counted: Mapping[str, Any]) -> int:
    """Regions whose clicks are not known; of a folder that counts answers and no clicks, these."""
    return _count(counted.get("uncounted", 0 if "clicks" in counted else counted.get("answers")))


def _count(value: Any) -> int:
    """A number of a file as a count: 0 for anything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e15
    return int(value) if usable else 0
