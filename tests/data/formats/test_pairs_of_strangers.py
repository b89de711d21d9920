"""Trees as published datasets and people have them: names, modalities, lists of splits, Cityscapes' relatives."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from trees import colored, make_image, mask, write

from segwright.core.errors import FormatError, LabelError
from segwright.data.check.runner import check_path
from segwright.data.dataset import Dataset, open_dataset
from segwright.data.formats.stem_keys import constant_words, without_words
from segwright.imageio import write_image, write_mask

LAYOUTS = [  # image, mask: {n} is the number, {d} another form of it
    "train/train-org-img/62{n}.jpg train/train-label-img/62{n}_lab.png",
    "camera/front/2018_camera_front_{n}.png label/front/2018_label_front_{n}.png",
    "SUN-train_images/img-00{n}.jpg train13labels/img13labels-00{n}.png",
    "ColorImage/Camera 5/17_{n}_Camera_5.jpg Label/Camera 5/17_{n}_Camera_5_bin.png",
    "aerial/Z1/img/IMG_0{n}.png labels/Z1/msk/MSK_0{n}.png",
    "sample_{n}/image.png sample_{n}/mask.png",
    "images/{n}.jpg masks/{n}.jpg_mask.png",
    "leftImg8bit/train/0/{n}_leftImg8bit.png gtFine/train/0/{n}_gtFine_labellevel3Ids.png",
]


def pairs(data: Dataset) -> dict[str, str | None]:
    def relative(path: Path | None) -> str | None:
        return None if path is None else path.relative_to(data.root).as_posix()

    return {str(relative(record.image_path)): relative(record.mask_path) for record in data.records}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_words_that_all_names_share_do_not_part_a_pair(tmp_path: Path, layout: str) -> None:
    image, truth = layout.replace("Camera 5", "Camera~5").split(" ")
    image, truth = image.replace("~", " "), truth.replace("~", " ")
    for n in range(4):
        make_image(tmp_path / image.format(n=n), seed=n)
        mask(tmp_path / truth.format(n=n), [0, 1, 2])
    assert pairs(open_dataset(tmp_path)) == {image.format(n=n): truth.format(n=n) for n in range(4)}


def test_words_that_are_constant_on_one_side_alone_are_dropped() -> None:
    stems, others = ["camera_a_1", "camera_a_2", "camera_a_3"], ["label_a_1", "label_a_2", "label_a_4"]
    assert constant_words(stems, others) == {"camera"}
    assert without_words("camera_a_007", frozenset({"camera"})) == "a-7"
    assert not constant_words(["x_1", "x_2"], ["y_1", "y_2"])  # too few


def test_composed_and_decomposed_letters_pair(tmp_path: Path) -> None:
    for n in range(3):
        make_image(tmp_path / "images" / f"{unicodedata.normalize('NFC', 'Straßen_ä')}{n}.png", seed=n)
        mask(tmp_path / "masks" / f"{unicodedata.normalize('NFD', 'Straßen_ä')}{n}.png", [0, 1])
    assert all(record.mask_path is not None for record in open_dataset(tmp_path).records)


@pytest.mark.parametrize("above", ["", "scans/"])  # scans is a word for images as well
def test_depth_is_neither_image_nor_mask_and_is_named(tmp_path: Path, above: str) -> None:
    for site in (f"{above}a", f"{above}b"):
        for n in range(3):
            make_image(tmp_path / f"{site}/color/{n}.jpg", seed=n + ord(site[-1]))
            mask(tmp_path / f"{site}/label/{n}.png", [0, 1, 2])
            mask(tmp_path / f"{site}/instance/{n}.png", [0, 5, 9])
            make_image(tmp_path / f"{site}/depth/{n}.png", seed=n + 50)
    data = open_dataset(tmp_path)
    assert pairs(data)[f"{above}b/color/1.jpg"] == f"{above}b/label/1.png" and len(data.records) == 6
    assert any("depth" in note and "not read" in note for note in data.notes)


def test_color_masks_of_several_sites_are_one_annotation_beside_ids(tmp_path: Path) -> None:
    for site in ("00", "01"):
        for n in range(2):
            make_image(tmp_path / f"{site}/cam_node/f{n}-{site}.jpg", seed=n)
            mask(tmp_path / f"{site}/cam_node_label_id/f{n}-{site}.png", [0, 3, 9])
            colored(tmp_path / f"{site}/cam_node_label_color/f{n}-{site}.png", [(0, 0, 0), (0, 99, 0), (9, 0, 200)])
    data = open_dataset(tmp_path)
    assert len(data.records) == 4 and all("label_id" in str(record.mask_path) for record in data.records)


def test_masks_in_two_folders_of_equal_rank_are_refused_with_both(tmp_path: Path) -> None:
    """A field of view beside the vessels: joined, all inside of it would be an object."""
    for n in range(4):
        make_image(tmp_path / f"images/0{n}_dr.jpg", seed=n)
        mask(tmp_path / f"manual1/0{n}_dr.png", [0, 255, 0, 0])
        mask(tmp_path / f"mask/0{n}_dr_mask.png", [0, 255, 255, 255])
    with pytest.raises(FormatError, match="different folders: manual1, mask") as caught:
        open_dataset(tmp_path)
    assert "--masks" in str(caught.value.fix)
    assert open_dataset(tmp_path, images="images/*.jpg", masks="manual1/*.png").records


LISTS = [
    ("JPEGImages/480p/{q}/{n}.jpg Annotations/480p/{q}/{n}.png", "ImageSets/2017/{s}.txt", "{q}\n"),
    ("JPEGImages/{q}/{n}.jpg Annotations/{q}/{n}.png", "ImageSets/480p/{s}.txt",
     "/JPEGImages/{q}/0.jpg /Annotations/{q}/0.png\n/JPEGImages/{q}/1.jpg /Annotations/{q}/1.png\n"),
    ("x/JPEGImages/{q}{n}.jpg x/SegmentationClassContext/{q}{n}.png", "x/ImageSets/Context/{s}.txt", "{q}0\n{q}1\n"),
    ("All_images/{q}{n}.jpg All_labels/{q}{n}.png", "All_images/{s}_id.txt", "{q}0\n{q}1\n"),
    ("uavid_{s}/seq{q}/Images/{n}.png uavid_{s}/seq{q}/Labels/{n}.png", "", ""),
]  # fmt: skip


@pytest.mark.parametrize(("layout", "name", "lines"), LISTS)
def test_splits_that_lists_in_other_folders_state(tmp_path: Path, layout: str, name: str, lines: str) -> None:
    image, truth = layout.split(" ")
    for split, q in (("train", "bear"), ("val", "camel")):
        for n in range(2):
            make_image(tmp_path / image.format(q=q, n=n, s=split), seed=n + len(q))
            mask(tmp_path / truth.format(q=q, n=n, s=split), [0, 1, 2])
        if name:
            write(tmp_path / name.format(s=split), lines.format(q=q))
    data = open_dataset(tmp_path)
    found = {split: {"bear" if "bear" in str(r.image_path) else "camel" for r in part.records}
             for split, part in data.splits.items()}  # fmt: skip
    assert found == {"train": {"bear"}, "val": {"camel"}}


def test_lists_of_two_folders_that_differ_are_a_finding(tmp_path: Path) -> None:
    for n in range(6):
        make_image(tmp_path / f"images/{n}.png", seed=n)
        mask(tmp_path / f"masks/{n}.png", [0, 1])
    for fold in (1, 2):
        write(tmp_path / f"folds/{fold}/train.txt", "".join(f"{n}\n" for n in range(6) if n % 3 != fold))
        write(tmp_path / f"folds/{fold}/val.txt", "".join(f"{n}\n" for n in range(6) if n % 3 == fold))
    data = open_dataset(tmp_path)
    [found] = [problem for problem in data.problems if problem.kind == "several split lists"]
    assert "folds/1" in found.message and "folds/2" in found.message and set(data.splits) == {"train", "val"}


def cityscapes(root: Path, ending: str, *, apart: bool = False) -> None:
    left, right = ("zip1/leftImg8bit", "zip2/gtFine") if apart else ("leftImg8bit", "gtFine")
    for split, count in (("train", 3), ("val", 2)):
        for n in range(count):
            make_image(root / left / split / f"ulm/ulm_00{n}_leftImg8bit.png", seed=n)
            path = root / right / split / f"ulm/ulm_00{n}_gtFine_{ending}"
            if ending == "color.png":
                colored(path, [(128, 64, 128), (0, 0, 142), (0, 0, 0)])
            elif ending == "labelIds.png":
                mask(path, [7, 26, 0])
            else:
                write(path, {"imgHeight": 12, "imgWidth": 16, "objects": []})


@pytest.mark.parametrize(("ending", "apart"), [("color.png", False), ("labelIds.png", True), ("color.png", True)])
def test_cityscapes_in_colors_and_in_two_folders(tmp_path: Path, ending: str, apart: bool) -> None:
    cityscapes(tmp_path, ending, apart=apart)
    data = open_dataset(tmp_path)
    assert data.format == "cityscapes" and {k: len(v) for k, v in data.splits.items()} == {"train": 3, "val": 2}
    labels = data.train.read_mask(0)
    assert labels is not None
    names = data.label_space.names
    assert [names[v] if v != 255 else "ignored" for v in np.unique(labels).tolist()] == ["road", "car", "ignored"]


def test_cityscapes_polygons_alone_are_refused(tmp_path: Path) -> None:
    """All of its images would be without a mask, and nothing said."""
    cityscapes(tmp_path, "polygons.json")
    with pytest.raises(FormatError, match="no masks drawn") as caught:
        open_dataset(tmp_path)
    assert "createTrainIdLabelImgs" in str(caught.value.fix)


def test_folders_that_names_call_masks_are_no_classes_of_images(tmp_path: Path) -> None:
    for n in range(4):
        make_image(tmp_path / f"stare-images/im{n}.png", seed=n)
        for who in ("ah", "vk"):
            labels = np.zeros((12, 16), np.uint8)
            labels[2:9, 3 + (who == "vk") : 12] = 255
            (tmp_path / f"labels-{who}").mkdir(exist_ok=True)
            write_mask(tmp_path / f"labels-{who}/im{n}.{who}.png", labels)
    with pytest.raises(FormatError, match="certain") as caught:
        open_dataset(tmp_path)
    assert "labels-ah" in str(caught.value) and "labels-vk" in str(caught.value.fix)


def test_masks_without_their_images_are_not_paired_with_other_masks(tmp_path: Path) -> None:
    """CVAT's export without its images: SegmentationObject was taken for the images."""
    for n in range(4):
        colored(tmp_path / f"SegmentationClass/{n}.png", [(0, 0, 0), (250, 50, 83), (51, 221, 255)])
        colored(tmp_path / f"SegmentationObject/{n}.png", [(0, 0, 0), (128, 0, 0), (0, 128, 0)])
    with pytest.raises(FormatError, match="no images to them") as caught:
        open_dataset(tmp_path)
    assert "JPEGImages/x.jpg" in str(caught.value.fix)
    for n in range(4):
        make_image(tmp_path / f"JPEGImages/{n}.jpg", seed=n)
    assert open_dataset(tmp_path).format == "voc"


