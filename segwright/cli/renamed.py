"""Options and commands that were renamed: the old name works for one release, with a line on stderr."""

from __future__ import annotations

import sys
from collections.abc import Sequence

COMMANDS = {"crf-figure": "plot-crf", "tune-postprocess": "tune-post"}
SUBCOMMANDS = {("datasets", "get"): "download"}
OPTIONS = {
    "train": {"--from": "--init-from", "--devices": "--nproc"},
    "lr-range": {"--from": "--init-from"},
    "evaluate": {"--post": "--postprocess", "--match": "--match-classes"},
    "predict": {"--post": "--postprocess"},
    "serve": {
        "--post": "--postprocess",
        "--queue": "--max-concurrent-requests",
        "--timeout": "--upload-timeout",
    },
    "plot-crf": {"--belief": "--show-probability", "--pictures": "--count"},
    "tune-post": {"--keep": "--save", "--no-keep": "--no-save", "--chain": "--pipeline"},
}


def with_new_names(arguments: Sequence[str]) -> list[str]:
    """``arguments`` in the names of today; what was renamed is reported on stderr.

    >>> with_new_names(["predict", "run", "a.png", "--post=none"])
    ['predict', 'run', 'a.png', '--postprocess=none']
    """
    given = list(arguments)
    if not given:
        return given
    if given[0] in COMMANDS:
        _report(given[0], COMMANDS[given[0]])
        given[0] = COMMANDS[given[0]]
    if len(given) > 1 and (new := SUBCOMMANDS.get((given[0], given[1]))) is not None:
        _report(" ".join(given[:2]), f"{given[0]} {new}")
        given[1] = new
    renamed = OPTIONS.get(given[0], {})
    for place, argument in enumerate(given[1:], 1):
        if argument == "--":
            break
        name, equals, value = argument.partition("=")
        if name in renamed:
            _report(name, renamed[name])
            given[place] = f"{renamed[name]}{equals}{value}"
    return given


def _report(old: str, new: str) -> None:
    print(f"note: {old} is now {new}; the old name works until the next release", file=sys.stderr)
