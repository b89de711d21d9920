"""What is fuzzed: a target is made once in a process, and then tried with one input after the other.

An input that is read, or refused with an error of :mod:`segwright.core.errors`, is answered. Everything else, from the
functions under test or from the checks here, is a finding.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import html.parser
import io
import json
import random
import shutil
import socket
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from mutations import HOSTILE, NUMBERS, VALUES, of_bytes, of_file, of_json, of_text, of_tree
from seeds import DATASETS, MASK, PNG, H, W, arrays, brush, coco_text, make_images, scene

from segwright.core.errors import DataError, SegwrightError

Try = Callable[[random.Random], None]  # makes an input from the generator and feeds it
TARGETS: dict[str, Callable[[Path], Try]] = {}


def target(name: str) -> Callable[[Callable[[Path], Try]], Callable[[Path], Try]]:
    def keep(make: Callable[[Path], Try]) -> Callable[[Path], Try]:
        TARGETS[name] = make
        return make

    return keep


def write_tree(folder: Path, tree: dict[str, bytes]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    for name, data in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


# ---------------------------------------------------------------------------------------------------------------------
# Images, arrays, annotations' parts


def _images(family: str, folder: Path) -> Try:
    from segwright.imageio import Limits, decode_image, decode_mask, parse_header
    from segwright.imageio.raster import decode_raster

    limits = Limits(max_pixels=4_000_000, max_bytes=64_000_000, max_pages=64)
    kinds: list[Callable[..., Any]] = [decode_image, decode_image, decode_mask, decode_raster, parse_header]
    files = make_images()[family]

    def feed(rng: random.Random) -> None:
        data = of_bytes(rng, rng.choice(files))
        rng.choice(kinds)(data, "x", limits)

    return feed


def _arrays(family: str, folder: Path) -> Try:
    from segwright.data.mask_arrays import array_of
    from segwright.imageio import Limits

    files = arrays()[family]

    def feed(rng: random.Random) -> None:
        array_of(of_bytes(rng, rng.choice(files)), f"x.{family}", Limits(max_pixels=4_000_000, max_bytes=64_000_000))

    return feed


for _family in ("png", "jpeg", "tiff", "bmp", "webp", "gif", "pnm"):
    TARGETS[f"image-{_family}"] = functools.partial(_images, _family)
for _family in ("npy", "mat"):
    TARGETS[f"array-{_family}"] = functools.partial(_arrays, _family)


@target("mask-file")
def _mask_file(folder: Path) -> Try:
    from segwright.data.mask_files import inspect_mask, read_mask_file
    from segwright.imageio import Limits

    limits = Limits(max_pixels=4_000_000, max_bytes=64_000_000, max_pages=64)
    files = [(family, data) for family, found in {**make_images(), **arrays()}.items() for data in found]

    def feed(rng: random.Random) -> None:
        family, data = rng.choice(files)
        path = folder / f"x.{family}"
        path.write_bytes(of_bytes(rng, data))
        if rng.random() < 0.5:
            inspect_mask(path.read_bytes(), path, limits)
        else:
            read_mask_file(path, rng.choice(("values", "colors", "alpha", "red")), limits)

    return feed


@target("run-lengths")
def _run_lengths(folder: Path) -> Try:
    from segwright.data.annotations import rle

    part = np.zeros((H, W), bool)
    part[3:9, 4:12] = True
    counts, text, rows, studio = (
        [100, 50, H * W - 150],
        coco_text([100, 50, H * W - 150]),
        [9, 30, H * W - 39],
        brush(part),
    )

    def feed(rng: random.Random) -> None:
        height, width = rng.choice(((H, W), (H, W), (0, 5), (-1, 4), (2**31, 2**31), (15_000, 15_000), (1, 1)))
        kind = rng.randrange(5)
        if kind == 0:
            rle.decode_string(of_text(rng, text.encode()).decode("latin-1"), height, width)
        elif kind == 1:
            rle.decode_label_studio(_listed(rng, studio), height, width)
        elif kind == 2:
            rle.decode_pairs(rng.choice(("1 5 9 7", _listed(rng, [1, 5, 9, 7]), rng.choice(VALUES))), H * W)
        else:
            (rle.decode_counts if kind == 3 else rle.decode_rows)(
                _listed(rng, counts if kind == 3 else rows), height, width
            )

    return feed


def _listed(rng: random.Random, values: list[int]) -> Any:
    """The list with some of it replaced by what is no such number."""
    made: list[Any] = list(values)
    for _ in range(rng.choice((1, 1, 2, 3))):
        made[rng.randrange(len(made))] = rng.choice((rng.choice(VALUES), rng.randrange(-3, 400), made[0]))
    return made[: rng.randrange(1, len(made) + 1)] if rng.random() < 0.2 else made


@target("polygons")
def _polygons(folder: Path) -> Try:
    from segwright.data.annotations.polygons import as_points, draw_labelme, fill_box

    numbers = (0, 1, -1, 0.5, 15, 19.9, 20, 100, 1e4, 1e6, 1e7, -1e7, 1e-9, float("nan"), 1e308, "x", None, 2**70)

    def feed(rng: random.Random) -> None:
        flat = [rng.uniform(-5, 30) if rng.random() < 0.8 else rng.choice(numbers)
                for _ in range(2 * rng.choice((0, 1, 2, 3, 4, 9)) + (rng.random() < 0.05))]  # fmt: skip
        points = as_points(flat, "x")
        if rng.random() < 0.5:
            fill_box(points, H, W)
        else:
            kind = rng.choice(("polygon", "rectangle", "circle", "line", "linestrip", "point", "points", "mask", "?"))
            draw_labelme(kind, points, H, W, "x")

    return feed


# ---------------------------------------------------------------------------------------------------------------------
# Texts that people write


@target("config")
def _config(folder: Path) -> Try:
    from segwright.training.config import load_config, parse_overrides

    text = (
        b"data:\n  path: x\n  batch: 4\nmodel:\n  name: unet\n  arguments: {encoder: resnet18, list: [1, 2]}\n"
        b"training:\n  lr: 0.001\n  steps: 100\n  loss: ce + 0.5*dice\naugment:\n  preset: strong\n"
        b"out: runs/a\nseed: 3\n"
    )
    keys = ("training.lr", "training.steps", "data.path", "model.name", "model.arguments.x", "out", "seed", "a.b.c", "")

    def feed(rng: random.Random) -> None:
        if rng.random() < 0.4:
            value = rng.choice((*NUMBERS, *HOSTILE, "[1,2", "{a: [b]}", "2024-13-45", "!!binary x", "&a [*a]", "? x"))
            parse_overrides([f"{rng.choice(keys)}{rng.choice(('=', '=', '', ':'))}{value}"])
            return
        path = folder / "c.yaml"
        path.write_bytes(of_text(rng, text))
        load_config(path)

    return feed


@target("class-lists")
def _class_lists(folder: Path) -> Try:
    from segwright.data.label_maps import read_class_list

    files = [
        ("c.txt", b"sky 10 20 30\nroad 40 50 60\ncar 70 80 90\n"), ("c.txt", b"sky\nroad\ncar\n"),
        ("c.txt", b"0: sky\n1: road\n255: void\n"), ("c.csv", b"id,name,r,g,b\n0,sky,1,2,3\n1,road,4,5,6\n"),
        ("c.csv", b"name,color\nsky,#0a0b0c\nroad,#ffffff\n"),
        ("c.json", b'[{"id": 0, "name": "sky", "color": [1, 2, 3]}, {"id": 1, "name": "r", "color": "#0a0b0c"}]'),
        ("c.json", b'{"0": "sky", "1": "road"}'), ("c.json", b'["sky", "road"]'),
        ("c.json", b'{"classes": [{"title": "sky", "color": "#ffffff"}]}'), ("c.yaml", b"names:\n  0: a\n  1: b\n"),
    ]  # fmt: skip

    def feed(rng: random.Random) -> None:
        name, data = rng.choice(files)
        path = folder / name
        path.write_bytes(of_file(rng, name, data))
        read_class_list(path)

    return feed


@target("grammars")
def _grammars(folder: Path) -> Try:
    from segwright.inference.tta import parse_tta
    from segwright.losses.catalog import parse_loss
    from segwright.postprocess.pipeline import parse_pipeline
    from segwright.training.config import parse_size

    texts: list[tuple[Callable[[str], Any], str]] = [
        (parse_pipeline, "crf(w1=4,sa=30,sb=8,w2=3,sg=2,iterations=3)>min-area(8)>close(3)"),
        (parse_pipeline, "fill(10)"),
        (parse_tta, "flip,0.75,1,1.25"), (parse_loss, "ce + 0.5*dice(smooth=1)"), (parse_loss, "lovasz"),
        (parse_size, "320x480"),
    ]  # fmt: skip

    def feed(rng: random.Random) -> None:
        parse, text = rng.choice(texts)
        parse(of_text(rng, text.encode()).decode("utf-8", "surrogateescape"))

    return feed


# ---------------------------------------------------------------------------------------------------------------------
# Datasets and archives


def _dataset(name: str, folder: Path) -> Try:
    from segwright.data.dataset import open_dataset

    tree = DATASETS[name]()
    pixels = (".jpg", ".png", ".PNG", ".tif")
    described = [file for file in tree if not file.endswith(pixels)] or list(tree)

    def feed(rng: random.Random) -> None:
        changed = dict(tree)
        for _ in range(rng.choice((1, 1, 2))):
            file = rng.choice(described if rng.random() < 0.8 else list(changed))
            kind = rng.randrange(30)
            if kind == 0 and len(changed) > 1:
                changed.pop(file, None)
            elif kind == 1:
                new = rng.choice(("x.json", "list.txt", "classes.txt", "a.csv", "n.xml", "data.yaml", "[b].png", file))
                changed[new] = changed.get(file, b"")
            else:
                changed[file] = of_file(rng, file, changed.get(file, b""))
        write_tree(folder / "d", changed)
        found = open_dataset(folder / "d")
        for place in range(min(len(found.all), 4)):
            with contextlib.suppress(SegwrightError):
                found.all[place]

    return feed


for _name in DATASETS:
    TARGETS[f"data-{_name}"] = functools.partial(_dataset, _name)


@target("check")
def _check(folder: Path) -> Try:
    """The whole check and its page, on changed data: nothing of the data may become markup of the page."""
    from segwright.data.check.report_html import write_check_page
    from segwright.data.check.runner import check_path

    names = ("folder", "coco", "labelme", "pairs", "cvat")
    trees = {name: DATASETS[name]() for name in names}

    def feed(rng: random.Random) -> None:
        tree = dict(trees[rng.choice(names)])
        file = rng.choice([name for name in tree if not name.endswith((".jpg", ".png"))])
        tree[file] = tree[file].replace(b"road", rng.choice(MARKUP).encode("utf-8", "surrogatepass"))
        if rng.random() < 0.7:
            tree[file] = of_file(rng, file, tree[file])
        write_tree(folder / "d", tree)
        check_inert(write_check_page(check_path(folder / "d", workers=0), folder / "c.html").read_text("utf-8"))

    return feed


@target("archives")
def _archives(folder: Path) -> Try:
    from segwright.data.download.unpack import UnpackLimits, unpack

    small = io.BytesIO()
    with zipfile.ZipFile(small, "w", zipfile.ZIP_DEFLATED) as made:
        for name in ("a/x.txt", "a/b/y.png", "z"):
            made.writestr(name, PNG)
    files = {"x.zip": small.getvalue()}
    for ending, mode in ((".tar", "w"), (".tar.gz", "w:gz"), (".tar.xz", "w:xz"), (".tar.bz2", "w:bz2")):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
            for name in ("a/x.txt", "a/b/y.png"):
                entry = tarfile.TarInfo(name)
                entry.size = len(PNG)
                archive.addfile(entry, io.BytesIO(PNG))
        files["x" + ending] = out.getvalue()

    def feed(rng: random.Random) -> None:
        name = rng.choice(list(files))
        (folder / name).write_bytes(of_bytes(rng, files[name]))
        shutil.rmtree(folder / "out", ignore_errors=True)
        unpack(folder / name, folder / "out", limits=UnpackLimits())

    return feed


def with_header_sums(data: bytes) -> bytes:
    """A tar whose headers' sums fit again, so that what is behind them is looked at."""
    changed = bytearray(data)
    for at in range(0, len(changed) - 511, 512):
        if changed[at + 257 : at + 262] == b"ustar":
            changed[at + 148 : at + 156] = b" " * 8
            changed[at + 148 : at + 156] = b"%06o\0 " % sum(changed[at : at + 512])
    return bytes(changed)


