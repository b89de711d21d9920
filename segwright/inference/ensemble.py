"""Ensembles of saved models: the checks that they fit together, and the bundle of the ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import softmax

from segwright.core.atomic_io import sha256
from segwright.core.errors import BundleError, ModelError, UsageError
from segwright.core.left_right import Pairs, shown
from segwright.core.types import Float32Array
from segwright.imageio import UInt8Array
from segwright.inference.bundle import Bundle, load_bundle, save_bundle
from segwright.inference.lineage import KEY as LINEAGE
from segwright.inference.lineage import bundle_id, descended, lineage_of
from segwright.inference.predictor import find_bundle
from segwright.inference.runtimes import Runtime
from segwright.models.base import SegmentationModel
from segwright.models.ensemble import NAME, Ensemble

WEIGHTS = "model.safetensors"


def join_models(
    models: Sequence[str | Path], *, command: str = "", trust_external: bool = False
) -> tuple[Ensemble, Bundle]:
    """The ensemble of saved models (run folders or bundles) and its description; nothing is written.

    All networks have equal weight: an ensemble among the models is replaced by its members. Post-processing that was
    tuned for one of them is dropped. UsageError for fewer than two models or a repeated one; ModelError if classes,
    channels or value ranges differ; BundleError if there is no saved model.
    """
    if len(models) < 2:
        raise UsageError("an ensemble needs two or more models", found=str(len(models)))
    folders = [_folder(model) for model in models]
    _refuse_twins(folders)
    loaded = [load_bundle(folder, trust_external=trust_external) for folder in folders]
    for folder, (_, bundle) in zip(folders[1:], loaded[1:], strict=True):
        _refuse_difference(folders[0], loaded[0][1], folder, bundle)
    networks: list[SegmentationModel] = []
    members: list[dict[str, Any]] = []
    for network, bundle in loaded:
        networks += network.members if isinstance(network, Ensemble) else [network]  # type: ignore[arg-type]
        members += bundle.arguments["members"] if isinstance(network, Ensemble) else [_member(bundle)]
    ensemble = Ensemble(members=networks).eval()
    ensemble.architecture = NAME
    ensemble.arguments = {"encoder": None, "in_channels": ensemble.in_channels, "members": members}
    return ensemble, _description(folders, [bundle for _, bundle in loaded], ensemble, members, command)


def save_ensemble(
    models: Sequence[str | Path], out: str | Path, *, metrics: Mapping[str, Any] | None = None, command: str = ""
) -> Path:
    """Write the ensemble of ``models`` to the folder ``out`` as one bundle, atomically; returns ``out``.
    ``metrics``: its scores. Errors as for :func:`join_models`."""
    ensemble, bundle = join_models(models, command=command)
    return save_bundle(out, ensemble, replace(bundle, metrics=dict(metrics or {})))


class EnsembleRuntime:
    """The mean of the members' probabilities in double precision, as a reference for the ensemble network."""

    def __init__(self, members: Sequence[Runtime]) -> None:
        self.members = list(members)
        self.classes, self.in_channels = members[0].classes, members[0].in_channels

    def logits(self, images: UInt8Array) -> Float32Array:
        total = sum(softmax(member.logits(images).astype(np.float64), axis=1) for member in self.members)
        return np.asarray(np.log(total / len(self.members)), np.float32)

    def labels(self, images: UInt8Array) -> tuple[UInt8Array, Float32Array]:
        logits = self.logits(images)
        return logits.argmax(axis=1).astype(np.uint8), np.exp(logits.max(axis=1))


# ---------------------------------------------------------------------------------------------------------------------


def _folder(model: str | Path) -> Path:
    path = Path(model)
    if path.is_file():
        raise UsageError(
            "only saved models can be members of an ensemble",
            expected="run folders or bundles",
            found="a file",
            where=path,
            fix="give the run folder that it was exported from",
        )
    return find_bundle(path)


