"""The inputs of a prediction: images, folders, globs, tars, videos, cameras and streams, standard input, URLs.

Only a URL that is given is fetched; none is followed that a file holds.
"""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from segwright.core.counted import counted
from segwright.core.errors import DataError, UsageError
from segwright.core.globs import literal_folders
from segwright.data.archives import is_archive, unpacked
from segwright.imageio import EXTENSIONS
from segwright.inference.ledger import stamp_of
from segwright.inference.masks_beside import without_masks
from segwright.inference.origins import Origin, archive_members, remote_files, spooled
from segwright.inference.outputs import MANIFEST, OUTPUT_TAGS, read_manifest
from segwright.inference.videos import VIDEO_EXTENSIONS, Live, frame_count, is_video, live_address

RUN_FILES = ("config.yaml", "log.jsonl")  # a folder with both is a training run, not images


@dataclass(frozen=True)
class Source:
    """A sequence of files, with names for their outputs."""

    kind: (
        str  # "image", "folder", "glob", "video", "archive", "url", "live", or "files" where several sources were given
    )
    root: Path
    files: tuple[Path, ...] = ()
    frames: int | None = None  # of a single video, if its container has the number
    notes: tuple[str, ...] = ()  # what was passed over
    origins: Mapping[Path, Origin] = field(default_factory=dict)  # of files that are no local files
    lives: Mapping[Path, Live] = field(default_factory=dict)  # cameras and streams
    given: Mapping[Path, tuple[str, str]] = field(default_factory=dict)  # of a part of a run: names and labels in it

    def __len__(self) -> int:
        return len(self.files) if self.kind not in ("video", "live") else (self.frames or 0)

    def label(self, path: Path) -> str:
        """What a file is called in results: its path, its place in an archive, its URL without a password."""
        if path in self.lives:
            return self.lives[path].label
        if path in self.given:
            return self.given[path][1]
        return self.origins[path].label if path in self.origins else str(path)

    def stamp(self, path: Path) -> list[int] | None:
        """What changes if the file changes: size and time; None if that is unknown."""
        if path in self.origins:
            return self.origins[path].stamp
        return stamp_of(path)

    @contextmanager
    def local(self, path: Path) -> Iterator[Path]:
        """A local file with the content of ``path``: itself, or a temporary one."""
        if path in self.origins:
            with self.origins[path].local() as found:
                yield found
        else:
            yield path

    @cached_property
    def names(self) -> dict[Path, str]:
        """File → name of its outputs without a suffix; see :func:`output_names`."""
        if self.given:
            return {path: name for path, (name, _) in self.given.items()}
        return output_names(self.files, self.root)

    def name(self, path: Path) -> str:
        """The name of the outputs of ``path``."""
        return self.names[path]


def open_source(source: str | Path) -> Source:
    """Open one source; UsageError or DataError if there is nothing to read."""
    return open_sources([source])


def open_sources(sources: Sequence[str | Path]) -> Source:
    """Open several sources, each file once; UsageError or DataError if one of them matches nothing.

    A source is a file, a folder (searched recursively; hidden files, training runs, earlier predictions and the masks
    of a dataset are skipped), a glob, a tar of images, a video, a camera (its number) or stream (rtsp://…), ``-`` for
    standard input, or a URL of fsspec. The name of an existing file is never taken as anything else.
    """
    if not sources:
        raise UsageError("nothing to predict", expected="an image, a folder, a glob or a video", found="no source")
    parts = [_open(source) for source in sources]
    if len(parts) == 1:
        return parts[0]
    files = tuple({os.path.abspath(path): path for part in parts for path in part.files}.values())
    notes = tuple(note for part in parts for note in part.notes)
    origins = {path: origin for part in parts for path, origin in part.origins.items()}
    lives = {path: live for part in parts for path, live in part.lives.items()}
    return Source("files", _common_root([part.root for part in parts]), files, None, notes, origins, lives)