def test_two_folders_of_images_for_the_same_masks_are_refused_with_both(tmp_path: Path) -> None:
    for n in range(3):
        for date in "AB":
            make_image(tmp_path / f"train/{date}/{n}.png", seed=n + ord(date))
        mask(tmp_path / f"train/label/{n}.png", [0, 255])
    with pytest.raises(FormatError, match="several folders hold images") as caught:
        open_dataset(tmp_path)
    assert "train/A/*" in str(caught.value.fix) and "train/B/*" in str(caught.value.fix)
    assert len(open_dataset(tmp_path, images="train/B/*", masks="train/label/*").records) == 3


def test_a_dataset_without_any_mask_is_a_warning_of_the_check(tmp_path: Path) -> None:
    for n in range(2):
        make_image(tmp_path / f"leftImg8bit/train/ulm/ulm_00{n}_leftImg8bit.png", seed=n)
    (tmp_path / "gtFine").mkdir()
    [found] = [p for p in check_path(tmp_path, workers=0).problems if p.kind == "split without masks"]
    assert found.severity == "warning" and "--masks" in (found.fix or "")


@pytest.mark.parametrize(
    ("names", "said"),
    [(("cat ", "Cat", "dog"), True), (("traffic light", "traffic_light"), True), (("cat", "cats"), False)],
)
def test_names_that_differ_hardly_are_a_warning(tmp_path: Path, names: tuple[str, ...], said: bool) -> None:
    for n in range(4):
        make_image(tmp_path / f"{n}.png", size=(40, 60), seed=n)
        name = names[n % len(names)]
        shapes = [{"label": name, "points": [[5, 5], [40, 5], [40, 30]], "shape_type": "polygon"}]
        write(tmp_path / f"{n}.json", {"version": "5", "shapes": shapes, "imagePath": f"{n}.png", "imageData": None,
                                       "imageHeight": 40, "imageWidth": 60})  # fmt: skip
    assert any(p.kind == "class names alike" for p in check_path(tmp_path, workers=0).problems) is said


