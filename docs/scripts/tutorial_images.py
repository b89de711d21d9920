"""Draw the images of the tutorials: data, predictions, screens.

``python docs/scripts/tutorial_images.py --run satellite fine-tuning service paper`` runs these pages in a temporary
folder, with smaller budgets, and draws from what they wrote. ``--roads FOLDER --cells FOLDER --land FOLDER`` draws from
folders in which those pages were run (``roads``: also a folder of ``segwright demo``).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.types import LabelSpace
from segwright.data.dataset import open_dataset
from segwright.imageio import read_raster

sys.path.insert(0, str(Path(__file__).resolve().parent))
from terminal import record, still

Pixels = npt.NDArray[np.uint8]
DOCS = Path(__file__).resolve().parents[1]
IMAGES = DOCS / "images"
QUALITY, COLUMNS = 78, 80
LEAN = "--model leannet --device cpu"
# page → budgets in place of its own, and the commands whose screens are shown, by the name of the image
BUDGETS: Mapping[str, Mapping[str, str]] = {
    "satellite": {"--epochs 40": f"--epochs 15 {LEAN}"},
    "fine-tuning": {
        "--model unet --encoder resnet10t --weights auto --epochs 20": f"{LEAN} --weights none --epochs 15",
        "--split val": "--split val --no-speed",
    },
    "service": {"--minutes 5": f"--minutes 1 {LEAN}", "segwright serve": "# segwright serve"},
    "paper": {"--epochs 20 --out runs/paper\n": "--epochs 1 --out runs/paper\n"},
}
SCREENS: Mapping[str, Mapping[str, str]] = {
    "satellite": {"tutorial-land-check": "segwright check land"},
    "fine-tuning": {"tutorial-voc-compare": "segwright compare"},
    "service": {"tutorial-service-export": "segwright export", "tutorial-service-benchmark": "segwright benchmark"},
    "paper": {"tutorial-paper-models": "segwright models", "tutorial-paper-plan": "--dry-run"},
}


def save(name: str, rows: Sequence[Sequence[Pixels]], side: int) -> None:
    """Images of one size in rows, each brought to ``side`` pixels across, as ``docs/images/NAME.jpg``."""
    drawn = []
    for row in rows:
        scaled = [
            cv2.resize(one, (side, round(side * one.shape[0] / one.shape[1])), interpolation=cv2.INTER_AREA)
            for one in row
        ]
        drawn.append(np.concatenate([np.pad(one, ((0, 6), (0, 6), (0, 0)), constant_values=255) for one in scaled], 1))
    whole = np.concatenate(drawn, 0)[:-6, :-6]
    path = IMAGES / f"{name}.jpg"
    cv2.imwrite(
        str(path), cv2.cvtColor(np.ascontiguousarray(whole), cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY]
    )
    print(f"{path}: {path.stat().st_size / 1024:.0f} kB")


def colored(mask: Pixels, space: LabelSpace) -> Pixels:
    """A label mask in the classes' colors; ignored pixels black."""
    return np.asarray(space.palette()[mask], np.uint8)


def predicted(folder: Path, name: str) -> Pixels:
    """The labels that a prediction wrote for an image."""
    found = [
        path for path in folder.rglob(f"{name}.*") if path.suffix in (".png", ".tif") and "overlay" not in path.name
    ]
    if found[0].suffix == ".tif":
        return np.asarray(read_raster(found[0])[..., 0], np.uint8)
    from PIL import Image

    with Image.open(found[0]) as mask:  # a palette PNG, whose indices are the classes
        return np.asarray(mask, np.uint8)


def roads(folder: Path) -> None:
    data = open_dataset(folder / "roads" if (folder / "roads").is_dir() else folder / "data")
    space, split = data.label_space, data.splits["test"]
    chosen = [
        index for index, id in enumerate(split.ids) if list((folder / "predictions").glob(f"{id.split('/')[-1]}*"))
    ][:4]
    images = [split.read_image(index) for index in chosen]
    truth = [colored(mask, space) for index in chosen if (mask := split.read_mask(index)) is not None]
    save("tutorial-roads-data", [images, truth], 216)
    found = [colored(predicted(folder / "predictions", split.ids[index].split("/")[-1]), space) for index in chosen]
    save("tutorial-roads-predictions", [images, found, truth], 186)


def cells(folder: Path) -> None:
    data = open_dataset(folder / "cells")
    images = [data.all.read_image(index) for index in range(4)]
    colors = np.array([[20, 24, 40], [240, 200, 90]], np.uint8)
    save("tutorial-cells-data", [images, [colors[data.all.read_mask(index)] for index in range(4)]], 180)
    found = [predicted(folder / "predictions", data.all.ids[index].split("/")[-1]) for index in range(4)]
    save("tutorial-cells-predictions", [images, [colors[mask] for mask in found]], 180)