def output_names(files: Sequence[Path], root: Path) -> dict[Path, str]:
    """File → the path of its outputs below the output folder, without a suffix.

    The path is that of the file below ``root``. Files that differ only in their suffix, or in upper and lower case,
    keep the suffix as part of the name (``x_png``, ``x_jpg``); equal names that remain get a number. Outputs of two
    files are therefore never the same file, even on file systems that ignore case.
    """
    absolute = Path(os.path.abspath(root))
    stems = {path: _relative(path, absolute).with_suffix("").as_posix() for path in files}
    counts = Counter(stem.casefold() for stem in stems.values())
    wanted = {
        path: stem if counts[stem.casefold()] == 1 else f"{stem}{path.suffix.replace('.', '_')}"
        for path, stem in stems.items()
    }
    all_wanted = {name.casefold() for name in wanted.values()}
    taken: set[str] = set()

    def free(name: str) -> bool:
        base = next((name.removesuffix(tag) for tag in OUTPUT_TAGS if name.endswith(tag)), None)
        return name not in taken and (base is None or base not in all_wanted)

    result = {}
    for path in sorted(files, key=lambda path: (counts[stems[path].casefold()] > 1, str(path))):
        name, number = wanted[path], 1
        while not free(name.casefold()):
            number += 1
            name = f"{wanted[path]}_{number}"
        taken.add(name.casefold())
        result[path] = name
    return result


def _open(source: str | Path) -> Source:
    text = str(source)
    if text == "-":
        return _standard_input()
    if not os.path.lexists(text):
        live = live_address(text)
        if live is not None:
            path = Path(live.name)
            return Source("live", Path(), (path,), None, (), {}, {path: live})
        if "://" in text:
            return _of_origins("url", Path(), *remote_files(text))
    path = Path(text)
    if path.is_dir():
        files, notes = _walk(path)
        if not files:
            raise DataError(
                "no images in the folder",
                expected=", ".join(sorted(EXTENSIONS)),
                found="; ".join(notes) or None,
                where=path,
            )
        return Source("folder", path, files, notes=notes)
    if path.is_file():
        if path.suffix.lower() == ".tar":
            return _of_origins("archive", path.parent, *archive_members(path))
        if is_archive(path.name):
            folder = unpacked(path)
            files, notes = _walk(folder)
            return _some(Source("archive", folder, files, notes=notes), text)
        if is_video(path):
            return Source("video", path.parent, (path,), frame_count(path))
        return Source("image", path.parent, (path,))
    matches, root = _matches(text), None
    if not matches and "[" in text:
        pattern, folders = literal_folders(text)
        matches, root = _matches(pattern), Path(folders)
    if matches:
        tars = [found for found in matches if found.suffix.lower() == ".tar"]
        if tars and len(tars) == len(matches):
            return open_sources(tars) if len(tars) > 1 else _open(tars[0])
        known = EXTENSIONS | VIDEO_EXTENSIONS
        kept = tuple(found for found in matches if found.suffix.lower() in known)
        others = [found.name for found in matches if found.suffix.lower() not in known]
        if kept:
            if root is None:
                fixed = text.split("*")[0].split("?")[0].split("[")[0]
                root = Path(fixed) if fixed.endswith(("/", os.sep)) else Path(fixed).parent
            notes = (
                (f"{counted(len(others), 'file', 'is')} not images by their suffix: {', '.join(others[:4])}",)
                if others
                else ()
            )
            return Source("glob", root, kept, notes=notes)
    raise DataError(
        "nothing to predict",
        expected="an image, a folder, a glob, a tar, a video, a camera's number, a URL or - for standard input",
        found=f"{counted(len(matches), 'file')}, none of them an image or a video"
        if matches
        else "no such file or folder",
        where=text,
        fix="check the path",
    )


