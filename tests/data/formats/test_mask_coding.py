"""What mask files mean where a reader could drop something: palettes, alpha, deep channels, class lists, 255."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from trees import colored, make_image, mask, write

from segwright.core.errors import LabelError
from segwright.data.dataset import Dataset, open_dataset
from segwright.data.mask_files import tiff_facts
from segwright.imageio import write_image, write_mask

COLORS = [(0, 0, 0), (128, 64, 128), (0, 0, 142), (70, 130, 180)]
NAMES = ["ground", "road", "car", "sky"]


def labels(seed: int, classes: int = 4) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.repeat(rng.integers(0, classes, (4, 5)), 4, axis=0).repeat(4, axis=1).astype(np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)


def palette(path: Path, indices: np.ndarray, colors: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette(np.asarray(colors, np.uint8).tobytes())
    image.save(path)


def make_images(root: Path, count: int = 5) -> None:
    for i in range(count):
        make_image(root / f"images/{i}.jpg", size=(16, 20), seed=i)


def named(data: Dataset, i: int) -> np.ndarray:
    table = np.array([*data.label_space.names, *[""] * (255 - len(data.label_space)), "ignored"], object)
    found = data.all.read_mask(i)
    assert found is not None
    return table[found]


def kinds(data: Dataset) -> list[str]:
    return [problem.kind for problem in data.problems]


def shuffled(root: Path, colors: list[tuple[int, int, int]] = COLORS) -> None:
    """Masks of one image's colors under another numbering in each file."""
    make_images(root)
    for i in range(5):
        order = np.random.default_rng(i).permutation(len(colors))
        palette(root / f"masks/{i}.png", np.argsort(order)[labels(i, len(colors))], np.array(colors)[order])


def test_palettes_that_differ_are_read_by_color(tmp_path: Path) -> None:
    shuffled(tmp_path)
    data = open_dataset(tmp_path)
    by_name = {"#{:02x}{:02x}{:02x}".format(*color): k for k, color in enumerate(COLORS)}
    for i in range(5):
        assert np.array_equal(np.vectorize(by_name.get)(named(data, i)), labels(i))
    assert "palettes differ" in kinds(data)
    rows = "".join(f"{name},{','.join(map(str, rgb))}\n" for name, rgb in zip(NAMES, COLORS, strict=True))
    write(tmp_path / "class_dict.csv", "name,r,g,b\n" + rows)
    data = open_dataset(tmp_path)
    assert all(np.array_equal(named(data, i), np.array(NAMES, object)[labels(i)]) for i in range(5))
    (tmp_path / "class_dict.csv").unlink()
    write(tmp_path / "classes.txt", "\n".join(NAMES))
    with pytest.raises(LabelError, match="the class list names no colors"):
        open_dataset(tmp_path)


def test_one_palette_whose_colors_the_list_names(tmp_path: Path) -> None:
    make_images(tmp_path)
    order = [2, 0, 3, 1]  # the palette's order is not the list's
    for i in range(5):
        palette(tmp_path / f"masks/{i}.png", np.argsort(order)[labels(i)], np.array(COLORS)[order])
    rows = "".join(f"{name},{','.join(map(str, rgb))}\n" for name, rgb in zip(NAMES, COLORS, strict=True))
    write(tmp_path / "class_dict.csv", "name,r,g,b\n" + rows)
    data = open_dataset(tmp_path)
    assert all(np.array_equal(named(data, i), np.array(NAMES, object)[labels(i)]) for i in range(5))
    write(tmp_path / "class_dict.csv", "name,r,g,b\na,1,1,9\nb,1,1,8\nc,1,1,7\nd,1,1,6\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("a", "b", "c", "d"), "colors of another tool: by index, and said"
    assert any("read by index" in note for note in data.notes)


def test_palettes_of_grays_mean_the_gray(tmp_path: Path) -> None:
    make_images(tmp_path)
    for i in range(5):
        values, places = np.unique(np.array([0, 3, 7, 9] if i % 2 else [0, 1, 3, 9])[labels(i)], return_inverse=True)
        palette(tmp_path / f"masks/{i}.png", places.reshape(16, 20), np.repeat(values, 3).reshape(-1, 3))
    data = open_dataset(tmp_path)
    got = data.all.read_values(1)
    assert got is not None and np.array_equal(got, np.array([0, 3, 7, 9])[labels(1)])
    assert any("the gray is the class" in note for note in data.notes)


def test_palette_and_color_files_side_by_side(tmp_path: Path) -> None:
    make_images(tmp_path)
    for i in range(5):
        if i % 2:
            palette(tmp_path / f"masks/{i}.png", labels(i), np.array(COLORS))
        else:
            save(tmp_path / f"masks/{i}.png", np.array(COLORS, np.uint8)[labels(i)])
    data = open_dataset(tmp_path)
    codes = [data.label_space.colors.index(color) for color in COLORS]
    assert all(np.array_equal(data.all.read_mask(i), np.array(codes)[labels(i)]) for i in range(5))


@pytest.mark.parametrize("under", ["photo", "black"])
@pytest.mark.parametrize("ending", ["png", "webp", "tif"])
def test_mask_in_the_alpha_channel(tmp_path: Path, under: str, ending: str) -> None:
    make_images(tmp_path)
    for i in range(5):
        rgb = np.random.default_rng(i).integers(0, 255, (16, 20, 3), np.uint8) * (under == "photo")
        alpha = (labels(i, 2) * 255).astype(np.uint8)
        options = {"lossless": True, "exact": True} if ending == "webp" else {}
        save(tmp_path / f"masks/{i}.{ending}", np.dstack([rgb, alpha]).astype(np.uint8), **options)
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "foreground") and "masks guessed" in kinds(data)
    assert all(np.array_equal(data.all.read_mask(i), labels(i, 2)) for i in range(5))


