"""Fine-tuning: tensors of a saved model that fit by name and shape are kept; classes are matched by name."""

from __future__ import annotations

import torch
from torch import Tensor

from segwright.core.errors import WeightsError
from segwright.core.types import LabelSpace
from segwright.models.base import SegmentationModel


def transfer_weights(
    source: SegmentationModel, source_labels: LabelSpace, target: SegmentationModel, target_labels: LabelSpace
) -> list[str]:
    """Copy weights from ``source`` into ``target``; returns lines on what was kept, matched and newly initialized.

    The declared classifier layers take the outputs of the classes that both have; every other tensor is copied whole or
    not at all. WeightsError if only the classifier layers fit (the networks differ), or if the classes differ in a
    network that declares no classifier layers.
    """
    ours, theirs = target.state_dict(), source.state_dict()
    same_classes = source_labels.names == target_labels.names
    classifiers = target.classifier_tensors()
    if not same_classes and not classifiers:
        raise WeightsError(
            "the network does not declare its classifier layers, and the classes differ",
            expected="the classes of the saved model in their order, or a network of `segwright models`",
            found=f"{', '.join(source_labels.names[:6])} in the saved model, {', '.join(target_labels.names[:6])} here",
            fix="wrap the network with classifiers={'logits': [name of the layer]}",
        )
    shared = [(i, source_labels.names.index(n)) for i, n in enumerate(target_labels.names) if n in source_labels.names]
    kept, matched, fresh = [], [], []
    for name, tensor in ours.items():
        found = theirs.get(name)
        if name in classifiers and not same_classes:
            if found is not None and _one_a_class(found, tensor, source_labels, target_labels):
                _copy_classes(tensor, found, shared)
                matched.append(name)
            else:
                fresh.append(name)
        elif found is not None and found.shape == tensor.shape:
            tensor.copy_(found)
            kept.append(name)
        else:
            fresh.append(name)
    if len(kept) < len(ours) / 2:
        raise WeightsError(
            "the saved model is another network",
            expected="at least half of the tensors by name and shape",
            found=f"{len(kept)} of {len(ours)}",
            fix="train with the same --model and --encoder as the saved one",
        )
    target.load_state_dict(ours)
    target.on_weights_loaded()
    lines = [f"kept from the saved model: {len(kept)} of {len(ours)} tensors"]
    if matched:
        names = ", ".join(target_labels.names[i] for i, _ in shared) or "none"
        lines.append(f"last layers matched by class name ({names}): {', '.join(matched)}")
    if fresh:
        lines.append(f"newly initialized: {', '.join(fresh)}")
    return lines


def match_classes(
    model: SegmentationModel, fresh: SegmentationModel, source_labels: LabelSpace, target_labels: LabelSpace
) -> str:
    """Bring classifier layers of the classes of ``source_labels`` to those of ``target_labels``, in place; returns a
    line on it.

    ``fresh``: the same network with new classifier layers, for the classes that only the target has.
    """
    shared = [(i, source_labels.names.index(n)) for i, n in enumerate(target_labels.names) if n in source_labels.names]
    state, new = model.state_dict(), fresh.state_dict()
    for name in model.classifier_tensors():
        found = state[name].clone()
        state[name].copy_(new[name])
        _copy_classes(state[name], found, shared)
    names = ", ".join(target_labels.names[i] for i, _ in shared) or "none"
    return f"last layers matched by class name ({names}): the weights are those of other classes, or in another order"


def _one_a_class(found: Tensor, tensor: Tensor, source: LabelSpace, target: LabelSpace) -> bool:
    return (
        found.ndim >= 1
        and found.shape[0] == source.classes
        and tensor.shape[0] == target.classes
        and found.shape[1:] == tensor.shape[1:]
    )


@torch.no_grad()
def _copy_classes(tensor: Tensor, found: Tensor, shared: list[tuple[int, int]]) -> None:
    for ours, theirs in shared:
        tensor[ours].copy_(found[theirs])
