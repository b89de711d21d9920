"""The child process that measures the memory of one runtime: a job on stdin, the peak on stdout."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import psutil

from segwright.inference.exported_files import find_exported, open_exported
from segwright.inference.runtimes import Runtime

RUNS = 3


def main() -> None:
    """Open the model, run it on noise, print the peak in megabytes as JSON."""
    job = json.load(sys.stdin)
    exported = find_exported(job["place"])
    runtime: Runtime
    if exported is None:
        from segwright.inference.bundle import load_bundle
        from segwright.inference.torch_runtime import TorchRuntime

        network, _ = load_bundle(job["place"], trust_external=job["trust_external"])
        runtime = TorchRuntime(network, "cpu", job["precision"])
    else:
        runtime = open_exported(
            exported, runtime=job["runtime"], device="cpu", precision=job["precision"],
            trust_external=job["trust_external"],
        )  # fmt: skip
    images = np.random.default_rng(0).integers(0, 256, (1, *job["shape"]), np.uint8)
    largest = 0.0
    for _ in range(RUNS):
        runtime.labels(images)
        largest = max(largest, psutil.Process().memory_info().rss / 1e6)
    print(json.dumps({"peak_mb": max(largest, _high_water())}))


def _high_water() -> float:
    """The peak of this process in megabytes, where the system keeps it; getrusage would give the parent's as well."""
    try:
        found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0
