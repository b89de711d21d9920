"""The dense CRF against pydensecrf2: time, agreement and memory, both in one run.

    python benchmarks/crf.py [--camvid ../shared/data/camvid] [--rounds 7] [--threads 2] [--json out.json]

CamVid images at 480×360 with probabilities as a coarse network gives them (blurred, noisy ground truth), DeepLab v1's
parameters, ten iterations, symmetric normalization. The two take turns, image by image, so that a busy machine
slows both; wall-clock is what counts, the processor time of one thread (``cpu ratio``) is the steadier figure on a
machine that is shared. Memory, in a fresh process for each, with the kernels already compiled, by the process's peak
(VmHWM, Linux): ``idle`` with what each must import and the two arrays read from a file, so that nothing larger was ever
there; ``adds`` what one call adds to that; ``total`` the process's peak. The first call of all compiles the kernels
(``first call, compiling``); later processes load them.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

CLASSES = (2, 12, 21)


def photo(folder: Path, index: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    import cv2  # here: the processes whose memory is measured do without

    path = sorted((folder / "val").glob("*.png"))[index]
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    mask = cv2.imread(str(folder / "valannot" / path.name), 0) % classes
    noise = np.random.default_rng(index).random((45, 60, classes)).astype(np.float32)
    coarse = np.stack([cv2.resize(noise[..., k], mask.shape[::-1]) for k in range(classes)], axis=2)
    soft = cv2.GaussianBlur(np.eye(classes, dtype=np.float32)[mask], (0, 0), 8).reshape(coarse.shape) + 0.3 * coarse
    return image, np.ascontiguousarray((soft / soft.sum(axis=2, keepdims=True)).transpose(2, 0, 1))


def ours(image: np.ndarray, probabilities: np.ndarray, threads: int) -> np.ndarray:
    from segwright.postprocess.crf import DenseCRF

    return DenseCRF.preset("deeplab-v1", threads=threads)(image, probabilities)


def theirs(image: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    import pydensecrf.densecrf as peer

    field = peer.DenseCRF2D(image.shape[1], image.shape[0], len(probabilities))
    energy = -np.log(np.clip(probabilities, 1e-5, 1.0)).reshape(len(probabilities), -1)
    field.setUnaryEnergy(np.ascontiguousarray(energy))
    field.addPairwiseGaussian(sxy=3, compat=3)
    field.addPairwiseBilateral(sxy=140, srgb=5, rgbim=image, compat=5)
    return np.array(field.inference(10)).reshape(probabilities.shape)


def peak() -> int:
    """Peak bytes of this process. Not ru_maxrss: that begins with the peak of the process that started this one."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def one_call(name: str, folder: Path, threads: int) -> None:
    """In a process of its own: seconds of the first call, and what a call adds to the process's peak memory."""
    if name == "ours":
        import segwright.postprocess.crf  # noqa: F401
    else:
        import pydensecrf.densecrf  # noqa: F401
    image, probabilities = np.load(folder / "image.npy"), np.load(folder / "probabilities.npy")
    small = np.ascontiguousarray(probabilities[:, :96, :128])
    small_image = np.ascontiguousarray(image[:96, :128])
    call = (lambda i, p: ours(i, p, threads)) if name == "ours" else theirs
    idle = peak()
    started = time.perf_counter()
    call(small_image, small)  # loads libraries and kernels
    first = time.perf_counter() - started
    before = peak()
    call(image, probabilities)
    figures = {
        "first_seconds": first,
        "idle_mb": idle / 1e6,
        "adds_mb": (peak() - before) / 1e6,
        "total_mb": peak() / 1e6,
    }
    print(json.dumps(figures))


def child(name: str, arguments: argparse.Namespace, classes: int, cache: str | None = None) -> dict[str, float]:
    """The output of ``one_call``. The arrays go by files: making them takes more memory than a call."""
    with tempfile.TemporaryDirectory() as folder:
        image, probabilities = photo(arguments.camvid, 3, classes)
        np.save(Path(folder) / "image.npy", image)
        np.save(Path(folder) / "probabilities.npy", probabilities)
        command = [sys.executable, __file__, "--one", name, "--folder", folder, "--threads", str(arguments.threads)]
        environment = {**os.environ, **({"NUMBA_CACHE_DIR": cache} if cache else {})}
        run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def compare(arguments: argparse.Namespace, classes: int) -> dict[str, float]:
    wall: dict[str, list[float]] = {"ours": [], "theirs": []}
    cpu: dict[str, list[float]] = {"ours": [], "theirs": []}
    equal, off = [], []
    for index in range(arguments.rounds):
        image, probabilities = photo(arguments.camvid, 5 * index, classes)
        if index == 0:
            ours(image, probabilities, arguments.threads)  # loads the kernels
        answers = {}
        for name in ("ours", "theirs") if index % 2 else ("theirs", "ours"):
            started = time.perf_counter()
            answers[name] = (
                ours(image, probabilities, arguments.threads) if name == "ours" else theirs(image, probabilities)
            )
            wall[name].append(time.perf_counter() - started)
        for name in ("ours", "theirs"):
            started = time.process_time()
            _ = ours(image, probabilities, 1) if name == "ours" else theirs(image, probabilities)
            cpu[name].append(time.process_time() - started)
        equal.append(float((answers["ours"].argmax(0) == answers["theirs"].argmax(0)).mean()))
        off.append(float(np.abs(answers["ours"] - answers["theirs"]).mean()))
    return {
        "classes": classes,
        "ours_ms": 1000 * min(wall["ours"]),
        "theirs_ms": 1000 * min(wall["theirs"]),
        "ours_median_ms": 1000 * float(np.median(wall["ours"])),
        "theirs_median_ms": 1000 * float(np.median(wall["theirs"])),
        "ratio_of_minima": min(wall["theirs"]) / min(wall["ours"]),
        "ratio_of_medians": float(np.median(wall["theirs"]) / np.median(wall["ours"])),
        "ratio_of_pairs": float(np.median(np.array(wall["theirs"]) / np.array(wall["ours"]))),
        "cpu_ratio_one_thread": float(np.median(np.array(cpu["theirs"]) / np.array(cpu["ours"]))),
        "labels_equal": min(equal),
        "mean_difference": max(off),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--camvid", type=Path, default=Path(__file__).parents[2] / "shared/data/camvid")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--classes", type=int, nargs="*", default=CLASSES)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--one", choices=("ours", "theirs"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one_call(arguments.one, arguments.folder, arguments.threads)
        return
    results = []
    for classes in arguments.classes:
        row = compare(arguments, classes)
        if not arguments.no_memory:
            for name in ("ours", "theirs"):
                found = child(name, arguments, classes)
                row |= {f"{name}_{key}": value for key, value in found.items() if key.endswith("mb")}
        results.append(row)
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    if not arguments.no_memory:
        with tempfile.TemporaryDirectory() as cache:
            compiling = child("ours", arguments, 12, cache)["first_seconds"]
            loading = child("ours", arguments, 12, cache)["first_seconds"]
        print(f"first call, compiling {compiling:.1f} s; first call of a later process {loading:.1f} s")
        results.append({"first_call_compiling_s": compiling, "first_call_loading_s": loading})
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
