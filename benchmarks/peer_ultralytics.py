"""ultralytics' semantic trainer by its own command line, where it is installed (AGPL: never a dependency of ours).

It owns its loop, so it cannot be stepped beside the others: one short run, samples per second from its own clock. It
trains its own network (yolo26n-sem), not our U-Net; the figure is what its users get, not what its code costs.
"""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path


def rate(data_yaml: Path, batch: int, minutes: float = 2.0) -> float | None:
    """Samples per second of ``minutes`` of training on a CPU; None where ultralytics is not installed."""
    if importlib.util.find_spec("ultralytics") is None:
        return None
    from ultralytics import YOLO

    seen = 0

    def count(trainer: object) -> None:
        nonlocal seen
        seen += batch

    model = YOLO("yolo26n-sem.yaml")
    model.add_callback("on_train_batch_end", count)
    started = time.perf_counter()
    model.train(data=str(data_yaml), imgsz=480, batch=batch, time=minutes / 60, device="cpu", val=False, plots=False)
    return seen / (time.perf_counter() - started)