def land(folder: Path) -> None:
    raster = np.asarray(read_raster(folder / "land" / "images" / "tile.tif"), np.uint8)[..., :3]
    mask = np.asarray(read_raster(folder / "land" / "masks" / "tile.tif"), np.uint8)[..., 0]
    colors = np.array([[188, 204, 140], [70, 120, 190], [200, 90, 70]], np.uint8)
    save("tutorial-land-data", [[raster, colors[mask]]], 320)
    outlined = raster.copy()
    place = json.loads(next((folder / "predictions").rglob("*.geojson")).read_text(encoding="utf-8"))
    for feature in place["features"]:
        parts = feature["geometry"]["coordinates"]
        polygons = parts if feature["geometry"]["type"] == "MultiPolygon" else [parts]
        for polygon in polygons:
            for ring in polygon:
                corners = (np.asarray(ring, np.float64) - (600_000, 5_300_000)) / (0.5, -0.5)
                cv2.polylines(outlined, [np.round(corners).astype(np.int32)], True, (255, 240, 60), 2)
    save("tutorial-land-predictions", [[colors[predicted(folder / "predictions", "tile")], outlined]], 320)


def fine_tuning(folder: Path) -> None:
    """Image and mask as VOC has them, and what the two models make of held-out images."""
    data = open_dataset(folder / "voc")
    space, split = data.label_space, data.splits["val"]
    images = [split.read_image(index) for index in range(4)]
    truth = [colored(mask, space) for index in range(4) if (mask := split.read_mask(index)) is not None]
    save("tutorial-voc-data", [images, truth], 190)
    rows = [images]
    for run in ("voc", "tuned"):
        files = [str(split.records[index].image_path) for index in range(4)]
        out = folder / f"from-{run}"
        subprocess.run(["segwright", "predict", f"runs/{run}", *files, "--out", str(out)], cwd=folder, check=True)
        rows.append([colored(predicted(out, Path(file).stem), space) for file in files])
    save("tutorial-voc-predictions", [*rows, truth], 142)


def run(name: str) -> None:
    """Run the page's blocks one after the other, keep the screens that are shown, and draw what was written."""
    text = (DOCS / "tutorials" / f"{name}.md").read_text(encoding="utf-8")
    for old, new in BUDGETS[name].items():
        assert old in text, f"{name}.md has no {old!r}"
        text = text.replace(old, new)
    with tempfile.TemporaryDirectory() as place:
        folder, names = Path(place), dict[str, object]()
        for part in text.split("```")[1::2]:
            language, _, code = part.partition("\n")
            if language == "python" and "http://" not in code:
                with contextlib.chdir(folder):
                    exec(compile(code, f"{name}.md", "exec"), names)
            for line in code.splitlines() if language == "sh" else ():
                if line and not line.startswith("#"):
                    command(name, line, folder)
        if name == "satellite":
            land(folder)
        elif name == "fine-tuning":
            fine_tuning(folder)


def command(page: str, line: str, folder: Path) -> None:
    """One command of a page; its screen becomes an image if the page shows it."""
    shown = [image for image, start in SCREENS[page].items() if line.startswith(start) or line.endswith(start)]
    if not shown:
        subprocess.run(line.split(), cwd=folder, check=True)
        return
    quoted = ["sh", "-c", f"cd {folder} && exec {line}"]
    events = [(0.0, f"\x1b[1;32m$\x1b[0m {line}\r\n"), *record(quoted, COLUMNS, 200)]
    home = str(Path.home())
    events = [(at, text.replace(f"{folder}/", "").replace(home, "~")) for at, text in events]
    path = IMAGES / f"{shown[0]}.svg"
    path.write_text(still(events, COLUMNS, f"The screen of {line}"), encoding="utf-8")
    print(f"{path}: {path.stat().st_size / 1024:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("roads", "cells", "land"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    parser.add_argument("--run", nargs="+", default=[], choices=["all", *BUDGETS], metavar="PAGE")
    parser.add_argument("--out", type=Path, default=IMAGES)
    given = parser.parse_args()
    globals()["IMAGES"] = given.out
    for name in BUDGETS if given.run == ["all"] else given.run:
        run(name)
    for name, draw in (("roads", roads), ("cells", cells), ("land", land)):
        if getattr(given, name) is not None:
            draw(getattr(given, name))


if __name__ == "__main__":
    main()
