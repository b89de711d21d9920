"""The errors that users see, each with what was expected, what was found, where, and the fix.

All errors caused by bad input derive from :class:`SegwrightError`; the command line prints them without a traceback and
exits with 2.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from typing import Literal

from segwright.core.names import nearest_names

# Why a file is not a readable image. Programs should use this, never the text of a message.
ReadReason = Literal[
    "cannot_open",  # no such file, no permission, not a file
    "empty",
    "too_large",  # more bytes, pixels, bands, pages or memory than the limits allow
    "truncated",  # image data is missing at the end or in the middle
    "unknown_format",  # none of the supported formats, whatever the suffix is
    "unsupported",  # a known format, in a variant that is not supported
    "corrupt",  # damaged in any other way
    "animated",  # several frames
    "pages",  # several pages where one was expected
    "bands",  # channels that do not fit
    "values",  # pixels that are not mask values: fractions, negative, beyond 16 bits
    "killed",  # the process that decoded it crashed or timed out
]


class SegwrightError(Exception):
    """Base of all errors that are caused by the input or the machine, not by a bug.

    ``message`` is one line; ``expected``, ``found``, ``where`` and ``fix`` are for programs too.
    """

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        where: str | Path | None = None,
        fix: str | None = None,
    ) -> None:
        self.message = message
        self.expected = expected
        self.found = found
        self.where = None if where is None else str(where)
        self.fix = fix or _meant(message, expected, found)
        super().__init__(self.__str__())

    def __str__(self) -> str:
        lines = [self.message if self._message_has_place() else f"{self.where}: {self.message}"]
        lines += [
            f"  {label}: {text}"
            for label, text in (("expected", self.expected), ("found", self.found), ("fix", self.fix))
            if text
        ]
        return "\n".join(lines)

    def _message_has_place(self) -> bool:
        """Whether the message has the place already: as a whole, since ``j`` is in ``journal``."""
        if self.where is None:
            return True
        return re.search(rf"(?<![\w/.-]){re.escape(self.where)}(?![\w-])", self.message) is not None

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive pickling (worker -> parent) without this.
        return (_rebuild, (type(self), self.message, self.expected, self.found, self.where, self.fix))


def _meant(message: str, expected: str | None, found: str | None) -> str | None:
    """The way out of ``unknown …``, where one of the expected names is nearly the one that was found."""
    if not message.startswith("unknown ") or not expected or not found or len(found) > 60:
        return None
    near = nearest_names(found, expected.split(", "))
    return f"did you mean {near[0]}?" if near else None


def _rebuild(
    kind: type[SegwrightError],
    message: str,
    expected: str | None,
    found: str | None,
    where: str | None,
    fix: str | None,
) -> SegwrightError:
    return kind(message, expected=expected, found=found, where=where, fix=fix)


class UsageError(SegwrightError):
    """An invalid argument: an unknown name, a value out of range, options that exclude each other."""


class ConfigError(UsageError):
    """An invalid config file or ``--set``."""


class MissingExtraError(SegwrightError):
    """An optional package is not installed; ``fix`` names the extra."""


class PluginError(SegwrightError):
    """A plugin that cannot be loaded, is of another kind, or is offered by several packages."""


class DataError(SegwrightError):
    """A dataset that cannot be used as it is."""


class ImageReadError(DataError):
    """A file that is not a readable image within the limits; ``reason`` is the cause, for programs."""

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        where: str | Path | None = None,
        fix: str | None = None,
        reason: ReadReason = "corrupt",
    ) -> None:
        self.reason: ReadReason = reason
        super().__init__(message, expected=expected, found=found, where=where, fix=fix)

    def __reduce__(self) -> tuple[object, ...]:
        fields = (type(self), self.message, self.expected, self.found, self.where, self.fix, self.reason)
        return (_rebuild_read_error, fields)


def _rebuild_read_error(
    kind: type[ImageReadError],
    message: str,
    expected: str | None,
    found: str | None,
    where: str | None,
    fix: str | None,
    reason: ReadReason,
) -> ImageReadError:
    return kind(message, expected=expected, found=found, where=where, fix=fix, reason=reason)


class TooLargeError(ImageReadError):
    """An image with more bytes, pixels, bands or pages than the limits, or that needs more memory."""

    def __init__(
        self,
        message: str,
        *,
        expected: str | None = None,
        found: str | None = None,
        where: str | Path | None = None,
        fix: str | None = None,
        reason: ReadReason = "too_large",
    ) -> None:
        super().__init__(message, expected=expected, found=found, where=where, fix=fix, reason=reason)


class DepthError(ImageReadError):
    """An 8-bit image for a model of deeper images, which is ambiguous."""


class LabelError(DataError):
    """A mask whose values or size do not fit its image or the label space."""


class NameClashError(LabelError):
    """Several files share a name, so the mask of an image is ambiguous."""


class FormatError(DataError):
    """No data format was detected, or the given one does not fit."""


class DownloadError(DataError):
    """The download failed, did not match its checksum, or contained unsafe paths."""


class OutputError(SegwrightError, OSError):
    """A file or folder that cannot be written; ``found`` is the system's reason."""