@target("tar-headers")
def _tar_headers(folder: Path) -> Try:
    """Both ways through a tar give the same; what passes over a file's bytes stays in the file."""
    from segwright.data.tar_headers import TarHeaderError, entries

    files = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form, pax_headers={"comment": "x" * 40}) as archive:
            for name in ("a/x.txt", "b" * 90, "c/" * 45 + "y.png", "d" * 100 + "/" + "e" * 60):
                entry = tarfile.TarInfo(name)
                entry.size, entry.mtime = len(PNG), 1.25 if form == tarfile.PAX_FORMAT else 1
                archive.addfile(entry, io.BytesIO(PNG))
        files.append(out.getvalue())
    holes = tarfile.TarInfo("s")
    holes.type, holes.size = tarfile.GNUTYPE_SPARSE, 0
    files.append(holes.tobuf(tarfile.GNU_FORMAT) + files[1])

    def read(data: bytes, length: int | None) -> list[Any] | None:
        try:
            return list(entries(io.BytesIO(data), length))
        except TarHeaderError:
            return None

    def feed(rng: random.Random) -> None:
        data = of_bytes(rng, rng.choice(files))
        data = with_header_sums(data) if rng.random() < 0.8 else data
        found, streamed = read(data, len(data)), read(data, None)
        if found is None:
            raise DataError("refused")
        assert found == streamed and all(0 <= one.offset <= one.offset + one.size <= len(data) for one in found)

    return feed