def test_alpha_that_follows_the_colors_and_alpha_that_does_not(tmp_path: Path) -> None:
    make_images(tmp_path)
    colors = np.array(COLORS, np.uint8)
    for i in range(5):
        opaque = np.where(labels(i) > 0, 255, 0).astype(np.uint8)
        save(tmp_path / f"masks/{i}.png", np.dstack([colors[labels(i)], opaque]))
    data = open_dataset(tmp_path)
    assert len(data.label_space) == 4 and any("is not read" in note for note in data.notes)
    save(tmp_path / "masks/0.png", np.dstack([colors[labels(0)], (labels(1, 2) * 255).astype(np.uint8)]))
    with pytest.raises(LabelError, match="both distinguish classes"):
        open_dataset(tmp_path)
    with pytest.raises(LabelError, match="alpha"):
        data.all[0]  # a file that was not looked at when the dataset was opened


def test_sixteen_bit_colors(tmp_path: Path) -> None:
    make_images(tmp_path)
    ids = np.array([0, 3, 6, 15], np.uint16)

    def deep(i: int) -> np.ndarray:
        mask16 = np.zeros((16, 20, 3), np.uint16)
        mask16[..., 0], mask16[..., 1] = ids[labels(i)], np.where(labels(i) == 3, 300 + i, 0)
        return mask16

    (tmp_path / "masks").mkdir()
    for i in range(5):
        cv2.imwrite(str(tmp_path / f"masks/{i}.png"), deep(i)[..., ::-1])
    data = open_dataset(tmp_path)
    assert all(np.array_equal(data.all.read_values(i), ids[labels(i)]) for i in range(5))
    assert "masks guessed" in kinds(data) and "16 bits" in data.problems[0].message
    for i in range(5):  # 8-bit colors written wider are colors
        cv2.imwrite(str(tmp_path / f"masks/{i}.png"), (np.array(COLORS, np.uint16) * 257)[labels(i)][..., ::-1])
    data = open_dataset(tmp_path)
    assert len(data.label_space) == 4 and data.label_space.colors[1] in COLORS
    for i in range(5):  # three channels that all vary
        cv2.imwrite(
            str(tmp_path / f"masks/{i}.png"), (deep(i) + deep(i)[..., [2, 1, 0]] + 300 * deep(i)[..., [1, 2, 0]])
        )
    with pytest.raises(LabelError, match="which holds the classes is not certain"):
        open_dataset(tmp_path)


def test_ids_in_one_channel_of_eight_bits(tmp_path: Path) -> None:
    make_images(tmp_path)
    for i in range(5):
        red = np.zeros((16, 20, 3), np.uint8)
        red[..., 0] = np.array([0, 4, 7, 10])[labels(i)]
        save(tmp_path / f"masks/{i}.png", red)
    data = open_dataset(tmp_path)
    assert all(np.array_equal(data.all.read_values(i), np.array([0, 4, 7, 10])[labels(i)]) for i in range(5))


