"""One pass of the network over an image, a window, or several windows together: labels, confidence and what is wanted
beside them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
from scipy.special import softmax

from segwright.core.types import Float32Array
from segwright.imageio import UInt8Array
from segwright.inference.blending import Strips, Zones, cut
from segwright.inference.pixels import as_rgb
from segwright.inference.runtimes import Runtime, features_of, labels_and_scores
from segwright.inference.sliding_window import Window
from segwright.inference.thinned import Thinner, log_scores
from segwright.inference.tta import TestTimeAugmentation
from segwright.inference.windowed import confidence_of
from segwright.postprocess.pipeline import Pipeline


class Answer(NamedTuple):
    """Labels and confidence (h, w) of an image or a window; where they are wanted, probabilities (K, h, w) and those of
    the border zones."""

    labels: UInt8Array
    confidence: Float32Array
    marginals: Float32Array | None
    zones: Zones | None = None


class Passes(NamedTuple):
    """The network with its test-time augmentation."""

    runtime: Runtime
    tta: TestTimeAugmentation | None

    def probabilities(self, image: UInt8Array) -> Float32Array:
        """float32 K×H×W before post-processing, averaged over the augmentation."""
        if self.tta is not None:
            return np.asarray(self.tta(self.runtime.logits, image[None])[0], np.float32)
        return np.asarray(softmax(self.runtime.logits(image[None])[0], axis=0), np.float32)

    def together(self, pipeline: Pipeline, probabilities: bool, observed: bool) -> bool:
        """Whether :meth:`several` takes more than one window per call of the network."""
        return not pipeline and self.tta is None and not probabilities and not observed

    def several(self, windows: Sequence[UInt8Array], strips: Sequence[Strips] | None) -> list[Answer]:
        """Windows of one shape in one call, without post-processing; ``strips``: the border zones of each, whose
        probabilities are wanted."""
        pixels = windows[0][None] if len(windows) == 1 else np.stack(windows)
        own = getattr(self.runtime, "labels_and_boxes", None)
        if strips is None:
            labels, confidence = self.runtime.labels(pixels)
            return [Answer(one, sure, None) for one, sure in zip(labels, confidence, strict=True)]
        if own is not None:
            boxes = [[box for box in one if box is not None] for one in strips]
            labels, confidence, scores = own(pixels, boxes)
            zones = [_in_order(one, found) for one, found in zip(strips, scores, strict=True)]
            return [Answer(one, sure, None, zone) for one, sure, zone in zip(labels, confidence, zones, strict=True)]
        logits = self.runtime.logits(pixels)
        return [_settled(one, strip) for one, strip in zip(logits, strips, strict=True)]

    def one(
        self,
        pixels: UInt8Array,
        pipeline: Pipeline,
        probabilities: bool,
        whole: int | None,
        seen: tuple[Thinner, Window] | None = None,
    ) -> Answer:
        """``whole``: the number of pixels of the image that a window belongs to. ``seen``: what gets the thinned
        output, and the window: of the scores before post-processing, averaged over the augmentation."""
        plain = not pipeline and self.tta is None
        rows, columns = (slice(0), slice(0)) if seen is None else seen[0].grid.part(seen[1])[1]
        marginals: Float32Array | None = None
        watched: AbstractContextManager[list[Float32Array]]
        watched = nullcontext([]) if seen is None else features_of(self.runtime)
        with watched as features:
            if plain and not probabilities and seen is None:
                found, sure = self.runtime.labels(pixels[None])
                return Answer(found[0], sure[0], None)
            if plain and not probabilities:
                found, sure, scores = labels_and_scores(self.runtime, pixels[None], rows, columns)
                labels, confidence = found[0], sure[0]
                thin = labels[rows, columns], confidence[rows, columns], None if scores is None else scores[0]
            elif plain:
                logits = self.runtime.logits(pixels[None])[0]
                # Argmax of the logits, as in the runtime: two different ones may round to one probability.
                labels = logits.argmax(axis=0).astype(np.uint8)
                marginals = np.asarray(softmax(logits, axis=0), np.float32)
                confidence = confidence_of(marginals, labels)
                thin = labels[rows, columns], confidence[rows, columns], logits[:, rows, columns]
            else:
                marginals = self.probabilities(pixels)
                before = np.ascontiguousarray(marginals[:, rows, columns])  # the pipeline may work in place
                settled = before.argmax(axis=0).astype(np.uint8)
                thin = settled, confidence_of(before, settled), log_scores(before)
                if pipeline:
                    labels, marginals = pipeline(as_rgb(pixels), marginals, whole=whole)
                else:
                    labels = marginals.argmax(axis=0).astype(np.uint8)
                confidence = confidence_of(marginals, labels)
        if seen is not None:
            seen[0].add(seen[1], *thin, features[0][0] if features else np.zeros(0, np.float32))
        return Answer(labels, confidence, marginals if probabilities else None)


def _in_order(strips: Strips, scores: Sequence[Float32Array]) -> Zones:
    """The probabilities of the zones, from the logits of those that a window has."""
    left = iter(scores)
    return Zones(*(None if box is None else np.asarray(softmax(next(left), axis=0), np.float32) for box in strips))


def _settled(logits: Float32Array, strips: Strips) -> Answer:
    labels = logits.argmax(axis=0).astype(np.uint8)
    marginals = np.asarray(softmax(logits, axis=0), np.float32)
    return Answer(labels, confidence_of(marginals, labels), None, cut(strips, marginals))
