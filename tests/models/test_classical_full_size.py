"""Every classical network at its published width learns two tiny images from scratch, by its own recipe."""

from __future__ import annotations

import pytest
import torch
from fixed_weights import PRIOR_ENTROPY, lesson_loss

from segwright.models import deeplab_v1, deeplab_v2, fc_densenet, fcn, parsenet, segnet, unet_2015
from segwright.models.recipes import FROM_SCRATCH, PUBLISHED

MODELS = {
    **fcn.MODELS,
    **unet_2015.MODELS,
    **segnet.MODELS,
    **deeplab_v1.MODELS,
    **deeplab_v2.MODELS,
    **parsenet.MODELS,
    **fc_densenet.MODELS,
}


def test_every_network_has_a_recipe() -> None:
    assert set(FROM_SCRATCH) == set(MODELS)
    assert set(PUBLISHED) <= set(MODELS)
    for name, recipe in (*FROM_SCRATCH.items(), *PUBLISHED.items()):
        with torch.device("meta"):
            MODELS[name](classes=2, **recipe.arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_it_learns_at_full_size(name: str) -> None:
    torch.manual_seed(0)
    recipe = FROM_SCRATCH[name]
    model = MODELS[name](classes=3, **recipe.arguments)
    assert lesson_loss(model, rate=recipe.learning_rate, steps=40) < 0.8 * PRIOR_ENTROPY
