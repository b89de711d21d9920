"""The label page's routes: what is acknowledged is kept, each person gets other questions, and who may."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from label_server import PATIENCE, LabelServer, write_photos

import segwright as sw
from segwright.core.errors import DataError, UsageError
from segwright.core.types import LabelSpace
from segwright.data.annotations.rle import decode_rows
from segwright.imageio import write_image
from segwright.labeling.page.document import STATIC
from segwright.labeling.page.images import LabelImages, list_images
from segwright.labeling.page.presence import LEASE_SECONDS, Leases
from segwright.labeling.page.queue import Asked, Queue
from segwright.labeling.page.server import chosen_classes
from segwright.labeling.questions import Question, Selection
from segwright.labeling.store import LabelFolder


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LabelServer]:
    with LabelServer(write_photos(tmp_path / "photos")) as found:
        yield found


def a_stroke(number: int = 0, label: int = 2, **rest: Any) -> dict[str, Any]:
    return {
        "id": os.urandom(6).hex(), "by": "Anna", "kind": "brush", "class": label, "number": number,
        "box": [10, 10, 30, 20], "runs": "0 200", "size": [120, 160], "clicks": 1, "seconds": 1.0, **rest,
    }  # fmt: skip


def expanded(body: bytes, shape: tuple[int, int]) -> np.ndarray:
    runs = np.frombuffer(body, "<u4")
    return np.repeat((runs & 255).astype(np.uint8), runs >> 8).reshape(shape)


def test_a_stroke_is_kept_and_becomes_a_dataset(server: LabelServer) -> None:
    ack = server.post("/api/strokes", a_stroke())
    assert ack["revision"] == 1 and (server.folder / "strokes.jsonl").read_bytes().count(b"\n") == 1
    status, headers, body = server.request("GET", "/api/images/0/labels")
    assert status == 200 and headers["x-revision"] == "1"
    labels = expanded(body, (120, 160))
    assert (labels[10:20, 10:30] == 2).all() and (labels != 255).sum() == 200
    server.stop()
    data = sw.open_dataset(server.folder)
    assert (data.all[0].mask == labels).all()


def test_a_question_is_answered_once_and_then_gone(server: LabelServer) -> None:
    first = server.post("/api/questions", {"by": "Anna", "page": "p1"})["questions"]
    assert len(first) == 8 and len({one["id"] for one in first}) == 8
    asked = first[0]
    left, top, right, bottom = asked["box"]
    region = decode_rows(asked["runs"], bottom - top, right - left)
    assert (asked["kind"] == "check" and asked["predicted"] == round(top / 120 * 4 - 0.5)) or region.any()
    server.post("/api/strokes", a_stroke(
        kind="answer", label=asked["predicted"], box=asked["box"], runs=" ".join(map(str, asked["runs"])),
        question=asked["id"], number=asked["number"],
    ))  # fmt: skip
    again = server.post("/api/questions", {"by": "Anna", "page": "p1"})["questions"]
    assert asked["id"] not in {one["id"] for one in again}
    assert server.get("/api/state")["counts"]["answers"] == 1


def test_two_people_get_different_questions_and_see_each_other(server: LabelServer) -> None:
    server.post("/api/presence", {"by": "Anna", "page": "p1", "number": 0})
    anna = server.post("/api/questions", {"by": "Anna", "page": "p1"})["questions"]
    ben = server.post("/api/questions", {"by": "Ben", "page": "p2"})["questions"]
    assert not {(one["number"], one["id"]) for one in anna} & {(one["number"], one["id"]) for one in ben}
    assert {one["number"] for one in ben} & {0} == set(), "another image than Anna's, as long as there is one"
    found = server.post("/api/presence", {"by": "Ben", "page": "p2", "number": 0})
    assert found["others"] == ["Anna"] and set(found["people"]) == {"Anna", "Ben"}
    server.post("/api/strokes", a_stroke())
    ack = server.post("/api/strokes", a_stroke(label=1, by="Ben"))
    assert ack["conflict"] == {"Anna": 200}
    assert server.get("/api/images/0")["conflicts"][0]["over"] == "Anna"
    server.post("/api/presence", {"by": "Anna", "page": "p1", "leaving": True})
    assert server.post("/api/presence", {"by": "Ben", "page": "p2", "number": 0})["others"] == []


def test_requests_at_once_never_get_the_same_question(server: LabelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every look at whether a question is open waits until both requests are at it."""
    queue = server.service.queue
    both, real = threading.Barrier(2, timeout=PATIENCE), Queue._is_painted

    def slow(self: Queue, name: str, asked: Asked) -> bool:
        found = real(self, name, asked)
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)
        return found

    queue.of_image(0, "Zoë")  # made before, so that nobody waits for the network
    for asked in queue._all_of(0):
        asked.by = ""
    monkeypatch.setattr(Queue, "_is_painted", slow)
    with ThreadPoolExecutor(2) as pool:
        anna, ben = pool.map(lambda by: queue.next(by, 4), ("Anna", "Ben"))
    mine, theirs = ({(one.number, one.id) for one in found} for found in (anna, ben))
    assert mine and theirs and not mine & theirs