def test_pages_and_bands_of_a_mask_are_counted(tmp_path: Path) -> None:
    make_image(tmp_path / "images/a.png", size=(16, 20))
    pages = [Image.fromarray(labels(i, 2) * 255) for i in range(3)]
    (tmp_path / "masks").mkdir()
    pages[0].save(tmp_path / "masks/a.tif", save_all=True, append_images=pages[1:])
    assert tiff_facts(tmp_path / "masks/a.tif") == (3, 1) and tiff_facts(tmp_path / "images/a.png") == (0, 0)
    with pytest.raises(LabelError, match="3 pages"):
        open_dataset(tmp_path)


def test_255_over_a_fifth_of_the_pixels(tmp_path: Path) -> None:
    make_images(tmp_path, 1)
    mask(tmp_path / "masks/0.png", [0, 1, 2, 255, 255], size=(16, 20))
    data = open_dataset(tmp_path)
    found = next(problem for problem in data.problems if problem.kind == "ignored by a guess")
    assert found.severity == "warning" and "40 %" in found.message, "dense ids: ignored, and said loudly"
    mask(tmp_path / "masks/0.png", [*[0] * 9, *[1] * 9, 255, 2], size=(16, 20))
    assert [p.severity for p in open_dataset(tmp_path).problems] == ["note"]
    mask(tmp_path / "masks/0.png", [29, 76, 150, 255, 255], size=(16, 20))
    data = open_dataset(tmp_path)
    assert len(data.label_space) == 4 and kinds(data) == ["masks guessed"]
    write(tmp_path / "classes.csv", "id,name\n29,a\n76,b\n150,c\n255,d\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("a", "b", "c", "d") and data.problems == []
    assert (data.all.read_mask(0) == 3).mean() == 0.4
    write(tmp_path / "classes.csv", "id,name\n29,a\n76,b\n150,c\n255,void\n")
    data = open_dataset(tmp_path)
    assert (data.all.read_mask(0) == 255).mean() == 0.4 and data.problems == [], "the list says so: no guess"


@pytest.mark.parametrize("high", [255, 1, 128])
def test_one_class_name(tmp_path: Path, high: int) -> None:
    make_images(tmp_path, 1)
    truth = mask(tmp_path / "masks/0.png", [0, high], size=(16, 20))
    write(tmp_path / "classes.txt", "lesion\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("background", "lesion")
    assert np.array_equal(data.all.read_mask(0), truth > 0)
    write(tmp_path / "classes.txt", "background\n")
    assert open_dataset(tmp_path).label_space.names == ("background", "foreground")


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("_classes.csv", "Pixel Value, Class\n0, ground\n1, road\n2, car\n3, sky\n4, tram\n"),
        ("masks/meta.json", '{"classes": [{"title": "ground", "id": 0}, {"title": "road", "id": 1}, '
                            '{"title": "car", "id": 2}, {"title": "sky", "id": 3}, {"title": "tram", "id": 4}]}'),
        ("dataset.json", '{"labels": {"ground": 0, "road": 1, "car": 2, "sky": 3, "tram": 4}, "numTraining": 5}'),
        ("dataset.json", '{"labels": {"0": "ground", "1": "road", "2": "car", "3": "sky", "4": "tram"}}'),
        ("config.json", '{"id2label": {"0": "ground", "1": "road", "2": "car", "3": "sky", "4": "tram"}}'),
        ("data.yaml", "names: [ground, road, car, sky, tram]\n"),
        ("label_names.yaml", "names:\n  0: ground\n  1: road\n  2: car\n  3: sky\n  4: tram\n"),
        ("legend.tsv", "id\tname\n0\tground\n1\troad\n2\tcar\n3\tsky\n4\ttram\n"),
        ("my-label-map.txt", "0 ground\n1 road\n2 car\n3 sky\n4 tram\n"),
        ("seg_classes.csv", "class,name\n0,ground\n1,road\n2,car\n3,sky\n4,tram\n"),
    ],
)  # fmt: skip
def test_class_lists_by_what_they_say(tmp_path: Path, place: str, text: str) -> None:
    make_images(tmp_path)
    for i in range(5):
        save(tmp_path / f"masks/{i}.png", labels(i))
    write(tmp_path / place, text)
    data = open_dataset(tmp_path)
    assert data.label_space.names == ("ground", "road", "car", "sky", "tram"), "the class that no mask holds stays"
    assert np.array_equal(data.all.read_mask(0), labels(0)) and data.problems == []


