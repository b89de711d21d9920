"""What segwright and each extra bring in packages and megabytes, counted in the environment that this runs in.

    python benchmarks/install_size.py

Only packages that are installed are counted; those that are missing are named.
"""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def closure(requirements: list[str]) -> tuple[set[str], set[str]]:
    """The distributions that ``requirements`` bring, and those of them that are not installed here."""
    from packaging.requirements import Requirement

    found: set[str] = set()
    missing: set[str] = set()
    waiting = [Requirement(one) for one in requirements]
    seen = set()
    while waiting:
        one = waiting.pop()
        name = re.sub(r"[-_.]+", "-", one.name).lower()
        if (name, frozenset(one.extras)) in seen:
            continue
        seen.add((name, frozenset(one.extras)))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            missing.add(name)
            continue
        found.add(name)
        for text in distribution.requires or ():
            below = Requirement(text)
            extras = one.extras or {""}
            if below.marker is None or any(below.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(below)
    return found, missing


def megabytes(name: str) -> float:
    """Of the files of one distribution on the disk."""
    files = metadata.distribution(name).files or ()
    return sum(path.stat().st_size for file in files if (path := Path(str(file.locate()))).is_file()) / 1e6


def report(title: str, requirements: list[str], base: set[str]) -> set[str]:
    found, missing = closure(requirements)
    new = sorted(found - base, key=megabytes, reverse=True)
    largest = ", ".join(f"{name} {megabytes(name):.0f}" for name in new[:5])
    lacks = f"; not installed here: {', '.join(sorted(missing))}" if missing else ""
    print(f"{title:28} {sum(map(megabytes, new)):7.0f} MB  {len(new):3} packages  ({largest}{lacks})")
    return found


def main() -> None:
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    runtime = tomllib.loads((ROOT / "runtime" / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = report("segwright", whole["dependencies"], set())
    for extra, requirements in whole["optional-dependencies"].items():
        report(f"segwright[{extra}]", requirements, base)
    base = report("segwright-runtime", runtime["dependencies"], set())
    for extra, requirements in runtime["optional-dependencies"].items():
        report(f"segwright-runtime[{extra}]", requirements, base)


if __name__ == "__main__":
    main()
