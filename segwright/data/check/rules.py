"""The table of everything the check can report: kind, severities, the function that finds it, and what it means.

`docs/check.md`, the JSON (``rule`` and ``docs`` of each problem) and the HTML page are made from this table:

    python -m segwright.data.check.rules docs/check.md     # writes the table into the page
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from segwright.data.check import file_rules, image_rules, label_rules, split_rules
from segwright.data.check.evidence import Evidence
from segwright.data.records import Problem, Severity

Check = Callable[[Evidence], list[Problem]]

PAGE = "docs/check.md"
BEGIN, END = "<!-- rules: begin -->\n", "<!-- rules: end -->\n"


@dataclass(frozen=True)
class Rule:
    """One kind of finding."""

    kind: str  # as ``Problem.kind`` and the JSON have it
    severities: tuple[Severity, ...]
    check: Check  # the function of the check that reports it
    about: str  # one line for the docs
    safe_to_open: bool = True  # False: its files crashed a decoder or are no images, and are not opened again

    @property
    def id(self) -> str:
        """The kind as an anchor: ``image-without-mask``."""
        return re.sub(r"[^a-z0-9]+", "-", self.kind.lower()).strip("-")

    @property
    def docs(self) -> str:
        """Page and anchor of the explanation."""
        return f"{PAGE}#{self.id}"


_E: tuple[Severity, ...] = ("error",)
_W: tuple[Severity, ...] = ("warning",)
_N: tuple[Severity, ...] = ("note",)
_EW: tuple[Severity, ...] = ("error", "warning")
_WN: tuple[Severity, ...] = ("warning", "note")

_opening, _pairing, _errors = file_rules.opening, file_rules.pairing, file_rules.file_errors

RULES: tuple[Rule, ...] = (
    # opening and pairing
    Rule("cannot be opened", _E, _opening, "no format fits, or the values of the masks cannot be classes"),
    Rule("image without mask", _EW, _pairing, "names do not pair; a split without any mask is only a note"),
    Rule("mask without image", _EW, _pairing, "names do not pair"),
    Rule(
        "split without masks",
        _WN,
        _pairing,
        "a whole split has no mask, as public test sets: it can be predicted; a warning where no image has one",
    ),
    Rule("path leaves the folder", _E, _opening, "an entry of a label folder names a file outside of it"),
    Rule("image missing", _E, _opening, "an annotation or a list names an image that is not there"),
    Rule("mask missing", _E, _opening, "an annotation or a list names a mask that is not there"),
    Rule("segment PNG missing", _E, _opening, "a panoptic JSON names a PNG that is not there"),
    Rule("image ambiguous", _E, _opening, "several image files fit one name of an annotation"),
    Rule("mask ambiguous", _E, _opening, "several mask files fit one name of an annotation"),
    Rule("segment PNG ambiguous", _E, _opening, "several PNGs fit one name of a panoptic JSON"),
    Rule("several split lists", _W, _opening, "several lists state different splits: those used are named"),
    Rule("listed but missing", _W, _opening, "a split list names images that are not there"),
    Rule("ambiguous in a list", _W, _opening, "an entry of a split list fits several images"),
    Rule("list not read", _W, _opening, "a split list fits no image, or cannot be read"),
    Rule("unreadable list", _W, _opening, "a list of files cannot be read"),
    Rule("file claimed twice", _E, _opening, "two entries of the annotations name one image file"),
    Rule(
        "file found by a looser match",
        _WN,
        _opening,
        "a file is not at its stated path; it was the only one that fits",
    ),
    Rule("matched by name alone", _N, _opening, "images and masks in different folders were paired by their names"),
    Rule("names collide", _EW, _opening, "several images or masks fit one name, so that the pairing is in doubt"),
    Rule("masks guessed", _W, _opening, "which files are the masks, or what a mask holds, was concluded"),
    Rule("special file", _W, _opening, "pipes, sockets or devices, which are not read"),
    Rule("link inside the dataset", _N, _opening, "a link to a folder of the dataset itself is passed over"),
    Rule("run folder", _N, _opening, "a folder of a training run or a saved model is passed over"),
    Rule("folder too deep", _W, _opening, "folders below the deepest level that is read"),
    Rule(
        "images not listed",
        _N,
        _opening,
        "images in the folder that the annotations, or the list of pairs, do not name",
    ),
    Rule("marked as deleted", _N, _opening, "COCO Annotator: objects and images that it keeps as deleted"),
    Rule("images without label file", _WN, _opening, "YOLO: images without a text file of labels"),
    Rule("several masks per image", _W, _opening, "Label Studio: masks of several annotators for one image"),
    Rule("unreadable annotation", _E, _opening, "an annotation file that cannot be parsed"),
    # classes and objects, as the files list them
    Rule(
        "class list not read",
        _WN,
        _opening,
        "a class list that does not fit the masks, or is not the one in use",
    ),
    Rule("class not listed", _W, _opening, "objects of classes that the class list lacks"),
    Rule("classes guessed", _WN, _opening, "no class list: classes were concluded from the values of the masks"),
    Rule("palettes differ", _W, _opening, "masks with different palettes: colors, not indices, are compared"),
    Rule("no objects", _W, _opening, "annotations without any object"),
    Rule(
        "points beside outlines",
        _W,
        _opening,
        "points or lines in a dataset of outlines: complete images or partial labels (`docs/sparse-labels.md`)",
    ),
    Rule(
        "boxes only", _WN, _opening, "annotations with boxes but no outlines; a note where they are read by their cores"
    ),
    Rule("crowds ignored", _W, _opening, "COCO crowd regions are ignored pixels"),
    Rule("outlines in doubt", _W, _opening, "COCO outlines that lie elsewhere than their boxes, or may be in percent"),
    Rule(
        "objects without pixels",
        _E,
        label_rules.objects,
        "objects are annotated, and their whole class covers no pixel",
    ),
    Rule(
        "objects lost",
        _EW,
        label_rules.objects,
        "annotated objects that cover no pixel, or that opening left out; per class",
    ),
    # files
    Rule("truncated file", _E, _errors, "image data is missing: a cut JPEG, PNG or TIFF", safe_to_open=False),
    Rule("empty file", _E, _errors, "0 bytes", safe_to_open=False),
    Rule(
        "unreadable file",
        _E,
        _errors,
        "damaged, cannot be opened, or of a kind that is not read",
        safe_to_open=False,
    ),
    Rule(
        "bomb-sized file",
        _E,
        _errors,
        "the header claims more than 178 million pixels; nothing is allocated",
        safe_to_open=False,
    ),
    Rule(
        "disguised file",
        _EW,
        file_rules.file_contents,
        "content and name disagree; a warning if it is an image all the same (a GIF named .png)",
        safe_to_open=False,
    ),
    Rule("kills the decoder", _E, _errors, "the process that read the file crashed or hung", safe_to_open=False),
    Rule("damaged file", _W, file_rules.file_contents, "it was read, but the decoder printed warnings"),
    Rule("size differs", _E, _errors, "image and mask differ in size"),
    Rule(
        "different ground",
        _E,
        _errors,
        "GeoTIFFs: image and mask differ in coordinate system, place or pixel size",
    ),
    Rule("wrong mask", _E, _errors, "color-coded among index masks, and the like"),
    Rule(
        "EXIF orientation",
        _EW,
        file_rules.orientation,
        "the image is turned by its EXIF tag and the mask is not; an error if the sizes prove it",
    ),
    Rule(
        "colliding names",
        _EW,
        file_rules.names,
        "two names differ only in letter case or ending; an error if that leaves the pairing in doubt",
    ),
    Rule("odd names", _N, file_rules.names, "names that other systems lose"),
    # mask values
    Rule(
        "values outside the classes",
        _E,
        file_rules.unmapped_values,
        "which values, what share of the pixels, in which rows and columns",
    ),
    Rule(
        "anti-aliased masks",
        _EW,
        file_rules.unmapped_values,
        "in-between values along the borders; a warning for two-class masks, which are cut at the middle",
    ),
    Rule(
        "JPEG masks",
        _EW,
        image_rules.mask_encodings,
        "JPEG blurs the borders of classes; a warning for two-class masks",
    ),
    Rule("0/255 masks", _N, image_rules.mask_encodings, "read as background and foreground, nothing is ignored"),
    Rule(
        "mixed mask codings",
        _EW,
        image_rules.mask_encodings,
        "masks are stored in different ways; an error if indices would be read as colors",
    ),
    Rule("gray saved as RGB", _WN, image_rules.image_contents, "gray masks or images with three equal channels"),
    Rule(
        "values of single masks",
        _W,
        label_rules.rare_values,
        "most values are in one mask each: numbers of objects, rather than classes",
    ),
    Rule(
        "stray value",
        _W,
        label_rules.rare_values,
        "no class list names the values, and hardly any mask holds this one (16 pixels in all, or"
        " less than 5 % of one mask of five or more)",
    ),
    Rule(
        "hardly any pixels",
        _W,
        label_rules.rare_values,
        "a class of the list with 16 pixels or less in all masks",
    ),
    Rule(
        "partial labels",
        _N,
        label_rules.partial_labels,
        "points, strokes or regions, the rest ignored: the share of labeled pixels per image, and which findings do "
        "not apply (`docs/sparse-labels.md`)",
    ),
    Rule(
        "ignored by a guess",
        _WN,
        label_rules.ignored_by_guess,
        "no class list names a value, usually 255; it is taken for 'ignore', with its share",
    ),
    Rule("equal masks", _W, label_rules.equal_masks, "one mask of several classes for all of six or more images"),
    Rule(
        "contradicting masks",
        _EW,
        label_rules.contradictions,
        "an image file with several masks that differ; copies of an image with masks that differ."
        " An image under another's mask that has no copy cannot be detected",
    ),
    # images
    Rule("blank images", _W, image_rules.image_contents, "one color all over"),
    Rule("tiny images", _W, image_rules.image_contents, "smaller than 32 pixels per side"),
    Rule(
        "all ignored",
        _W,
        image_rules.image_contents,
        "masks that are ignored all over: nothing to learn or to score",
    ),
    Rule("kinds of images", _N, image_rules.image_contents, "alpha, CMYK, palettes, 16 bit, and how they are read"),
    Rule("mixed channels", _W, image_rules.image_contents, "images with different numbers of channels"),
    Rule(
        "mixed bit depth",
        _W,
        image_rules.bit_depths,
        "8-bit images among deeper ones, or the other way round: how many, which, and how each "
        "kind is brought to one scale",
    ),
    # classes and splits
    Rule(
        "one class only",
        _E,
        label_rules.learnable,
        "every labeled pixel (of train, if there is one) is of one class: no training starts, "
        "with `--skip-bad` neither",
    ),
    Rule(
        "everything ignored",
        _EW,
        label_rules.learnable,
        "every labeled pixel (of train, if there is one) is ignored: no training starts. A "
        "warning for a split that cannot be scored",
    ),
    Rule(
        "sides not exchanged",
        _N,
        label_rules.sides,
        "names of a left or a right that flips leave as they are: no class for the other side, or"
        " a name that may mean another thing (`docs/training.md`)",
    ),
    Rule(
        "class names alike",
        _W,
        label_rules.names_alike,
        "names of classes that differ in case, spaces or a number alone",
    ),
    Rule("class without pixels", _W, split_rules.classes, "a class that never occurs"),
    Rule("class in one split only", _W, split_rules.classes, "a class that cannot be learned, or is never scored"),
    Rule(
        "label shift",
        _W,
        split_rules.label_shift,
        "more than 15 % of the labels would have to move for train and the other split to agree",
    ),
    Rule(
        "shared between splits",
        _E,
        split_rules.shared_files,
        "the same image in train and val, under one name or two",
    ),
    Rule(
        "near-duplicates between splits",
        _W,
        split_rules.duplicates,
        "a copy in another size or quality, or frames of one scene",
    ),
    Rule("duplicates", _N, split_rules.duplicates, "equal images within a split"),
    Rule(
        "suspicious masks",
        _N,
        split_rules.label_outliers,
        "regions that look like another class, the most doubtful first",
    ),
)

BY_KIND = {rule.kind: rule for rule in RULES}


def docs_table(rules: tuple[Rule, ...] = RULES) -> str:
    """The Markdown table of the rules, in their order."""
    lines = ["| finding | severity | what it means |", "|---|---|---|"]
    for rule in rules:
        lines.append(f'| <a id="{rule.id}"></a>`{rule.kind}` | {", ".join(rule.severities)} | {rule.about} |')
    return "\n".join(lines) + "\n"


def with_table(page: str) -> str:
    """The Markdown of a page with the table written between its two marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{docs_table()}{END}{after}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(with_table(path.read_text(encoding="utf-8")), encoding="utf-8")
