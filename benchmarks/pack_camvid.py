"""Pack CamVid's train and val splits small enough to send to a lent machine: images as JPEG, label masks as PNG.

    python benchmarks/pack_camvid.py ../shared/data/camvid .gpu/camvid

119 MiB of PNG become about 34 MiB. The masks are unchanged. The images are not: at the default quality their
mean absolute error is printed (about one level of 255). Scores on the packed copy are scores on these images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np

SPLITS = ("train", "val")


def pack(source: Path, target: Path, quality: int) -> tuple[int, int, float]:
    """Write the packed copy; returns (images, bytes, mean absolute error in 0…255)."""
    count, size, error = 0, 0, 0.0
    for split in SPLITS:
        images = sorted((source / split).glob("*.png"))
        if not images:
            raise FileNotFoundError(f"no PNG in {source / split}")
        (target / split).mkdir(parents=True, exist_ok=True)
        (target / f"{split}annot").mkdir(parents=True, exist_ok=True)
        for path in images:
            image = cv2.imread(str(path), cv2.IMREAD_COLOR)
            mask = cv2.imread(str(source / f"{split}annot" / path.name), cv2.IMREAD_UNCHANGED)
            if image is None or mask is None:
                raise FileNotFoundError(f"{path} or its mask cannot be read")
            settings = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
            encoded = cv2.imencode(".jpg", image, settings)[1].tobytes()
            label = cv2.imencode(".png", mask, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
            (target / split / f"{path.stem}.jpg").write_bytes(encoded)
            (target / f"{split}annot" / path.name).write_bytes(label)
            decoded = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
            error += float(cv2.absdiff(image, decoded).mean())
            count, size = count + 1, size + len(encoded) + len(label)
    return count, size, error / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="train/, trainannot/, val/ and valannot/ with PNG files")
    parser.add_argument("target", type=Path)
    parser.add_argument("--quality", type=int, default=95, help="of the JPEG files")
    options = parser.parse_args()
    count, size, error = pack(options.source, options.target, options.quality)
    print(f"{count} images, {size / 2**20:.1f} MiB, mean absolute error {error:.2f} of 255")


if __name__ == "__main__":
    main()
