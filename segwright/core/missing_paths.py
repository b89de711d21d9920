"""What lies where a path is missing: the nearest names first, so that a misspelled one is found."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path

from segwright.core.names import nearest_names

READ = 2_000  # entries of a folder that are looked at
SHOWN = 6


def beside_missing(path: str | Path) -> str | None:
    """The names in the deepest folder of ``path`` that exists; None if ``path`` itself exists, or cannot be read.

    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> (folder / "photos").mkdir()
    >>> beside_missing(folder / "fotos").startswith("photos/")
    True
    """
    try:
        if "://" in str(path) or "\0" in str(path) or os.path.lexists(path):
            return None
        path = Path(path)
        missing, folder = path.name, path.parent
        while not folder.is_dir():
            if folder == folder.parent:
                return None
            missing, folder = folder.name, folder.parent
        with os.scandir(folder) as entries:
            names = [
                entry.name + ("/" if entry.is_dir() else "")
                for entry in islice(entries, READ)
                if not entry.name.startswith(".")
            ]
    except (OSError, ValueError):
        return None
    place = f"in {folder}" if str(folder) != "." else "in the current folder"
    if not names:
        return f"nothing {place}"
    plain = {name.rstrip("/"): name for name in names}
    near = [plain[name] for name in nearest_names(missing, plain, 3)]
    ordered = list(dict.fromkeys([*near, *sorted(names)]))
    more = f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else ""
    return f"{', '.join(ordered[:SHOWN])}{more} ({place})"
