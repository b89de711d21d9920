"""Which image and which annotation of a Label Studio task count: one rule for exports, predictions and the webhook.

The labeling configuration names the image: ``<Image name="seen" value="$photo"/>`` is the value under ``photo`` of the
task's data. Without it the task must name one image alone, whatever the order of its keys: databases change it.

Of several annotations the one marked as ground truth counts, else the newest; one that was cancelled never does.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree.ElementTree import Element, ParseError

from defusedxml.common import DefusedXmlException
from defusedxml.ElementTree import fromstring

from segwright.core.errors import LabelError
from segwright.data.formats.file_tree import is_image
from segwright.data.formats.name_parts import spellings

MAX_CONFIG = 1_000_000  # characters of a labeling configuration
CONFIG_FILES = ("config.xml", "label_config.xml", "labeling_config.xml")  # beside an export
COUNTS = "the ground truth, else the newest"  # of several annotations of a task, for notes


@dataclass(frozen=True)
class Interface:
    """The images of a labeling configuration: name of an <Image> → key of a task's data, and control → <Image>."""

    images: Mapping[str, str]
    controls: Mapping[str, str]

    @classmethod
    def of(cls, root: Element) -> Interface:
        """The images of a parsed configuration; those without a name are left out."""
        images = {
            element.get("name", ""): element.get("value", "")[1:]
            for element in root.iter()
            if element.tag.lower() == "image" and element.get("value", "").startswith("$") and element.get("name")
        }
        controls: dict[str, str] = {}
        for element in root.iter():
            for target in (element.get("toName") or "").split(","):
                if target.strip() in images:
                    controls.setdefault(element.get("name", ""), target.strip())
        return cls(images, controls)

    def annotated(self) -> dict[str, str]:
        """Name → key of the images that something is drawn on; all where nothing is."""
        targets = set(self.controls.values())
        return {name: key for name, key in self.images.items() if name in targets} or dict(self.images)

    def is_elsewhere(self, region: Mapping[str, Any], image: str) -> bool:
        """Whether a region is drawn on another of the images."""
        target = region.get("to_name") or self.controls.get(str(region.get("from_name")), image)
        return target != image and target in self.images


@dataclass(frozen=True)
class TaskImage:
    """An image of a task: the name of its <Image>, empty if it is not known, and its address."""

    name: str
    address: str


def parse_config(text: Any) -> Element:
    """The root of a labeling configuration; LabelError if it is none."""
    if not isinstance(text, str) or len(text) > MAX_CONFIG:
        raise LabelError("not a labeling configuration", expected="its XML as text", found=type(text).__name__)
    try:
        root: Element = fromstring(text, forbid_dtd=True)
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise LabelError("the labeling configuration is no XML", found=str(error)[:200]) from error
    return root


def interface_beside(folder: Path) -> Interface | None:
    """The images of the labeling configuration in a folder; None if there is none with an image."""
    for name in CONFIG_FILES:
        path = folder / name
        try:
            if not path.is_file() or path.stat().st_size > MAX_CONFIG:
                continue
            found = Interface.of(parse_config(path.read_text(encoding="utf-8")))
        except (LabelError, OSError, ValueError):
            continue  # of another program
        if found.images:
            return found
    return None


def task_images(fields: Any, interface: Interface | None, where: str, fix: str) -> list[TaskImage]:
    """The images of a task's data that are annotated: one, or as many as the configuration has; none if there is none.

    LabelError with ``fix`` if there are several and nothing names the right one.
    """
    if not isinstance(fields, Mapping):
        return []
    if interface is not None:
        listed = [(name, fields.get(key)) for name, key in interface.annotated().items()]
        found = [TaskImage(name, value) for name, value in listed if isinstance(value, str) and value]
        if found:
            return found
    named = named_images(fields)
    if len(named) > 1:
        raise LabelError(
            "the task names several images",
            expected="one image, or the labeling configuration, which names the right one",
            found=", ".join(f"{key}: {value}" for key, value in sorted(named.items()))[:300], where=where, fix=fix,
        )  # fmt: skip
    return [TaskImage("", address) for address in named.values()]


def named_images(fields: Mapping[str, Any]) -> dict[str, str]:
    """Key → address of the values that name an image, each address once.

    Beside an address (``/data/…``, ``https://…``) a bare path (``day/x.png``, as ``select`` writes for people) is none:
    Label Studio shows no image by it. Where there are bare paths alone, as in files made by hand, they name the images.
    """
    named = {
        str(key): value
        for key, value in fields.items()
        if isinstance(value, str) and any(is_image(one.path) for one in spellings(file_address(value)))
    }
    addresses = {key: value for key, value in named.items() if value.startswith("/") or "://" in value}
    return {key: value for value, key in {value: key for key, value in (addresses or named).items()}.items()}


def file_address(address: str) -> str:
    """What an address is about: of a cloud storage's (``/tasks/1/resolve/?fileuri=…``) the URI of the file."""
    try:
        coded = parse_qs(urlsplit(address).query).get("fileuri", [])
        return base64.urlsafe_b64decode(coded[0].encode()).decode() if coded else address
    except (ValueError, binascii.Error):
        return address


def file_path(address: str) -> str:
    """The path of the file that an address is about, decoded; of local files the one after ``d=``. Empty if none."""
    try:
        parts = urlsplit(file_address(address))
        local = parse_qs(parts.query).get("d", [])
    except ValueError:
        return ""
    return local[0] if local else unquote(parts.path)


def preferred(annotations: Iterable[Any]) -> Mapping[str, Any] | None:
    """The annotation of a task that counts: the ground truth, else the newest; None if all were cancelled."""
    kept = [one for one in annotations if isinstance(one, Mapping) and not one.get("was_cancelled")]
    ranked = [(bool(one.get("ground_truth")), *age(one), place) for place, one in enumerate(kept)]
    return kept[ranked.index(max(ranked))] if kept else None


def age(annotation: Mapping[str, Any]) -> tuple[float, int]:
    """What annotations are sorted by, the newest last: when it was changed, and its number."""
    number = annotation.get("annotation_id", annotation.get("id"))  # of a row of JSON-MIN, whose id is the task's
    for key in ("updated_at", "created_at"):
        try:
            moment = datetime.fromisoformat(str(annotation.get(key)))
        except ValueError:
            continue
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return moment.timestamp(), number if isinstance(number, int) else -1
    return -math.inf, number if isinstance(number, int) else -1
