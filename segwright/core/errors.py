"""The errors a user sees.

Each says what was expected, what was found, where, and what to do about it. Everything that bad input can cause derives
from :class:`SegwrightError`; the command line prints it without a traceback and exits with 2.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Literal

# Why a file is no readable image; programs branch on this, never on the text of a message.
ReadReason = Literal[
    "cannot_open",  # no such file, no permission, not a file
    "empty",
    "too_large",  # more bytes, pixels, bands, pages or memory than the limits allow
    "truncated",  # image data is missing at the end or in the middle
    "unknown_format",  # none of the formats that are read, whatever the name ends in
    "unsupported",  # a known format, in a variant that is not read
    "corrupt",  # damaged in any other way
    "animated",  # several frames
    "pages",  # several pages where one was expected
    "bands",  # channels that do not fit
    "values",  # pixels that are no mask values: fractions, negative, beyond 16 bits
    "killed",  # the process that decoded it ended, or gave no answer in time
]


class SegwrightError(Exception):
    """Base of every error that is the input's or the machine's fault and not a bug of ours.

    ``message`` is the whole in one line; the parts stay readable for programs.
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
        self.fix = fix
        super().__init__(self.__str__())

    def __str__(self) -> str:
        lines = [self.message if self.where is None or self.where in self.message else f"{self.where}: {self.message}"]
        lines += [
            f"  {label}: {text}"
            for label, text in (("expected", self.expected), ("found", self.found), ("fix", self.fix))
            if text
        ]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword-only arguments do not survive pickling (worker -> parent) without this.
        return (_rebuild, (type(self), self.message, self.expected, self.found, self.where, self.fix))


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
    """A wrong argument: an unknown name, a value out of range, options that exclude each other."""


class ConfigError(UsageError):
    """A config file or ``--set`` that does not fit."""


class MissingExtraError(SegwrightError):
    """An optional package is not installed; ``fix`` names the extra."""


class DataError(SegwrightError):
    """A dataset that cannot be used as it lies."""


class ImageReadError(DataError):
    """A file that is not a readable image within the limits; ``reason`` says why, for programs."""

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
    """An image that asks for more bytes, pixels, bands, pages or memory than the limits allow."""

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
    """An 8-bit image for a model of deeper ones, which can be read in two ways."""


class LabelError(DataError):
    """A mask whose values or size do not fit its image or the label space."""


class NameClashError(LabelError):
    """Several files share a name, so that it is not certain which mask belongs to which image."""


class FormatError(DataError):
    """No data format recognized, or the named one does not fit."""


class DownloadError(DataError):
    """A download that failed, lied or tried to leave its folder."""


class OutputError(SegwrightError, OSError):
    """A file or folder that cannot be written; ``found`` is the system's reason."""


def output_error(error: OSError, where: str | Path | None = None) -> OutputError:
    """An OSError as an OutputError with a fix; ``where``: the output, if it is known."""
    place = where if where is not None else error.filename
    if place is not None and Path(os.fsdecode(place)).name.startswith(".writing-"):
        place = Path(os.fsdecode(place)).parent  # the temporary file beside the one that was meant
    fixes = {
        errno.ENOSPC: "free some space, or write to another disk",
        errno.EDQUOT: "free some space, or write to another disk",
        errno.EACCES: "choose a place that you may write to",
        errno.EPERM: "choose a place that you may write to",
        errno.EROFS: "the file system is read-only: choose another place",
        errno.ENOTDIR: "a file stands where a folder is meant: choose another place",
        errno.EEXIST: "a file stands where a folder is meant: choose another place",
        errno.EISDIR: "a folder stands where a file is meant: name a file",
        errno.ENAMETOOLONG: "choose a shorter name",
    }
    wrapped = OutputError(
        "cannot be written" if where is not None else "the system refuses",
        found=error.strerror or str(error) or type(error).__name__,
        where=None if place is None else os.fsdecode(place),
        fix=fixes.get(error.errno or 0, "look at the place and its permissions, or choose another"),
    )
    wrapped.errno, wrapped.strerror = error.errno, error.strerror
    return wrapped


class ModelError(SegwrightError):
    """A model that cannot be built or fed as asked."""


class WeightsError(ModelError):
    """Weights that cannot be found, read, trusted or fitted."""


class BundleError(ModelError):
    """A saved model that is incomplete, altered or not one of ours."""


class BundleWriteError(BundleError, OSError):
    """A model that could not be saved: a full disk, a folder that cannot be written."""


class ExportError(SegwrightError):
    """An export that could not be made, or does not agree with the original."""


class CheckpointError(SegwrightError):
    """No whole checkpoint to resume from, or one that does not fit the run."""


class TrainingError(SegwrightError):
    """Training had to stop; what was finished is saved."""


class NonFiniteLossError(TrainingError):
    """The loss became NaN or infinite."""


class OutOfMemoryError(TrainingError):
    """Not even one image fits."""


class DeadProcessError(TrainingError):
    """Another process of the job died; it is named."""


class PostprocessError(SegwrightError):
    """A chain that cannot be parsed, or probabilities that are none."""