def _refuse_twins(folders: Sequence[Path]) -> None:
    """Raise UsageError if a model is repeated: it would have double weight."""
    seen: dict[str, Path] = {}
    for folder in folders:
        try:
            sum_ = sha256(folder / WEIGHTS)
        except OSError as error:
            raise BundleError("the weights cannot be read", found=str(error), where=folder / WEIGHTS) from error
        if sum_ in seen:
            raise UsageError(
                "a model is given twice",
                found=f"the weights of {seen[sum_]}",
                where=folder,
                fix="leave one of them out",
            )
        seen[sum_] = folder


def _refuse_difference(first: Path, theirs: Bundle, folder: Path, ours: Bundle) -> None:
    """Raise ModelError if the model in ``folder`` has other classes or another input than the first one."""
    if ours.label_space.names != theirs.label_space.names:
        raise ModelError(
            "the models of an ensemble have the same classes in the same order",
            expected=f"{', '.join(theirs.label_space.names)} (as {first})",
            found=", ".join(ours.label_space.names),
            where=folder,
            fix="train it on the same classes; segwright train DATA --init-from MODEL keeps what fits of its weights",
        )
    for name, unset in (("channels", 3), ("value_range", None)):
        wanted, found = theirs.preprocessing.get(name, unset), ours.preprocessing.get(name, unset)
        if found != wanted:
            raise ModelError(
                f"the models of an ensemble need the same input: their {name.replace('_', ' ')} differ",
                expected=f"{wanted} (as {first})",
                found=str(found),
                where=folder,
                fix="train them on the same dataset",
            )


def _member(bundle: Bundle) -> dict[str, Any]:
    arguments = {key: value for key, value in bundle.arguments.items() if key not in ("classes", "weights")}
    return {"architecture": bundle.architecture, "arguments": arguments}


def _description(
    folders: Sequence[Path], bundles: Sequence[Bundle], ensemble: Ensemble, members: list[dict[str, Any]], command: str
) -> Bundle:
    """The common parts of the descriptions, and per member its source, score and data."""
    first = bundles[0]
    kept = {key: first.training[key] for key in ("data", "format") if _shared(bundles, key)}
    origins = [
        {
            "name": folder.parent.name if folder.name == "model" else folder.name,
            "architecture": bundle.architecture,
            "weights_sha256": sha256(folder / WEIGHTS),
            "metrics": dict(bundle.metrics),
            "postprocess": bundle.postprocess,
            "training": {key: bundle.training[key] for key in ("data", "command") if key in bundle.training},
        }
        for folder, bundle in zip(folders, bundles, strict=True)
    ]
    lines = [
        lineage_of(bundle, bundle_id(folder), str(origin["name"]))
        for folder, bundle, origin in zip(folders, bundles, origins, strict=True)
    ]
    licenses: dict[str, dict[str, None]] = {}
    for bundle in bundles:
        for name, license in bundle.licenses.items():
            licenses.setdefault(name, {})[license] = None
    return Bundle(
        architecture=NAME,
        label_space=replace(first.label_space, pairs=_pairs(folders, bundles)),
        arguments={"in_channels": ensemble.in_channels, "members": members},
        preprocessing=first.preprocessing,
        training={**kept, "command": command, "members": origins, LINEAGE: descended(lines, "ensemble", ()).record()},
        licenses={name: "; ".join(found) for name, found in licenses.items()},
    )


def _pairs(folders: Sequence[Path], bundles: Sequence[Bundle]) -> Pairs:
    """The left/right pairs of the models that have any; ModelError if they differ."""
    held = [(folder, b.label_space.pairs) for folder, b in zip(folders, bundles, strict=True) if b.label_space.pairs]
    for folder, pairs in held[1:]:
        if set(map(frozenset, pairs)) != set(map(frozenset, held[0][1])):
            raise ModelError(
                "the models of an ensemble exchange the same classes in a mirrored view",
                expected=f"{shown(held[0][1])} (as {held[0][0]})",
                found=shown(pairs),
                where=folder,
                fix="train them with the same augment.flip_pairs",
            )
    return held[0][1] if held else ()


def _shared(bundles: Sequence[Bundle], key: str) -> bool:
    values = [bundle.training.get(key) for bundle in bundles]
    return values[0] is not None and all(value == values[0] for value in values)
