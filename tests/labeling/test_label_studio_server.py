"""The whole way through Label Studio itself, started for the test (`pytest -m slow tests/labeling`).

`SEGWRIGHT_LABEL_STUDIO` names its command, of an environment of its own (`pip install label-studio`); else it is looked
for on the path. `SEGWRIGHT_LABEL_STUDIO_URL` names a server that runs already.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segwright.data.annotations.rle import encode_label_studio
from segwright.data.dataset import open_dataset
from segwright.demo.street_scene import draw_street
from segwright.imageio import encode_png
from segwright.inference.predictor import load

pytest.importorskip("uvicorn", reason="needs the extra serve")
from test_label_studio import SPACE, Studio, check_brushes, saved_model, serving

from segwright.labeling.label_studio_fetch import HostFetcher

pytestmark = pytest.mark.slow
TOKEN = "0123456789abcdef0123456789abcdef01234567"
CONFIG = """<View><Image name="image" value="$image"/><BrushLabels name="tag" toName="image">
<Label value="sky"/><Label value="road"/><Label value="car"/></BrushLabels></View>"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_model(tmp_path_factory.mktemp("studio") / "streets")


class LabelStudio:
    def __init__(self, url: str, files: Path) -> None:
        self.url, self.files = url, files

    def __call__(self, method: str, path: str, tree: Any = None, kind: str = "application/json") -> Any:
        data = tree if isinstance(tree, bytes) or tree is None else json.dumps(tree).encode()
        request = urllib.request.Request(
            self.url + path, data, {"authorization": f"Token {TOKEN}", "content-type": kind}, method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=240) as answer:
                found = answer.read()
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{method} {path}: {error.code} {error.read()[:2000]!r}") from error
        return json.loads(found) if found[:1] in (b"{", b"[") else found

    def upload(self, project: int, name: str, data: bytes) -> None:
        edge = secrets.token_hex(8)
        head = [f"--{edge}", f'Content-Disposition: form-data; name="f"; filename="{name}"', "Content-Type: image/png"]
        body = "\r\n".join([*head, "", ""]).encode() + data + f"\r\n--{edge}--\r\n".encode()
        self("POST", f"/api/projects/{project}/import", body, f"multipart/form-data; boundary={edge}")


@pytest.fixture(scope="module")
def label_studio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LabelStudio]:
    running = os.environ.get("SEGWRIGHT_LABEL_STUDIO_URL")
    if running:
        yield LabelStudio(running, Path(os.environ["SEGWRIGHT_LABEL_STUDIO_FILES"]))
        return
    command = os.environ.get("SEGWRIGHT_LABEL_STUDIO") or shutil.which("label-studio")
    if command is None:
        pytest.skip("label-studio is not installed: SEGWRIGHT_LABEL_STUDIO names its command")
    folder = tmp_path_factory.mktemp("label-studio")
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    files = folder / "files"
    files.mkdir()
    settings = {
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder / "data"), "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true",
        "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true", "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(files),
        "ML_BLOCK_LOCAL_IP": "false", "SSRF_PROTECTION_ENABLED": "false", "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false", "SENTRY_RATE": "0",
    }  # fmt: skip
    log = open(folder / "log.txt", "wb")  # noqa: SIM115
    process = subprocess.Popen(
        [command, "start", "--no-browser", "--internal-host", "127.0.0.1", "--port", str(port), "--username",
         "me@example.com", "--password", secrets.token_hex(8), "--user-token", TOKEN],
        env={**os.environ, **settings}, stdout=log, stderr=log, cwd=folder, start_new_session=True,
    )  # fmt: skip
    found = LabelStudio(f"http://127.0.0.1:{port}", files)
    try:
        deadline = time.monotonic() + 900
        while True:
            try:
                found("GET", "/api/projects/")
                break
            except (OSError, AssertionError) as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((folder / "log.txt").read_text()[-3000:]) from error
                time.sleep(1)
        yield found
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        log.close()