# ---------------------------------------------------------------------------------------------------------------------
# Models and runs


def saved_model(folder: Path) -> dict[str, bytes]:
    """The files of a small saved model."""
    import torch

    from segwright.core.types import LabelSpace
    from segwright.inference.bundle import Bundle, save_bundle
    from segwright.models.catalog import create_model

    torch.manual_seed(0)
    network = create_model("segnet_basic", classes=3, weights=None, width=4).eval()
    given = Bundle(
        "segnet_basic", LabelSpace(("a", "b", "c")), {"width": 4}, {"value_range": {"low": [0.0], "high": [9.0]}},
        "close(3)", {"miou": 0.5, "per_class": {"a": [0.1, 0.2, 0.3]}}, {"command": ["train"]}, {"data": "CC0"},
    )  # fmt: skip
    made = save_bundle(folder / "made", network, given)
    return {path.name: path.read_bytes() for path in made.iterdir()}


def with_sums(files: dict[str, bytes], sums: str = "SHA256SUMS") -> dict[str, bytes]:
    lines = (f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in files.items() if name != sums)
    return {**files, sums: "".join(lines).encode()}


def tensors_changed(rng: random.Random, data: bytes) -> bytes:
    """A safetensors file with its header's tree or its bytes changed."""
    if rng.random() < 0.4:
        return of_bytes(rng, data)
    size = int.from_bytes(data[:8], "little")
    header = json.dumps(of_tree(rng, json.loads(data[8 : 8 + size]))).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