def test_lists_of_several_folders_that_contradict_are_refused(tmp_path: Path) -> None:
    """labelme_json_to_dataset numbers the classes of each image anew."""
    for n in range(3):
        make_image(tmp_path / f"i{n}_json/img.png", seed=n)
        mask(tmp_path / f"i{n}_json/label.png", [0, 1, 2])
        write(tmp_path / f"i{n}_json/label_names.txt", "_background_\n" + ("cat\ndog\n" if n else "dog\ncat\n"))
    with pytest.raises(LabelError, match="contradict each other"):
        open_dataset(tmp_path)
    write(tmp_path / "i0_json/label_names.txt", "_background_\ncat\ndog\n")
    assert open_dataset(tmp_path).label_space.names == ("_background_", "cat", "dog")


LISTS_OF_CLASSES = [
    ("label_map.pbtxt", "item {\n id: 1\n name: 'cat'\n}\nitem { id: 2 name: 'dog' }\n", ["background", "cat", "dog"]),
    ("class_list.json", '{"#000000": "ground", "#ff0000": "cat", "#0000ff": "dog"}', ["ground", "cat", "dog"]),
    ("colors.json", '{"ground": "#000000", "cat": "#ff0000", "dog": "#0000ff"}', ["ground", "cat", "dog"]),
    ("colors.txt", "0.0 0.0 0.0 ground\n1.0 0.0 0.0 cat\n0.0 0.0 1.0 dog\n", ["ground", "cat", "dog"]),
    ("classes.txt", "ground 0 0 0  # what is left\ncat 255 0 0 // or kitten\ndog 0 0 255\n", ["ground", "cat", "dog"]),
    ("labels.txt", "0: ground   # asphalt\n1: cat C#\n2: dog\n", ["ground", "cat C#", "dog"]),
    ("names.txt", "0. ground\n1. cat\n2) dog\n", ["ground", "cat", "dog"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "classes"), LISTS_OF_CLASSES)
def test_class_lists_of_other_tools(tmp_path: Path, name: str, text: str, classes: list[str]) -> None:
    for n in range(3):
        make_image(tmp_path / f"images/{n}.png", seed=n)
        if name in ("label_map.pbtxt", "labels.txt", "names.txt"):
            mask(tmp_path / f"masks/{n}.png", [0, 1, 2])
        else:
            colored(tmp_path / f"masks/{n}.png", [(0, 0, 0), (255, 0, 0), (0, 0, 255)])
    write(tmp_path / name, text)
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert labels is not None and [data.label_space.names[v] for v in labels[0, [0, 8, 15]]] == classes


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("images/a.heic", "x", "HEIC"),
        ("set.part1.rar", "x", "unpack"),
        ("X_train.npy", "x", "a file of its own"),
        ("annos/1.json", '{"item1": {"category_name": "skirt", "segmentation": [[1, 1, 9, 1, 9, 9]]}}', "DeepFashion2"),
        ("x.csv", 'annotation_id,image,label\n1,a.jpg,"[{""polygonlabels"":[""cat""]}]"\n', "Label Studio's CSV"),
        ("train.csv", "filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,1,9,9\n", "boxes"),
        ("a.xml", "<Annotations><Region Id='1'><Vertices><Vertex X='1'/></Vertices>", "ImageScope"),
        ("a.geojson", '{"type": "FeatureCollection", "features": []}', "rasterize"),
    ],
)  # fmt: skip
def test_more_formats_that_are_refused_by_name(tmp_path: Path, name: str, text: str, said: str) -> None:
    write(tmp_path / name, text)
    if name.endswith((".csv", ".xml", ".geojson")):
        make_image(tmp_path / "photos/a.jpg")
    with pytest.raises(FormatError) as caught:
        open_dataset(tmp_path)
    assert said in str(caught.value)