def test_leases_end_by_themselves() -> None:
    now = [0.0]
    leases = Leases(lambda: now[0])
    leases.take("p1", "Anna", 3)
    assert leases.take("p2", "Ben", 3) == ["Anna"] and leases.busy("p2") == {3}
    now[0] = LEASE_SECONDS + 1
    assert leases.people() == {}


def test_undo_gives_the_labels_of_its_box(server: LabelServer) -> None:
    first, second = a_stroke(), a_stroke(label=1)
    for one in (first, second):
        server.post("/api/strokes", one)
    ack = server.post("/api/strokes", {"id": "u", "by": "Anna", "kind": "undo", "of": second["id"], "number": 0})
    assert ack["patch"]["box"] == second["box"] and ack["patch"]["runs"] == [200 << 8 | 2]


def test_a_full_disk_is_507_and_the_same_stroke_is_taken_later(
    server: LabelServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    stroke = a_stroke()
    with monkeypatch.context() as full:
        full.setattr(
            os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device"))
        )
        status, _, body = server.request("POST", "/api/strokes", stroke)
    assert status == 507 and "No space left" in json.loads(body)["found"]
    assert (server.folder / "strokes.jsonl").read_bytes() == b""
    assert server.post("/api/strokes", stroke)["revision"] == 1


def test_tiles_are_the_image(server: LabelServer) -> None:
    status, headers, body = server.request("GET", "/api/images/1/tiles/0/0/0")
    assert status == 200 and headers["content-type"] == "image/png" and body.startswith(b"\x89PNG")
    for path in ("/api/images/1/tiles/0/1/0", "/api/images/1/tiles/99/0/0"):
        assert server.request("GET", path)[0] == 400
    for path in ("/api/images/9", "/api/images/9/labels", "/api/images/0/secrets", "/api/nothing", "/static/../app.py"):
        assert server.request("GET", path)[0] == 404, path


def test_units_and_prediction(server: LabelServer) -> None:
    prediction = expanded(server.request("GET", "/api/images/0/prediction")[2], (120, 160))
    assert (prediction[:, 0] == np.arange(120) * 4 // 120).all()
    pairs = np.frombuffer(server.request("GET", "/api/images/0/units")[2], "<u4").reshape(-1, 2)
    assert pairs[:, 0].sum() == 120 * 160


@pytest.mark.parametrize(
    "change",
    [
        {"class": 9}, {"runs": "1 2"}, {"box": [0, 0, 999, 1]}, {"kind": "magic"}, {"by": ""}, {"size": [12, 16]},
        {"class": 255}, {"id": "x" * 200}, {"image": "../../etc/passwd"}, {"image": "photo9.png"},
    ],
)  # fmt: skip
def test_strokes_that_do_not_fit_are_refused(server: LabelServer, change: dict[str, Any]) -> None:
    status, _, body = server.request("POST", "/api/strokes", {**a_stroke(), **change})
    assert status == 400 and json.loads(body)["error"], body
    assert (server.folder / "strokes.jsonl").read_bytes() == b""


def test_a_stroke_names_its_image_where_the_list_has_changed(server: LabelServer) -> None:
    server.post("/api/strokes", a_stroke(number=0, image="photo2.png"))
    assert set(server.service.store.journal.images) == {"photo2.png"}


def test_other_sites_and_other_hosts_are_refused(server: LabelServer) -> None:
    stroke = a_stroke()
    for headers, status in (
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"content-type": "text/plain"}, 415),
        ({"host": "evil.example"}, 400),
    ):
        assert server.request("POST", "/api/strokes", stroke, headers)[0] == status, headers
    for body in (b"", b"[]", b"{", b'"x"', b"\xff"):
        assert server.request("POST", "/api/strokes", body)[0] == 400, body
    assert server.request("POST", "/api/strokes", b"{" + b" " * 9_000_000 + b"}")[0] == 413
    assert server.request("GET", "/api/strokes")[0] == 405


