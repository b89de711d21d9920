"""Whether ``train --minutes M`` ends within M minutes and five per cent, the whole process, beside a busy core.

    python benchmarks/minutes.py ../shared/data/camvid --minutes 1 3 --weights none auto

One process computes on one core without a pause all the while (``--busy 0`` for none). Per budget and kind of weights
one training in a process of its own; a row gives how long it took from its start to its end, and what came of it.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ALLOWED = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 3, 10, 20])
    parser.add_argument("--weights", nargs="+", default=["none", "auto"])
    parser.add_argument("--busy", type=int, default=1, help="processes that compute beside it")
    given = parser.parse_args()
    beside = [multiprocessing.Process(target=compute, daemon=True) for _ in range(given.busy)]
    for process in beside:
        process.start()
    print(f"{given.busy} busy processes beside it\n")
    print("| weights | minutes | took | of the budget | network | steps | val mIoU |")
    print("|---|---|---|---|---|---|---|")
    late = False
    for minutes in given.minutes:
        for weights in given.weights:
            with tempfile.TemporaryDirectory() as folder:
                row, share = measured(given.data, Path(folder) / "run", minutes, weights)
            print(row, flush=True)
            late |= share > ALLOWED
    sys.exit(1 if late else 0)


def measured(data: Path, run: Path, minutes: float, weights: str) -> tuple[str, float]:
    """(a row of the table, the share of the budget that was used)."""
    command = [sys.executable, "-m", "segwright", "train", str(data), "--minutes", str(minutes), "--weights", weights]
    started = time.monotonic()
    done = subprocess.run([*command, "--out", str(run)], capture_output=True, text=True, check=False)
    seconds = time.monotonic() - started
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    plan = json.loads((run / "plan.json").read_text())["config"]["model"]
    model = json.loads((run / "model" / "model.json").read_text())["metrics"]
    steps = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"]
    share = seconds / (60 * minutes)
    name = " ".join(filter(None, (plan["name"], plan["encoder"])))
    row = f"| {weights} | {minutes:g} | {seconds:.0f} s | {share:.1%} | {name} | {steps} | {model['val_miou']:.3f} |"
    return row, share


def compute() -> None:
    number = 0
    while True:
        number = (number * 1103515245 + 12345) % 2**31


if __name__ == "__main__":
    main()
