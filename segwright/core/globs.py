"""Globs below folders whose names hold brackets."""

from __future__ import annotations

import glob
from pathlib import Path


def literal_folders(pattern: str, root: str | Path = "") -> tuple[str, str]:
    """(``pattern`` with its first folders taken as they are written, these folders): as far as they exist.

    For a glob that matches nothing: in ``holiday [2024]/*.jpg`` the brackets stand for one character each, and are
    mostly meant as they are. Folders are relative to ``root``.

    >>> literal_folders("nowhere [1]/*.jpg")
    ('nowhere [1]/*.jpg', '')
    """
    parts = pattern.split("/")
    count = 0
    for number in range(1, len(parts)):
        if any(sign in parts[number - 1] for sign in "*?") or not Path(root, "/".join(parts[:number]) or "/").is_dir():
            break
        count = number
    folders = "/".join(parts[:count])
    return "/".join([*(glob.escape(part) for part in parts[:count]), *parts[count:]]), folders
