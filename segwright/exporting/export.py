"""Exports, each run and compared with the original on real images at several sizes before it replaces a file.

Several models are exported as their ensemble; the original is then the mean of their probabilities.

| format | what is written |
|---|---|
| ``bundle`` | the folder that segwright itself loads |
| ``onnx`` | one file for onnxruntime and OpenVINO |
| ``openvino`` | a folder with OpenVINO's ``model.xml`` and ``model.bin`` |
| ``torch`` | a ``.pt2`` file of torch.export |
| ``triton`` | a model repository for a Triton Inference Server |

In all but a bundle the input of the graph is raw uint8 pixels N×H×W×C of any batch and size, its outputs are labels and
confidence; normalization, padding and cropping are part of it. The file contains the weights and, as metadata, the
bundle's description, so ``predict`` and ``evaluate`` need nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from segwright.core.atomic_io import check_output, verify_checksums
from segwright.core.deprecated import renamed_parameters
from segwright.core.errors import UsageError
from segwright.core.types import Sample
from segwright.exporting.bundle import export_bundle
from segwright.exporting.job import ExportJob, ExportResult
from segwright.exporting.onnx import export_onnx
from segwright.exporting.openvino import export_openvino
from segwright.exporting.quantize import QuantizationData, export_int8
from segwright.exporting.torch_program import export_torch
from segwright.exporting.triton import export_triton
from segwright.inference.attachments import attachment_names
from segwright.inference.bundle import is_bundle, load_bundle, read_attachments, read_bundle
from segwright.inference.ensemble import EnsembleRuntime, join_models
from segwright.inference.exported_files import find_exported
from segwright.inference.predictor import find_bundle
from segwright.inference.torch_runtime import TorchRuntime

EXPORTERS: dict[str, Callable[[ExportJob], ExportResult]] = {
    "onnx": export_onnx,
    "bundle": export_bundle,
    "openvino": export_openvino,
    "torch": export_torch,
    "triton": export_triton,
}
SUFFIXES = {"torch": "pt2"}  # of the file or folder, where it is not the format's name
FILES = {"onnx": ".onnx", "torch": ".pt2"}  # formats of one file, and how its name ends


@renamed_parameters(pictures="source")
def export(
    model: str | Path | Sequence[str | Path],
    to: str = "onnx",
    out: str | Path | None = None,
    *,
    samples: Sequence[Sample] = (),
    source: str = "",
    with_logits: bool = False,
    command: str = "",
    trust_external: bool = False,
    quantization: QuantizationData | None = None,
) -> ExportResult:
    """Export a run folder or bundle, or several as their ensemble; ExportError if it cannot be exported or differs from
    the original.

    ``samples``: the real images to compare on, with masks if they have them; ``with_logits`` adds a third output, which
    test-time augmentation and post-processing need; ``command`` is written into an ensemble. ``quantization``: write
    int8 weights and activations, calibrated and judged on these images.
    """
    if to not in EXPORTERS:
        raise UsageError("unknown export format", expected=", ".join(EXPORTERS), found=to)
    if quantization is not None and to != "onnx":
        raise UsageError(
            "an int8 export is one ONNX file, for onnxruntime and OpenVINO", expected="--to onnx", found=to
        )
    if not samples:
        raise UsageError("an export is compared on real images", found="none", fix="give some with --data")
    models = [model] if isinstance(model, str | Path) else list(model)
    if len(models) == 1:
        network, bundle = load_bundle(find_bundle(models[0]), trust_external=trust_external)
    else:
        network, bundle = join_models(models, command=command, trust_external=trust_external)
    folders = [find_bundle(m) for m in models]
    # Loaded again, one by one: the exported network must not be compared with itself.
    originals = [TorchRuntime(load_bundle(folder, trust_external=trust_external)[0], "cpu") for folder in folders]
    original = originals[0] if len(originals) == 1 else EnsembleRuntime(originals)
    run = folders[0].parent
    suffix = SUFFIXES.get(to, to) if quantization is None else "int8.onnx"
    usual = run / f"{run.name or 'model'}.{suffix}" if len(models) == 1 else Path(f"ensemble.{suffix}")
    path = Path(out) if out is not None else usual
    _refuse_overwriting(path, to, folders)
    check_output(path / "SHA256SUMS" if path.is_dir() else path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with_logits = with_logits or bundle.postprocess is not None
    attachments = read_attachments(folders[0]) if len(folders) == 1 else {}
    job = ExportJob(network, bundle, original, path, samples, source, with_logits, attachments)
    result = EXPORTERS[to](job) if quantization is None else export_int8(job, quantization)
    dropped = {name for folder in folders for name in attachment_names(folder)} if len(folders) > 1 else set()
    return replace(result, dropped=tuple(sorted(dropped)))


def _refuse_overwriting(path: Path, to: str, models: Sequence[Path]) -> None:
    """UsageError if ``path`` is no name of an export of this kind, or exists and is not an earlier export."""
    suffix = FILES.get(to)
    if suffix is not None:
        if path.is_dir():
            raise _not_an_export(path, "a file's name", "a folder")
        if path.suffix.lower() != suffix:  # predict and the others know an export by it, and a photo has another
            raise UsageError(
                f"the name of the exported file does not end in {suffix}", where=path, fix=f"--out {path}{suffix}"
            )
        return
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    expected = f"a new name, an empty folder or an earlier {to} export"
    if path.is_file():
        raise _not_an_export(path, expected, "a file")
    kind = find_exported(path)
    if not (is_bundle(path) if to == "bundle" else kind is not None and kind.kind == to):
        raise _not_an_export(path, expected, "a folder")
    if others := verify_checksums(path):
        raise _not_an_export(path, f"{expected} as it was written", "; ".join(others[:4]))
    mine = path.resolve() in [model.resolve() for model in models]
    if to == "bundle" and (mine or "parity" not in read_bundle(path).metrics):  # a training's model has none
        raise _not_an_export(path, expected, "a model that is no export")


def _not_an_export(path: Path, expected: str, found: str) -> UsageError:
    return UsageError(
        "the output exists and is not an earlier export", expected=expected, found=found, where=path,
        fix="another name with --out",
    )  # fmt: skip
