"""A selection as import files of labeling tools: order, masks and what comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segwright.core.errors import DataError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.annotations.rle import decode_label_studio
from segwright.data.dataset import open_dataset
from segwright.demo.street_scene import draw_street
from segwright.imageio import write_image
from segwright.inference.prediction import Prediction
from segwright.labeling.questions import SelectedImage, Selection
from segwright.labeling.task_files import next_steps, write_tasks

SIZES = {"night/b.png": (31, 45), "day/a.png": (32, 40), "day/über c.png": (1, 7), "z.png": (64, 3)}


def selection(folder: Path, names: tuple[str, ...]) -> tuple[Selection, dict[str, np.ndarray[Any, Any]]]:
    """Images in an order of their own, and masks with holes, single pixels and classes that touch."""
    masks = {}
    for number, (name, size) in enumerate(SIZES.items()):
        write_image(folder / name, draw_street(name, size)[0])
        random = np.random.default_rng(number)
        mask = random.integers(0, len(names), size).astype(np.uint8)
        mask[: size[0] // 2] = number % len(names)
        masks[name] = mask
    images = tuple(SelectedImage(name, size, 1.0 / (i + 1)) for i, (name, size) in enumerate(SIZES.items()))
    return Selection((), images, folder, LabelSpace(names), ("run",)), masks


@pytest.mark.parametrize("names", [("road", "car & van", "sky"), ("background", "road", "Ürban")])
@pytest.mark.parametrize("tool", ["cvat", "label-studio", "labelme"])
def test_what_a_tool_imports_is_the_prediction_pixel_by_pixel(
    tmp_path: Path, tool: str, names: tuple[str, ...]
) -> None:
    images = tmp_path / "photos"
    found, masks = selection(images, names)

    def predict(path: Path) -> Prediction:
        mask = masks[path.relative_to(images).as_posix()]
        return Prediction(mask, np.full(mask.shape, 0.75, np.float32), LabelSpace(names))

    done = write_tasks(found, tool, tmp_path / "tasks", predict, version="streets 12")
    assert done.images == tuple(SIZES) and not done.failed
    if tool == "label-studio":
        tasks = json.loads((tmp_path / "tasks/tasks.json").read_text())
        assert [task["data"]["rank"] for task in tasks] == [1, 2, 3, 4]
        assert tasks[2]["data"]["image"] == "/data/local-files/?d=photos/day/%C3%BCber%20c.png"
        assert tasks[0]["predictions"][0]["score"] == 0.75
        assert tasks[0]["predictions"][0]["model_version"] == "streets 12"
        (region, *_) = tasks[0]["predictions"][0]["result"]
        assert decode_label_studio(region["value"]["rle"], *SIZES["night/b.png"]).any()
        for task in tasks:  # a person accepts the prediction; PostgreSQL gives short keys first
            task["annotations"] = [{"result": task.pop("predictions")[0]["result"]}]
            task["data"] = dict(sorted(task["data"].items(), key=lambda item: (len(item[0]), item[0])))
            assert next(iter(task["data"])) == "file"
        (tmp_path / "tasks/tasks.json").write_text(json.dumps(tasks))
        shutil.copytree(images, tmp_path / "tasks/photos")
        again = open_dataset(tmp_path / "tasks")
    elif tool == "cvat":
        labels = json.loads((tmp_path / "tasks/labels.json").read_text())
        assert [one["name"] for one in labels] == ["__ignore__", *names]
        listed = (tmp_path / "tasks/images.txt").read_text().splitlines()
        assert [Path(path).relative_to(images).as_posix() for path in listed] == list(SIZES)
        shutil.copytree(images, tmp_path / "tasks/images")
        again = open_dataset(tmp_path / "tasks")
    else:
        assert done.notes, "the order is lost, and that is said"
        again = open_dataset(tmp_path, format="labelme")  # imagePath leads back to the images
    assert tuple(again.label_space.names) == names
    assert not [problem for problem in again.problems if problem.severity != "note"]
    back = {Path(str(sample.image_path)).name: sample for sample in again}
    assert len(back) == len(masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(back[Path(name).name].mask, mask)
    assert all(next_steps(done, found).values())


def test_the_printed_commands_hold_for_names_with_spaces(tmp_path: Path) -> None:
    found, masks = selection(tmp_path / "my photos", ("a", "b"))

    def predict(path: Path) -> Prediction:
        mask = masks[path.relative_to(tmp_path / "my photos").as_posix()]
        return Prediction(mask, np.ones(mask.shape, np.float32), LabelSpace(("a", "b")))

    done = write_tasks(found, "cvat", tmp_path / "the tasks", predict)
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "cvat-cli"
    fake.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    for what, expected in (
        ("create the task", ["task", "create", "NAME", "--labels", str(tmp_path / "the tasks/labels.json"),
                             "--sorting-method", "predefined", "local", *(str(found.root / name) for name in SIZES)]),
        ("import the masks", ["task", "import-dataset", "ID", str(tmp_path / "the tasks/annotations.xml"),
                              "--format", "CVAT 1.1"]),
    ):  # fmt: skip
        command = next_steps(done, found)[what]
        ran = subprocess.run(["sh", "-c", command], env=env, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout) == expected


def test_an_image_that_cannot_be_read_is_listed(tmp_path: Path) -> None:
    found, masks = selection(tmp_path / "photos", ("a", "b"))

    def predict(path: Path) -> Prediction:
        if path.name == "b.png":
            raise DataError("broken")
        mask = masks[path.relative_to(tmp_path / "photos").as_posix()]
        return Prediction(mask, np.ones(mask.shape, np.float32), LabelSpace(("a", "b")))

    done = write_tasks(found, "cvat", tmp_path / "tasks", predict)
    assert done.failed == (("night/b.png", "broken"),) and len(done.images) == 3
    assert len((tmp_path / "tasks/images.txt").read_text().splitlines()) == 3


def test_targets_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    found, _ = selection(tmp_path / "photos", ("a", "b"))
    with pytest.raises(UsageError, match="unknown labeling tool"):
        write_tasks(found, "paint", tmp_path / "tasks")
    with pytest.raises(UsageError, match="not empty"):
        write_tasks(found, "cvat", tmp_path / "photos")
    with pytest.raises(UsageError, match="document root"):
        write_tasks(found, "label-studio", tmp_path / "tasks", root=tmp_path / "elsewhere")
    assert not (tmp_path / "tasks").exists()
    bare = Selection((), found.images, found.root)
    with pytest.raises(UsageError, match="names no classes"):
        write_tasks(bare, "cvat", tmp_path / "tasks")


def test_the_command_writes_the_files(tmp_path: Path) -> None:
    from test_label_studio import saved_model

    model = saved_model(tmp_path / "model")
    selection(tmp_path / "photos", ("a",))
    done = subprocess.run(
        [sys.executable, "-P", "-m", "segwright", "select", str(model), str(tmp_path / "photos"), "--count", "2",
         "--clicks", "1", "--out", "selection.json", "--to", "cvat", "--device", "cpu"],
        cwd=tmp_path, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cvat-cli task create" in done.stdout
    assert (tmp_path / "selection-cvat" / "annotations.xml").is_file()