@target("saved-model")
def _saved_model(folder: Path) -> Try:
    from segwright.inference.predictor import load
    from segwright.serving.responses import json_response
    from segwright.serving.service import ServedModel

    files = saved_model(folder)
    image = scene()

    def feed(rng: random.Random) -> None:
        changed = dict(files)
        name = rng.choice(("model.json",) * 6 + ("model.safetensors",) * 3 + ("SHA256SUMS",))
        if name == "model.safetensors":
            changed[name] = tensors_changed(rng, changed[name])
        else:
            changed[name] = of_file(rng, name, changed[name])
        write_tree(folder / "m", with_sums(changed) if name != "SHA256SUMS" else changed)
        predictor = load(folder / "m", device="cpu")
        json_response(ServedModel(predictor, "m").describe())
        if rng.random() < 0.3:
            predictor(image[..., : predictor.runtime.in_channels]).overlay()

    return feed


@target("onnx")
def _onnx(folder: Path) -> Try:
    import onnx
    from onnx import TensorProto, helper

    from segwright.inference.predictor import load

    description = saved_model(folder)["model.json"]
    nodes = [
        helper.make_node("ReduceMax", ["images"], ["top"], axes=[3], keepdims=0),
        helper.make_node("Mod", ["top", "three"], ["labels"]),
        helper.make_node("Cast", ["top"], ["confidence"], to=TensorProto.FLOAT),
    ]
    wide: list[Any] = ["n", "h", "w"]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("images", TensorProto.UINT8, [*wide, 3])],
        [helper.make_tensor_value_info("labels", TensorProto.UINT8, wide),
         helper.make_tensor_value_info("confidence", TensorProto.FLOAT, wide)],
        [helper.make_tensor("three", TensorProto.UINT8, [], [3])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    entry = model.metadata_props.add()
    entry.key, entry.value = "segwright", description.decode()
    whole = model.SerializeToString()
    image = scene()

    def feed(rng: random.Random) -> None:
        if rng.random() < 0.6:
            changed = onnx.ModelProto()
            changed.CopyFrom(model)
            changed.metadata_props[0].value = of_json(rng, description).decode("utf-8", "replace")
            data = changed.SerializeToString()
        else:
            data = of_bytes(rng, whole)
        (folder / "m.onnx").write_bytes(data)
        load(folder / "m.onnx", device="cpu")(image)

    return feed


@target("weights")
def _weights(folder: Path) -> Try:
    import safetensors.torch
    import torch

    from segwright.models.encoders.state_files import read_state_dict

    tensors = {"module.a.weight": torch.ones(3, 4), "module.b": torch.zeros(2, dtype=torch.int64)}
    files: list[tuple[str, bytes]] = []
    for wrapped in (tensors, {"state_dict": tensors, "epoch": 3}):
        for modern in (True, False):
            out = io.BytesIO()
            torch.save(wrapped, out, _use_new_zipfile_serialization=modern)
            files.append(("w.pth", out.getvalue()))
    files.append(("w.safetensors", safetensors.torch.save(tensors)))

    def feed(rng: random.Random) -> None:
        name, data = rng.choice(files)
        path = folder / name
        path.write_bytes(tensors_changed(rng, data) if name.endswith("tensors") else _pickle_changed(rng, data))
        read_state_dict(path)

    return feed


def _pickle_changed(rng: random.Random, data: bytes) -> bytes:
    """Changes within the members of a zip, whose sums are made anew, or of the whole file."""
    if not data.startswith(b"PK") or rng.random() < 0.3:
        return of_bytes(rng, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    name = rng.choice([n for n in members if n.endswith("data.pkl")] * 3 + list(members))
    members[name] = of_bytes(rng, members[name])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return out.getvalue()


@target("run-folder")
def _run_folder(folder: Path) -> Try:
    """The files that ``--resume`` reads back."""
    import torch

    from segwright.training.callbacks.log import RunLog, read_log
    from segwright.training.checkpoint import load_checkpoint, save_checkpoint

    state = {"optimizer": {"0/step": 3.0}, "progress": {"step": 3, "best": 0.4}, "average": None, "plateau": None}
    tensors = {"model/a": torch.ones(3), "optimizer/0/m": torch.ones(3), "rng/cpu": torch.zeros(16, dtype=torch.uint8)}
    save_checkpoint(folder / "made", 3, tensors, state)
    made = {path.name: path.read_bytes() for path in (folder / "made" / "step-00000003").iterdir()}
    log = b'{"step": 1, "loss": 0.5}\n{"step": 2, "loss": NaN}\n{"step": 3, "val": {"miou": 0.1}}\n'
    metrics = b"step,epoch,miou\n1,0,0.1\n3,0,0.2\n"

    def feed(rng: random.Random) -> None:
        run = folder / "run"
        kind = rng.randrange(3)
        if kind == 0:
            write_tree(run, {"log.jsonl": of_text(rng, log), "metrics.csv": of_text(rng, metrics)})
            read_log(run)
            RunLog(run, keep_until_step=rng.choice((0, 2, 3, None))).close()
            return
        changed = dict(made)
        name = rng.choice(list(made))
        changed[name] = (
            tensors_changed(rng, changed[name]) if name.endswith("tensors") else of_file(rng, name, changed[name])
        )
        write_tree(run / "step-00000003", changed if kind == 1 else {**with_sums(changed), name: changed[name]})
        load_checkpoint(run)

    return feed


# ---------------------------------------------------------------------------------------------------------------------
# The service


MARKUP = (
    "<script>alert(1)</script>", "</script><script>x</script>", "<img src=x onerror=x>", '" onload="x', "' onload='x",
    "</style><b>", "<!--", "]]>", "&lt;b&gt;", "javascript:x", "<svg/onload=x>", "</title><b>", "\u2028", "<iframe>",
)  # fmt: skip
_EVIL = frozenset({"img src=x", "iframe", "b"})


class _Seen(html.parser.HTMLParser):
    """Scripts and event handlers of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("iframe", "object", "embed", "base", "meta", "link", "script"):
            self.found.append(tag)
        self.found += [name for name, value in attrs if name.startswith("on")]
        self.found += ["address" for name, value in attrs if name in ("src", "href") and outside(value or "")]


def outside(address: str) -> bool:
    return not address.startswith(("data:image/", "#"))


def check_inert(document: str, scripts: int = 0) -> None:
    """AssertionError where a page holds more than its own scripts and metas, or anything that reaches outside."""
    seen = _Seen()
    seen.feed(document)
    bad = [name for name in seen.found if name != "meta"]
    assert bad.count("script") == scripts and len(bad) == scripts, f"the page holds {bad}"


class _Halves:
    """A network whose answer is quick."""

    classes, in_channels = 3, 3

    def logits(self, images: Any) -> Any:
        return np.ascontiguousarray(images.astype(np.float32).transpose(0, 3, 1, 2))

    def labels(self, images: Any) -> Any:
        logits = self.logits(images)
        return logits.argmax(1).astype(np.uint8), np.full(images.shape[:3], 0.5, np.float32)


@contextlib.contextmanager
def serving() -> Iterator[tuple[str, int]]:
    from segwright.core.types import LabelSpace
    from segwright.inference.predictor import Predictor
    from segwright.serving.app import create_app
    from segwright.serving.limits import ServiceLimits
    from segwright.serving.server import bind, build_server

    limits = ServiceLimits(max_megapixels=0.05, header_seconds=2, body_seconds=2)
    app = create_app(Predictor(_Halves(), LabelSpace(("a", "b", "c"))), limits)
    sock, address = bind("127.0.0.1", 0)
    ready = threading.Event()
    server = build_server(app, ready.set)
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    assert ready.wait(120)
    yield address.host, address.port
    server.should_exit = True
    thread.join(10)


@target("http")
def _http(folder: Path) -> Try:
    """Bytes sent to a service on a port: each connection gets whole answers with a status below 500, or is closed."""
    stack = contextlib.ExitStack()
    place = stack.enter_context(serving())
    head = b"Host: localhost\r\nConnection: close\r\n"
    chunks = b"10\r\n" + PNG[:16] + b"\r\n%x\r\n" % len(PNG[16:]) + PNG[16:] + b"\r\n0\r\n\r\n"
    requests = [
        b"GET /%s HTTP/1.1\r\n%s\r\n" % (path, head)
        for path in (b"", b"model", b"health", b"ready", b"metrics", b"x?y=1")
    ]
    posted = b"POST /predict?as=%s HTTP/1.1\r\n" + head + b"Content-Type: image/png\r\n"
    requests += [
        posted % form + b"Content-Length: %d\r\n\r\n" % len(MASK) + MASK for form in (b"labels", b"json&mask=true")
    ]
    requests += [posted % b"overlay" + b"Transfer-Encoding: chunked\r\n\r\n" + chunks]

    def feed(rng: random.Random) -> None:
        data = rng.choice(requests)
        data = of_bytes(rng, data) if rng.random() < 0.5 else of_text(rng, data)
        with socket.create_connection(place, timeout=8) as line:
            with contextlib.suppress(OSError):  # the service may have closed it, which a system reports in several ways
                line.sendall(data)
                line.shutdown(socket.SHUT_WR)
            answer = b""
            with contextlib.suppress(ConnectionError):
                while part := line.recv(65536):
                    answer += part
        if answer:
            first = answer.split(b"\r\n", 1)[0].split(b" ")
            assert first[0] == b"HTTP/1.1" and first[1].isdigit() and int(first[1]) < 500, answer[:200]

    return feed
