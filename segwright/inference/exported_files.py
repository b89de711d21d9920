"""Exported files and folders: what a path is, and its runtime.

| kind | path | runtimes |
|---|---|---|
| ``onnx`` | ``NAME.onnx`` | onnxruntime, openvino |
| ``openvino`` | ``NAME.xml`` with ``NAME.bin``, or the folder of ``model.xml`` | openvino |
| ``torch`` | ``NAME.pt2`` | torch |
| ``triton`` | a model repository with one model | onnxruntime, openvino |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from segwright.core.errors import BundleError, UsageError
from segwright.inference.description import find_bundle
from segwright.inference.exported import ExportedRuntime
from segwright.inference.onnx_runtime import OnnxRuntime
from segwright.inference.openvino_runtime import OpenVinoRuntime

SUFFIXES = {".onnx": "onnx", ".xml": "openvino", ".pt2": "torch"}
RUNTIMES = {
    "onnx": ("onnxruntime", "openvino"),
    "openvino": ("openvino",),
    "torch": ("torch",),
    "triton": ("onnxruntime", "openvino"),
}
ALL_RUNTIMES = ("torch", "onnxruntime", "openvino")


@dataclass(frozen=True)
class ExportedFile:
    """An export on the disk: its kind, and the file that a runtime opens."""

    kind: str
    file: Path

    @property
    def runtimes(self) -> tuple[str, ...]:
        """Those that can run it, the usual one first."""
        return RUNTIMES[self.kind]


def find_exported(path: str | Path) -> ExportedFile | None:
    """The export at ``path``, by its name alone where it is a file; None for anything else, such as a bundle."""
    path = Path(path)
    if not path.is_dir():
        kind = SUFFIXES.get(path.suffix.lower())
        return ExportedFile(kind, path) if kind is not None else None
    if (path / "model.xml").is_file():
        return ExportedFile("openvino", path / "model.xml")
    for repository in (path, path.parent):
        configs = [path / "config.pbtxt"] if repository is not path else sorted(path.glob("*/config.pbtxt"))
        if len(configs) != 1 or not configs[0].is_file():
            continue
        versions = [place for place in configs[0].parent.iterdir() if place.name.isdigit()]
        files = [place / "model.onnx" for place in sorted(versions, key=lambda place: int(place.name))]
        if files and files[-1].is_file():
            return ExportedFile("triton", files[-1])
    return None


def require_saved_model(model: object) -> None:
    """BundleError where a path given as a model is none: before data is looked at, which may take minutes."""
    if isinstance(model, str | Path) and "://" not in str(model):
        exported = find_exported(model)
        if exported is None or not exported.file.is_file():
            find_bundle(model)


def open_exported(
    exported: ExportedFile,
    *,
    runtime: str = "auto",
    device: str = "auto",
    precision: str = "fp32",
    trust_external: bool = False,
) -> ExportedRuntime:
    """The runtime of an export; ``auto`` is the usual one. UsageError for one that cannot run it, or not in the
    precision; BundleError for a ``.pt2`` file that is not trusted."""
    name = exported.runtimes[0] if runtime == "auto" else runtime
    if name not in exported.runtimes:
        raise UsageError(
            "this runtime cannot run the exported file",
            expected=f"auto, {', '.join(exported.runtimes)}",
            found=runtime,
            where=exported.file,
        )
    if name == "openvino":
        return OpenVinoRuntime(exported.file, device, precision)
    if precision != "fp32":
        raise UsageError(
            f"{name} computes an exported file in the file's own precision",
            expected="fp32" if "openvino" not in exported.runtimes else "fp32, or --runtime openvino",
            found=precision,
            where=exported.file,
        )
    if name == "onnxruntime":
        return OnnxRuntime(exported.file, device)
    if not trust_external:
        raise BundleError(
            "a .pt2 file holds pickles, which can run any code when they are opened",
            expected="a file whose origin you trust",
            where=exported.file,
            fix="--trust-external (trust_external=True), or an .onnx export, which holds no code",
        )
    from segwright.inference.torch_program_runtime import TorchProgramRuntime  # imports torch

    return TorchProgramRuntime(exported.file, device)