def test_coco_with_addresses_and_with_objects_by_id(tmp_path: Path) -> None:
    """LVIS names images by address alone; LIVECell's objects are an object."""
    images, objects = [], {}
    for n in range(3):
        make_image(tmp_path / f"train2017/00{n}.jpg", size=(40, 60), seed=n)
        images.append({"id": n, "coco_url": f"http://x.org/train2017/00{n}.jpg", "height": 40, "width": 60})
        objects[str(n)] = {"id": n, "image_id": n, "category_id": 1, "iscrowd": 0, "bbox": [5, 5, 30, 20], "area": 600,
                           "segmentation": [[5, 5, 35, 5, 35, 25, 5, 25]]}  # fmt: skip
    write(tmp_path / "lvis_train.json",
          {"images": images, "annotations": objects, "categories": [{"id": 1, "name": "bat"}]})  # fmt: skip
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert labels is not None and int(labels.sum()) == 600 and data.label_space.names == ("background", "bat")


@pytest.mark.parametrize("ending", ["", "_images"])
def test_sites_in_the_names_of_folders_keep_equal_file_names_apart(tmp_path: Path, ending: str) -> None:
    for site in ("siteA", "siteB"):
        for n in range(2):
            make_image(tmp_path / f"{site}{ending}/{n}.jpg", seed=n + ord(site[-1]))
            mask(tmp_path / f"{site}_masks/{n}.png", [0, 1])
    found = pairs(open_dataset(tmp_path))
    assert found == {
        f"{site}{ending}/{n}.jpg": f"{site}_masks/{n}.png" for site in ("siteA", "siteB") for n in range(2)
    }


def crossed(root: Path) -> dict[str, str]:
    """Images and masks whose names would pair otherwise than the list states."""
    for n in range(4):
        make_image(root / f"a/{n}.jpg", seed=n)
        mask(root / f"b/{n}.png", [0, 1, 2])
    return {f"a/{n}.jpg": f"b/{3 - n}.png" for n in range(4)}