def test_lists_that_are_not_read_are_named_and_strangers_change_nothing(tmp_path: Path) -> None:
    make_images(tmp_path)
    for i in range(5):
        save(tmp_path / f"masks/{i}.png", labels(i))
    write(tmp_path / "notes.json", {"a": "b"})
    write(tmp_path / "huge.csv", "text\n" + "x" * 200_000 + '\n"unclosed')
    write(tmp_path / "deep.yaml", "a: [" * 2000)
    write(tmp_path / "package.json", {"name": "x", "version": "1"})
    plain = open_dataset(tmp_path)
    assert plain.problems == [] and len(plain.label_space) == 4
    write(tmp_path / "color_legend.json", {"road": 40, "sky": 50})
    write(tmp_path / "categories.csv", "id,name\none,road\n")
    data = open_dataset(tmp_path)
    assert data.label_space.names == plain.label_space.names
    assert {Path(p.files[0]).name for p in data.problems} == {"color_legend.json", "categories.csv"}
    assert set(kinds(data)) == {"class list not read"}


def test_masks_turned_gray_beside_a_list_of_colors(tmp_path: Path) -> None:
    make_images(tmp_path)
    table = np.array(COLORS, np.uint8)
    for i in range(5):
        save(tmp_path / f"masks/{i}.png", np.asarray(Image.fromarray(table[labels(i)]).convert("L")))
    listed = [{"name": name, "color": list(rgb)} for name, rgb in zip(NAMES, COLORS, strict=True)]
    write(tmp_path / "labels.json", json.dumps(listed))
    data = open_dataset(tmp_path)
    assert all(np.array_equal(named(data, i), np.array(NAMES, object)[labels(i)]) for i in range(5))
    assert kinds(data) == ["masks guessed"]


def test_names_without_colors_for_color_masks_are_a_guess(tmp_path: Path) -> None:
    make_images(tmp_path, 1)
    colored(tmp_path / "masks/0.png", COLORS[:3], size=(16, 20))
    write(tmp_path / "classes.txt", "a\nb\nc\n")
    assert kinds(open_dataset(tmp_path)) == ["classes guessed"]


def test_voc_tree_with_other_classes(tmp_path: Path) -> None:
    for i in range(5):
        make_image(tmp_path / f"JPEGImages/img{i}.jpg", size=(16, 20))
        save(tmp_path / f"SegmentationClass/img{i}.png", np.array([[0, 0, 0], [0, 255, 0]], np.uint8)[labels(i, 2)])
    data = open_dataset(tmp_path)
    assert data.format == "voc" and data.label_space.names == ("#000000", "#00ff00")
    assert np.array_equal(data.all.read_mask(0), labels(0, 2))
    for i in range(5):
        palette(tmp_path / f"SegmentationClass/img{i}.png", labels(i, 2), np.array([[0, 0, 0], [0, 255, 0]]))
    assert open_dataset(tmp_path).label_space.names == ("background", "foreground"), (
        "not VOC's palette, not VOC's names"
    )
    for i in range(5):
        save(tmp_path / f"SegmentationClass/img{i}.png", labels(i, 2))
    data = open_dataset(tmp_path)
    assert data.label_space.names[1] == "aeroplane" and kinds(data) == ["classes guessed"]


def test_index_masks_among_color_masks_are_refused(tmp_path: Path) -> None:
    """Read by color, the indices would be dark classes of their own."""
    for i in range(4):
        make_image(tmp_path / f"images/{i}.png", size=(16, 20), seed=i)
        numbers = np.arange(20)[None].repeat(16, 0) * 3 // 20
        shades = np.array([(0, 0, 0), (255, 0, 0), (0, 255, 0)], np.uint8)[numbers]
        write_image(tmp_path / f"masks/{i}.png", shades) if i else write_mask(
            tmp_path / f"masks/{i}.png", numbers.astype(np.uint8)
        )
    for listed in ("", "name,r,g,b\nground,0,0,0\ncat,255,0,0\ndog,0,255,0\n"):
        if listed:
            (tmp_path / "class_dict.csv").write_text(listed)
        with pytest.raises(LabelError, match="some masks hold colors, and others the numbers") as caught:
            open_dataset(tmp_path)
        assert caught.value.found == "gray masks with 1, 2, and color masks with 3 colors"
