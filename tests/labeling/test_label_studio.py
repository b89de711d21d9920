"""Label Studio's backend protocol against a server that gives images and exports, on the loopback address."""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import segwright as sw
from segwright.core.errors import LabelError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.annotations.rle import decode_label_studio, encode_label_studio
from segwright.data.dataset import open_dataset
from segwright.data.formats.label_studio import count_clicks, draw_annotation
from segwright.demo.street_scene import draw_street
from segwright.imageio import encode_png, read_mask
from segwright.inference.bundle import Bundle, save_bundle
from segwright.inference.lineage import data_used
from segwright.inference.predictor import load
from segwright.models.catalog import create_model

pytest.importorskip("uvicorn", reason="needs the extra serve")
from segwright.labeling.label_studio import label_studio_routes, read_key
from segwright.labeling.label_studio_config import Labeling, match_classes, parse_names
from segwright.labeling.label_studio_fetch import FetchError, HostFetcher
from segwright.labeling.label_studio_store import AnnotationFolder
from segwright.labeling.label_studio_version import model_version
from segwright.serving.app import create_app
from segwright.serving.server import bind, build_server

SPACE = LabelSpace(("road", "car", "sky"))
CONFIG = """<View><Image name="image" value="$photo"/><BrushLabels name="tag" toName="image">
<Label value="sky"/><Label value="road"/><Label value="car"/><Label value="dog"/></BrushLabels></View>"""
KEY = "a-legacy-token"


class Studio:
    """Answers for Label Studio: path → (status, headers, body); requests with their authorization."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.seen: list[tuple[str, str | None]] = []
        self.url = ""
        self.slow = 0.0

    def image(self, path: str, pixels: np.ndarray[Any, Any]) -> None:
        self.files[path] = (200, {"content-type": "image/png"}, encode_png(pixels))


@pytest.fixture
def studio() -> Iterator[Studio]:
    found = Studio()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            body = self.rfile.read(length)
            found.seen.append((self.path, self.headers.get("authorization")))
            if self.path == "/api/token/refresh/":
                assert json.loads(body) == {"refresh": "eyJ.a.b"}
                status, headers, data = 200, {}, b'{"access": "short"}'
            else:
                status, headers, data = found.files.get(self.path, (404, {}, b"none"))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "content-length" not in headers:
                self.send_header("content-length", str(len(data)))
            self.end_headers()
            with contextlib.suppress(OSError):
                for start in range(0, len(data), 1000):
                    self.wfile.write(data[start : start + 1000])
                    time.sleep(found.slow)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield found
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("studio") / "streets")


def saved_model(folder: Path) -> Path:
    torch.manual_seed(5)
    network = create_model("segnet_basic", classes=3, weights=None, width=8)
    scene = torch.from_numpy(draw_street("served", (96, 128))[0][None])
    with torch.no_grad():
        for _ in range(30):
            network(scene)  # random weights then tell one place from another
    return save_bundle(folder, network.eval(), Bundle("segnet_basic", SPACE, {"width": 8}))


@contextlib.contextmanager
def serving(
    model: Path, studio: Studio, folder: Path | None = None, labels: str = "", seen: list[Any] | None = None
) -> Iterator[str]:
    """The service in a thread, which ``seen`` gets; yields the address of Label Studio's routes."""
    routes = label_studio_routes(studio.url, model, "streets", None, labels, folder)

    def more(service: Any) -> Any:
        if seen is not None:
            seen.append(service)
        return routes(service)

    app = create_app(load(model, device="cpu"), name="streets", more=more)
    sock, address = bind("127.0.0.1", 0)
    started = threading.Event()
    server = build_server(app, started.set)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])), daemon=True)
    thread.start()
    assert started.wait(60)
    try:
        yield f"{address.url}label-studio"
    finally:
        server.should_exit = True
        thread.join(30)
        sock.close()


def ask(url: str, tree: Any = None) -> tuple[int, Any]:
    data = None if tree is None else json.dumps(tree).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json"} if data else {})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def predict(url: str, *addresses: str) -> tuple[int, Any]:
    tasks = [{"id": number, "data": {"photo": address}} for number, address in enumerate(addresses, 1)]
    return ask(f"{url}/predict", {"tasks": tasks, "label_config": CONFIG, "project": "1.2", "params": {}})