PAIR_LISTS = [
    ("metadata.jsonl", lambda rows: "".join(json.dumps({"image": i, "mask": m}) + "\n" for i, m in rows)),
    ("data.json", lambda rows: json.dumps([{"file_name": i, "label_path": m, "width": 3} for i, m in rows])),
    ("dataset.json", lambda rows: json.dumps({"name": "x", "training": [{"image": i, "label": m} for i, m in rows]})),
]


@pytest.mark.parametrize(("name", "text"), PAIR_LISTS)
def test_pairs_listed_as_json(tmp_path: Path, name: str, text: Callable[[list[tuple[str, str]]], str]) -> None:
    """By content the names alone would pair, each with the mask of another image."""
    wanted = crossed(tmp_path)
    write(tmp_path / name, text(list(wanted.items())))
    data = open_dataset(tmp_path)
    assert data.format == "pairs" and pairs(data) == wanted


def test_a_class_list_in_a_code_page_is_refused_with_its_readings(tmp_path: Path) -> None:
    for n in range(3):
        make_image(tmp_path / f"images/{n}.png", seed=n)
        mask(tmp_path / f"masks/{n}.png", [0, 1])
    (tmp_path / "classes.txt").write_bytes("Boden\nStraße\n".encode("cp1252"))
    with pytest.raises(LabelError, match="Straße") as caught:
        open_dataset(tmp_path)
    assert "iconv" in str(caught.value.fix)


def test_a_list_from_1_on_and_masks_with_0_are_refused_with_both_readings(tmp_path: Path) -> None:
    for n in range(3):
        make_image(tmp_path / f"images/{n}.png", seed=n)
        mask(tmp_path / f"masks/{n}.png", [0, 1, 2])
    write(tmp_path / "classes.txt", "1. cat\n2. dog\n")
    with pytest.raises(LabelError, match="is 0 background, or not labeled") as caught:
        open_dataset(tmp_path)
    assert "'0 background'" in str(caught.value.fix) and "'0 ignore'" in str(caught.value.fix)
    for n in range(3):
        mask(tmp_path / f"masks/{n}.png", [0, 1])
    with pytest.raises(LabelError, match="or not labeled, or cat") as caught:  # counted from 1, but from 0 in the masks
        open_dataset(tmp_path)
    assert "one too high" in str(caught.value.fix)


def test_splits_that_the_names_of_all_files_begin_with(tmp_path: Path) -> None:
    """GlaS: train_1.bmp, testA_1.bmp."""
    for name in ("train_1", "train_2", "testA_1", "valid3"):
        make_image(tmp_path / f"{name}.jpg", seed=len(name))
        mask(tmp_path / f"{name}_anno.png", [0, 1])
    data = open_dataset(tmp_path)
    assert {split: [record.id for record in records] for split, records in data.given.items()} == {
        "train": ["train_1", "train_2"], "val": ["valid3"], "test": ["testA_1"]
    }  # fmt: skip
    make_image(tmp_path / "trainer_4.jpg", seed=4)
    mask(tmp_path / "trainer_4_anno.png", [0, 1])
    assert not open_dataset(tmp_path).given


def test_lists_of_voc_directly_in_imagesets(tmp_path: Path) -> None:
    """Aeroscapes: ImageSets/trn.txt and val.txt."""
    for n in range(4):
        make_image(tmp_path / f"JPEGImages/{n}.jpg", seed=n)
        mask(tmp_path / f"SegmentationClass/{n}.png", [0, 1, 2])
    write(tmp_path / "ImageSets/trn.txt", "0\n1\n2\n")
    write(tmp_path / "ImageSets/val.txt", "3\n")
    data = open_dataset(tmp_path)
    assert {split: len(records) for split, records in data.given.items()} == {"train": 3, "val": 1}


@pytest.mark.parametrize("folder", ["overlay", "predictions", "label_previews"])
def test_overlays_and_predictions_are_neither_images_nor_masks_and_are_named(tmp_path: Path, folder: str) -> None:
    for n in range(4):
        make_image(tmp_path / f"images/{n}.jpg", seed=n)
        mask(tmp_path / f"masks/{n}.png", [0, 1, 2])
        make_image(tmp_path / f"{folder}/{n}.png", seed=n + 9)
    data = open_dataset(tmp_path)
    assert (
        len(data) == 4
        and not data.problems
        and {r.mask_path.parent.name for r in data.records if r.mask_path} == {"masks"}
    )
    assert any(note.startswith(f"{folder}/* is not read") for note in data.notes)


