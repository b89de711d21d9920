"""The README's steps are run, and with `-m slow` every line of the tutorials; the notebooks are the pages."""

from __future__ import annotations

import importlib.util
import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import pytest
from doc_blocks import ROOT, run_page

SCENES = {"train=160, val=24, test=24, size=(128, 192)": "train=6, val=3, test=3, size=(64, 96)"}
STREET = {"train=40, val=10, test=0, size=(128, 192)": "train=6, val=3, test=0, size=(64, 96)"}
TINY = "--size 32x48 --batch 4 --device cpu --set training.workers=1"
NET = f"--model leannet --epochs 1 {TINY}"
QUICK: dict[str, Mapping[str, str]] = {
    "road-scenes": {**SCENES, "--minutes 20 --dry-run": f"{NET} --dry-run", "--minutes 20 --out": f"{NET} --out"},
    "microscopy": {
        "range(30)": "range(8)",
        "--epochs 60 --folds 5": "--model leannet --epochs 1 --folds 2 --size 48x48 --batch 3 --device cpu",
    },
    "satellite": {"size = 768": "size = 160", "--epochs 40": NET.replace("32x48", "48x48")},
    "fine-tuning": {
        **STREET,
        "--weights auto --epochs 20": f"--weights none --epochs 1 {TINY}",
        "--epochs 5 --out": f"--epochs 1 {TINY} --out",
        "--split val": "--split val --no-speed",
    },
    "monitoring": {
        "train=64, val=40, test=40, size=(96, 128)": "train=6, val=6, test=6, size=(64, 96)",
        "--epochs 40": NET,
    },
    "paper": {**STREET, "--epochs 20 --out runs/paper --dry-run": f"--epochs 1 {TINY} --out runs/paper --dry-run",
              "--weights none --epochs 20 --out runs/paper\n": f"--weights none --epochs 1 {TINY} --out runs/paper\n"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_every_line_of_a_tutorial_runs(name: str, tmp_path: Path) -> None:
    run_page(ROOT / "docs" / "tutorials" / f"{name}.md", tmp_path, QUICK[name])


def shorter_service() -> dict[str, str]:
    """The service's page with a free port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    return {
        "train=40, val=10, test=4, size=(128, 192)": "train=6, val=3, test=2, size=(64, 96)",
        "--minutes 5": NET, "--seconds 1": "--seconds 0.1 --no-keep", "--port 8000": f"--port {port}",
        "http://127.0.0.1:8000\"": f'http://127.0.0.1:{port}"',
    }  # fmt: skip


@pytest.mark.slow
def test_the_tutorial_of_the_service_runs(tmp_path: Path) -> None:
    found = run_page(ROOT / "docs" / "tutorials" / "service.md", tmp_path, shorter_service())
    assert sum(entry["share"] for entry in found["found"]["classes"]) == pytest.approx(1, abs=0.01)


def test_a_notebook_runs_whole(tmp_path: Path) -> None:
    """The cells of one notebook, in this process; the others, and all in a kernel, are slow tests."""
    pytest.importorskip("rasterio", reason="the extra geo is not installed")
    cells = json.loads((ROOT / "examples" / "satellite.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    blocks = [f"```sh\n{one.removeprefix('%%bash')}\n```" if one.startswith("%%bash") else f"```python\n{one}\n```"
              for one in code]  # fmt: skip
    place = tmp_path / "satellite.md"
    place.write_text("\n\n".join(blocks), encoding="utf-8")
    found = run_page(place, tmp_path, QUICK["satellite"])
    assert found["polygons"]["features"] and (tmp_path / "areas.csv").is_file()


@pytest.mark.parametrize("page", ["README.md", "docs/get-started.md"])
def test_the_three_steps_and_the_python_of_the_front_page_run(page: str, tmp_path: Path) -> None:
    from segwright.demo.dataset import write_street_scenes

    write_street_scenes(tmp_path / "photos", train=6, val=3, test=1, size=(64, 96))
    image = next((tmp_path / "photos" / "images" / "test").iterdir())
    (tmp_path / "street.jpg").write_bytes(image.read_bytes())  # by its content, whatever its name
    text = (ROOT / page).read_text(encoding="utf-8")
    start = text.index("## Your own")
    steps = text[start : text.index("\n## ", text.index("sw.load("))]
    place = tmp_path / "steps.md"
    place.write_text(steps, encoding="utf-8")
    python = "minutes=20" if page == "README.md" else "data, minutes=20"
    made = 'model="leannet", epochs=1, size=(32, 48), batch=4, device="cpu", workers=1, weights="none"'
    shorter = {python: python.replace("minutes=20", made), "--minutes 20": f"--weights none {NET}"}
    found = run_page(place, tmp_path, shorter)
    assert found["mask"].labels.shape == (64, 96)


def notebooks() -> ModuleType:
    place = ROOT / "docs" / "scripts" / "notebooks.py"
    spec = importlib.util.spec_from_file_location("docs_notebooks", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_notebooks_are_the_pages() -> None:
    made = notebooks()
    for page in made.PAGES:
        place = made.place_of(page)
        assert place.is_file(), f"python docs/scripts/notebooks.py makes {place.name}"
        same = json.loads(place.read_text(encoding="utf-8")) == made.notebook(page)
        assert same, f"{place.name} is not {page.name}: python docs/scripts/notebooks.py makes it again"


@pytest.mark.slow
@pytest.mark.parametrize("name", [*QUICK, "service"])
def test_a_notebook_runs_in_a_kernel(name: str, tmp_path: Path) -> None:
    client = pytest.importorskip("nbclient", reason="nbclient is not installed")
    nbformat = pytest.importorskip("nbformat")
    text = (ROOT / "examples" / f"{name}.ipynb").read_text(encoding="utf-8")
    for old, new in (shorter_service() if name == "service" else QUICK[name]).items():
        text = text.replace(json.dumps(old)[1:-1], json.dumps(new)[1:-1])
    book = nbformat.reads(text, as_version=4)
    client.NotebookClient(book, timeout=1800, resources={"metadata": {"path": str(tmp_path)}}).execute()
