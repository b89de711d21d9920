"""Formats that are not read: each is recognized by its own signs, and the error names what to export instead.

Used if no format was detected. A refusal names what was found, where, and the way to masks that are read.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from segwright.core.counted import counted
from segwright.core.errors import FormatError
from segwright.data.annotations.sparse import box_choices
from segwright.data.formats.file_tree import Tree, is_image, read_ends
from segwright.data.formats.name_matching import describe_folder, looks_like_labels
from segwright.data.formats.name_parts import split_of
from segwright.data.formats.stem_keys import MASK_ENDING

PLAIN = "images/x.png and masks/x.png, or one of the formats in docs/datasets.md"
LOOKED_AT = 12  # text files whose content is looked at


@dataclass(frozen=True)
class _Endings:
    """A kind of file, recognized by its name."""

    what: str
    pattern: str
    fix: str


_BY_NAME = (
    _Endings(
        "NIfTI, MetaImage or NRRD volumes", r".*\.(?:nii|nii\.gz|mha|mhd|nrrd|img\.gz)",
        "save the slices as PNG or TIFF, images and masks under equal names: images/x_010.png and masks/x_010.png",
    ),
    _Endings(
        "DICOM files", r"(?:.*\.(?:dcm|dicom|ima)|DICOMDIR)",
        "save the images as PNG or TIFF (16 bits are kept), and the segmentations as masks of the same names",
    ),
    _Endings(
        "TFRecord files", r".*(?:\.tfrecords?(?:\.gz)?|\.record|tfrecord-\d+-of-\d+)",
        "write the records out as images/x.png and masks/x.png",
    ),
    _Endings(
        "Arrow tables as Hugging Face's save_to_disk writes them", r".*\.(?:arrow|feather)",
        "write Parquet: datasets.load_from_disk(path)['train'].to_parquet('train.parquet')",
    ),
    _Endings("an LMDB database", r"data\.mdb", "write its entries out as images/x.png and masks/x.png"),
    _Endings(
        "HDF5 or Zarr arrays", r".*\.(?:h5|hdf5?|he5|zarr|zgroup)",
        "write the arrays out as images/x.png (or TIFF) and masks/x.png",
    ),
    _Endings(
        "arrays of NumPy or MATLAB", r".*\.(?:np[yz]|mat)",
        "write each image and each mask to a file of its own: images/x.png and masks/x.png (masks may be .npy or .mat)",
    ),
    _Endings(
        "pickled or PyTorch tensors", r".*\.(?:pkl|pickle|pt|pth)",
        "pickles can run any code and are not opened: write them out as images/x.png and masks/x.png",
    ),
    _Endings(
        "point clouds or meshes", r".*\.(?:pcd|las|laz|ply|e57)",
        "segmentation here is of images: project the points, or use a tool for point clouds",
    ),
    _Endings(
        "camera raw or layered files", r".*\.(?:cr2|cr3|nef|arw|dng|psd|xcf|svg)",
        "export the images as PNG, TIFF or JPEG and the masks as PNG",
    ),
    _Endings(
        "images as HEIC, AVIF, JPEG XL or JPEG 2000", r".*\.(?:heic|heif|avif|jxl|jp2|j2k|jpx)",
        "convert them to PNG or JPEG under the same names: magick mogrify -format png *.heic",
    ),
    _Endings(
        "images of a kind (TGA, RAS, SGI, PCX, EXR, FITS, ICO)", r".*\.(?:tga|ras|sun|sgi|pcx|exr|fits?|ico|hdr)",
        "convert them to PNG under the same names: magick mogrify -format png *.tga",
    ),
    _Endings(
        "an archive of RAR or 7-Zip", r".*\.(?:rar|7z|zip\.\d+|7z\.\d+|tgz\.\d+)",
        "unpack it first, and name the folder",
    ),
    _Endings(
        "compressed images", r".*\.(?:ppm|pgm|png|tiff?|bmp)\.(?:gz|bz2|xz|z)",
        "unpack them in place: gunzip -r DATA",
    ),
    _Endings(
        "videos", r".*\.(?:mp4|avi|mov|mkv|webm|m4v|mpe?g|wmv)",
        "extract the frames (ffmpeg -i x.mp4 frames/%06d.png) and label them: frames/000001.png and masks/000001.png",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class _Text:
    """An annotation file, recognized by words in it."""

    what: str
    endings: tuple[str, ...]
    words: tuple[str, ...]  # regular expressions, all of which must be found
    fix: str


_BY_TEXT = (
    _Text(
        "a Labelbox export", (".ndjson", ".json", ".jsonl"), (r'"data_row"', r'"projects"'),
        "the masks are at the export's addresses: download each object's mask as PNG (masks/<image>/<class>_1.png), or "
        "convert it with Labelbox's SDK to COCO with segmentations",
    ),
    _Text(
        "a Labelbox export (first version)", (".json", ".csv"), (r"Labeled Data", r"External ID"),
        "export again as NDJSON, download the masks as PNG, or convert it to COCO with segmentations",
    ),
    _Text(
        "tasks of Scale AI", (".json", ".jsonl"), (r'"task_id"', r'"(?:response|attachment|callback_url)"'),
        "download the masks of the response (annotations.combined.image) as masks/x.png beside images/x.png",
    ),
    _Text(
        "a dataset of Segments.ai", (".json",),
        (r'"task_type"\s*:\s*"(?:segmentation|vector|bboxes|image)', r'"samples"'),
        "export it with the SDK: export_dataset(dataset, export_format='semantic') writes masks, 'coco-panoptic' COCO",
    ),
    _Text(
        "a Datumaro dataset", (".json",), (r'"items"\s*:', r'"categories"\s*:\s*\{', r'"(?:label|mask|points)"\s*:'),
        "convert it: datum convert -i . -f coco_instances (or voc_segmentation) -o out -- --save-media",
    ),
    _Text(
        "a set of DeepFashion2's annotations", (".json",),
        (r'"item1"\s*:', r'"category_name"\s*:', r'"segmentation"\s*:'),
        "convert them to COCO with the set's own script (deepfashion2_to_coco.py), and open the JSON beside the images",
    ),
    _Text(
        "Label Studio's CSV", (".csv", ".tsv"), (r"\bannotat(?:ion_id|or)\b", r'""(?:polygonlabels|brushlabels|rle)""'),
        "export the project as JSON or JSON-MIN, beside the images",
    ),
    _Text(
        "a FiftyOne dataset", (".json",),
        (r'"(?:sample_fields|samples)"\s*:', r'"(?:_cls|filepath|media_type|_media_type)"'),
        "export it: dataset.export(dir, dataset_type=fo.types.ImageSegmentationDirectory), or COCODetectionDataset",
    ),
    _Text(
        "a project of VGG Image Annotator 3", (".json",),
        (r'"project"\s*:', r'"config"\s*:', r'"metadata"\s*:', r'"(?:vid|view)"'),
        "export the annotations as COCO, or draw them in version 2",
    ),
    _Text(
        "annotations of SuperAnnotate", (".json",), (r'"instances"\s*:', r'"metadata"\s*:', r'"className"|"classId"'),
        "export it as COCO (sa.convert or its SDK: export_annotation to COCO, panoptic or instance segmentation)",
    ),
    _Text(
        "annotations of Kili", (".json",), (r'"jsonResponse"',),
        "export the project as COCO with segmentations",
    ),
    _Text(
        "annotations of Encord", (".json",), (r'"label_hash"|"data_units"', r'"objects"'),
        "export the project as COCO with segmentations",
    ),
    _Text(
        "annotations of Create ML", (".json",), (r'"coordinates"\s*:\s*\{', r'"imagefilename"|"image"\s*:'),
        "these are boxes: outline the objects in an annotation tool and export polygons or masks",
    ),
    _Text(
        "regions of Aperio ImageScope", (".xml",), (r"<Annotations", r"<Region\b", r"<Vert(?:ex|ices)"),
        "draw the polygons into masks (QuPath imports them and exports label images): masks/x.png beside images/x.tif",
    ),
    _Text(
        "outlines as GeoJSON, in coordinates of the ground", (".geojson", ".json"),
        (r'"type"\s*:\s*"FeatureCollection"', r'"features"\s*:'),
        "draw them into masks of the images' size: rio rasterize masks/x.tif x.geojson --like images/x.tif",
    ),
    _Text(
        "a table of boxes, not masks", (".csv", ".tsv"), (r"(?i)\bx_?min\b", r"(?i)\by_?max\b"),
        "add the masks, or outline the objects; boxes as weak labels are read from COCO, YOLO and VOC (--boxes)",
    ),
    _Text(
        "a set of boxes, not masks: PASCAL VOC's XML for detection", (".xml",), (r"<annotation", r"<bndbox>"),
        f"add the masks; {box_choices()}",
    ),
    _Text(
        "keypoints or captions of COCO", (".json",),
        (r'"annotations"\s*:', r'"caption"\s*:|"keypoints"\s*:', r'"images"\s*:'),
        "use the JSON of instances, stuff or panoptic segmentation",
    ),
    _Text(
        "a manifest of SageMaker Ground Truth", (".manifest", ".json", ".jsonl"), (r'"source-ref"\s*:',),
        "only manifests of semantic segmentation hold masks; of others outline the objects first",
    ),
)  # fmt: skip


def hint(tree: Tree) -> FormatError | None:
    """The refusal for a recognized format that is not read; None for any other."""
    for look in (_by_text, _by_name, _label_studio_masks, _by_content):
        found = look(tree)
        if found is not None:
            return found
    return None


def _refusal(what: str, found: str, where: Path, fix: str) -> FormatError:
    return FormatError(f"this is {what}, which is not read", expected=PLAIN, found=found, where=where, fix=fix)


def _files(tree: Tree) -> Iterable[Path]:
    if tree.is_file:
        yield tree.root
        return
    for _, listing in tree.walk(depth=4):
        for name in [*listing.files, *[name for name in listing.dirs if name.endswith(".zarr")]]:
            yield Path(listing.path, name)


def _by_text(tree: Tree) -> FormatError | None:
    seen: Counter[str] = Counter()
    for path in _files(tree):
        ending = path.suffix.lower()
        if not any(ending in kind.endings for kind in _BY_TEXT):
            continue
        place = f"{path.parent}{ending}"
        seen[place] += 1
        if seen[place] > LOOKED_AT:
            continue
        text = read_ends(path)
        for kind in _BY_TEXT:
            if ending in kind.endings and all(re.search(word, text) for word in kind.words):
                return _refusal(kind.what, path.name, path, kind.fix)
    return None


def _by_name(tree: Tree) -> FormatError | None:
    names = [path.name for path in _files(tree)]
    for kind in _BY_NAME:
        pattern = re.compile(kind.pattern, re.I)
        found = [name for name in names if pattern.fullmatch(name)]
        images = sum(map(is_image, names))
        if found and len(found) >= 0.3 * images:
            return _refusal(kind.what, f"{counted(len(found), 'file')} such as {found[0]}", tree.root, kind.fix)
    return None


def _label_studio_masks(tree: Tree) -> FormatError | None:
    """Label Studio's masks as PNG or NPY name the task, and only its JSON names the task's image."""
    pattern = re.compile(r"task-(\d+)-annotation-\d+-by-\d+-tag-(.+)-\d+\.(?:png|npy)")
    found = [match for match in (pattern.fullmatch(path.name) for path in _files(tree)) if match]
    if not found:
        return None
    labels = ", ".join(dict.fromkeys(match[2] for match in found))
    return _refusal(
        "Label Studio's export of brushes as PNG or NPY without its JSON",
        f"{counted(len(found), 'mask')} of {len({m[1] for m in found})} tasks, labels {labels[:80]}",
        tree.root,
        "the names give the task and not its image: export the project as JSON as well, beside the images",
    )


_MAGIC: tuple[tuple[str, Callable[[bytes], bool], str], ...] = (
    ("DICOM files", lambda head: head[128:132] == b"DICM", _BY_NAME[1].fix),
    ("HDF5 arrays", lambda head: head.startswith(b"\x89HDF\r\n\x1a\n"), _BY_NAME[4].fix),
)


def _by_content(tree: Tree) -> FormatError | None:
    """Files without an ending, recognized by their first bytes."""
    for path in [path for path in _files(tree) if not path.suffix or path.suffix[1:].isdecimal()][:LOOKED_AT]:
        try:
            with open(path, "rb") as file:
                head = file.read(256)
        except OSError:
            continue
        for what, fits, fix in _MAGIC:
            if fits(head):
                return _refusal(what, f"files such as {path.name}", tree.root, fix)
    return None


def class_folders(tree: Tree) -> FormatError | None:
    """Images in folders whose names are no roles, as for image classification.

    Not where one folder could hold the masks of another: lossless files under equal names.
    """
    if tree.is_file:
        return None
    folders: Counter[str] = Counter()
    stems: set[str] = set()
    lossless = shared = False
    for relative, listing in tree.walk():
        names = [name for name in listing.files if is_image(name)]
        if not names:
            continue
        folder = os.path.basename(relative)
        role, _, free = describe_folder(relative)
        if not relative or role is not None or not free or split_of(folder) is not None:
            return None
        if any(MASK_ENDING.match(os.path.splitext(name)[0]) for name in names):
            return None  # case1/case1_seg.png beside several images of the case
        pngs = [name for name in names if not name.lower().endswith((".jpg", ".jpeg"))]
        if len(folders) < 2 and pngs and looks_like_labels(Path(listing.path, pngs[0])):
            return None
        if describe_folder(relative, loose=True)[0] == "mask":
            return None
        folders[folder] += len(names)
        own = {os.path.splitext(name)[0] for name in names}
        shared = shared or not own.isdisjoint(stems)
        stems |= own
        lossless = lossless or not all(name.lower().endswith((".jpg", ".jpeg")) for name in names)
    if len(folders) < 2 or (lossless and shared):
        return None
    named = ", ".join(f"{name}/ ({count})" for name, count in folders.most_common(4))
    return _refusal(
        "a dataset of images without masks, in folders as for image classification",
        f"{len(folders)} folders of images and no mask: {named}",
        tree.root,
        "outline the objects in an annotation tool and export polygons or masks; or put the masks beside the images",
    )
