"""What a prediction runs over."""

from __future__ import annotations

import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from brightest import SPACE, Brightest, scene, truth

from segwright import api
from segwright.core.errors import DataError, UsageError
from segwright.imageio import Limits, encode_jpeg, encode_png, read_mask, write_image
from segwright.inference.origins import url_text
from segwright.inference.predictor import Predictor
from segwright.inference.sources import open_source
from segwright.inference.videos import live_address, read_frames

IMAGE = np.zeros((8, 9, 3), np.uint8)


def test_image_folder_and_glob(tmp_path: Path) -> None:
    for name in ("b.png", "a.jpg", "deeper/c.png", ".hidden/d.png", "a.png"):
        write_image(tmp_path / name, IMAGE)
    (tmp_path / "notes.txt").write_text("no image")
    folder = open_source(tmp_path)
    names = [folder.name(path) for path in folder.files]
    assert names == ["a_jpg", "a_png", "b", "deeper/c"], "twins keep their ending, so that no result is overwritten"
    assert open_source(tmp_path / "b.png").kind == "image"
    assert len(open_source(str(tmp_path / "*.png"))) == 2


def test_the_masks_of_a_dataset_are_no_images(tmp_path: Path) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for split in ("train", "val"):
        for number in range(4):
            write_image(tmp_path / f"images/{split}/{split}{number}.png", photo)
            write_image(tmp_path / f"masks/{split}/{split}{number}.png", photo[..., 0] // 64)
    found = open_source(tmp_path)
    assert {path.relative_to(tmp_path).parts[0] for path in found.files} == {"images"}
    assert len(found) == 8
    assert "8 files in masks/train, masks/val are taken for the masks of the images" in found.notes[0]
    assert len(open_source(tmp_path / "masks")) == 8, "by its own path it is a folder of images"
    assert len(open_source(str(tmp_path / "**/*.png"))) == 16, "a glob means what it matches"
    for number in range(4):  # photos in a folder of such a name
        write_image(tmp_path / f"target/train{number}.png", photo)
    assert len(open_source(tmp_path)) == 12
    (tmp_path / "labels").mkdir()
    for number in range(4):  # names that no image has
        write_image(tmp_path / f"labels/other{number}.png", photo[..., 0] // 64)
    assert len(open_source(tmp_path)) == 16


@pytest.mark.parametrize("names", [("x{}.jpg", "x{}.png"), ("x{}.png", "x{}_mask.png"), ("x{}.jpg", "x{}_L.png")])
def test_masks_beside_their_images_are_no_images(tmp_path: Path, names: tuple[str, str]) -> None:
    photo = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for number in range(4):
        write_image(tmp_path / "day" / names[0].format(number), photo)
        write_image(tmp_path / "day" / names[1].format(number), photo[..., 0] // 64)
    write_image(tmp_path / "day" / "alone.png", photo)
    found = open_source(tmp_path)
    assert [path.name for path in found.files] == ["alone.png", *(names[0].format(number) for number in range(4))]
    assert "4 files in day are taken for the masks" in found.notes[0]
    assert open_source(tmp_path / "day").files == found.files, "by its own path it holds both still"
    assert len(open_source(str(tmp_path / "day" / "*"))) == 9, "a glob means what it matches"
    for number in range(4):  # photos of such names
        write_image(tmp_path / "day" / names[1].format(number), photo)
    assert len(open_source(tmp_path)) == 9


def test_two_images_of_one_name_are_no_image_and_its_mask(tmp_path: Path) -> None:
    """Few pairs say nothing, nor do images of few colors."""
    photo = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    for number in range(2):
        write_image(tmp_path / f"x{number}.jpg", photo)
        write_image(tmp_path / f"x{number}.png", photo[..., 0] // 64)
    assert len(open_source(tmp_path)) == 4
    for number in range(4):
        write_image(tmp_path / f"drawn/x{number}.png", photo[..., 0] // 64)
        write_image(tmp_path / f"drawn/x{number}_mask.png", photo[..., 0] // 64)
    assert len(open_source(tmp_path)) == 12


def test_a_glob_in_a_folder_whose_name_holds_brackets(tmp_path: Path) -> None:
    for name in ("holiday [2024]/a.png", "holiday [2024]/b/a.png", "d1/c.png", "d2/d.png"):
        write_image(tmp_path / name, IMAGE)
    found = open_source(str(tmp_path / "holiday [2024]" / "**" / "*.png"))
    assert sorted(found.name(path) for path in found.files) == ["a", "b/a"]
    assert len(open_source(str(tmp_path / "d[12]" / "*.png"))) == 2, "a glob that matches is one"
    with pytest.raises(DataError):
        open_source(str(tmp_path / "holiday [2025]" / "*.png"))


def test_options_of_videos_without_one_are_noted(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    predictor = Predictor(Brightest(), SPACE)
    for number, (options, named) in enumerate(
        (
            ({"frames": 3}, "--frames"),
            ({"video": True}, "--video"),
            ({"video": True, "frames": 1}, "--video and --frames"),
        )
    ):
        result = api.predict(predictor, tmp_path / "a.png", out=tmp_path / str(number), **options)
        assert any(note.startswith(f"{named} did nothing") for note in result.notes)
    assert not any("did nothing" in note for note in api.predict(predictor, tmp_path / "a.png", out=tmp_path).notes)


def test_a_link_to_nothing_fails_by_name(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", IMAGE)
    (tmp_path / "gone.png").symlink_to("moved.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    for source in (tmp_path, str(tmp_path / "*.png")):
        found = open_source(source)
        assert [path.name for path in found.files] == ["a.png", "gone.png", "loop.png"]
    result = api.predict(Predictor(Brightest(), SPACE), tmp_path, out=tmp_path / "out")
    assert [Path(failure.file).name for failure in result.failed] == ["gone.png", "loop.png"]


def test_video(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5, (64, 48))
    for shade in (0, 120, 240):
        writer.write(np.full((48, 64, 3), (shade, 0, 0), np.uint8))  # blue first
    writer.release()
    source = open_source(path)
    frames = list(read_frames(source.files[0]))
    assert source.kind == "video" and len(frames) == 3
    assert frames[2][..., 2].mean() > 200 and frames[2][..., 0].mean() < 40, "RGB order"


def test_nothing_found_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such kind of URL"):
        open_source("nothing-like-this://example.org/x.png")
    with pytest.raises(DataError, match="no such file"):
        open_source(tmp_path / "x.png")
    with pytest.raises(DataError, match="no images"):
        open_source(tmp_path)


def predictions(source: str | Path | list[str], out: Path, **options: Any) -> Any:
    return api.predict(Predictor(Brightest(), SPACE), source, out=out, overlay=False, mask_format="index", **options)


def tar_of(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def png(seed: int) -> bytes:
    return encode_png(scene(seed))


def test_tar_shards_are_read_member_by_member(tmp_path: Path) -> None:
    tar_of(tmp_path / "shard-0.tar", {"a.png": png(0), "a.json": b"{}", "sub/b.png": png(1), "../up.png": png(2)})
    tar_of(tmp_path / "shard-1.tar", {"a.png": png(3), "broken.png": b"\x89PNG\r\n"})
    found = predictions(str(tmp_path / "*.tar"), tmp_path / "out", polygons=["coco"], areas=tmp_path / "t.csv")
    assert found.images == 4 and [item.file.name for item in found.failed] == ["broken.png"]
    assert "shard-1.tar/broken.png" in found.failed[0].error and "segwright-" not in found.failed[0].error
    masks = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png"))
    assert masks == ["shard-0/a.png", "shard-0/sub/b.png", "shard-0/up.png", "shard-1/a.png"]
    assert (read_mask(tmp_path / "out/shard-1/a.png") == truth(scene(3))).all()
    assert any("1 file is not" in note for note in found.notes)
    names = {one["file_name"] for one in json.loads((tmp_path / "out/predictions.coco.json").read_text())["images"]}
    assert all("shard-" in name for name in names) and len(names) == 4
    (tmp_path / "cut.tar").write_bytes((tmp_path / "shard-0.tar").read_bytes()[:700])
    with pytest.raises(DataError, match="cannot be read"):
        open_source(tmp_path / "cut.tar")


def test_a_member_beyond_the_limit_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar_of(tmp_path / "s.tar", {"a.png": png(0), "big.png": b"\0" * 5000})
    monkeypatch.setattr("segwright.inference.origins.DEFAULT_LIMITS", Limits(max_bytes=4000))
    found = predictions(tmp_path / "s.tar", tmp_path / "out")
    assert found.images == 1 and found.failed[0].kind == "TooLargeError"


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def test_standard_input_is_an_image_a_tar_or_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", Stdin(png(4)))
    found = predictions("-", tmp_path / "one")
    assert (read_mask(tmp_path / "one" / "stdin.png") == truth(scene(4))).all() and found.images == 1
    data = tar_of(tmp_path / "s.tar", {"x.png": png(0), "y.png": png(1)}).read_bytes()
    monkeypatch.setattr("sys.stdin", Stdin(data))
    assert predictions("-", tmp_path / "two").images == 2
    assert (read_mask(tmp_path / "two" / "stdin" / "y.png") == truth(scene(1))).all()
    write_image(tmp_path / "in" / "a b.png", scene(2))
    write_image(tmp_path / "in" / "c.png", scene(3))
    monkeypatch.setattr("sys.stdin", Stdin(f"{tmp_path}/in/a b.png\n{tmp_path}/in/c.png\n".encode()))
    assert predictions("-", tmp_path / "three").images == 2
    monkeypatch.setattr("sys.stdin", Stdin(b""))
    with pytest.raises(UsageError, match="nothing on standard input"):
        predictions("-", tmp_path / "four")


def test_urls_of_fsspec(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec")
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for name, data in {"a.png": png(0), "deep/b.png": png(1), "notes.txt": b"x", "bad.png": b"GIF"}.items():
        memory.makedirs("/bucket/deep", exist_ok=True)
        with memory.open(f"/bucket/{name}", "wb") as file:
            file.write(data)
    found = predictions("memory://bucket", tmp_path / "out")
    assert found.images == 2 and [str(item.file) for item in found.failed] == ["memory:///bucket/bad.png"]
    assert (read_mask(tmp_path / "out/deep/b.png") == truth(scene(1))).all()
    assert found.results[0].file == "memory:///bucket/a.png", "a URL is no Path, which would lose slashes"
    away = predictions("memory://bucket/a.png", "memory://masks")
    assert (away.out, away.results[0].mask) == ("memory://masks", "memory://masks/a.png")
    assert any("1 file is not" in note for note in found.notes)
    assert predictions("memory://bucket/*.png", tmp_path / "glob").images == 1
    assert predictions("memory://bucket/a.png", tmp_path / "one").images == 1
    with pytest.raises(DataError, match="cannot be read"):
        open_source("memory://bucket/none.png")
    write_image(tmp_path / "local.png", scene(5))
    assert predictions(f"file://{tmp_path}/local.png", tmp_path / "local").images == 1


def test_no_password_is_shown() -> None:
    live = live_address("rtsp://user:secret@camera.local:554/live?token=secret")
    assert live is not None and "secret" not in live.label + live.name and "camera.local" in live.label
    assert "secret" not in url_text("https://u:secret@host/x.png?sig=secret")
    assert live_address("0") is not None and live_address("camera:2") is not None and live_address("a.png") is None


def test_pages_of_a_tiff_are_images(tmp_path: Path) -> None:
    pages = np.stack([scene(i) for i in range(4)])
    tifffile.imwrite(tmp_path / "scan.tif", pages, photometric="rgb", compression="zlib")
    found = predictions(tmp_path / "scan.tif", tmp_path / "out")
    assert found.images == 4 and [item.other["page"] for item in found.results] == [0, 1, 2, 3]
    for i in range(4):
        assert (read_mask(tmp_path / "out" / f"scan-{i:06d}.png") == truth(scene(i))).all()


@contextmanager
def camera(frames: int) -> Iterator[str]:
    """A stream of JPEG frames over HTTP on this machine, as network cameras give it."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=frame")
            self.end_headers()
            with suppress(OSError):
                for i in range(frames):
                    data = encode_jpeg(np.full((48, 64, 3), (200 if i % 2 else 20, 90, 60), np.uint8))
                    head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                    self.wfile.write(head.encode() + data + b"\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/video.mjpg"
        server.shutdown()


def test_a_stream_is_predicted_until_it_ends(tmp_path: Path) -> None:
    with camera(400) as url:
        found = predictions(url, tmp_path / "out", frames=3)
    assert found.images == 3 and not found.failed
    assert all("127.0.0.1" in item.mask.name for item in found.results)
    assert read_mask(found.results[0].mask).shape == (48, 64)


def test_a_camera_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gives no frames"):
        predictions("camera:917", tmp_path / "out")
    with pytest.raises(DataError, match="gives no frames"):
        predictions("http://127.0.0.1:9/none.mjpg", tmp_path / "out")
