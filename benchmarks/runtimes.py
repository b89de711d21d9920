"""The runtimes of one network beside each other, float and int8: how many times as fast as plain torch.

    python benchmarks/runtimes.py [--encoder resnet34] [--size 352x480] [--turns 15] [--threads 2] [--json out.json]

A U-Net of random weights, whose speed is that of trained ones; int8 is calibrated on drawn street scenes. All run in
turn, image by image; a ratio is the median over the turns of torch's time over the runtime's, so that a busy machine
slows all alike. With ``--cpu-time`` the time is that of the processor, summed over threads: with one thread it is what
a quiet machine shows, where threads that wait for a displaced one would count against the runtime. ``torch eager`` is
plain torch in fp32, contiguous, without any kernel of ours; ``torch`` is what segwright runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segwright import kernels
from segwright.core.types import LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.exporting.onnx import trace
from segwright.exporting.quantize import Quantizer
from segwright.inference.bundle import Bundle
from segwright.inference.onnx_runtime import OnnxRuntime
from segwright.inference.openvino_runtime import OpenVinoRuntime, supports_bf16
from segwright.inference.proofs import machine
from segwright.inference.torch_runtime import TorchRuntime, argmax_with_confidence
from segwright.models.catalog import create_model
from segwright.training.config import parse_size

Run = Callable[[Any], Any]


def runtimes(encoder: str, threads: int, images: list[Any], folder: Path) -> dict[str, Run]:
    def network() -> Any:
        torch.manual_seed(0)
        return create_model("unet", classes=11, weights=None, encoder=encoder).eval()

    plain = network()

    @torch.inference_mode()
    def eager(pixels: Any) -> Any:
        with kernels.disabled():
            labels, confidence = argmax_with_confidence(plain(torch.from_numpy(pixels)).logits)
        return labels.to(torch.uint8).numpy(), confidence.numpy()

    file = folder / "m.onnx"
    names = LabelSpace(tuple(f"class {i}" for i in range(11)))
    trace(network(), Bundle("unet", names, {"encoder": encoder, "in_channels": 3}), file)
    int8 = Quantizer(file, folder, images).quantize()
    found: dict[str, Run] = {
        "torch eager fp32": eager,
        "torch fp32": TorchRuntime(network(), "cpu").labels,
        "torch bf16": TorchRuntime(network(), "cpu", "bf16").labels,
        "onnxruntime fp32": OnnxRuntime(file, "cpu", threads).labels,
        "openvino fp32": OpenVinoRuntime(file, "cpu", "fp32", threads).labels,
    }
    if supports_bf16():
        found["openvino bf16"] = OpenVinoRuntime(file, "cpu", "bf16", threads).labels
    import onnx

    model, original = onnx.load(str(int8)), onnx.load(str(file))
    model.metadata_props.extend(original.metadata_props)
    onnx.save(model, str(int8))
    found["onnxruntime int8"] = OnnxRuntime(int8, "cpu", threads).labels
    found["openvino int8"] = OpenVinoRuntime(int8, "cpu", "fp32", threads).labels
    if supports_bf16():
        found["openvino int8, the rest bf16"] = OpenVinoRuntime(int8, "cpu", "bf16", threads).labels
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet34")
    parser.add_argument("--size", default="352x480")
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.process_time if options.cpu_time else time.perf_counter
    height, width = parse_size(options.size)
    images = [draw_street(f"runtimes/{number}", (height, width))[0] for number in range(8)]
    with tempfile.TemporaryDirectory() as temporary:
        runs = runtimes(options.encoder, options.threads, images, Path(temporary))
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.turns + 2):
            for name, run in runs.items():
                pixels = np.ascontiguousarray(images[turn % len(images)][None])
                started = clock()
                run(pixels)
                if turn >= 2:
                    times[name].append(1000 * (clock() - started))
    base = times["torch eager fp32"]
    rows = []
    for name, taken in times.items():
        ratios = [a / b for a, b in zip(base, taken, strict=True)]
        low, high = np.quantile(ratios, [0.25, 0.75])
        rows.append({"runtime": name, "ms_median": statistics.median(taken), "ms_min": min(taken),
                     "ratio": statistics.median(ratios), "ratio_of_min": min(base) / min(taken),
                     "quartiles": [float(low), float(high)]})  # fmt: skip
        print(f"{name:30} {rows[-1]['ms_median']:7.1f} ms, least {rows[-1]['ms_min']:7.1f}   {rows[-1]['ratio']:.2f} × "
              f"({low:.2f} to {high:.2f}), of the least {rows[-1]['ratio_of_min']:.2f} ×")  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "turns": options.turns, "rows": rows}, indent=1))


if __name__ == "__main__":
    main()
