"""The fuzz suite at length, with a table of counts: tests/fuzz/engine.py as a command.

python benchmarks/fuzz.py --inputs 20000 --seed 3 --json fuzz.json
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "fuzz"))

import engine

if __name__ == "__main__":
    sys.exit(engine.main())