def test_the_page_runs_nothing_but_its_own_files(server: LabelServer) -> None:
    status, headers, body = server.request("GET", "/")
    assert status == 200 and "script-src 'self'" in headers["content-security-policy"]
    assert b"<script>" not in body and b"<style>" not in body and b" onclick" not in body
    for name in STATIC:
        status, headers, body = server.request("GET", f"/static/{name}")
        assert status == 200 and body and headers["x-content-type-options"] == "nosniff"


def test_with_a_token_nothing_is_shown_without_it(tmp_path: Path) -> None:
    with LabelServer(write_photos(tmp_path / "photos"), token="s3cret") as server:
        for path in ("/", "/api/state", "/api/images/0/labels", "/?token=wrong"):
            assert server.request("GET", path)[0] == 401, path
        assert server.request("POST", "/api/strokes", a_stroke())[0] == 401
        assert server.request("GET", "/api/state", headers={"authorization": "Bearer s3cret"})[0] == 200
        status, headers, _ = server.request("GET", "/?token=s3cret")
        assert status == 303 and "HttpOnly" in headers["set-cookie"] and "s3cret" not in headers["location"]
        cookie = headers["set-cookie"].partition(";")[0]
        assert server.request("GET", "/", headers={"cookie": cookie})[0] == 200


def test_an_image_that_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    (photos / "photo0.png").write_bytes(b"not an image")
    with LabelServer(photos) as server:
        status, _, body = server.request("GET", "/api/images/0")
        assert status == 400 and json.loads(body)["error"]
        found = server.post("/api/questions", {"by": "Anna", "page": "p"})["questions"]
        assert found and {one["number"] for one in found} <= {1, 2}


