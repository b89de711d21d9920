"""Opening and checking one dataset in this process: seconds of the wall clock and of the processor.

    PYTHONPATH=TREE python benchmarks/opening.py DATA [--check]

To compare two versions, run it in turn with TREE the one and the other, several times, and take the least of each.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from segwright.data.check.runner import check_dataset
from segwright.data.dataset import open_dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--check", action="store_true", help="also read every image and mask")
    arguments = parser.parse_args()
    wall, processor = time.perf_counter(), time.process_time()
    data = open_dataset(arguments.data)
    print(f"open: {time.perf_counter() - wall:.2f} s, processor {time.process_time() - processor:.2f} s, "
          f"{data.format}, {len(data.records)} images")  # fmt: skip
    if arguments.check:
        wall, processor = time.perf_counter(), time.process_time()
        result = check_dataset(data, workers=0)
        print(f"check: {time.perf_counter() - wall:.2f} s, processor {time.process_time() - processor:.2f} s, "
              f"{len(result.problems)} findings")  # fmt: skip


main()