def wait_for(found: Any, condition: Any, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not condition(value := found()):
        assert time.monotonic() < deadline, value
        time.sleep(0.3)
    return value


def test_prelabel_correct_and_export_keep_every_pixel(
    label_studio: LabelStudio,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    scenes = {
        name: draw_street(name, size)[0] for name, size in (("one", (96, 128)), ("two", (67, 91)), ("three", (45, 33)))
    }
    expected = {name: load(model, device="cpu").predict(scene) for name, scene in scenes.items()}
    project = label_studio("POST", "/api/projects/", {"title": secrets.token_hex(4), "label_config": CONFIG})["id"]
    for name in ("one", "two"):
        label_studio.upload(project, f"{name}.png", encode_png(scenes[name]))
    local = label_studio.files / f"p{project}" / "night"
    local.mkdir(parents=True)
    (local / "three.png").write_bytes(encode_png(scenes["three"]))
    storage = label_studio("POST", "/api/storages/localfiles/", {
        "project": project, "path": str(local), "use_blob_urls": True, "regex_filter": ".*png", "title": "files",
    })["id"]  # fmt: skip
    label_studio("POST", f"/api/storages/localfiles/{storage}/sync", {})
    tasks = wait_for(
        lambda: label_studio("GET", f"/api/tasks?project={project}&fields=all")["tasks"], lambda found: len(found) == 3
    )
    names = {task["id"]: next(n for n in scenes if n in task["data"]["image"]) for task in tasks}
    assert any("local-files" in task["data"]["image"] for task in tasks)

    here = Studio()
    here.url = label_studio.url
    folder = tmp_path / "labels"
    with serving(model, here, folder) as url:
        backend = label_studio("POST", "/api/ml/", {"url": url, "project": project, "title": "segwright"})
        assert backend["state"] == "CO", backend
        label_studio(
            "POST", f"/api/dm/actions?id=retrieve_tasks_predictions&project={project}",
            {"selectedItems": {"all": True, "excluded": []}, "ordering": []},
        )  # fmt: skip
        for task, name in names.items():
            (prediction,) = label_studio("GET", f"/api/predictions/?task={task}")
            check_brushes(prediction["result"], expected[name])
            assert prediction["model_version"].startswith("streets ")
            # A person corrects it: everything left of the middle is road; the annotation arrives by the webhook.
            truth = expected[name].labels.copy()
            truth[:, : truth.shape[1] // 2] = 0
            result = [
                {**region, "value": {**region["value"], "rle": encode_label_studio(truth == index)}}
                for index in np.unique(truth).tolist()
                for region in prediction["result"][:1]
            ]
            for region, index in zip(result, np.unique(truth).tolist(), strict=True):
                region["value"]["brushlabels"] = [SPACE.names[index]]
                region["id"] = secrets.token_hex(5)
            first = label_studio("POST", f"/api/tasks/{task}/annotations/", {"result": prediction["result"]})
            label_studio("PATCH", f"/api/annotations/{first['id']}/", {"result": result, "lead_time": 3.5})
            expected[name].labels[:] = truth
        stored = wait_for(lambda: open_or_none(folder), lambda found: found is not None and len(found) == 3)
        wait_for(lambda: compare(stored, expected), lambda wrong: not wrong)
        again = label_studio("POST", f"/api/ml/{backend['id']}/train", {})
        assert again is not None
        wait_for(
            lambda: json.load(urllib.request.urlopen(f"{url}/metrics"))["training"],
            lambda state: state and state["done"] and state["stored"] == 3,
        )
        assert not compare(open_dataset(folder), expected)

    export = label_studio("GET", f"/api/projects/{project}/export?exportType=JSON")
    assert not compare(beside(tmp_path / "json", export, scenes), expected)
    archive = label_studio("GET", f"/api/projects/{project}/export?exportType=BRUSH_TO_PNG")
    beside(tmp_path / "png", None, scenes)
    zipfile.ZipFile(io.BytesIO(archive)).extractall(tmp_path / "png")
    (tmp_path / "png" / "tasks.json").write_text(
        json.dumps([{"id": one["id"], "data": {"image": f"{names[one['id']]}.png"}} for one in export])
    )
    assert not compare(open_dataset(tmp_path / "png", format="label_studio_masks"), expected)


def test_several_images_and_several_annotations_per_task(
    label_studio: LabelStudio, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    config = CONFIG.replace("<View>", '<View><Image name="shown" value="$depth"/>')
    project = label_studio("POST", "/api/projects/", {"title": secrets.token_hex(4), "label_config": config})["id"]
    local = label_studio.files / f"p{project}"
    local.mkdir()
    scene = draw_street("one", (20, 30))[0]
    (local / "photo.png").write_bytes(encode_png(scene))
    (local / "depth.png").write_bytes(encode_png(np.zeros_like(scene)))
    label_studio("POST", "/api/storages/localfiles/", {
        "project": project, "path": str(local), "use_blob_urls": True, "regex_filter": ".*png", "title": "files",
    })  # fmt: skip
    data = {
        name: f"/data/local-files/?d=p{project}/{file}.png" for name, file in (("depth", "depth"), ("image", "photo"))
    }
    here = Studio()
    here.url = label_studio.url
    folder = tmp_path / "labels"

    def shown() -> int | None:
        found = open_or_none(folder)
        return None if found is None else int(next(iter(found)).mask[0, 0])

    with serving(model, here, folder) as url:
        label_studio("POST", "/api/ml/", {"url": url, "project": project, "title": "segwright"})
        task = label_studio("POST", "/api/tasks/", {"project": project, "data": data})["id"]
        made = []
        for index in (0, 1):
            region = {"id": secrets.token_hex(5), "type": "brushlabels", "from_name": "tag", "to_name": "image",
                      "original_width": 30, "original_height": 20, "image_rotation": 0,
                      "value": {"format": "rle", "rle": encode_label_studio(np.ones((20, 30), bool)),
                                "brushlabels": [SPACE.names[index]]}}  # fmt: skip
            made.append(label_studio("POST", f"/api/tasks/{task}/annotations/", {"result": [region]})["id"])
            wait_for(shown, lambda found, index=index: found == index)
        (sample,) = open_dataset(folder)
        np.testing.assert_array_equal(sample.image, scene)
        label_studio("DELETE", f"/api/annotations/{made[1]}/")
        wait_for(shown, lambda found: found == 0)
        label_studio("PATCH", f"/api/annotations/{made[0]}/", {"was_cancelled": True})
        wait_for(lambda: list((folder / "masks").iterdir()), lambda found: not found)


def test_a_project_without_a_class_is_told_which(label_studio: LabelStudio, model: Path) -> None:
    config = CONFIG.replace('<Label value="car"/>', "")
    project = label_studio("POST", "/api/projects/", {"title": secrets.token_hex(4), "label_config": config})["id"]
    here = Studio()
    here.url = label_studio.url
    with serving(model, here) as url, pytest.raises(AssertionError, match="400"):
        label_studio("POST", "/api/ml/", {"url": url, "project": project, "title": "segwright"})


def test_a_personal_access_token_opens_files(label_studio: LabelStudio) -> None:
    project = label_studio("POST", "/api/projects/", {"title": secrets.token_hex(4), "label_config": CONFIG})["id"]
    data = encode_png(draw_street("one", (20, 30))[0])
    label_studio.upload(project, "one.png", data)
    (task,) = label_studio("GET", f"/api/tasks?project={project}&fields=all")["tasks"]
    try:
        token = label_studio("POST", "/api/token/", {})["token"]
    except AssertionError as error:  # on a server that ran before
        pytest.skip(str(error)[:200])
    assert HostFetcher(label_studio.url, token).image(task["data"]["image"]) == data
    assert HostFetcher(label_studio.url, TOKEN).image(task["data"]["image"]) == data
    with pytest.raises(Exception, match="does not give the file"):
        HostFetcher(label_studio.url).image(task["data"]["image"])


def open_or_none(folder: Path) -> Any:
    try:
        return open_dataset(folder)
    except Exception:
        return None


def beside(folder: Path, export: Any, scenes: dict[str, np.ndarray[Any, Any]]) -> Any:
    """The images with an export beside them."""
    folder.mkdir()
    for name, scene in scenes.items():
        (folder / f"{name}.png").write_bytes(encode_png(scene))
    if export is not None:
        (folder / "export.json").write_text(json.dumps(export))
        return open_dataset(folder)
    return None


def compare(dataset: Any, expected: dict[str, Any]) -> list[str]:
    """What differs, by the names of classes."""
    wrong = []
    names = list(dataset.label_space.names)
    samples = list(dataset)
    if len(samples) != len(expected):
        wrong.append(f"{len(samples)} samples")
    for sample in samples:
        name = next(one for one in expected if one in Path(str(sample.image_path)).stem)
        table = np.full(256, 255, np.uint8)
        for index, found in enumerate(names):
            if found in SPACE.names:
                table[index] = SPACE.names.index(found)
        if not np.array_equal(table[sample.mask], expected[name].labels):
            wrong.append(name)
    return wrong
