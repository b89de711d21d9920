"""What HTTP costs: requests per second and latency of ``segwright serve`` beside the same predictor in a plain loop.

    python benchmarks/serve.py [--model MODEL] [--seconds 10] [--clients 1,4,16] [--batch 1,4] [--json out.json]

The loop decodes an image's bytes, predicts and encodes the labels, one image after the other, in this process. The
service does the same in a process of its own, asked by threads over connections that stay open. Images are street
scenes of CamVid's size, 360×480, as JPEG; the model, unless one is given, is a U-Net on a ResNet-18, of random weights.
The loop is run before and after the clients; the ratio is to the mean of both.
"""

from __future__ import annotations

import argparse
import http.client
import io
import json
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from PIL import Image

import segwright as sw
from segwright.core.types import LabelSpace
from segwright.demo.street_scene import draw_street
from segwright.imageio import decode_image
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.predictor import Predictor
from segwright.models.catalog import create_model
from segwright.serving.responses import encode_labels

SIZE = (360, 480)


def random_model(folder: Path) -> Path:
    torch.manual_seed(0)
    arguments = {"encoder": "resnet18", "in_channels": 3}
    network = create_model("unet", classes=11, weights=None, **arguments).eval()
    names = tuple(f"class {index}" for index in range(11))
    return save_bundle(folder / "model", network, Bundle("unet", LabelSpace(names), arguments))


def images(count: int = 16) -> list[bytes]:
    found = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.fromarray(draw_street(f"serve/{number}", SIZE)[0]).save(buffer, "JPEG", quality=92)
        found.append(buffer.getvalue())
    return found


def plain_loop(predictor: Predictor, data: list[bytes], seconds: float) -> float:
    """Images per second."""
    encode_labels(predictor.predict(decode_image(data[0])))
    began, done = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        encode_labels(predictor.predict(decode_image(data[done % len(data)])))
        done += 1
    return done / (time.perf_counter() - began)


def load_service(port: int, data: list[bytes], clients: int, seconds: float) -> dict[str, float]:
    """Requests per second, and milliseconds at the 50th and 95th percentile."""
    times: list[float] = []
    end = time.perf_counter() + seconds

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
        turn = number
        while time.perf_counter() < end:
            began = time.perf_counter()
            connection.request("POST", "/predict", data[turn % len(data)], {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            times.append(time.perf_counter() - began)
            turn += 1
        connection.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = time.perf_counter() - began
    cuts = statistics.quantiles(times, n=20) if len(times) > 1 else times * 20
    return {"per_second": len(times) / wall, "p50_ms": statistics.median(times) * 1e3, "p95_ms": cuts[18] * 1e3}


def served(model: Path, batch: int, device: str, *more: str) -> tuple[subprocess.Popen[str], int]:
    command = [sys.executable, "-m", "segwright", "serve", str(model), "--port", "0", "--batch", str(batch)]
    process = subprocess.Popen(
        [*command, "--device", device, *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"http://\S+:(\d+)/", line)
        if found:
            return process, int(found[1])
    raise SystemExit("the service did not start")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--clients", default="1,4,16")
    parser.add_argument("--batch", default="1,4")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    data, rows = images(), []
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or random_model(Path(folder))
        predictor = sw.load(model, device=options.device)
        for batch in (int(part) for part in options.batch.split(",")):
            before = plain_loop(predictor, data, options.seconds)
            process, port = served(model, batch, options.device)
            try:
                found = {
                    clients: load_service(port, data, clients, options.seconds)
                    for clients in (int(part) for part in options.clients.split(","))
                }
            finally:
                process.terminate()
                process.wait()
            after = plain_loop(predictor, data, options.seconds)
            print(f"batch {batch}: the loop alone {before:.2f} and {after:.2f} images/s")
            for clients, figures in found.items():
                ratio = figures["per_second"] / ((before + after) / 2)
                rows.append({"batch": batch, "clients": clients, "loop": [before, after], "ratio": ratio, **figures})
                print(
                    f"  {clients:3d} clients: {figures['per_second']:7.2f}/s, {ratio:.2f} of the loop, "
                    f"p50 {figures['p50_ms']:.0f} ms, p95 {figures['p95_ms']:.0f} ms",
                    flush=True,
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
