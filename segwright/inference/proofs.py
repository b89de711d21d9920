"""Which runtime is the fastest for a model on this machine, and how far it agrees with the original: measured, kept.

``segwright benchmark MODEL`` measures; its proof lies in the user's cache (``$XDG_CACHE_HOME/segwright/runtimes``), not
in the model, since it holds for one machine and the versions of its packages. It names the model by the checksums of
its files, so that a proof of other weights is never taken. A saved model's proof comes with its conversion to ONNX.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from segwright.core.atomic_io import atomic_file, sha256, write_json
from segwright.core.counted import counted
from segwright.core.version import __version__
from segwright.inference.description import SUMS
from segwright.inference.exported_files import find_exported
from segwright.kernels.threads import processors

MIN_AGREEMENT = 0.999  # share of equal labels
MIN_GAIN = 1.1  # times as fast as the usual runtime; less is not worth another one
CONVERTED = "model.onnx"
FORM = 1  # of the file; another is no proof
MOST_BYTES = 1_000_000


@dataclass(frozen=True)
class Measured:
    """One runtime of a proof."""

    runtime: str  # torch, onnxruntime, openvino
    precision: str  # of its arithmetic
    agreement: float  # share of the labels equal to the original's
    milliseconds: float  # per image, the median
    gain: float  # times as fast as the original, measured in turn with it

    @property
    def proven(self) -> bool:
        """Whether it may take the original's place."""
        return self.agreement >= MIN_AGREEMENT and self.gain >= MIN_GAIN


@dataclass(frozen=True)
class Proof:
    """A benchmark of a model on a machine."""

    made: str  # date, UTC
    images: int  # on which labels were compared
    source: str
    measured: tuple[Measured, ...]
    converted: Path | None  # the ONNX file of a saved model

    def fastest(self, runtime: str = "auto", precision: str = "auto") -> Measured | None:
        """The fastest proven runtime, among those of a name and precision; None if the original stays."""
        fitting = [one for one in self.measured if one.proven and runtime in ("auto", one.runtime)
                   and precision in ("auto", one.precision)]  # fmt: skip
        return max(fitting, key=lambda one: one.gain, default=None)

    def describe(self, one: Measured) -> str:
        """A note for the user."""
        return (
            f"runtime: {one.runtime} in {one.precision}, {one.gain:.1f} × as fast here as the usual one, "
            f"{one.agreement:.3%} of the labels equal on {counted(self.images, 'image')} (benchmark of {self.made})"
        )


def machine() -> dict[str, str]:
    """What a measurement depends on: CPU, cores, system, and the versions of what computes."""
    found = {"cpu": _cpu(), "cores": str(processors()), "system": f"{platform.system()} {platform.machine()}"}
    for name in ("torch", "onnxruntime", "openvino", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "none"
    return {**found, "segwright": __version__}


def model_key(model: str | Path) -> str | None:
    """A name for the bytes of a saved model or an exported file; None if it has no checksums."""
    path = Path(model)
    exported = find_exported(path)
    if exported is not None:
        file = exported.file
    else:
        file = next((place / SUMS for place in (path, path / "model") if (place / SUMS).is_file()), path / SUMS)
    try:
        return sha256(file)[:32]
    except OSError:
        return None


def save_proof(
    model: str | Path, measured: Sequence[Measured], images: int, source: str, converted: Path | None
) -> Path | None:
    """Keep a proof, and a copy of the converted model if another runtime than torch won; None without a key. An OSError
    passes: the caller has the figures anyway."""
    key = model_key(model)
    if key is None:
        return None
    folder = _root() / key
    tree: dict[str, Any] = {
        "form": FORM, "machine": machine(), "made": time.strftime("%Y-%m-%d", time.gmtime()), "images": images,
        "source": source, "measured": [asdict(one) for one in measured],
    }  # fmt: skip
    if converted is not None and any(one.proven for one in measured):
        with atomic_file(folder / CONVERTED) as beside:
            shutil.copyfile(converted, beside)
        tree["converted"] = sha256(folder / CONVERTED)
    return write_json(folder / _file_name(), tree)


def read_proof(model: str | Path) -> Proof | None:
    """The proof of a model on this machine, if there is one that is whole."""
    key = model_key(model)
    if key is None:
        return None
    path = _root() / key / _file_name()
    try:
        if path.stat().st_size > MOST_BYTES:
            return None
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["form"] != FORM or tree["machine"] != machine():
            return None
        measured = tuple(
            Measured(
                str(one["runtime"]),
                str(one["precision"]),
                float(one["agreement"]),
                float(one["milliseconds"]),
                float(one["gain"]),
            )
            for one in tree["measured"]
        )
        converted = path.with_name(CONVERTED) if "converted" in tree else None
        if converted is not None and sha256(converted) != tree["converted"]:
            return None
        return Proof(str(tree["made"]), int(tree["images"]), str(tree["source"]), measured, converted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _root() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(home) / "segwright" / "runtimes"


def _file_name() -> str:
    text = json.dumps(machine(), sort_keys=True)
    return f"proof-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


def _cpu() -> str:
    """The CPU's name and what it can do; of a name alone, virtual machines have the same for different CPUs."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    lines = dict(line.split(":", 1) for line in text.partition("\n\n")[0].splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    flags = hashlib.sha256(" ".join(sorted(fields.get("flags", "").split())).encode()).hexdigest()[:8]
    return f"{fields.get('model name', platform.processor())} {flags}"