def output_error(error: OSError, where: str | Path | None = None) -> OutputError:
    """An OSError as an OutputError with a fix; ``where``: the output, if it is known."""
    place = where if where is not None else error.filename
    if place is not None and Path(os.fsdecode(place)).name.startswith(".writing-"):
        place = Path(os.fsdecode(place)).parent  # the temporary file beside the output
    fixes = {
        errno.ENOSPC: "free some space, or write to another disk",
        errno.EDQUOT: "free some space, or write to another disk",
        errno.EACCES: "choose a folder with write permission",
        errno.EPERM: "choose a folder with write permission",
        errno.EROFS: "the file system is read-only: choose another folder",
        errno.ENOTDIR: "a file exists in place of a folder: choose another path",
        errno.EEXIST: "a file exists in place of a folder: choose another path",
        errno.EISDIR: "a folder exists in place of the file: choose a file name",
        errno.ENAMETOOLONG: "choose a shorter name",
    }
    wrapped = OutputError(
        "cannot be written" if where is not None else "the system reports an error",
        found=error.strerror or str(error) or type(error).__name__,
        where=None if place is None else os.fsdecode(place),
        fix=fixes.get(error.errno or 0, "check the path and its permissions, or choose another"),
    )
    wrapped.errno, wrapped.strerror = error.errno, error.strerror
    return wrapped


class ModelError(SegwrightError):
    """A model that cannot be built, or an input that does not fit it."""


class WeightsError(ModelError):
    """Weights that cannot be found or read, are not trusted, or do not fit."""


class BundleError(ModelError):
    """A saved model that is incomplete, altered or not one of ours."""


class BundleWriteError(BundleError, OSError):
    """A model could not be saved, for example because the disk is full."""


class ExportError(SegwrightError):
    """An export failed, or differs from the original."""


class CheckpointError(SegwrightError):
    """There is no intact checkpoint to resume from, or it does not fit the run."""


class TrainingError(SegwrightError):
    """Training stopped; finished work is saved."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite."""


class OutOfMemoryError(TrainingError):
    """Not even one image fits into memory, or it ran out where nothing can be repeated in smaller parts."""


class DeadProcessError(TrainingError):
    """Another process of the job died; the message names it."""


class PostprocessError(SegwrightError):
    """Invalid post-processing pipeline or invalid probabilities."""


class PromotionRefusedError(SegwrightError):
    """A candidate that is not put into service, because a condition does not hold; ``found`` has all figures."""


TRAINING_PACKAGES = ("torch", "torchvision", "timm", "onnxscript", "segwright")  # what segwright-runtime is without


def needs_whole_package(error: ModuleNotFoundError) -> MissingExtraError | None:
    """The typed error for something that only the whole package can do; None if another module is missing."""
    name = (error.name or "").partition(".")[0]
    if name in ("numba", "llvmlite"):
        return MissingExtraError(
            "the dense CRF is compiled by numba", found=f"no module {error.name}",
            fix="pip install 'segwright-runtime[crf]'",
        )  # fmt: skip
    if name not in TRAINING_PACKAGES:
        return None
    return MissingExtraError(
        "this needs the whole of segwright: segwright-runtime runs exported files, and has no torch",
        expected="an exported file, such as model.onnx",
        found=f"no module {error.name}",
        fix="pip install segwright",
    )
