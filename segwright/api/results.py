"""What the functions of the API return where the work itself has no type for it: frozen, with ``to_json()``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from segwright.core.deprecated import warn_renamed


class JsonResult:
    """A dataclass that can be written as JSON. Subscripts, as of the dicts of the first release, work for one more."""

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, as JSON values."""
        return {one.name: _json(value) for one in fields(self) if (value := getattr(self, one.name)) is not None}  # type: ignore[arg-type]

    def __getitem__(self, key: str) -> Any:
        new = {"pictures": "images"}.get(key, key)
        warn_renamed(f"[{key!r}]", f".{new}")
        return self.to_json()[new]


def place(value: str) -> Path | str:
    """A path, or a URL as it is: ``Path`` would take a slash of ``s3://`` away."""
    return value if "://" in value else Path(value)


def _json(value: Any) -> Any:
    if isinstance(value, JsonResult):
        return value.to_json()
    if isinstance(value, tuple):
        return [_json(one) for one in value]
    if isinstance(value, Mapping):
        return dict(value)
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class PredictedFile(JsonResult):
    """What was written for one image, frame or video; URLs are str."""

    file: Path | str  # the source
    mask: Path | str | None = None
    overlay: Path | str | None = None
    confidence: Path | str | None = None
    probabilities: Path | str | None = None
    geojson: Path | str | None = None
    labelme: Path | str | None = None
    video: Path | str | None = None
    frame: int | None = None  # of a video
    frames: int | None = None  # in a video that was written
    placed: str | None = None  # what gives the mask its place on the ground
    shares: Mapping[str, float] | None = None  # class name → share of the pixels, 0…1
    mean_confidence: float | None = None  # 0…1
    uncertainty: Path | str | None = None
    mean_uncertainty: float | None = None  # 0…1
    quality: Mapping[str, Any] | None = None  # the estimate of the model's error model
    windows: Mapping[str, Any] | None = None  # how a large image was cut, and whether that changes labels
    other: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields that are set, as JSON values."""
        tree = super().to_json()
        return {**{key: value for key, value in tree.items() if key != "other"}, **self.other}


@dataclass(frozen=True)
class FailedFile(JsonResult):
    """A file or frame that could not be predicted."""

    file: Path | str
    error: str  # the text of the error: what was expected, found, where, the fix
    kind: str  # the name of the error's class
    frame: int | None = None


@dataclass(frozen=True)
class PredictResult(JsonResult):
    """What :func:`segwright.predict` did."""

    images: int  # images and frames that were predicted
    out: Path | str  # the folder of the outputs
    results: tuple[PredictedFile, ...] = ()
    failed: tuple[FailedFile, ...] = ()
    notes: tuple[str, ...] = ()
    coco: Path | str | None = None  # the COCO file over all images
    areas: Path | str | None = None  # the CSV file over all images
    stopped: str | None = None  # why the run ended before the last file
    resumed: int | None = None  # of the images, those that an earlier run had finished
    journal: Mapping[str, Any] | None = None  # its folder, rows written and lost, and why
    workers: Mapping[str, int] | None = None  # on several machines: the files of each process, by host:process
    summary: str | None = None  # on several machines: the mark of a complete run, a path or URL

    @classmethod
    def from_json(cls, tree: Mapping[str, Any]) -> PredictResult:
        """The result out of the JSON-able tree that a prediction fills as it goes on."""
        return cls(
            images=int(tree["images"]),
            out=place(tree["out"]),
            results=tuple(_item(PredictedFile, one) for one in tree["results"]),
            failed=tuple(_item(FailedFile, one) for one in tree["failed"]),
            notes=tuple(tree["notes"]),
            coco=place(tree["coco"]) if tree.get("coco") else None,
            areas=place(tree["areas"]) if tree.get("areas") else None,
            stopped=tree.get("stopped"),
            resumed=tree.get("resumed"),
            journal=tree.get("journal"),
            workers=tree.get("workers"),
            summary=tree.get("summary"),
        )


@dataclass(frozen=True)
class ConvertResult(JsonResult):
    """What :func:`segwright.convert` wrote."""

    source_format: str
    to: str
    images: int
    out: Path

    def to_json(self) -> dict[str, Any]:
        """``from`` (the source's format), ``to``, ``images``, ``out``."""
        return {"from": self.source_format, "to": self.to, "images": self.images, "out": str(self.out)}


@dataclass(frozen=True)
class ModelInfo(JsonResult):
    """A network of the catalog."""

    name: str
    group: str  # today, torchvision or classic
    encoder: str | None  # the default encoder
    summary: str
    paper: str
    license: str  # of the pretrained weights
    parameters: int  # with 21 classes
    stride: int  # of the finest logits
    gflop: float | None = None  # of one image's forward pass, measured
    training_mib: float | None = None  # memory per further image of a batch, measured
    fixed_mib: float | None = None  # weights, gradients and AdamW's moments, measured
    latency_ms: float | None = None  # median of one image on this machine, measured

    def to_json(self) -> dict[str, Any]:
        """All fields; those that were not measured are left out."""
        return {"encoder": None, **super().to_json()}


_PATHS = {"file", "mask", "overlay", "confidence", "probabilities", "geojson", "labelme", "video", "uncertainty"}


def _item(kind: type[Any], tree: Mapping[str, Any]) -> Any:
    known = {one.name for one in fields(kind)}
    values = {key: place(value) if key in _PATHS else value for key, value in tree.items() if key in known}
    rest = {key: value for key, value in tree.items() if key not in known}
    return kind(**values, **({"other": rest} if rest else {}))
