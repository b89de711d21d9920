"""Which runtime a command takes for a model: the usual one, a named one, or the fastest that is proven here.

Never another answer in silence: a runtime takes the place of the usual one only by a proof of this model on this
machine (:mod:`segwright.inference.proofs`), and the predictor's notes name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segwright.core.errors import UsageError
from segwright.inference.exported_files import ALL_RUNTIMES, find_exported
from segwright.inference.proofs import read_proof

NAMES = ("auto", "usual", *ALL_RUNTIMES)


@dataclass(frozen=True)
class RuntimeChoice:
    """A runtime and the precision of its arithmetic. ``file``: the converted model that it runs, of a saved model."""

    runtime: str
    precision: str
    file: Path | None = None
    note: str = ""  # for the user, if it is not the usual one


def choose_runtime(
    model: str | Path, name: str = "usual", device: str = "auto", precision: str = "auto"
) -> RuntimeChoice:
    """The runtime for a model.

    ``name``: ``usual``: torch for a saved model, onnxruntime or what else the file is for; ``auto``: the fastest that
    ``segwright benchmark`` has proven here, else the usual one; or a runtime. ``precision``: ``auto`` is fp32, or what
    the proof is of. Only a CPU has proofs. UsageError for a runtime that cannot run the model, or is not proven for it.
    """
    if name not in NAMES:
        raise UsageError("unknown runtime", expected=", ".join(NAMES), found=name)
    exported = find_exported(model)
    usual = "torch" if exported is None else exported.runtimes[0]
    own = RuntimeChoice(usual, "fp32" if precision == "auto" else precision)
    if name in ("usual", usual):
        return own
    on_cpu = device == "cpu" or (device == "auto" and not _uses_gpu(exported is None))
    proof = read_proof(model) if on_cpu else None
    best = proof.fastest(name, precision) if proof is not None else None
    if best is not None and proof is not None and best.runtime != "torch":
        file = proof.converted if exported is None else None
        if exported is not None or file is not None:
            return RuntimeChoice(best.runtime, best.precision, file, proof.describe(best))
    if name == "auto":
        return own
    if exported is None:
        raise UsageError(
            f"{name} is not proven for this model on this machine",
            expected=f"a benchmark in which it is faster than {usual} and at least 99.9 % of the labels are equal",
            found="no such benchmark" if proof is None else "slower, or other labels",
            where=model,
            fix="segwright benchmark MODEL, or export it: segwright export MODEL --to onnx",
        )
    return RuntimeChoice(name, own.precision)  # open_exported refuses what cannot run the file


def _uses_gpu(saved: bool) -> bool:
    """Whether the usual runtime of a saved model or an exported file takes a GPU here: no proof is of one."""
    if not saved:  # without torch
        import onnxruntime

        return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    import torch

    return bool(torch.cuda.is_available() or torch.backends.mps.is_available())