def _some(source: Source, where: str) -> Source:
    """The source; DataError if it has no images."""
    if not source.files:
        raise DataError(
            "no images in it", expected=", ".join(sorted(EXTENSIONS)), found="; ".join(source.notes) or None,
            where=where,
        )  # fmt: skip
    return source


def _of_origins(kind: str, root: Path, origins: Sequence[Origin], notes: tuple[str, ...]) -> Source:
    """A source of files that are no local ones; their paths are made of their names below ``root``."""
    found = {root / origin.name: origin for origin in origins}
    if len(found) < len(origins):
        notes = (
            *notes,
            f"{counted(len(origins) - len(found), 'file', 'has')} the name of another one; the last is predicted",
        )
    return Source(kind, root, tuple(found), None, notes, found)


def _standard_input() -> Source:
    """An image, a tar of images, or paths, one per line; held in a temporary file that goes with the process."""
    kind, path = spooled()
    if kind == "paths":
        names = [line for line in path.read_text("utf-8", "surrogateescape").replace("\0", "\n").splitlines() if line]
        return open_sources([name for name in names if name != "-"])
    if kind == "tar":
        return _of_origins("archive", path.parent, *archive_members(path, "stdin"))
    return Source("image", path.parent, (path,))


def _walk(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """The image files below a folder in order, and notes on what was skipped."""
    files: list[Path] = []
    runs: list[str] = []
    linked: list[str] = []
    written: dict[str, int] = {}  # what earlier predictions wrote → size
    earlier = videos = tars = 0
    for place, folders, names in os.walk(folder):
        here = Path(place)
        if here != folder and all(name in names for name in RUN_FILES):
            runs.append(str(here.relative_to(folder)))
            folders.clear()
            continue
        visible = sorted(name for name in folders if not name.startswith("."))
        linked += [str((here / name).relative_to(folder)) for name in visible if (here / name).is_symlink()]
        folders[:] = visible
        if MANIFEST in names:
            written |= {str(here / relative): entry.size for relative, entry in read_manifest(here).items()}
        for name in names:
            path = here / name
            if name.startswith(".") or not _is_file(path):
                continue
            tars += path.suffix.lower() == ".tar"
            if path.suffix.lower() in VIDEO_EXTENSIONS:
                videos += 1
            elif path.suffix.lower() in EXTENSIONS:
                if path.exists() and written.get(str(path)) == path.stat().st_size:
                    earlier += 1
                else:
                    files.append(path)
    notes = []
    if earlier:
        notes.append(f"{counted(earlier, 'file')} of earlier predictions are skipped")
    if runs:
        notes.append(f"training runs are skipped: {', '.join(runs[:4])}{', …' if len(runs) > 4 else ''}")
    if linked:
        notes.append(f"linked folders are not followed: {', '.join(linked[:4])}{', …' if len(linked) > 4 else ''}")
    if videos:
        notes.append(f"{videos} videos in the folder are skipped; give a video by its own path")
    if tars:
        notes.append(f"{tars} tars in the folder are skipped; give a tar by its own path, or a glob of them")
    files, masks = without_masks(folder, sorted(files))
    if masks:
        notes.append(masks)
    return tuple(sorted(files)), tuple(notes)


def _matches(pattern: str) -> list[Path]:
    return sorted(Path(found) for found in glob.glob(pattern, recursive=True) if _is_file(Path(found)))


def _is_file(path: Path) -> bool:
    """Whether a file is there, or a link to nothing: reading it names the file, which is not passed over in silence."""
    return path.is_file() or (path.is_symlink() and not path.exists())


def _relative(path: Path, root: Path) -> Path:
    absolute = Path(os.path.abspath(path))
    return absolute.relative_to(root) if absolute.is_relative_to(root) else Path(path.name)


def _common_root(roots: Sequence[Path]) -> Path:
    try:
        return Path(os.path.commonpath([os.path.abspath(root) for root in roots]))
    except ValueError:  # different drives
        return roots[0]
