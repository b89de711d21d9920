"""The front door: every function and type on ``sw.*``, its help, and the examples in its docstrings."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import segwright as sw
from segwright import api
from segwright.api.results import FailedFile, PredictedFile, PredictResult
from segwright.cli.renamed import with_new_names
from segwright.core.renamed import RENAMED
from segwright.demo.dataset import write_street_scenes

FUNCTIONS = [name for name in api.__all__ if inspect.isfunction(getattr(api, name))]
SECTIONS = ("Parameters", "Returns", "Raises", "Examples")
NOTHING_RETURNED = {"serve", "label"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset ``streets``, a model trained on it in ``run``, and ``image.png``."""
    place = tmp_path_factory.mktemp("api")
    write_street_scenes(place / "streets", train=6, val=3, test=3, size=(64, 96))
    (place / "image.png").write_bytes(next((place / "streets" / "images" / "test").glob("*.png")).read_bytes())
    sw.train(
        place / "streets", model="leannet", epochs=1, out=place / "run", size=(32, 48), batch=4, device="cpu", workers=1
    )
    return place


@pytest.mark.parametrize("name", FUNCTIONS)
def test_examples_run(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = doctest.DocTestFinder(recurse=False).find(getattr(api, name), name, globs={})
    assert any(test.examples for test in found), "an example in the docstring"
    for test in found:
        result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test)
        assert result.failed == 0


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_has_parameters_returns_errors_and_an_example(name: str) -> None:
    function = getattr(api, name)
    text = inspect.getdoc(function) or ""
    for section in SECTIONS:
        if section == "Returns" and name in NOTHING_RETURNED:
            continue
        if section == "Raises" and name == "lr_range":
            continue
        assert f"\n{section}\n{'-' * len(section)}\n" in text, section
    parameters = text.split("Parameters\n----------\n")[1].split("\n\nReturns")[0].split("\n\nRaises")[0]
    named = {
        word.strip(" *,")
        for line in parameters.splitlines()
        if line[:1].strip()
        for word in line.split(":")[0].split(",")
    }
    missing = set(inspect.signature(function).parameters) - named - {"data" if name == "open_dataset" else ""}
    assert not missing, f"not described: {sorted(missing)}"


def test_everything_is_reachable_and_listed() -> None:
    for name in sw.__all__:
        assert getattr(sw, name) is not None
    assert set(dir(sw)) == set(sw.__all__)
    assert set(api.__all__) <= set(sw.__all__)
    errors = {
        name for name, kind in vars(sys.modules["segwright.core.errors"]).items()
        if inspect.isclass(kind) and issubclass(kind, sw.SegwrightError)
    }  # fmt: skip
    assert errors <= set(sw.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        sw.nothing  # noqa: B018


def test_no_module_hides_a_name() -> None:
    """Importing a submodule sets it as an attribute of the package: it must not have a function's name."""
    package = Path(sw.__file__).parent
    modules = {path.stem for path in package.glob("*.py")} | {path.name for path in package.iterdir() if path.is_dir()}
    assert not modules & set(sw.__all__)


def test_import_loads_no_torch() -> None:
    code = "import sys, segwright as sw; sw.open_dataset; sw.SegwrightError; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_former_names_work_with_a_warning() -> None:
    with pytest.warns(DeprecationWarning, match="tune_postprocessing"):
        assert sw.tune_post is sw.tune_postprocessing
    with pytest.warns(DeprecationWarning, match=r"segwright\.core\.errors"):
        sys.modules.pop("segwright.errors", None)
        from segwright.errors import SegwrightError
    assert SegwrightError is sw.SegwrightError


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_former_modules_import(old: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = __import__(f"segwright.{old}", fromlist=["x"])
    assert module.__name__ == f"segwright.{RENAMED[old]}"


def test_former_parameters_work_with_a_warning(folder: Path) -> None:
    with pytest.warns(DeprecationWarning, match=r"load\(post=…\) is now postprocess=…"):
        predictor = sw.load(folder / "run", device="cpu", post="none")
    assert predictor.label_space == sw.load(folder / "run", device="cpu", postprocess="none").label_space
    with pytest.raises(TypeError, match="unexpected keyword"):
        sw.load(folder / "run", posts="none")
    with pytest.raises(TypeError, match="'post', the former name"), pytest.warns(DeprecationWarning):
        sw.load(folder / "run", post="none", postprocess="none")
    with pytest.raises(sw.SegwrightError), pytest.warns(DeprecationWarning, match=r"serve\(say=…\) is now message=…"):
        sw.serve(folder / "nowhere", say=print)


def test_results_are_json_and_take_the_subscripts_of_before() -> None:
    result = PredictResult.from_json({
        "images": 1, "out": "o", "notes": ["n"],
        "results": [{"file": "a.png", "mask": "o/a.png", "shares": {"road": 1.0}, "unheard": 3}],
        "failed": [{"file": "b.png", "error": "cut", "kind": "ImageReadError", "frame": 2}],
    })  # fmt: skip
    assert result.results == (
        PredictedFile(Path("a.png"), Path("o/a.png"), shares={"road": 1.0}, other={"unheard": 3}),
    )
    assert result.failed == (FailedFile(Path("b.png"), "cut", "ImageReadError", 2),)
    tree = result.to_json()
    assert tree["results"][0] == {"file": "a.png", "mask": "o/a.png", "shares": {"road": 1.0}, "unheard": 3}
    assert "stopped" not in tree and tree["failed"][0]["frame"] == 2
    with pytest.warns(DeprecationWarning, match=r"\.images"):
        assert result["pictures"] == 1


def test_former_options_are_translated(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["train", "data", "--from", "run", "--devices=2", "--", "--from"]
    assert with_new_names(given) == ["train", "data", "--init-from", "run", "--nproc=2", "--", "--from"]
    said = capsys.readouterr().err
    assert "--from is now --init-from" in said and "--devices is now --nproc" in said
    assert with_new_names(["datasets", "get", "camvid"]) == ["datasets", "download", "camvid"]
    assert with_new_names(["crf-figure", "m", "d", "--belief", "car"])[0] == "plot-crf"
    assert with_new_names([]) == [] and with_new_names(["check", "--from"]) == ["check", "--from"]
