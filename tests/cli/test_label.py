"""``segwright label`` as a process of its own: it is killed, and every acknowledged stroke is there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segwright as sw
from segwright.cli import main
from segwright.imageio import write_image

PATIENCE = 300.0


class Label:
    """The command, once it listens."""

    def __init__(self, *arguments: object) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "segwright", "label", *map(str, arguments), "--port", "0"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        self.lines: list[str] = []
        watchdog = threading.Timer(PATIENCE, self.process.kill)
        watchdog.start()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            if found := re.search(r"http://\S+:(\d+)/", line):
                self.url = f"http://localhost:{found[1]}/"
                break
        else:
            raise AssertionError("".join(self.lines))
        watchdog.cancel()

    def post(self, path: str, tree: Any) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(tree).encode(), {"content-type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return json.load(answer)

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.lines += self.process.stdout.readlines()
        self.process.stdout.close()
        return code


def test_the_command_is_killed_and_resumed(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for number in range(3):
        write_image(tmp_path / "photos" / f"{number}.png", rng.integers(0, 256, (40, 60, 3), np.uint8))
    first = Label(tmp_path / "photos", "--classes", "road,sky")
    for number in range(5):
        first.post("api/strokes", {
            "id": f"s{number}", "by": "Anna", "kind": "brush", "class": number % 2, "number": number % 3,
            "box": [number, 0, number + 5, 4], "runs": "0 20", "size": [40, 60], "clicks": 1, "seconds": 1,
        })  # fmt: skip
    assert first.end(signal.SIGKILL) == -9
    masks = {sample.id: sample.mask for sample in sw.open_dataset(tmp_path / "photos-labels")}
    assert set(masks) == {"0", "1", "2"} and (masks["0"][:4, 3:8] == 1).all() and (masks["0"][:4, :3] == 0).all()
    second = Label(tmp_path / "photos", "--train-every", "never")  # the classes are those of the folder
    assert any("resumed: 5 strokes on 3 images by Anna" in line for line in second.lines)
    assert second.end(signal.SIGTERM) == 0 and "every stroke is kept" in second.lines[-1]
    again = {sample.id: sample.mask for sample in sw.open_dataset(tmp_path / "photos-labels")}
    assert all((again[name] == masks[name]).all() for name in masks)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "--classes", "a,b"], "no such folder of images"),
        (["photos"], "no classes to label with"),
        (["photos", "--classes", "a,b", "--train-every", "often"], "--train-every is a number"),
        (["photos", "--classes", "a,b", "--questions", "nowhere.json"], "cannot be read"),
        (["photos", "--classes", "a,b", "--out", "photos"], "holds something else"),
    ],
)
def test_wrong_usage(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    write_image(tmp_path / "photos" / "a.png", np.zeros((8, 8, 3), np.uint8))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["segwright", "label", *arguments, "--port", "0"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2 and message in capsys.readouterr().err
