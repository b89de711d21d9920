"""Draw the images of the tutorials from the folders in which their commands were run.

``python docs/scripts/tutorial_images.py --roads FOLDER --cells FOLDER --land FOLDER``: each folder is where that page's
notebook was run (``roads``: also a folder of ``segwright demo``). Data and predictions are drawn as they lie there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from segwright.core.types import LabelSpace
from segwright.data.dataset import open_dataset
from segwright.imageio import read_raster

Pixels = npt.NDArray[np.uint8]
IMAGES = Path(__file__).resolve().parents[1] / "images"
QUALITY = 84


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
    save("tutorial-roads-data", [images, truth], 300)
    found = [colored(predicted(folder / "predictions", split.ids[index].split("/")[-1]), space) for index in chosen]
    save("tutorial-roads-predictions", [images, found, truth], 300)


def cells(folder: Path) -> None:
    data = open_dataset(folder / "cells")
    images = [data.all.read_image(index) for index in range(4)]
    colors = np.array([[20, 24, 40], [240, 200, 90]], np.uint8)
    save("tutorial-cells-data", [images, [colors[data.all.read_mask(index)] for index in range(4)]], 240)
    found = [predicted(folder / "predictions", data.all.ids[index].split("/")[-1]) for index in range(4)]
    save("tutorial-cells-predictions", [images, [colors[mask] for mask in found]], 240)


def land(folder: Path) -> None:
    raster = np.asarray(read_raster(folder / "land" / "images" / "tile.tif"), np.uint8)[..., :3]
    mask = np.asarray(read_raster(folder / "land" / "masks" / "tile.tif"), np.uint8)[..., 0]
    colors = np.array([[188, 204, 140], [70, 120, 190], [200, 90, 70]], np.uint8)
    save("tutorial-land-data", [[raster, colors[mask]]], 480)
    outlined = raster.copy()
    place = json.loads(next((folder / "predictions").rglob("*.geojson")).read_text(encoding="utf-8"))
    for feature in place["features"]:
        parts = feature["geometry"]["coordinates"]
        polygons = parts if feature["geometry"]["type"] == "MultiPolygon" else [parts]
        for polygon in polygons:
            for ring in polygon:
                corners = (np.asarray(ring, np.float64) - (600_000, 5_300_000)) / (0.5, -0.5)
                cv2.polylines(outlined, [np.round(corners).astype(np.int32)], True, (255, 240, 60), 2)
    save("tutorial-land-predictions", [[colors[predicted(folder / "predictions", "tile")], outlined]], 480)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("roads", "cells", "land"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    for name, draw in (("roads", roads), ("cells", cells), ("land", land)):
        if getattr(given, name) is not None:
            draw(getattr(given, name))


if __name__ == "__main__":
    main()