def test_files_of_overlays_and_predictions_beside_masks(tmp_path: Path) -> None:
    for n in range(4):
        make_image(tmp_path / f"a/{n}_img.png", seed=n)
        mask(tmp_path / f"a/{n}_gt.png", [0, 1, 2])
        mask(tmp_path / f"a/{n}_pred.png", [1, 1, 2])
    data = open_dataset(tmp_path)
    assert [(r.id, r.mask_path and r.mask_path.name) for r in data.records] == [
        (f"{n}_img", f"{n}_gt.png") for n in range(4)
    ]
    assert not data.problems and any("0_pred.png (and 3 more) is not read" in note for note in data.notes)


def test_a_folder_of_predictions_without_other_masks_is_still_read(tmp_path: Path) -> None:
    for n in range(4):
        make_image(tmp_path / f"images/{n}.jpg", seed=n)
        mask(tmp_path / f"predictions/{n}.png", [0, 1, 2])
    assert [p.kind for p in open_dataset(tmp_path).problems] == ["masks guessed"]


def test_metadata_of_hugging_faces_imagefolder(tmp_path: Path) -> None:
    for n in range(4):
        split = "train" if n < 3 else "test"
        make_image(tmp_path / f"data/{split}/photo{n}.png", seed=n)
        mask(tmp_path / f"data/{split}/k{9 - n}.png", [0, n % 2 + 1])
    line = '{{"file_name": "photo{}.png", "mask_file_name": "k{}.png"}}\n'
    write(tmp_path / "data/train/metadata.jsonl", "".join(line.format(n, 9 - n) for n in range(3)))
    write(tmp_path / "data/test/metadata.jsonl", line.format(3, 6))
    data = open_dataset(tmp_path)
    assert {split: [r.mask_path and r.mask_path.stem for r in records] for split, records in data.given.items()} == {
        "train": ["k9", "k8", "k7"], "test": ["k6"]
    }  # fmt: skip


def test_a_matlab_file_of_objects_is_no_label_map(tmp_path: Path) -> None:
    """PASCAL's Person Part: anno.objects[0].mask is one object's outline, and not the image's classes."""
    for n in range(3):
        make_image(tmp_path / f"images/{n}.png", seed=n)
        (tmp_path / "masks").mkdir(exist_ok=True)
        person = {"class": "person", "mask": np.eye(12, 16, dtype=np.uint8), "parts": []}
        savemat(tmp_path / f"masks/{n}.mat", {"anno": {"imname": str(n), "objects": person}})
    with pytest.raises(LabelError, match="list of objects with a mask each"):
        open_dataset(tmp_path)


def test_lists_named_train_list_are_the_splits(tmp_path: Path) -> None:
    wanted = list(crossed(tmp_path).items())
    for split, rows in (("train", wanted[:3]), ("val", wanted[3:])):
        write(tmp_path / f"{split}_list.txt", "".join(f"{i} {m}\n" for i, m in rows))
    assert {split: len(part) for split, part in open_dataset(tmp_path).splits.items()} == {"train": 3, "val": 1}


def test_lists_of_images_split_annotations_too(tmp_path: Path) -> None:
    for n in range(4):
        make_image(tmp_path / f"images/{n}.jpg", size=(40, 60), seed=n)
        write(tmp_path / f"labels/{n}.txt", "0 0.1 0.1 0.6 0.1 0.6 0.7\n")
    write(tmp_path / "data.yaml", "names: [cat]\n")
    write(tmp_path / "train.txt", "./images/0.jpg\n./images/2.jpg\n./images/3.jpg\n")
    write(tmp_path / "val.txt", "./images/1.jpg\n")
    data = open_dataset(tmp_path)
    assert data.format == "yolo" and [record.id for record in data.val.records] == ["1"]


def test_masks_in_a_folder_of_objects_are_a_warning(tmp_path: Path) -> None:
    for n in range(2):
        make_image(tmp_path / f"JPEGImages/{n}.jpg", seed=n)
        mask(tmp_path / f"SegmentationObject/{n}.png", [0, 1, 2])
    [found] = [problem for problem in open_dataset(tmp_path).problems if problem.kind == "masks guessed"]
    assert found.severity == "warning" and "SegmentationObject" in found.message


def test_images_stored_twice_count_once(tmp_path: Path) -> None:
    """CVC-ClinicDB: the same images as PNG and as TIFF, in two trees."""
    for kind in ("PNG", "TIF"):
        for n in range(4):
            make_image(tmp_path / f"{kind}/Original/{n}.png", size=(40, 40), seed=n)
            mask(tmp_path / f"{kind}/Ground Truth/{n}.png", [0, 255] if n else [0, 255, 0], size=(40, 40))
    data = open_dataset(tmp_path)
    assert {record.image_path.parent.parent.name for record in data.records if record.image_path} == {"PNG"}
    assert len(data.records) == 4 and any("TIF/Ground Truth/*" in note and "copy" in note for note in data.notes)
    make_image(tmp_path / "TIF/Original/1.png", size=(40, 40), seed=9)
    make_image(tmp_path / "TIF/Original/3.png", size=(40, 40), seed=8)
    make_image(tmp_path / "TIF/Original/0.png", size=(40, 40), seed=7)
    assert len(open_dataset(tmp_path).records) == 8, "other images under the same names"


