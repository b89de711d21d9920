"""The command ``segwright monitor``, for its tests."""

from __future__ import annotations

import sys

import pytest

from segwright import cli


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["segwright", "monitor", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)
