"""Several people's masks of one image in one folder: refused with both readings, or read as chosen."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from trees import make_image

from segwright.core.errors import FormatError
from segwright.data.dataset import open_dataset
from segwright.imageio import write_mask

SIZE = (24, 32)


def disc(path: Path, shift: int, value: int = 255) -> np.ndarray:
    """A mask of a square that ``shift`` moves by that many pixels."""
    labels = np.zeros(SIZE, np.uint8)
    labels[4 + shift : 18 + shift, 6 : 26 - shift] = value
    write_mask(path, labels)
    return labels


def lay_out(root: Path, pattern: str, raters: tuple[str, ...], images: str = "images/img_{i}.jpg") -> Path:
    for i in range(4):
        make_image(root / images.format(i=i), size=SIZE, seed=i)
        for number, rater in enumerate(raters):
            disc(root / pattern.format(i=i, r=rater), number)
    return root


@pytest.mark.parametrize(
    ("pattern", "raters"),
    [
        ("masks/img_{i}_{r}.png", ("rater1", "rater2")),
        ("masks/img_{i}_{r}.png", ("1stHO", "2ndHO")),
        ("masks/{r}_img_{i}.png", ("expert1", "expert2")),
        ("masks/img_{i}/{r}.png", ("annotator_a", "annotator_b")),
        ("masks/img_{i}.{r}.png", ("ah", "vk")),
        ("masks/img_{i}_{r}.png", ("a", "b")),
        ("masks/img_{i}{r}.png", ("", "_rater1", "_rater2")),
        ("masks/img_{i}_mask{r}.png", ("1", "2")),
        ("images/img_{i}_{r}.png", ("manual1", "manual2")),
    ],
)
def test_raters_in_one_folder_are_refused_and_the_fix_opens(
    tmp_path: Path, pattern: str, raters: tuple[str, ...]
) -> None:
    lay_out(tmp_path, pattern, raters)
    with pytest.raises(FormatError, match="several people") as caught:
        open_dataset(tmp_path)
    fix = caught.value.fix or ""
    assert "--format layers" in fix and f"{4 * len(raters)} masks for 4 images" in str(caught.value)
    images = shlex.split(re.search(r"--images (\S+)", fix)[1])[0]  # type: ignore[index]
    globs = [shlex.split(text)[0] for text in re.findall(r"--masks (\S+)", fix)]
    assert len(globs) >= 2
    number = raters.index("_rater1") if "" in raters else 0
    data = open_dataset(tmp_path, images=images, masks=globs[0])
    assert len(data.records) == 4 and not data.unpaired_images
    chosen = data.all.read_mask(0)
    assert chosen is not None and (chosen > 0).sum() == 14 * (20 - number)
    joined = open_dataset(tmp_path, "layers")
    assert len(joined.records) == 4 and any("become one" in note for note in joined.notes)


def test_classes_within_one_another_and_objects_are_no_raters(tmp_path: Path) -> None:
    for i in range(4):
        for kind, count in (("named", ("disc", "cup")), ("objects", ("1", "2"))):
            make_image(tmp_path / f"{kind}/images/img_{i}.jpg", size=SIZE, seed=i)
            for number, name in enumerate(count):
                labels = np.zeros(SIZE, np.uint8)
                if kind == "named":
                    labels[4 : 20 - 2 * number, 6 : 26 - 2 * number] = 255
                else:
                    labels[4:16, 4 + 12 * number : 14 + 12 * number] = 255
                write_mask(tmp_path / f"{kind}/masks/img_{i}_{name}.png", labels)
    assert open_dataset(tmp_path / "named").label_space.names == ("background", "cup", "disc")
    assert open_dataset(tmp_path / "objects").label_space.names == ("background", "object")


def test_raters_of_some_images_alone_are_refused_too(tmp_path: Path) -> None:
    lay_out(tmp_path, "masks/img_{i}_{r}.png", ("manual1",))
    disc(tmp_path / "masks/img_2_manual2.png", 1)
    with pytest.raises(FormatError, match=r"manual1 \(4\), manual2 \(1\)"):
        open_dataset(tmp_path)