def test_a_selection_is_asked_in_its_order(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    masks = []
    for left in (0, 40, 80):
        mask = np.zeros((120, 160), bool)
        mask[10:30, left : left + 20] = True
        masks.append(mask)
    items = tuple(
        Question.of_mask(f"photo{number}.png", mask, kind="check", predicted=1)
        for number, mask in zip((2, 0, 1), masks, strict=True)
    )
    gone = Question.of_mask("gone.png", masks[0], kind="class")
    with LabelServer(photos, selection=Selection((*items, gone), (), photos)) as server:
        found = server.post("/api/questions", {"by": "Anna", "page": "p"})
        assert [one["number"] for one in found["questions"]] == [2, 0, 1] and found["left"] == 3
        assert server.service.queue.unknown == ["gone.png"]
        server.post("/api/strokes", {"id": "s", "by": "Anna", "kind": "skip", "number": 2,
                                     "question": found["questions"][0]["id"]})  # fmt: skip
        assert server.post("/api/questions", {"by": "Anna", "page": "p"})["left"] == 2


def test_deep_and_gray_images_are_shown_by_one_range(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    import cv2

    (tmp_path / "deep").mkdir()
    for name, top in (("a", 4000), ("b", 2000)):
        cv2.imwrite(str(tmp_path / "deep" / f"{name}.png"), rng.integers(0, top, (40, 50), dtype=np.uint16))
    images = LabelImages(tmp_path / "deep", ["a.png", "b.png"], None)
    one, other = images.pixels(0), images.pixels(1)
    assert one.shape == (40, 50, 3) and one.max() > 250 and 110 < other.max() < 150, "comparable, and not black"
    write_image(tmp_path / "gray" / "g.png", rng.integers(0, 256, (40, 50, 1), np.uint8))
    assert LabelImages(tmp_path / "gray", ["g.png"], None).pixels(0).shape == (40, 50, 3)


def test_a_turned_photo_is_upright(tmp_path: Path) -> None:
    from PIL import Image

    turned = Image.fromarray(np.zeros((40, 60, 3), np.uint8))
    exif = turned.getexif()
    exif[0x0112] = 6
    (tmp_path / "photos").mkdir()
    turned.save(tmp_path / "photos" / "t.jpg", exif=exif)
    images = LabelImages(tmp_path / "photos", ["t.jpg"], None)
    assert images.size(0) == (60, 40) and images.pixels(0).shape == (60, 40, 3)


def test_images_are_listed_without_the_label_folder(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 11)
    write_image(photos / "labels" / "masks" / "x.png", np.zeros((4, 4, 3), np.uint8))
    names = list_images(photos, exclude=(photos / "labels",))
    assert names[0] == "photo0.png" and names[-1] == "photo10.png" and len(names) == 11
    with pytest.raises(UsageError):
        list_images(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError):
        list_images(tmp_path / "empty")


def test_classes_of_the_model_and_given_ones_must_agree(tmp_path: Path) -> None:
    model, given = LabelSpace(("a", "b")), LabelSpace(("b", "a"))
    assert chosen_classes(tmp_path, None, model) is model
    with pytest.raises(UsageError, match="not those of the model"):
        chosen_classes(tmp_path, given, model)
    with pytest.raises(UsageError, match="no classes"):
        chosen_classes(tmp_path, None, None)


def test_a_label_folder_keeps_the_classes_of_a_later_model_with_the_one_before(tmp_path: Path) -> None:
    """A version that was gone back to has fewer classes than the one that the folder has met."""
    photos, folder = write_photos(tmp_path / "photos"), tmp_path / "labels"
    before, later = LabelSpace(("a", "b")), LabelSpace(("a", "b", "c"))
    LabelFolder.open(folder, photos, later).close()
    assert chosen_classes(folder, None, before).names == later.names
    assert chosen_classes(folder, None, before, before).names == later.names, "its questions are about its classes"
    assert chosen_classes(folder, None, LabelSpace(("a", "x"))).names == ("a", "x"), "which the folder refuses"
    with pytest.raises(UsageError, match="about other classes"):
        chosen_classes(folder, None, before, LabelSpace(("b", "a")))


def test_questions_bring_their_classes_and_are_about_no_others(tmp_path: Path) -> None:
    model, other = LabelSpace(("a", "b")), LabelSpace(("b", "a"))
    assert chosen_classes(tmp_path, None, None, model) is model
    for given, shown in ((other, None), (None, other)):
        with pytest.raises(UsageError, match="about other classes"):
            chosen_classes(tmp_path, given, shown, model)


def test_without_a_model_the_questions_are_which_class(tmp_path: Path) -> None:
    with LabelServer(write_photos(tmp_path / "photos"), model=False) as server:
        found = server.post("/api/questions", {"by": "Anna", "page": "p"})["questions"]
        assert found and all(one["kind"] == "class" and one["predicted"] is None for one in found)
        assert server.request("GET", "/api/images/0/prediction")[2] == b""


def test_labels_of_an_earlier_run_are_there_again(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    with LabelServer(photos) as server:
        server.post("/api/strokes", a_stroke())
    with LabelServer(photos) as server:
        assert server.get("/api/state")["counts"]["strokes"] == 1
        assert (expanded(server.request("GET", "/api/images/0/labels")[2], (120, 160)) == 2).sum() == 200
