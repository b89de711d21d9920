"""CVAT's detection function: run by CVAT's own command line and driver against a server on the loopback address."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cvat_server import CvatServer, running
from PIL import Image

from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.data.annotations.polygons import fill_box
from segwright.demo.street_scene import draw_street
from segwright.imageio import encode_png
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.predictor import STRETCHED, Predictor, load
from segwright.models.catalog import create_model

cvat = pytest.importorskip("cvat_sdk.auto_annotation", reason="needs the extra cvat")
cvat_main = pytest.importorskip("cvat_cli.__main__", reason="needs cvat-cli")
from cvat_sdk.masks import decode_mask  # noqa: E402

from segwright.labeling.cvat import DetectionFunction, create, sent_labels  # noqa: E402
from segwright.labeling.cvat_interaction import as_array, as_the_model_reads  # noqa: E402

SPACE = LabelSpace(("road", "car", "sky"), ((10, 20, 30), (40, 50, 60), (70, 80, 90)))
LABELS = [("sky", "mask"), ("road", "any"), ("car", "mask"), ("dog", "mask")]  # another order, and one more


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(5)
    network = create_model("segnet_basic", classes=3, weights=None, width=8)
    scene = torch.from_numpy(draw_street("served", (96, 128))[0][None])
    with torch.no_grad():
        for _ in range(30):
            network(scene)  # random weights then tell one place from another
    folder = tmp_path_factory.mktemp("cvat") / "model"
    return save_bundle(folder, network.eval(), Bundle("segnet_basic", SPACE, {"width": 8}))


def pictures() -> list[tuple[str, bytes]]:
    """Images at odd sizes, one of them gray, one a palette, one turned by EXIF, in folders as a task has them."""
    first = draw_street("one", (96, 128))[0]
    second = draw_street("two", (67, 91))[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    gray, palette, turned = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(second).convert("L").save(gray, "PNG")
    Image.fromarray(second).convert("P").save(palette, "PNG")
    Image.fromarray(first).save(turned, "JPEG", exif=exif, quality=95)
    return [("day/one.png", encode_png(first)), ("day/two.png", encode_png(second)), ("gray.png", gray.getvalue()),
            ("palette.png", palette.getvalue()), ("turned.jpg", turned.getvalue())]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


def test_images_of_16_bits_are_read_as_their_files_are(
    model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deep = (draw_street("deep", (67, 91))[0][..., 0].astype(np.uint16) + 3) * 190
    Image.fromarray(deep).save(tmp_path / "deep.png")
    predictor = load(model, device="cpu")
    with Image.open(tmp_path / "deep.png") as image:
        found = as_the_model_reads(predictor, image, "deep.png")
        assert (found == load(model, device="cpu").read(tmp_path / "deep.png")).all() and np.ptp(found) == 255
        as_the_model_reads(predictor, image, "deep.png")
    assert [record.getMessage() for record in caplog.records] == [STRETCHED], "stated once"


def annotate(server: CvatServer, *more: str) -> None:
    args = ["--server-host", server.url, "--auth", "me:pass", "task", "auto-annotate", "7", *more]
    assert cvat_main.main(args) == 0


def decoded(server: CvatServer, frame: int, size: tuple[int, int]) -> tuple[np.ndarray[Any, Any], list[dict[str, Any]]]:
    """(indices by the task's labels, 255 where nothing was sent; the frame's shapes)"""
    ids = server.label_ids()
    shapes = [shape for shape in server.uploads[-1][1]["shapes"] if shape["frame"] == frame]
    mask = np.full(size, 255, np.uint8)
    for shape in shapes:
        index = SPACE.names.index(ids[shape["label_id"]])
        if shape["type"] == "mask":
            mask[decode_mask(shape["points"], image_height=size[0], image_width=size[1])] = index
        else:
            top, left, patch = fill_box(np.array(shape["points"]).reshape(-1, 2), *size)
            mask[top : top + patch.shape[0], left : left + patch.shape[1]][patch] = index
    return mask, shapes


def upright(data: bytes) -> np.ndarray[Any, Any]:
    return as_array(Image.open(io.BytesIO(data)))


def predictions(model: Path) -> list[Any]:
    predictor = load(model, device="cpu")
    return [predictor.predict(predictor.scaled(upright(data), name)) for name, data in pictures()]


@pytest.mark.parametrize("more", [(), ("--conv-mask-to-poly",), ("-p", "per_region=bool:true")])
def test_cvat_cli_uploads_what_predict_says_pixel_by_pixel(model: Path, more: tuple[str, ...]) -> None:
    with running(CvatServer(pictures(), [*LABELS[:1], ("road", "any"), ("car", "any")])) as server:
        if "--conv-mask-to-poly" in more:  # a label of masks takes no polygons
            server.labels[0] = ("sky", "polygon")
        annotate(server, "--function-module", "segwright.labeling.cvat", "-p", f"model=str:{model}",
                 "-p", "device=str:cpu", *more)  # fmt: skip
        assert len(server.uploads) == 1
        several = 0
        for frame, expected in enumerate(predictions(model)):
            mask, shapes = decoded(server, frame, expected.labels.shape)
            np.testing.assert_array_equal(mask, expected.labels)
            assert {shape["type"] for shape in shapes} == {"polygon" if "--conv-mask-to-poly" in more else "mask"}
            assert all(shape["source"] == "auto" and 0 < shape["score"] <= 1 for shape in shapes)
            several = max(several, len(shapes) - len(np.unique(expected.labels)))
            if not more:
                assert len(shapes) == len(np.unique(expected.labels)), "one mask per class"
                for shape in shapes:
                    here = expected.labels == SPACE.names.index(server.label_ids()[shape["label_id"]])
                    assert shape["score"] == pytest.approx(float(expected.confidence[here].mean()), abs=1e-5)
        assert several > 0 or not more, "a region of its own each"


def test_a_threshold_leaves_unsure_pixels_empty(model: Path) -> None:
    found = predictions(model)
    threshold = round(float(np.median(found[0].confidence)), 3)
    with running(CvatServer(pictures(), LABELS)) as server:
        annotate(server, "--function-module", "segwright.labeling.cvat", "-p", f"model=str:{model}",
                 "-p", "device=str:cpu", "--conf-threshold", str(threshold))  # fmt: skip
        for frame, expected in enumerate(found):
            mask, shapes = decoded(server, frame, expected.labels.shape)
            np.testing.assert_array_equal(mask, np.where(expected.confidence >= threshold, expected.labels, 255))
            assert all(shape["score"] >= threshold for shape in shapes)


def test_a_class_that_the_task_lacks_is_refused_by_name_before_anything_is_sent(model: Path) -> None:
    with running(CvatServer(pictures(), [("road", "mask"), ("sky", "mask")])) as server:
        with pytest.raises(cvat.BadFunctionError, match="label 'car' is not in dataset"):
            annotate(server, "--function-module", "segwright.labeling.cvat", "-p", f"model=str:{model}")
        assert not server.uploads
        annotate(server, "--function-module", "segwright.labeling.cvat", "-p", f"model=str:{model}",
                 "-p", "rename=str:car=sky", "-p", "device=str:cpu")  # fmt: skip
        names = {server.label_ids()[shape["label_id"]] for shape in server.uploads[-1][1]["shapes"]}
        assert names == {"road", "sky"}, "two classes became one label"
        annotate(server, "--function-module", "segwright.labeling.cvat", "-p", f"model=str:{model}",
                 "-p", "without=str:car", "-p", "device=str:cpu", "--clear-existing")  # fmt: skip
        assert server.uploads[-1][0] == "PUT"
        expected = predictions(model)[0].labels
        mask, _ = decoded(server, 0, expected.shape)
        np.testing.assert_array_equal(mask, np.where(expected == 1, 255, expected))


def test_the_function_file_works_in_a_process_of_its_own(model: Path, tmp_path: Path) -> None:
    import segwright.labeling.cvat as module

    with running(CvatServer(pictures()[:1], LABELS)) as server:
        done = subprocess.run(
            [sys.executable, "-P", "-m", "cvat_cli", "--server-host", server.url, "--auth", "me:pass", "task",
             "auto-annotate", "7", "--function-file", str(module.__file__), "-p", f"model=str:{model}",
             "-p", "device=str:cpu"],
            capture_output=True, text=True, timeout=300, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        expected = predictions(model)[0].labels
        np.testing.assert_array_equal(decoded(server, 0, expected.shape)[0], expected)


def test_parameters_that_are_wrong_are_refused(model: Path) -> None:
    for options, words in (
        ({}, "needs a model"),
        ({"model": str(model), "modell": "x"}, "unknown parameter"),
        ({"model": str(model), "without": "cow"}, "unknown class"),
        ({"model": str(model), "rename": "car"}, "not a new name"),
        ({"model": str(model), "without": "road,car,sky"}, "no class is left"),
        ({"model": str(model), "rename": "car=" + "x" * 65}, "longer than CVAT takes"),
        ({"model": str(model), "interaction": True, "without": "car"}, "interaction has no labels"),
    ):
        with pytest.raises(UsageError, match=words):
            create(**options)


def test_a_background_class_is_sent_only_on_request() -> None:
    space = LabelSpace(("background", "road"))
    assert sent_labels(space) == {"road": (1,)}
    assert sent_labels(space, background=True) == {"background": (0,), "road": (1,)}
    assert sent_labels(space, rename="background=Nothing") == {"Nothing": (0,), "road": (1,)}
    assert sent_labels(LabelSpace(("a", "b", "c")), rename="a=x,c=x") == {"x": (0, 2), "b": (1,)}


class Fixed(Predictor):
    """Gives the labels it is told."""

    def __init__(self, labels: np.ndarray[Any, Any], space: LabelSpace) -> None:
        self.labels, self.label_space, self.value_range = labels.astype(np.uint8), space, None

    def scaled(self, raster: Any, where: Any) -> Any:
        return raster

    def predict(self, image: Any, **_: Any) -> Any:
        from segwright.inference.prediction import Prediction

        return Prediction(self.labels, np.ones(self.labels.shape, np.float32), self.label_space)


class Context:
    frame_name, conf_threshold, conv_mask_to_poly = "x.png", None, True


def test_polygons_keep_holes_islands_and_pixels_that_touch_at_a_corner() -> None:
    space = LabelSpace(("background", "a", "b"))
    random = np.random.default_rng(0)
    rings = np.zeros((31, 37), np.uint8)
    for inset, value in ((1, 1), (3, 0), (5, 2), (7, 1), (9, 0)):
        rings[inset:-inset, inset:-inset] = value
    rings[2, 2] = rings[2, 4] = rings[4, 2] = 0  # holes at the left edge, one beside the other
    noise = [random.integers(0, 3, size).astype(np.uint8) for size in ((1, 1), (1, 9), (9, 1), (2, 2), (40, 41))]
    for mask in (rings, *noise, np.full((5, 7), 1, np.uint8)):
        shapes = DetectionFunction(Fixed(mask, space)).detect(Context(), Image.new("RGB", mask.shape[::-1]))
        found = np.zeros(mask.shape, np.uint8)
        for shape in shapes:
            assert shape.type.value == "polygon" and len(shape.points) >= 6
            top, left, patch = fill_box(np.array(shape.points).reshape(-1, 2), *mask.shape)
            place = found[top : top + patch.shape[0], left : left + patch.shape[1]]
            assert not place[patch].any(), "polygons do not overlap"
            place[patch] = shape.label_id + 1
        np.testing.assert_array_equal(found, mask)


def test_simplified_polygons_leave_no_gap() -> None:
    labels = np.zeros((60, 80), np.uint8)
    rows, columns = np.mgrid[:60, :80]
    labels[(rows - 20) ** 2 + (columns - 30) ** 2 < 250] = 1
    labels[rows + 0.4 * columns > 60] = 2
    function = DetectionFunction(Fixed(labels, LabelSpace(("a", "b", "c"))), tolerance=1.5)
    covered, corners = np.zeros(labels.shape, int), 0
    for shape in function.detect(Context(), Image.new("RGB", (80, 60))):
        corners += len(shape.points) // 2
        top, left, patch = fill_box(np.array(shape.points).reshape(-1, 2), 60, 80)
        covered[top : top + patch.shape[0], left : left + patch.shape[1]] += patch
    assert (covered == 1).all() and corners < 60
