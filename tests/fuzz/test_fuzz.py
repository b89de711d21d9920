"""Every reader against changed input: what is neither read nor refused with an error of the package fails.

The normal run takes a few inputs per target and replays ``corpus/``, the inputs that once were findings. At length:

    python -m pytest -m fuzz --fuzz-inputs 20000 --fuzz-seed 3        one test per target
    python benchmarks/fuzz.py --inputs 20000 --seed 3 --json fuzz.json    the same with a table of counts
"""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path

import engine
import pytest
from mutations import of_bytes, of_json, of_text
from seeds import DATASETS, arrays, make_images
from targets import TARGETS, check_inert, write_tree

from segwright.core.errors import SegwrightError
from segwright.data.dataset import open_dataset
from segwright.imageio import decode_image

CORPUS = Path(__file__).parent / "corpus"
FAST = 10  # seconds of fuzzing in the normal run, per group
GROUPS = {
    "images": ("image-png", "image-jpeg", "image-tiff", "array-mat"),
    "annotations": ("run-lengths", "class-lists", "config"),
    "datasets": ("data-coco", "data-cvat", "data-label-studio"),
    "models": ("saved-model", "weights", "run-folder"),
}


def _fail(count: engine.Count) -> None:
    told = {
        (f.what, f.where): f"{f.target} {f.seed}/{f.index}: {f.what} at {f.where}: {f.message}" for f in count.findings
    }
    assert not told, "\n".join(told.values())


@pytest.mark.parametrize("group", GROUPS)
def test_changed_input_is_read_or_refused(group: str) -> None:
    names = GROUPS[group]
    for name in names:
        _fail(engine.run(name, 0, 0, 3000, seconds=FAST / len(names)))


@pytest.mark.fuzz
@pytest.mark.parametrize("name", TARGETS)
def test_at_length(name: str, request: pytest.FixtureRequest) -> None:
    option = request.config.getoption
    _fail(engine.run(name, option("--fuzz-seed"), option("--fuzz-first"), option("--fuzz-inputs")))


@pytest.mark.parametrize("entry", sorted(CORPUS.glob("*.json")), ids=lambda path: path.stem)
def test_what_was_found_is_mended(entry: Path, tmp_path: Path) -> None:
    """Each file names a target and the inputs of it that ended in something else than an answer."""
    found = json.loads(entry.read_text())
    feed = TARGETS[found["target"]](tmp_path)
    for seed, index in found["inputs"]:
        with contextlib.suppress(SegwrightError):
            feed(engine.generator(found["target"], seed, index))


@pytest.mark.parametrize("name", DATASETS)
def test_the_seeds_are_valid(name: str, tmp_path: Path) -> None:
    """Changes of what nobody would read anyway find nothing."""
    write_tree(tmp_path / "d", DATASETS[name]())
    found = open_dataset(tmp_path / "d")
    sample = found.all[0]
    assert sample.mask is not None and len(found.all) >= 2


def test_every_image_seed_is_valid() -> None:
    for files in make_images().values():
        for data in files:
            with contextlib.suppress(SegwrightError):  # those of several frames are refused
                assert decode_image(data, "x").ndim == 3
    assert all(arrays().values())


def test_the_same_seed_gives_the_same_input() -> None:
    for change, data in ((of_bytes, bytes(range(256))), (of_text, b"a 1\nb 2\n"), (of_json, b'{"a": [1, {"b": 2}]}')):
        made = [[change(random.Random(f"x{i}"), data) for i in range(40)] for _ in range(2)]
        assert made[0] == made[1] and len(set(made[0])) > 10


def test_the_engine_reports_what_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception, a hang, a crash and a flood of memory, each by its number; what follows them is run."""
    (tmp_path / "engine.py").write_text((Path(engine.__file__)).read_text())
    (tmp_path / "targets.py").write_text(_BAD)
    monkeypatch.setattr(engine, "HERE", tmp_path)
    count = engine.run("bad", 0, 0, 8, seconds_each=1.0)
    assert {f.index: f.what.split(" ")[0] for f in count.findings} == {
        2: "ZeroDivisionError", 4: "HANG", 5: "CRASH", 6: "MemoryError",
    }  # fmt: skip
    assert count.inputs == 8


_BAD = """
import os
def make(folder):
    at = iter(range(-1, 99))
    import engine, sys
    order = [0]
    def feed(rng):
        from segwright.core.errors import UsageError
        import builtins
        index = INDEX.pop(0) if INDEX else 0
        if index == 1: raise UsageError("no")
        if index == 2: 1 / 0
        if index == 4:
            while True: pass
        if index == 5: os._exit(9)
        if index == 6: bytearray(3 << 30)
    return feed
import sys
given = sys.argv[sys.argv.index("--worker") + 1:]
INDEX = [0, *range(int(given[3]), int(given[4]))]
TARGETS = {"bad": make}
"""


def test_a_page_with_something_of_its_own_is_seen() -> None:
    check_inert("<p>a</p><script>x</script>", scripts=1)
    for bad in ("<script>", "<p onload=x>", "<img src=http://a/b>", "<iframe>", "<a href='javascript:x'>"):
        with pytest.raises(AssertionError):
            check_inert(bad)


def test_where_the_work_lies() -> None:
    assert len(TARGETS) >= 40 and os.path.isdir(CORPUS)
