"""The role and the split in a folder's name: ``images``, ``trainannot``, ``labelsTr``, ``val/masks``."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

from segwright.data.formats.name_parts import SPLIT_NAMES, split_of_part

Role = Literal["image", "mask"]

SPLIT = r"train(?:ing)?|val(?:id(?:ation)?)?|test(?:ing)?|dev"
_MASK = (
    r"(?:image|img|gt|label|seg|segmentation|png|binary)?masks?|msks?|labels?|lbls?|annot(?:ation)?s?|annos?|anns?|gts?|groundtruths?|"
    r"truths?|seg(?:mentation)?s?|segmentationclass(?:png|raw)?|targets?|label(?:train)?ids|labelmaps?|manual|stmanual|"
    r"mattes?|outputs?|y"
)
_IMAGE = (
    r"images?|imgs?|rgb|inputs?|pictures?|photos?|pics?|frames?|originals?|orig|raws?|jpe?gimages|scans?|sources?|src|x"
)
_COMPONENT = re.compile(rf"^({SPLIT})?(?:({_MASK})|({_IMAGE}))?(?:dir|png|folder|data|set)?({SPLIT}|tr|ts)?$")
# Words that tell a role within a longer folder name. A mask's word counts for more: label_images, gt_image_2.
_MASK_WORDS = frozenset(
    re.split(
        r"\W+",
        "mask masks msk msks label labels lbl lbls gt gts gtfine gtcoarse annotation annotations annot annots anno "
        "annos ann annotated groundtruth groundtruths truth truths seg segs segmentation segmentations segmented "
        "segmap segmaps semantic semantics target targets labelmap labelmaps labelids trainids matte mattes manual "
        "instance instances panoptic segmentationclass segmentationobject",
    )
)
_IMAGE_WORDS = frozenset(
    re.split(
        r"\W+",
        "image images img imgs camera cameras rgb input inputs picture pictures photo photos pic pics frame frames "
        "original originals orig raw raws scan scans source sources src jpegimages jpgs ortho orthos top sat "
        "satellite stills",
    )
)
# Folders that hold something else than classes, where another folder of masks lies beside them
OTHER_KINDS = frozenset({"instance", "instances", "inst", "panoptic", "object", "objects", "segmentationobject",
                          "parts", "edge", "edges", "boundary", "boundaries", "depth"})  # fmt: skip
# Folders of measurements beside the images: neither images nor masks where another folder holds images
_MEASUREMENTS = frozenset({"depth", "depths", "disparity", "disparities", "normals", "confidence",
                           "thermal", "nir", "infrared", "lidar", "elevation", "elevations", "dsm", "dsms", "ndsm",
                           "dem", "dtm", "heights", "heightmap", "heightmaps"})  # fmt: skip
# Folders of what was drawn from masks or by a model: neither images nor masks where other folders hold both
_RENDERED = frozenset({"overlay", "overlays", "overlaid", "visualization", "visualizations", "visualisation",
                       "visualisations", "viz", "blend", "blended", "preview", "previews", "thumbnail",
                       "thumbnails", "thumbs", "prediction", "predictions", "predicted", "preds", "pred"})  # fmt: skip
_RENDERED_ENDING = re.compile(rf"(?i)(.+?)[_\-. ](?:{'|'.join(sorted({*_RENDERED, 'vis'}))})")
_WORDS_IN_NAMES = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def describe_folder(relative: str, *, loose: bool = False) -> tuple[Role | None, str | None, str]:
    """(role, split, free parts) of a folder by its path under the root; ``loose`` also reads words within names."""
    role: Role | None = None
    split: str | None = None
    free = []
    for part in relative.split("/") if relative else ():
        match = _COMPONENT.match(re.sub(r"[^a-z]", "", part.lower()))
        if match is None or not any(match.groups()):
            found = _role_of_words(part) if loose else None
            if found is None:
                free.append(part)
            else:
                role, split = found, split_of_part(part) or split
            continue
        before, mask, image, after = match.groups()
        if image and role == "mask" and any(letter.isdecimal() for letter in part):
            free.append(part)  # masks/img_012/: an image's name, and no folder of images
            continue
        role = "mask" if mask else "image" if image else role
        word = before or after
        split = SPLIT_NAMES[word] if word else split
    return role, split, "/".join(free)


def _role_of_words(part: str) -> Role | None:
    found = {word.lower() for word in _WORDS_IN_NAMES.findall(part)}
    whole = re.sub(r"[^a-z]", "", part.lower())
    if found & _MASK_WORDS or whole in _MASK_WORDS:
        return "mask"
    return "image" if found & _IMAGE_WORDS or whole in _IMAGE_WORDS else None


def words_of(part: str) -> list[str]:
    """The words of a name, ``labelsTr`` as labels and Tr, and the name itself."""
    return [*_WORDS_IN_NAMES.findall(part), part]


@lru_cache(maxsize=4096)
def site_of(folder: str, role: Role | None) -> str:
    """What of a folder's path is neither its role nor a split: equal for ``berlin_images`` and ``berlin_labels``.

    A folder of images keeps the words for masks: ``scene/instance`` is no site of ``scene/label``.
    """
    roles = _IMAGE_WORDS | _MASK_WORDS if role == "mask" else _IMAGE_WORDS
    found = []
    for part in folder.split("/"):
        words = [word.lower() for word in _SITE_WORDS.findall(part)]
        kept = [word for word in words if word not in roles and word not in SPLIT_NAMES]
        found += [" ".join(kept)] if kept else []
    return "/".join(found)


_SITE_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+")


def is_measurement(folder: str) -> bool:
    """Whether a folder holds depth, surface normals and the like, by its name."""
    return bool({word.lower() for part in folder.split("/") for word in words_of(part)} & _MEASUREMENTS)


def is_rendering(folder: str) -> bool:
    """Whether a folder holds overlays, previews or predictions, by the name of the folder itself."""
    return bool({word.lower() for word in words_of(folder.rpartition("/")[2])} & _RENDERED)


def rendered_from(stem: str) -> str | None:
    """What a file's name is without the ending of an overlay or prediction: ``label`` of ``label_viz``; else None."""
    match = _RENDERED_ENDING.fullmatch(stem)
    return None if match is None else match[1]