@pytest.mark.parametrize("folders", [("", ""), ("img/", "gt/"), ("train/img/", "train/gt/")])
def test_cityscapes_files_in_any_folders(tmp_path: Path, folders: tuple[str, str]) -> None:
    for n in range(4):
        name = f"aachen_00000{n}_000019"
        make_image(tmp_path / f"{folders[0]}{name}_leftImg8bit.png", seed=n)
        mask(tmp_path / f"{folders[1]}{name}_gtFine_labelIds.png", [7, 8, 11, 26])
        mask(tmp_path / f"{folders[1]}{name}_gtFine_instanceIds.png", [7, 8, 11, 126])
    data = open_dataset(tmp_path)
    labels = data.all.read_mask(0)
    assert data.format == "cityscapes" and labels is not None
    assert [data.label_space.names[i] for i in np.unique(labels)] == ["road", "sidewalk", "building", "car"]
    assert list(data.given) == (["train"] if "train" in folders[0] else [])


def test_frames_of_a_fixed_camera_are_no_copies(tmp_path: Path) -> None:
    street = np.random.default_rng(0).integers(60, 200, (96, 128, 3), dtype=np.uint8)
    for day, place in (("day1", 8), ("day2", 40)):
        for n in range(4):
            frame = street.copy()
            frame[16 + n : 26 + n, place : place + 10] = 230  # what moves
            write_image(tmp_path / f"{day}/images/{n:03d}.png", frame)
            mask(tmp_path / f"{day}/masks/{n:03d}.png", [0, 1], size=(96, 128))
    data = open_dataset(tmp_path)
    assert len(data) == 8 and not any("copy" in note for note in data.notes)


def test_test_masks_by_cityscapes_names_are_read_where_they_show_classes(tmp_path: Path) -> None:
    for split, values in (("train", [7, 8]), ("test", [7, 26])):
        for n in range(3):
            make_image(tmp_path / split / f"img/{split}{n}_leftImg8bit.png", seed=n)
            mask(tmp_path / split / f"gt/{split}{n}_gtFine_labelIds.png", values)
    data = open_dataset(tmp_path)
    assert data.format == "cityscapes" and all(record.labeled for record in data.given["test"])
    for n in range(3):
        mask(tmp_path / f"test/gt/test{n}_gtFine_labelIds.png", [0, 3])
    data = open_dataset(tmp_path)
    assert not any(record.labeled for record in data.given["test"]) and any("dummies" in note for note in data.notes)
    mask(tmp_path / "old/train0_gtFine_labelIds.png", [7, 23])
    with pytest.raises(FormatError, match="two masks of one name"):
        open_dataset(tmp_path)
    mask(tmp_path / "old/train0_gtFine_labelIds.png", [7, 8])
    assert any("1 mask such as" in note and "copies" in note for note in open_dataset(tmp_path).notes)


def test_copies_of_images_that_are_links_to_nothing(tmp_path: Path) -> None:
    _numbered(tmp_path / "a", 4)
    _numbered(tmp_path / "b", 4)
    for i in range(4):
        (tmp_path / f"b/images/{i}.jpg").unlink()
        (tmp_path / f"b/images/{i}.jpg").symlink_to(tmp_path / "nothing.jpg")
    assert len(open_dataset(tmp_path)) == 8  # reading them names the links
    (tmp_path / "b/images/3 (1).jpg").symlink_to(tmp_path / "nothing.jpg")
    assert len(open_dataset(tmp_path)) == 9


def test_lists_of_voc_that_cannot_be_read_are_a_warning(tmp_path: Path) -> None:
    for i in range(4):
        make_image(tmp_path / f"JPEGImages/{i}.jpg", seed=i)
        mask(tmp_path / f"SegmentationClass/{i}.png", [0, 1])
    lists = tmp_path / "ImageSets/Segmentation"
    write(lists / "train.txt", "0\n1\n# 3\n")
    (lists / "val.txt").write_text("2\n", encoding="utf-16")
    (lists / "test.txt").symlink_to(tmp_path / "nothing.txt")
    data = open_dataset(tmp_path)
    assert {k: [r.id for r in v] for k, v in data.given.items()} == {"train": ["0", "1"], "val": ["2"]}
    assert [problem.kind for problem in data.problems if "test.txt" in problem.message] == ["list not read"]


def test_the_globs_of_a_refusal_name_the_images_first_and_pair(tmp_path: Path) -> None:
    for n in range(4):
        make_image(tmp_path / f"scene{n}_zz.png", size=(40, 40), seed=n)
        mask(tmp_path / f"scene{n}_aa.png", [0, 1], size=(40, 40))
    with pytest.raises(FormatError) as caught:
        open_dataset(tmp_path)
    assert "--images '*_zz.png' --masks '*_aa.png'" in str(caught.value.fix)


