"""Several models and versions by name, and API keys: who may use what, and how often."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from test_serving import SPACE, Client, GatedColors, Reply, bundle, decoder, labels_of, make_image, run, until

import segwright as sw
from segwright.cli import main
from segwright.core.errors import BundleError, SegwrightError, UsageError
from segwright.core.types import LabelSpace
from segwright.imageio import UInt8Array
from segwright.inference.bundle import load_bundle, save_bundle
from segwright.inference.predictor import Predictor, load
from segwright.monitoring.recorder import JournalOptions
from segwright.serving.app import Application, create_app
from segwright.serving.decoding import ImageDecoder
from segwright.serving.keys import ApiKey, KeyRing, create_key, hash_of, read_keys, remove_key
from segwright.serving.limits import ServiceLimits
from segwright.serving.models import MAX_VERSIONS, ModelSource, check_sources

__all__ = ["decoder"]  # a fixture
LIMITS: dict[str, Any] = {"max_megapixels": 0.05, "batch": 4, "wait_seconds": 0.002}


class Shelf:
    """Versions of a slot that are networks of this process; what was loaded, in order."""

    def __init__(self, *names: str, size: int = 10) -> None:
        self.listed, self.bytes, self.loaded = list(names), size, list[str]()
        self.broken: set[str] = set()

    def names(self) -> list[str]:
        return self.listed

    def load(self, name: str) -> Predictor:
        self.loaded.append(name)
        if name in self.broken:
            raise BundleError("the weights are not what was saved", where="/secret/place")
        return Predictor(GatedColors(int(name[:4])), SPACE)

    def size(self, name: str) -> int:
        return self.bytes


def serve(
    decoder: ImageDecoder,
    *others: tuple[ModelSource, Predictor],
    source: ModelSource | None = None,
    network: GatedColors | None = None,
    keys: KeyRing | None = None,
    **limits: Any,
) -> Application:
    app = create_app(
        Predictor(network or GatedColors(), SPACE), ServiceLimits(**{**LIMITS, **limits}),
        source=source or ModelSource("colors"), others=others, keys=keys,
    )  # fmt: skip
    app.service.decoder = decoder
    return app


def shifted(labels: UInt8Array, plain: UInt8Array, by: int) -> bool:
    """Whether labels are those of a network with shifted classes; where two values are equal they need not be."""
    return bool((labels == (plain + by) % 3).mean() > 0.9)


async def post(client: Client, path: str, body: bytes = b"", **headers: str) -> Reply:
    given = {"content-type": "image/png", **{name.replace("_", "-"): value for name, value in headers.items()}}
    found = await client("POST", path, body or make_image(), given)
    assert found is not None
    return found


def test_each_name_has_its_own_model_and_the_first_one_is_the_default(decoder: ImageDecoder) -> None:
    turned = Predictor(GatedColors(1), LabelSpace(("x", "y", "z")))
    odd = "my model ä%"
    app = serve(decoder, (ModelSource("turned"), turned), (ModelSource(odd), turned))

    async def work() -> None:
        client = Client(app)
        plain = labels_of(await post(client, "/predict"))
        assert (labels_of(await post(client, "/models/colors/predict")) == plain).all()
        other = labels_of(await post(client, "/models/turned/predict"))
        assert shifted(other, plain, 1)
        assert (labels_of(await post(client, f"/models/{odd}/predict")) == other).all()
        found = (await client.get("/models")).json["models"]
        assert [(one["name"], one["default"]) for one in found] == [
            ("colors", True), ("turned", False), (odd, False)
        ]  # fmt: skip
        assert (await client.get("/models/turned")).json == found[1] and (await client.get("/model")).json == found[0]
        assert [one["name"] for one in found[1]["classes"]] == ["x", "y", "z"]
        assert (await post(client, "/models/turned/predict?as=json")).json["model"] == "turned"
        for path in ("/models/none/predict", "/models/turned/versions/1/predict", "/models/a/b/predict"):
            reply = await post(client, path)
            assert reply.status == 404 and reply.json["error"], path
        assert "colors, turned" in (await client.get("/models/none")).json["expected"]
        assert (await post(client, "/models/turned/reload")).status == 403, "nobody without keys"
        text = (await client.get("/metrics")).body.decode()
        assert 'route="/models/{name}/predict",status="2xx"' in text and "none" not in text
        assert 'segwright_images_total{model="turned"} 2.0' in text

    try:
        run(work())
    finally:
        app.service.close()


def test_versions_are_loaded_when_asked_for_and_unloaded_when_there_are_too_many(decoder: ImageDecoder) -> None:
    names = [f"{number:04d}-{number:016x}" for number in range(1, 8)]
    shelf = Shelf(*names)
    app = serve(decoder, source=ModelSource("colors", versions=shelf, bytes=10))

    async def work() -> None:
        client = Client(app)
        described = (await client.get("/models/colors")).json
        assert described["model_versions"] == names and not shelf.loaded
        plain = labels_of(await post(client, "/predict"))
        first = "/models/colors/versions/{}/predict"
        for version in (names[0], "1", "0001"):
            assert shifted(labels_of(await post(client, first.format(version))), plain, 1)
        assert shelf.loaded == names[:1], "once"
        replies = await asyncio.gather(*(post(client, first.format("2")) for _ in range(3)))
        assert [reply.status for reply in replies] == [200] * 3 and shelf.loaded == names[:2], "by one of the three"
        for name in names[2:]:
            assert (await post(client, first.format(name))).status == 200
        assert app.service.models.loaded_count() == 1 + MAX_VERSIONS
        assert f"segwright_loaded_models {1 + MAX_VERSIONS}.0" in (await client.get("/metrics")).body.decode()
        assert (await post(client, first.format("1"))).status == 200 and shelf.loaded[-1] == names[0], "again"
        for wrong in ("9", "latest", names[0][:-1], "-1", "٣", "1" * 5000):
            reply = await post(client, first.format(wrong))
            assert reply.status == 404 and names[-1] in reply.json["expected"], wrong
        shelf.broken.add(names[5])
        reply = await post(client, first.format("6"))
        if reply.status != 200:  # unloaded meanwhile
            assert reply.status == 500 and "/secret" not in reply.body.decode()
        app.service.models._loaded.clear()
        reply = await post(client, first.format("6"))
        assert reply.status == 500 and "/secret" not in reply.body.decode() and app.service.in_flight == 0

    try:
        run(work())
    finally:
        app.service.close()


def test_the_memory_of_all_models_is_limited(decoder: ImageDecoder) -> None:
    names = [f"{number:04d}-{number:016x}" for number in (1, 2, 3)]
    shelf = Shelf(*names, size=1_000_000)
    app = serve(
        decoder, source=ModelSource("colors", versions=shelf, bytes=1_000_000), models_megabytes=3.5
    )  # fmt: skip

    async def work() -> None:
        client = Client(app)
        for number in (1, 2, 3):
            assert (await post(client, f"/models/colors/versions/{number}/predict")).status == 200
            assert app.service.models.loaded_bytes() <= 3_500_000
        assert app.service.models.loaded_count() == 3
        shelf.bytes = 3_000_000
        app.service.models._loaded.clear()
        reply = await post(client, "/models/colors/versions/1/predict")
        assert reply.status == 507 and "--models-memory" in reply.json["fix"]

    try:
        run(work())
    finally:
        app.service.close()
    with pytest.raises(UsageError, match="do not fit"):
        check_sources([ModelSource("a", bytes=5_000_000), ModelSource("b", bytes=6_000_000)], 10_000_000)


@pytest.mark.parametrize("name", ["", " ", ".", "..", "a/b", "/", "a\nb", "\x00", "x" * 101])
def test_names_that_no_address_can_hold_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="not a name"):
        check_sources([ModelSource(name)])
    with pytest.raises(UsageError, match="one name"):
        check_sources([ModelSource("a"), ModelSource("b"), ModelSource("a")])


def test_names_and_paths_of_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from segwright.api.serving import named_models

    monkeypatch.chdir(tmp_path)
    (tmp_path / "a=b" / "model").mkdir(parents=True)
    (tmp_path / "x.onnx").write_bytes(b"")
    found = named_models(["a=b", "a=b/model", "name=runs/c", "x.onnx", "runs/q=7/model"])
    assert found == [
        ("a=b", Path("a=b")), ("a=b", Path("a=b/model")), ("name", Path("runs/c")), ("x", Path("x.onnx")),
        ("q=7", Path("runs/q=7/model")),
    ]  # fmt: skip
    assert named_models({"one": "p", "two": Path("q")}) == [("one", Path("p")), ("two", Path("q"))]
    with pytest.raises(UsageError, match="no model"):
        named_models([])
    with pytest.raises(SegwrightError):
        sw.serve(["one=nothing/here", "two=nothing/there"], port=0)


def test_one_of_several_models_is_reloaded_by_name(decoder: ImageDecoder) -> None:
    loads: list[str] = []

    def loader(name: str) -> Callable[[], Predictor]:
        def load() -> Predictor:
            loads.append(name)
            if name == "bad":
                raise BundleError("not there")
            return Predictor(GatedColors(2), SPACE)

        return load

    app = serve(
        decoder, (ModelSource("two", loader("two")), Predictor(GatedColors(), SPACE)),
        (ModelSource("bad", loader("bad")), Predictor(GatedColors(), SPACE)), source=ModelSource("one", loader("one")),
    )  # fmt: skip

    async def work() -> None:
        client = Client(app)
        plain = labels_of(await post(client, "/models/two/predict"))
        assert await app.service.reload("two") and loads == ["two"]
        assert shifted(labels_of(await post(client, "/models/two/predict")), plain, 2)
        assert (labels_of(await post(client, "/models/one/predict")) == plain).all()
        assert not await app.service.reload() and loads == ["two", "one", "two", "bad"], "all, whatever fails"
        assert shifted(labels_of(await post(client, "/models/one/predict")), plain, 2)
        assert (labels_of(await post(client, "/models/bad/predict")) == plain).all()

    try:
        run(work())
    finally:
        app.service.close()


def test_a_journal_has_a_folder_per_model(tmp_path: Path, decoder: ImageDecoder) -> None:
    journal = JournalOptions(tmp_path)
    app = serve(
        decoder, (ModelSource("two", journal=journal), Predictor(GatedColors(1), SPACE)),
        source=ModelSource("one", journal=journal),
    )  # fmt: skip

    async def work() -> None:
        client = Client(app)
        for path in ("/predict", "/models/two/predict", "/models/two/predict"):
            assert (await post(client, path)).status == 200
        for entry, count in zip(app.service.models, (1, 2), strict=True):
            recorder = entry.recorder
            assert recorder is not None
            await until(lambda writer=recorder.writer, count=count: writer.written == count)  # type: ignore[misc]

    try:
        run(work())
    finally:
        app.service.close()
    assert [len(sw.read_journal(tmp_path / name)) for name in ("one", "two")] == [1, 2]


# ---------------------------------------------------------------------------------------------------------------------
# API keys


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_a_service_with_keys_is_closed_to_everybody_else(tmp_path: Path, decoder: ImageDecoder) -> None:
    file = tmp_path / "keys.json"
    key = create_key(file, "street-app")
    network = GatedColors()
    app = serve(decoder, network=network, keys=KeyRing(file))

    async def work() -> None:
        client = Client(app)
        for path in ("/", "/health", "/healthz", "/ready", "/openapi.json"):
            assert (await client.get(path)).status == 200, path
        runs = len(network.runs)
        for path in ("/model", "/models", "/models/colors", "/metrics", "/monitor", "/made/up", "/health/../model"):
            reply = await client.get(path)
            assert reply.status == 401 and reply.headers["www-authenticate"].startswith("Bearer"), path
            assert b"colors" not in reply.body
        for headers in (
            {}, bearer("sw_other"), bearer(""), {"authorization": "Basic !!"}, {"authorization": key},
            {"authorization": f"Basic {base64.b64encode(key.encode()).decode()}"}, {"x-api-key": f"{key}x"},
            {"x-api-key": hash_of(key)}, {"x-api-key": "\xff"}, {"x-api-key": "x" * 9000},
        ):  # fmt: skip
            sent = client.sent
            found = await client("POST", "/predict", make_image(), {"content-type": "image/png", **_latin(headers)})
            assert found is not None and found.status == 401, headers
            assert len(network.runs) == runs and client.sent <= sent + 1
        assert (await client("POST", "/health")).status == 401  # type: ignore[union-attr]
        basic = {"authorization": f"Basic {base64.b64encode(f'prometheus:{key}'.encode()).decode()}"}
        for headers in (bearer(key), {"x-api-key": key}, {"authorization": f"bearer  {key} "}, basic):
            found = await client("POST", "/predict", make_image(), {"content-type": "image/png", **headers})
            assert found is not None and found.status == 200, headers
        reply = await client.get("/metrics", **bearer(key))
        assert 'segwright_key_requests_total{key="street-app",status="2xx"} 4.0' in reply.body.decode()
        assert key not in reply.body.decode()

    try:
        run(work())
    finally:
        app.service.close()


def _latin(headers: Mapping[str, str]) -> dict[str, str]:
    """As a client may send them: bytes that are no UTF-8 reach the application as Latin-1."""
    return {name: value.encode("latin-1").decode("latin-1") for name, value in headers.items()}


def test_the_limits_of_a_key_hold_for_it_alone(tmp_path: Path, decoder: ImageDecoder) -> None:
    file = tmp_path / "keys.json"
    few = create_key(file, "few", requests_per_minute=12)  # two at once, then one every five seconds
    one = create_key(file, "one", max_concurrent=1)
    free = create_key(file, "free")
    network, now = GatedColors(), [100.0]
    app = serve(decoder, network=network, keys=KeyRing(file, clock=lambda: now[0]))

    async def work() -> None:
        client = Client(app)
        statuses = [(await post(client, "/predict", **bearer(few))).status for _ in range(3)]
        assert statuses == [200, 200, 429]
        reply = await post(client, "/predict", **bearer(few))
        assert reply.headers["retry-after"] == "5" and "12 requests per minute" in reply.json["expected"]
        assert (await client.get("/model", **bearer(few))).status == 200, "reading is free"
        assert (await post(client, "/predict", **bearer(free))).status == 200
        now[0] += 5
        assert [(await post(client, "/predict", **bearer(few))).status for _ in range(2)] == [200, 429]
        network.gate.clear()
        while network.entered.acquire(blocking=False):
            pass
        first = asyncio.create_task(post(client, "/predict", **bearer(one)))
        await network.running()
        assert (await post(client, "/predict", **bearer(one))).status == 429
        network.gate.set()
        assert (await first).status == 200
        assert (await post(client, "/predict", b"no image", **bearer(one))).status == 400
        assert (await post(client, "/predict", **bearer(one))).status == 200, "an error frees the place"

    try:
        run(work())
    finally:
        app.service.close()


def test_a_key_may_be_for_some_models_and_may_reload_them(tmp_path: Path, decoder: ImageDecoder) -> None:
    file = tmp_path / "keys.json"
    two = create_key(file, "two-only", models=["two"])
    keeper = create_key(file, "keeper", may_reload=True)
    load = lambda: Predictor(GatedColors(2), SPACE)  # noqa: E731
    app = serve(
        decoder, (ModelSource("two", load), Predictor(GatedColors(1), SPACE)), source=ModelSource("one"),
        keys=KeyRing(file),
    )  # fmt: skip

    async def work() -> None:
        client = Client(app)
        assert (await post(client, "/models/two/predict", **bearer(two))).status == 200
        for path in ("/predict", "/models/one/predict", "/models/none/predict", "/models/one/versions/1/predict"):
            reply = await post(client, path, **bearer(two))
            assert reply.status == 403 and "two" in reply.json["expected"], path
        assert (await client.get("/model", **bearer(two))).status == 403
        assert [one["name"] for one in (await client.get("/models", **bearer(two))).json["models"]] == ["two"]
        before = labels_of(await post(client, "/models/two/predict", **bearer(keeper)))
        assert (await post(client, "/models/two/reload", **bearer(two))).status == 403
        reply = await post(client, "/models/two/reload", **bearer(keeper))
        assert reply.status == 200 and reply.json["name"] == "two"
        after = labels_of(await post(client, "/models/two/predict", **bearer(keeper)))
        assert shifted(after, before, 1)
        assert (await post(client, "/models/one/reload", **bearer(keeper))).status == 409, "it cannot be loaded again"

    try:
        run(work())
    finally:
        app.service.close()


def test_keys_are_taken_and_removed_while_the_service_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, now = tmp_path / "keys.json", [0.0]
    first = create_key(file, "first", requests_per_minute=6)
    ring = KeyRing(file, clock=lambda: now[0])
    ring.check(first).take(now[0])
    second = create_key(file, "second")
    now[0] += 2
    assert ring.check(second).key.name == "second"
    with pytest.raises(SegwrightError):
        ring.check(first).take(now[0])  # what it has used stays used
    remove_key(file, "first")
    now[0] += 2
    with pytest.raises(SegwrightError, match="unknown"):
        ring.check(first)
    file.write_text("{")
    now[0] += 2
    assert ring.check(second).key.name == "second" and "stay as they were" in caplog.text
    file.unlink()
    now[0] += 2
    assert ring.check(second).key.name == "second"


def test_the_file_holds_no_key_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "keys.json"
    key = create_key(file, "a", requests_per_minute=1.5, models=["x"])
    text = file.read_text()
    assert key not in text and key.removeprefix("sw_") not in text and hash_of(key) in text
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o640)
    create_key(file, "b")
    assert file.stat().st_mode & 0o777 == 0o640, "as its owner has set it"
    assert [one.name for one in read_keys(file)] == ["a", "b"] and read_keys(file)[0].models == ("x",)
    with pytest.raises(UsageError, match="of this name"):
        create_key(file, "a")
    with pytest.raises(UsageError, match="no API key of this name"):
        remove_key(file, "c")
    for wrong in ("", "a b", "-a", "a" * 65, "ä", "a/b", "a\n"):
        with pytest.raises(UsageError, match="name"):
            create_key(file, wrong)
    for limits in ({"requests_per_minute": 0}, {"requests_per_minute": float("nan")}, {"max_concurrent": 0}):
        with pytest.raises(UsageError):
            create_key(file, "c", **limits)  # type: ignore[arg-type]
    assert [one.name for one in read_keys(file)] == ["a", "b"], "what is wrong changes nothing"
    assert not [name for name in os.listdir(file.parent) if name.startswith(".writing")]


GOOD = {"name": "a", "sha256": "0" * 64}


@pytest.mark.parametrize(
    "tree",
    [
        b"", b"{", b"\xff\xfe", b"[]", b'{"version": 2, "keys": []}', b'{"version": 1}', b"[" * 100_000,
        *(json.dumps({"version": 1, "keys": keys}).encode() for keys in (
            [], [1], [{}], [{"name": "a"}], [{**GOOD, "secret": "x"}], [{**GOOD, "sha256": "0" * 63}],
            [{**GOOD, "name": 7}], [{**GOOD, "requests_per_minute": "9"}], [{**GOOD, "requests_per_minute": True}],
            [{**GOOD, "requests_per_minute": 10**400}], [{**GOOD, "max_concurrent": 1.5}], [{**GOOD, "models": "a"}],
            [{**GOOD, "models": [1]}], [{**GOOD, "may_reload": "yes"}], [GOOD, GOOD], [GOOD, {**GOOD, "name": "b"}],
        )),
    ],
)  # fmt: skip
def test_a_file_that_is_no_file_of_keys_is_refused(tree: bytes, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    file.write_bytes(tree)
    with pytest.raises(UsageError):
        read_keys(file)
    with pytest.raises(UsageError):
        KeyRing(file)


def test_a_file_of_keys_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    model = bundle(tmp_path / "model")
    for file in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match="cannot be read"):
            sw.serve(model, port=0, api_keys=file)
    assert ApiKey("a", "0" * 64).models is None


def test_the_command_makes_lists_and_removes_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["segwright", "api-key", *arguments])
        with pytest.raises(SystemExit) as leaving:
            main()
        shown = capsys.readouterr()
        return int(leaving.value.code or 0), shown.out, shown.err

    code, out, err = command("street-app", "--file", "keys.json", "--requests-per-minute", "60", "--models", "a, b")
    key = out.strip()
    assert code == 0 and key.startswith("sw_") and "\n" not in key and key not in err, "the key alone, for a pipe"
    assert KeyRing("keys.json").check(key).key.models == ("a", "b")
    assert command("street-app", "--file", "keys.json")[0] == 2
    code, out, _ = command("--file", "keys.json")
    assert code == 0 and "street-app" in out and "60" in out and "a, b" in out and key not in out
    assert command("--remove", "--file", "keys.json")[0] == 2
    assert command("nobody", "--remove", "--file", "keys.json")[0] == 2
    assert command("street-app", "--remove", "--file", "keys.json")[0] == 0
    code, _, err = command("--file", "keys.json")
    assert code == 2 and "nobody could use" in err
    assert command("a", "--file", "keys.json", "--max-concurrent", "0")[0] == 2
    assert command("a b", "--file", "keys.json")[0] == 2 and command("--file", "none.json")[0] == 2


def test_versions_of_a_slot_on_the_disk(tmp_path: Path, decoder: ImageDecoder) -> None:
    from segwright.api.serving import _source
    from segwright.inference.lineage import bundle_id
    from segwright.labeling.slot import Slot

    slot, ids = Slot(tmp_path / "slot"), []
    for number in (1, 2):
        folder = bundle(tmp_path / f"model{number}", post=f"min-area({number})")
        if number == 2:  # other weights
            network, about = load_bundle(folder)
            next(network.parameters()).data += 0.5
            folder = save_bundle(tmp_path / "changed", network, about)
        ids.append(bundle_id(folder))
        with slot.locked():
            slot.switch(slot.add(folder, ids[-1], {}), {})
    names = slot.versions()
    assert [name.partition("-")[2] for name in names] == ids and ids[0] != ids[1]
    source = _source("slot", slot.folder, lambda path: load(path, device="cpu"), False, None)
    assert source.watch == slot.link and source.bytes > 0 and source.load is not None
    app = create_app(source.load(), ServiceLimits(**LIMITS), source=source)
    app.service.decoder = decoder

    async def work() -> None:
        client = Client(app)
        described = (await client.get("/model")).json
        assert described["model_version"] == names[1] and described["model_versions"] == names
        found = [
            (await post(client, f"/models/slot/versions/{version}/predict?as=json")).json
            for version in ("1", names[1], "2")
        ]
        assert [one["id"] for one in found] == [ids[0], ids[1], ids[1]] and found[0]["post"] == "min-area(1)"
        assert app.service.models.loaded_count() == 2, "the current version is not loaded again"
        (slot.version(names[0]) / "model.json").write_text("{")
        app.service.models._loaded.clear()
        reply = await post(client, "/models/slot/versions/1/predict")
        assert reply.status == 500 and str(tmp_path) not in reply.body.decode()

    try:
        run(work())
    finally:
        app.service.close()
