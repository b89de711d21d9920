"""Trainings killed at random moments and resumed, against uninterrupted ones: tests/training/kills.py as a command.

python benchmarks/kills.py --kills 100 --jobs 2
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch: many short trainings run side by side
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "training"))

import kills

if __name__ == "__main__":
    sys.exit(kills.main())