def test_the_protocol_as_label_studio_speaks_it(
    model: Path, studio: Studio, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", KEY)
    scenes = [draw_street("one", (96, 128))[0], draw_street("two", (67, 91))[0]]
    studio.image("/data/upload/1/3fb1-one.png", scenes[0])
    studio.image("/data/local-files/?d=night/two.png", scenes[1])
    expected = [load(model, device="cpu").predict(scene) for scene in scenes]
    with serving(model, studio) as url:
        status, found = ask(f"{url}/health")
        assert status == 200 and found["status"] == "UP"
        version = model_version(model, "streets")
        status, found = ask(f"{url}/setup", {"project": "1.2", "schema": CONFIG, "hostname": "http://10.0.0.1",
                                             "access_token": "theirs", "extra_params": None})  # fmt: skip
        assert (status, found) == (200, {"model_version": version, "labels": ["car", "road", "sky"]})
        assert ask(f"{url}/versions") == (200, {"versions": [version]})
        status, found = predict(url, "/data/upload/1/3fb1-one.png", f"{studio.url}/data/local-files/?d=night/two.png")
        assert status == 200 and len(found["results"]) == 2
        for answer, truth in zip(found["results"], expected, strict=True):
            assert answer["model_version"] == version
            assert answer["score"] == pytest.approx(float(truth.confidence.mean()), abs=1e-5)
            check_brushes(answer["result"], truth)
        assert {authorization for _, authorization in studio.seen} == {f"Token {KEY}"}
        status, found = ask(f"{url}/metrics")
        assert (found["tasks"], found["predicted"], found["failed"]) == (2, 2, 0)
        status, found = ask(f"{url}/webhook", {"action": "ANNOTATION_CREATED"})
        assert found["status"] == "ignored", "no folder to keep it"
        assert ask(url.replace("/label-studio", "/health")) == (200, {"status": "up"}), "the service's own stays"
        with urllib.request.urlopen(url.replace("/label-studio", "/metrics")) as answer:
            text = answer.read().decode()
        assert 'route="/label-studio/predict"' in text and "segwright" in text


def check_brushes(result: list[dict[str, Any]], truth: Any) -> None:
    """One brush per class; together the label mask."""
    mask = np.full(truth.labels.shape, 255, np.uint8)
    labels = [region["value"]["brushlabels"] for region in result]
    assert len(labels) == len({label for (label,) in labels}) == len(np.unique(truth.labels))
    for region in result:
        assert (region["type"], region["from_name"], region["to_name"]) == ("brushlabels", "tag", "image")
        assert (region["original_height"], region["original_width"]) == mask.shape
        assert region["value"]["format"] == "rle"
        inside = decode_label_studio(region["value"]["rle"], *mask.shape)
        assert (mask[inside] == 255).all()
        mask[inside] = SPACE.names.index(region["value"]["brushlabels"][0])
        assert region["score"] == pytest.approx(float(truth.confidence[inside].mean()), abs=1e-5)
    np.testing.assert_array_equal(mask, truth.labels)


def test_a_task_that_fails_gets_an_empty_list_and_costs_no_other(model: Path, studio: Studio) -> None:
    studio.image("/data/upload/1/good.png", draw_street("one", (64, 80))[0])
    studio.files["/data/upload/1/text.png"] = (200, {}, b"no image at all")
    with serving(model, studio) as url:
        status, found = predict(
            url, "/data/upload/1/gone.png", "/data/upload/1/good.png", "/data/upload/1/text.png", "http://other/x.png"
        )
        assert status == 200
        assert [type(one) for one in found["results"]] == [list, dict, list, list] and found["results"][0] == []
        assert ask(f"{url}/metrics")[1]["failed"] == 3
        status, found = predict(url, "/data/upload/1/gone.png")
        assert status == 400 and "does not give the file" in found["error"]


def test_requests_that_are_none_are_refused(model: Path, studio: Studio) -> None:
    with serving(model, studio) as url:
        for tree, words in (
            ({"tasks": 5, "label_config": CONFIG}, "no tasks"),
            ({"tasks": [], "label_config": "<View"}, "no XML"),
            ({"tasks": [], "label_config": '<!DOCTYPE a [<!ENTITY b "c">]><View/>'}, "no XML"),
            ({"tasks": [], "label_config": "<View><Choices/></View>"}, "no brush"),
            ([1], "not a request"),
        ):
            status, found = ask(f"{url}/predict", tree)
            assert status == 400 and words in found["error"], found
        request = urllib.request.Request(
            f"{url}/predict", b"x=1", {"content-type": "application/x-www-form-urlencoded"}
        )
        with pytest.raises(urllib.error.HTTPError, match="415"):
            urllib.request.urlopen(request)
        crossed = urllib.request.Request(
            f"{url}/setup", b"{}", {"content-type": "application/json", "sec-fetch-site": "cross-site"}
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(crossed)


def test_classes_without_a_label_are_refused_by_name(model: Path, studio: Studio) -> None:
    config = CONFIG.replace('<Label value="car"/>', '<Label value="Vehicle"/>').replace('<Label value="sky"/>', "")
    with serving(model, studio) as url:
        status, found = ask(f"{url}/setup", {"schema": config})
        assert status == 400 and found["found"] == "car, sky" and "Vehicle" in found["expected"]
    with serving(model, studio, labels="car=Vehicle,sky=") as url:
        assert ask(f"{url}/setup", {"schema": config})[1]["labels"] == ["Vehicle", "road"]
    space = LabelSpace(("background", "a"))
    assert match_classes(space, ("a",), {}) == {1: "a"}
    assert match_classes(space, ("a", "background"), {}) == {0: "background", 1: "a"}
    assert parse_names("a=b, background=", space) == {"a": "b", "background": ""}
    with pytest.raises(UsageError, match="unknown class"):
        parse_names("cow=b", space)
    with pytest.raises(LabelError, match="not among the project's labels"):
        match_classes(space, ("x",), {})


def brush(mask: np.ndarray[Any, Any], label: str) -> dict[str, Any]:
    height, width = mask.shape
    return {"id": label, "type": "brushlabels", "from_name": "tag", "to_name": "image", "original_width": width,
            "original_height": height, "image_rotation": 0,
            "value": {"format": "rle", "rle": encode_label_studio(mask), "brushlabels": [label]}}  # fmt: skip


def test_saved_annotations_become_masks_of_a_dataset(model: Path, studio: Studio, tmp_path: Path) -> None:
    folder = tmp_path / "labels"
    random = np.random.default_rng(0)
    truth = random.integers(0, 4, (45, 61)).astype(np.uint8)
    truth[truth == 3] = 255  # not labeled
    scene = draw_street("one", (45, 61))[0]
    studio.image("/data/upload/1/9c-Über%20street.png", scene)
    task = {"id": 12, "data": {"photo": "/data/upload/1/9c-Über%20street.png", "note": "x"}}
    studio.files["/data/upload/1/9c-%C3%9Cber%20street.png"] = studio.files.pop("/data/upload/1/9c-Über%20street.png")
    task["data"]["photo"] = "/data/upload/1/9c-%C3%9Cber%20street.png"  # type: ignore[index]
    annotation = {"id": 7, "completed_by": {"email": "me@example.com"}, "lead_time": 12.5, "updated_at": "2026",
                  "result": [brush(truth == i, name) for i, name in enumerate(SPACE.names)]}  # fmt: skip
    with serving(model, studio, folder) as url:
        status, found = ask(
            f"{url}/webhook", {"action": "ANNOTATION_CREATED", "task": task, "annotation": {**annotation, "result": []}}
        )
        assert (status, found["status"]) == (200, "ok")
        status, found = ask(f"{url}/webhook", {"action": "ANNOTATION_UPDATED", "task": task, "annotation": annotation})
        assert found["message"].startswith("stored")
        dataset = open_dataset(folder)
        assert tuple(dataset.label_space.names) == SPACE.names and len(dataset) == 1
        (sample,) = list(dataset)
        np.testing.assert_array_equal(sample.mask, truth)
        np.testing.assert_array_equal(sample.image, scene)
        index = json.loads((folder / "annotations.json").read_text())
        assert index["answers"] == 1 and index["annotators"] == ["me@example.com"] and index["seconds"] == 12.5
        unknown = {**annotation, "result": [brush(truth == 0, "dog")]}
        status, found = ask(f"{url}/webhook", {"action": "ANNOTATION_UPDATED", "task": task, "annotation": unknown})
        assert status == 200 and "not stored" in found["message"]
        np.testing.assert_array_equal(next(iter(open_dataset(folder))).mask, truth)
        assert "dog" in ask(f"{url}/metrics")[1]["last_error"]
        ask(f"{url}/webhook", {"action": "ANNOTATIONS_DELETED", "annotations": [{"id": 7}]})
        assert not list((folder / "masks").iterdir()) and not list((folder / "images").iterdir())
    with serving(model, studio, folder):
        pass  # the same folder again
    other = LabelSpace(("a", "b"))
    with pytest.raises(UsageError, match="other classes"):
        AnnotationFolder(folder, other)
    with pytest.raises(UsageError, match="something else"):
        AnnotationFolder(model, SPACE)


TWO_IMAGES = """<View><Image name="seen" value="$photo"/><Image name="shown" value="$depth"/>
<BrushLabels name="tag" toName="seen"><Label value="sky"/><Label value="road"/><Label value="car"/></BrushLabels>
</View>"""


def an_annotation(
    number: int, index: int, size: tuple[int, int], to_name: str = "image", **more: Any
) -> dict[str, Any]:
    """All of the image is one class."""
    drawn = {**brush(np.ones(size, bool), SPACE.names[index]), "to_name": to_name}
    return {"id": number, "result": [drawn], **more}


def save(url: str, task: Any, annotation: Any, action: str = "ANNOTATION_CREATED", **more: Any) -> str:
    status, found = ask(f"{url}/webhook", {"action": action, "task": task, "annotation": annotation, **more})
    assert status == 200
    return str(found["message"])


def test_the_image_is_the_one_that_the_labeling_configuration_names(
    model: Path, studio: Studio, tmp_path: Path
) -> None:
    scene = draw_street("one", (20, 30))[0]
    studio.image("/data/depth.png", np.full((20, 30, 3), 9, np.uint8))
    studio.image("/data/photo.png", scene)
    task = {"id": 3, "data": {"depth": "/data/depth.png", "photo": "/data/photo.png"}}
    drawn = an_annotation(1, 1, (20, 30), "seen")
    with serving(model, studio, tmp_path / "a") as url:
        assert save(url, task, drawn).startswith("not stored: the task names several images")
        assert not (tmp_path / "a" / "masks").exists()
        other = an_annotation(1, 1, (20, 30), "shown")
        assert save(url, task, other, project={"id": 1, "label_config": TWO_IMAGES}).startswith("stored")
        mask = read_mask(tmp_path / "a" / "masks" / "task-3-photo.png")
        assert (mask == 255).all(), "what was drawn on another image is no label of this one"
        assert save(url, task, drawn, project={"id": 1, "label_config": TWO_IMAGES}) == "stored: task-3-photo"
        (sample,) = open_dataset(tmp_path / "a")
        np.testing.assert_array_equal(sample.image, scene)
        assert (sample.mask == 1).all()
        without = {"id": 4, "data": {"depth": "/data/depth.png"}}
        found = save(url, without, drawn, project={"id": 1, "label_config": TWO_IMAGES})
        assert found == "not stored: the task has no photo"
    for route, tree in (("setup", {"schema": TWO_IMAGES}), ("predict", {"tasks": [], "label_config": TWO_IMAGES})):
        with serving(model, studio, tmp_path / route) as url:  # the configuration that was seen last
            assert ask(f"{url}/{route}", {**tree, "project": "7.1600000000"})[0] == 200
            assert save(url, {**task, "project": 7}, drawn) == "stored: task-3-photo"
            assert "several images" in save(url, {**task, "project": 8}, drawn)


def test_tasks_of_a_selection_are_stored_in_the_order_of_postgresql(
    model: Path, studio: Studio, tmp_path: Path
) -> None:
    studio.image("/data/local-files/?d=photos/day/x.png", draw_street("one", (20, 30))[0])
    data = {"file": "day/x.png", "rank": 1, "image": "/data/local-files/?d=photos/day/x.png", "value": 0.5}
    with serving(model, studio, tmp_path / "labels") as url:
        assert save(url, {"id": 6, "data": data}, an_annotation(1, 0, (20, 30))) == "stored: task-6-x"


def test_images_of_cloud_storages_are_stored_as_they_are_predicted(model: Path, studio: Studio, tmp_path: Path) -> None:
    resolved = "/tasks/4/resolve/?fileuri=czM6Ly9iL3N0cmVldC5wbmc="  # s3://b/street.png
    studio.image(resolved, draw_street("one", (20, 30))[0])
    for address in (resolved, "s3://b/street.png"):
        task = {"id": 4, "data": {"photo": address}}
        with serving(model, studio, tmp_path / str(len(address))) as url:
            status, found = ask(f"{url}/predict", {"tasks": [task], "label_config": CONFIG, "project": "1.2"})
            assert status == 200 and found["results"][0]["result"]
            assert save(url, task, an_annotation(1, 0, (20, 30))) == "stored: task-4-street"
        assert len(open_dataset(tmp_path / str(len(address)))) == 1


def test_of_several_annotations_the_newest_counts_and_the_older_one_comes_back(
    model: Path, studio: Studio, tmp_path: Path
) -> None:
    studio.image("/data/a[1].png", draw_street("one", (20, 30))[0])
    task = {"id": 5, "data": {"photo": "/data/a[1].png"}}
    folder = tmp_path / "labels"

    def shown() -> int | None:
        masks = list((folder / "masks").glob("*.png"))
        return int(next(iter(open_dataset(folder))).mask[0, 0]) if masks else None

    def times(number: int) -> dict[str, str]:
        return {"updated_at": f"2026-01-0{number}T10:00:00.5Z"}

    with serving(model, studio, folder) as url:
        save(url, task, an_annotation(1, 0, (20, 30), **times(1)))
        save(url, task, an_annotation(3, 2, (20, 30), **times(3)))
        assert shown() == 2
        save(url, task, an_annotation(2, 1, (20, 30), **times(2)))
        assert shown() == 2, "2 is older than 3, though it came later"
    with serving(model, studio, folder) as url:  # after a restart
        found = save(url, None, None, "ANNOTATIONS_DELETED", annotations=[{"id": 3}])
        assert found == "removed: task-5-a[1]; of another annotation: task-5-a[1]" and shown() == 1
        save(url, task, an_annotation(1, 0, (20, 30), ground_truth=True, **times(4)), "ANNOTATION_UPDATED")
        save(url, task, an_annotation(4, 2, (20, 30), **times(5)))
        assert shown() == 0, "the ground truth goes before the newest"
        save(url, task, an_annotation(1, 0, (20, 30), **times(4)), "ANNOTATION_UPDATED")
        assert shown() == 2, "it is no ground truth any more"
        save(url, task, {**an_annotation(4, 2, (20, 30), **times(6)), "was_cancelled": True}, "ANNOTATION_UPDATED")
        assert shown() == 0, "skipped: it counts no more"
        assert len(open_dataset(folder)) == 1 and not open_dataset(folder).problems
        save(url, None, None, "ANNOTATIONS_DELETED", annotations=[{"id": 1}, {"id": 2}])
        assert shown() is None and not list((folder / ".others").iterdir()) and not list((folder / "images").iterdir())


def test_a_fetch_of_all_annotations_counts_the_same_one_and_forgets_those_that_are_gone(
    model: Path, studio: Studio, tmp_path: Path
) -> None:
    studio.image("/data/a.png", draw_street("one", (20, 30))[0])
    task = {"id": 5, "data": {"photo": "/data/a.png"}}
    newest = an_annotation(8, 2, (20, 30), updated_at="2026-01-02T10:00:00Z")
    older = an_annotation(9, 1, (20, 30), updated_at="2026-01-01T10:00:00Z")
    export = [{**task, "annotations": [newest, older]}]
    studio.files["/api/projects/4/export?exportType=JSON"] = (200, {}, json.dumps(export).encode())
    folder = tmp_path / "labels"
    with serving(model, studio, folder) as url:
        save(url, task, an_annotation(7, 0, (20, 30), updated_at="2026-01-03T10:00:00Z"))  # deleted while it was down
        ask(f"{url}/webhook", {"action": "START_TRAINING", "project": {"id": 4}})
        deadline = time.monotonic() + 60
        while not (state := ask(f"{url}/metrics")[1]["training"] or {}).get("done") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert state == {"project": 4, "stored": 1, "not_stored": 0, "done": True}
        assert len([path for path, _ in studio.seen if path == "/data/a.png"]) == 2, "once per task"
        (sample,) = open_dataset(folder)
        assert (sample.mask == 2).all()
        save(url, None, None, "ANNOTATIONS_DELETED", annotations=[{"id": 8}])
        (sample,) = open_dataset(folder)
        assert (sample.mask == 1).all()


def test_a_new_folder_can_be_opened_again_before_anything_is_stored(tmp_path: Path) -> None:
    for _ in range(3):
        AnnotationFolder(tmp_path / "labels", SPACE)
    (tmp_path / "labels" / "annotations.json").unlink()  # as it was left before the index was written at once
    AnnotationFolder(tmp_path / "labels", SPACE)
    with pytest.raises(UsageError, match="other classes"):
        AnnotationFolder(tmp_path / "labels", LabelSpace(("road", "cow")))


def test_classes_that_a_later_model_adds_are_stored(model: Path, studio: Studio, tmp_path: Path) -> None:
    folder, space = (
        tmp_path / "labels",
        LabelSpace((*SPACE.names, "bike"), (*LabelSpace(SPACE.names).colors, (1, 2, 3))),
    )
    for name in ("a", "b"):
        studio.image(f"/data/{name}.png", draw_street(name, (20, 30))[0])
    services: list[Any] = []
    with serving(model, studio, folder, seen=services) as url:
        tasks = {name: {"id": number, "data": {"photo": f"/data/{name}.png"}} for number, name in enumerate("ab", 1)}
        bike = an_annotation(2, 0, (20, 30))
        bike["result"][0]["value"]["brushlabels"] = ["bike"]
        assert save(url, tasks["a"], an_annotation(1, 2, (20, 30))).startswith("stored")
        assert "not stored: labels that are no classes" in save(url, tasks["b"], bike)
        services[0].model.predictor.label_space = space  # promoted, and loaded again
        assert save(url, tasks["b"], bike) == "stored: task-2-b"
    dataset = open_dataset(folder)
    assert dataset.label_space.names == space.names and not dataset.problems
    assert [int(sample.mask[0, 0]) for sample in dataset] == [2, 3]
    assert AnnotationFolder(folder, space).space.names == space.names
    back = AnnotationFolder(folder, LabelSpace(SPACE.names))  # the model before it, once more
    assert back.space.names == space.names and open_dataset(folder).label_space.names == space.names
    with pytest.raises(UsageError, match="other classes"):
        AnnotationFolder(folder, LabelSpace(("sky", "road", "car")))


def test_without_keys_other_machines_cannot_change_the_label_folder(
    model: Path, studio: Studio, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="could replace or delete the masks") as caught:
        sw.serve(model, host="0.0.0.0", port=0, label_studio=studio.url, label_folder=tmp_path / "l")
    assert "--api-keys FILE" in str(caught.value) and not (tmp_path / "l").exists()
    sw.create_api_key(tmp_path / "keys", "studio")
    for options, words in (
        ([], "from this machine alone"),
        (["--host", "0.0.0.0", "--api-keys", str(tmp_path / "keys")], "from whoever has an API key"),
    ):
        command = [sys.executable, "-P", "-m", "segwright", "serve", str(model), "--port", "0", "--device", "cpu",
                   "--label-studio", studio.url, "--label-folder", str(tmp_path / "l"), *options]  # fmt: skip
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            line = next((line for line in process.stdout if line.startswith("Annotations are stored in")), "")
            process.terminate()
            process.stdout.read()
        assert words in line


def region(kind: str, name: str, origin: str = "manual", **value: object) -> dict[str, object]:
    return {"type": kind, "origin": origin, "value": {kind: [name], **value}}


def test_key_points_alone_are_clicks_and_the_rest_is_not_labeled(tmp_path: Path) -> None:
    index = {"background": 0, "car": 1}
    point = region("keypointlabels", "car", x=50, y=50, width=1)
    mask, lost = draw_annotation({"result": [point]}, index, (40, 60), 0, "task 1")
    assert not lost and (mask[20, 30], mask[0, 0]) == (1, 255) and 9 <= (mask == 1).sum() <= 13
    box = region("rectanglelabels", "car", x=0, y=0, width=10, height=10)
    mask, _ = draw_annotation({"result": [point, box]}, index, (40, 60), 0, "task 1")
    assert (mask[20, 30], mask[0, 0], mask[39, 59]) == (1, 1, 0)  # objects beside them: the rest is background
    mask, _ = draw_annotation({"result": []}, index, (40, 60), 0, "task 1")
    assert (mask == 0).all()


def test_clicks_are_counted_where_label_studio_tells_them(tmp_path: Path) -> None:
    corners = [[0, 0], [50, 0], [50, 50], [0, 50], [0, 20]]
    regions = [
        region("keypointlabels", "road", x=5, y=5, width=1),
        region("polygonlabels", "road", points=corners, closed=True),
        region("rectanglelabels", "sky", x=0, y=0, width=10, height=10),
        region("ellipselabels", "sky", x=50, y=50, radiusX=10, radiusY=10),
    ]
    drawn, shown = brush(np.ones((4, 4), bool), "road"), {**brush(np.ones((4, 4), bool), "sky"), "origin": "prediction"}
    assert count_clicks({"result": regions}) == (1 + 5 + 2 + 2, 0)
    assert count_clicks({"result": [drawn, *regions, shown]}) == (10, 1)
    folder = AnnotationFolder(tmp_path / "labels", SPACE)
    mask = np.zeros((4, 4), np.uint8)
    folder.store(1, {"id": 1, "result": [drawn, *regions]}, "/data/a.png", b"x", ".png", mask)
    folder.store(2, {"id": 2, "result": regions[:1]}, "/data/b.png", b"x", ".png", mask)
    used = data_used("new", folder.root, "", 2)
    assert (used.clicks, used.uncounted) == (11, 1)


def test_start_training_fetches_all_annotations_of_the_project(model: Path, studio: Studio, tmp_path: Path) -> None:
    masks = {}
    export = []
    for number in (1, 2, 3):
        truth = np.random.default_rng(number).integers(0, 3, (20 + number, 31)).astype(np.uint8)
        studio.image(f"/data/upload/1/{number}.png", draw_street(str(number), truth.shape)[0])
        result = [brush(truth == i, name) for i, name in enumerate(SPACE.names)]
        wrong = {"id": 10 * number, "was_cancelled": True, "result": []}
        export.append({"id": number, "data": {"photo": f"/data/upload/1/{number}.png"},
                       "annotations": [wrong, {"id": number, "result": result}]})  # fmt: skip
        masks[f"task-{number}-{number}"] = truth
    export.append({"id": 9, "data": {"photo": "/data/upload/1/gone.png"}, "annotations": [{"id": 9, "result": []}]})
    studio.files["/api/projects/4/export?exportType=JSON"] = (200, {}, json.dumps(export).encode())
    with serving(model, studio, tmp_path / "labels") as url:
        status, found = ask(f"{url}/webhook", {"action": "START_TRAINING", "project": {"id": 4}})
        assert status == 200 and "segwright refine MODEL labels" in found["message"]
        deadline = time.monotonic() + 60
        while not (state := ask(f"{url}/metrics")[1]["training"] or {}).get("done") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert state == {"project": 4, "stored": 3, "not_stored": 1, "done": True}
    found = {sample.id: sample.mask for sample in open_dataset(tmp_path / "labels")}
    assert {name.rpartition("/")[2] for name in found} == set(masks)
    for name, mask in found.items():
        np.testing.assert_array_equal(mask, masks[name.rpartition("/")[2]])


# ---------------------------------------------------------------------------------------------------------------------
# What is fetched, and what is not


def test_only_files_of_the_configured_server_are_fetched(studio: Studio) -> None:
    fetcher = HostFetcher(studio.url)
    port = studio.url.rpartition(":")[2]
    studio.files["/data/a.png"] = (200, {}, b"bytes")
    assert fetcher.image("/data/a.png") == fetcher.image(f"{studio.url}/data/a.png") == b"bytes"
    for address in (
        "http://169.254.169.254/latest/meta-data/", "http://example.com/data/a.png", "//example.com/data/a.png",
        f"http://localhost:{port}/data/a.png", f"https://127.0.0.1:{port}/data/a.png", "http://127.0.0.1:1/data/a.png",
        f"http://me:secret@127.0.0.1:{port}/data/a.png", f"http://127.0.0.1:{port}@example.com/data/a.png",
        "file:///etc/passwd", "s3://bucket/x.png", "data:image/png;base64,AAAA", "http://[::1", "gopher://x",
        r"http://127.0.0.1:" + port + r"\@example.com/data/a.png", "/api/users/", "/data/../api/users/",
    ):  # fmt: skip
        with pytest.raises(FetchError, match=r"another server|not the address|not an address"):
            fetcher.image(address)
    assert len(studio.seen) == 2


SPELLINGS = (
    "/data/../api/users/", "/data/%2e%2e/api/users/", "/data/.%2E/api/users/", "/data/..%2fapi/users/",
    "/data/%2e%2e%2fapi/users/", "/data/%252e%252e/api/users/", "/data/%25252e%25252e%25252fapi/users/",
    "/data/..\\api/users/", "/data/%5c..%5capi/", "/data/..%5capi/users/", "/data/..;/api/users/", "/data/./../api/",
    "/data/x%00.png", "/data/%0d%0aHost:%20a/x.png", "//data/x.png", "/tasks/", "/tasks/1/", "/tasks/1/resolve/x",
    "/tasks/1/resolve/../../../api/users/", "/data", "/api/projects/1/export?exportType=JSON",
)  # fmt: skip


@pytest.mark.parametrize("path", SPELLINGS)
def test_no_spelling_of_a_path_leads_out_of_the_files(studio: Studio, path: str) -> None:
    fetcher = HostFetcher(studio.url, KEY)
    for address in (path, studio.url + path):
        with pytest.raises(FetchError, match=r"not the address|another server"):
            fetcher.image(address)
    assert not studio.seen, "nothing was asked, so that no key was sent"
    for location in (path, studio.url + path):
        if "\r" not in location:
            studio.files["/data/from.png"] = (302, {"location": location}, b"")
            with pytest.raises(FetchError, match=r"not the address|another server"):
                fetcher.image("/data/from.png")
    assert {path for path, _ in studio.seen} == {"/data/from.png"}


def test_names_that_are_coded_are_fetched(studio: Studio) -> None:
    for path in ("/data/upload/1/100%25.png", "/data/upload/1/a%2520b.png", "/data/upload/1/x..png", "/data/a/.b.png",
                 "/tasks/4/resolve/?fileuri=czM6Ly9iL3gucG5n", "/data/local-files/?d=a/../b.png"):  # fmt: skip
        studio.files[path] = (200, {}, b"bytes")
        assert HostFetcher(studio.url).image(path) == b"bytes"
    studio.files["/data/upload/1/a%20%C3%BC.png"] = (200, {}, b"bytes")
    assert HostFetcher(studio.url).image("/data/upload/1/a ü.png") == b"bytes"


def test_behind_a_prefix_only_its_files_are_fetched(studio: Studio) -> None:
    fetcher = HostFetcher(f"{studio.url}/studio")
    studio.files["/studio/data/a.png"] = studio.files["/data/a.png"] = (200, {}, b"bytes")
    assert fetcher.image("/data/a.png") == fetcher.image(f"{studio.url}/studio/data/a.png") == b"bytes"
    assert {path for path, _ in studio.seen} == {"/studio/data/a.png"}
    for address in (f"{studio.url}/data/a.png", f"{studio.url}/studio/../data/a.png", f"{studio.url}/studiodata/a.png"):
        with pytest.raises(FetchError, match="not the address"):
            fetcher.image(address)


def test_an_export_is_not_redirected_elsewhere(studio: Studio) -> None:
    studio.files["/api/projects/4/export?exportType=JSON"] = (302, {"location": "/api/users/"}, b"")
    studio.files["/api/users/"] = (200, {}, b"[]")
    with pytest.raises(FetchError, match="not the address"):
        HostFetcher(studio.url, KEY).export(4, max_bytes=100)
    assert len(studio.seen) == 1


def test_redirects_stay_on_the_server(studio: Studio) -> None:
    fetcher = HostFetcher(studio.url)
    studio.files["/data/a.png"] = (302, {"location": "/data/b.png"}, b"")
    studio.files["/data/b.png"] = (200, {}, b"bytes")
    studio.files["/tasks/1/resolve/?fileuri=x"] = (303, {"location": "http://169.254.169.254/x"}, b"")
    studio.files["/data/loop.png"] = (302, {"location": "/data/loop.png"}, b"")
    assert fetcher.image("/data/a.png") == b"bytes"
    with pytest.raises(FetchError, match="another server"):
        fetcher.image("/tasks/1/resolve/?fileuri=x")
    with pytest.raises(FetchError, match="too many redirects"):
        fetcher.image("/data/loop.png")


def test_size_and_time_are_bounded(studio: Studio) -> None:
    studio.files["/data/large.png"] = (200, {}, b"x" * 20_000)
    with pytest.raises(FetchError, match="too large"):
        HostFetcher(studio.url, max_bytes=10_000).image("/data/large.png")
    studio.files["/data/cut.png"] = (200, {"content-length": "500"}, b"x" * 100)
    with pytest.raises(FetchError, match=r"breaks off|cannot be reached"):
        HostFetcher(studio.url, seconds=2).image("/data/cut.png")
    studio.slow = 0.2
    began = time.monotonic()
    with pytest.raises(FetchError, match="in time"):
        HostFetcher(studio.url, seconds=0.7).image("/data/large.png")
    assert time.monotonic() - began < 3
    with pytest.raises(FetchError, match="cannot be reached"):
        HostFetcher("http://127.0.0.1:1").image("/data/a.png")


def test_a_name_that_leads_to_a_link_local_address_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    for number in ("169.254.169.254", "fe80::1", "::ffff:169.254.169.254", "0.0.0.0", "224.0.0.1"):
        family = socket.AF_INET6 if ":" in number else socket.AF_INET
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, a=number, f=family, **__: [(f, 1, 6, "", (a, 80))])
        with pytest.raises(FetchError, match="never asked"):
            HostFetcher("http://studio.example").image("/data/a.png")


def test_a_personal_access_token_is_exchanged_and_renewed(studio: Studio) -> None:
    studio.files["/data/a.png"] = (200, {}, b"bytes")
    fetcher = HostFetcher(studio.url, "eyJ.a.b")
    assert fetcher.image("/data/a.png") == fetcher.image("/data/a.png") == b"bytes"
    assert studio.seen == [
        ("/api/token/refresh/", None), ("/data/a.png", "Bearer short"), ("/data/a.png", "Bearer short")
    ]  # fmt: skip
    studio.files["/data/a.png"] = (401, {}, b"")
    with pytest.raises(FetchError, match="does not give"):
        fetcher.image("/data/a.png")
    assert [path for path, _ in studio.seen[3:]] == ["/data/a.png", "/api/token/refresh/", "/data/a.png"]


def test_the_key_comes_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    assert read_key(None) is None
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", " abc\n")
    assert read_key(None) == "abc"
    (tmp_path / "key").write_text("def\n")
    assert read_key(tmp_path / "key") == "def"
    (tmp_path / "two").write_text("d ef")
    (tmp_path / "none").write_text("")
    for name in ("two", "none", "gone"):
        with pytest.raises(UsageError):
            read_key(tmp_path / name)


def test_an_address_that_is_none_is_refused() -> None:
    for url in ("localhost:8080", "ftp://x", "http://", "http://me:secret@host"):
        with pytest.raises(UsageError):
            HostFetcher(url)
    assert Labeling.parse(CONFIG).labels == ("sky", "road", "car", "dog")