def test_smaller_copies_of_the_images_are_left_out(tmp_path: Path) -> None:
    """images_256 beside images: split at random, a copy of a training image would be validated on."""
    rng = np.random.default_rng(0)
    for n in range(4):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        for folder, side in (("images", 8), ("images_256", 4)):
            path = tmp_path / f"{folder}/{n}.png"
            write_image(path, coarse.repeat(side, 0).repeat(side, 1))
            mask(tmp_path / folder.replace("images", "masks") / f"{n}.png", [0, 1], size=(6 * side, 8 * side))
    data = open_dataset(tmp_path)
    assert {record.image_path.parent.name for record in data.records if record.image_path} == {"images"}
    assert any("masks_256/*" in note and "copy of the images in images" in note for note in data.notes)


def test_predictions_as_masks_and_one_mask_for_all_images_are_warnings(tmp_path: Path) -> None:
    for n in range(6):
        make_image(tmp_path / f"a/images/{n}.png", seed=n)
        mask(tmp_path / f"a/output/{n}_pred.png", [0, 1, n % 2])
        make_image(tmp_path / f"b/images/{n}.png", seed=n)
        mask(tmp_path / f"b/masks/{n}.png", [0, 1])
    [found] = open_dataset(tmp_path / "a").problems
    assert found.kind == "masks guessed" and "predictions" in found.message
    assert "equal masks" in {problem.kind for problem in check_path(tmp_path / "b", workers=0).problems}
    mask(tmp_path / "b/masks/0.png", [1, 0])
    assert "equal masks" not in {problem.kind for problem in check_path(tmp_path / "b", workers=0).problems}


def test_rows_that_a_list_of_pairs_repeats_count_once(tmp_path: Path) -> None:
    for n in range(3):
        make_image(tmp_path / f"a/{n}.png", seed=n)
        mask(tmp_path / f"b/m{n}.png", [0, 1])
    write(tmp_path / "pairs.csv", "image,mask\n" + "".join(f"a/{n}.png,b/m{n}.png\n" * 2 for n in range(3)))
    data = open_dataset(tmp_path)
    assert len(data.records) == 3 and any("3 rows" in note for note in data.notes)


def test_cases_of_several_images_and_a_mask_are_no_classification(tmp_path: Path) -> None:
    for n in range(3):
        for kind in ("flair", "t1", "t2"):
            make_image(tmp_path / f"case{n}/case{n}_{kind}.png", seed=n)
        mask(tmp_path / f"case{n}/case{n}_seg.png", [0, 1])
    with pytest.raises(FormatError) as caught:
        open_dataset(tmp_path)
    assert "classification" not in str(caught.value)


def _numbered(root: Path, count: int = 6) -> None:
    for i in range(count):
        make_image(root / f"images/{i}.jpg", seed=i)
        mask(root / f"masks/{i}.png", [0, 1])


def test_coordinates_are_no_pairs(tmp_path: Path) -> None:
    _numbered(tmp_path)
    write(tmp_path / "points.csv", "x,y\n1,2\n3,0\n5,4\n")
    data = open_dataset(tmp_path)
    assert data.format == "folder" and len(data) == 6 and not data.problems


def test_ids_that_give_images_the_masks_of_others_are_a_warning(tmp_path: Path) -> None:
    _numbered(tmp_path, 4)
    write(tmp_path / "rank.csv", "image,target\n1,2\n2,0\n0,1\n3,3\n")
    data = open_dataset(tmp_path)
    [found] = data.problems
    assert data.format == "pairs" and found.kind == "masks guessed" and "1.jpg with 2.png" in found.message
    assert len(found.files) == 3
    write(tmp_path / "rank.csv", "image,target\nimages/1.jpg,masks/2.png\nimages/2.jpg,masks/1.png\n")
    assert {problem.kind for problem in open_dataset(tmp_path).problems} == {"images not listed"}  # stated, no guess


def test_long_comments_and_links_to_nothing_hide_no_list_of_pairs(tmp_path: Path) -> None:
    for i in range(3):
        make_image(tmp_path / f"a/{i}.jpg", seed=i)
        mask(tmp_path / f"b/m{9 - i}.png", [0, 1])
    rows = "".join(f"a/{i}.jpg,b/m{9 - i}.png\n" for i in range(3))
    write(tmp_path / "pairs.csv", f"# {'word' * 100}\n# {'word' * 100}.png, {'0' * 300}.jpg\nimage,mask\n{rows}")
    (tmp_path / "a.json").symlink_to(tmp_path / "nothing.json")
    data = open_dataset(tmp_path)
    assert data.format == "pairs" and len(data) == 3 and not data.problems
