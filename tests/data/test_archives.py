"""A dataset that is a ZIP or a tar: opened within limits, unpacked once."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from trees import make_image, mask

from segwright.core.errors import DownloadError, FormatError
from segwright.data import archives
from segwright.data.dataset import open_dataset
from segwright.data.download.unpack import UnpackLimits, unpack


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/segwright/archives"


def tree(root: Path) -> Path:
    for i in range(4):
        make_image(root / f"data/images/{i}.jpg", seed=i)
        mask(root / f"data/masks/{i}.png", [0, i % 2 + 1])
    return root


@pytest.mark.parametrize("ending", ["zip", "tar.gz", "tar"])
def test_an_archive_opens_like_its_folder(tmp_path: Path, cache: Path, ending: str) -> None:
    root = tree(tmp_path / "work")
    path = tmp_path / f"handed/export.{ending}"
    path.parent.mkdir()
    if ending == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*.*")):
                archive.write(file, file.relative_to(root))
    else:
        with tarfile.open(path, "w:gz" if ending == "tar.gz" else "w") as tar:
            tar.add(root, ".")
    want = open_dataset(root)
    for given in (path, path.parent) if ending != "tar" else (path,):
        data = open_dataset(given)
        assert len(data) == 4 and data.format == want.format
        assert all(np.array_equal(a.mask, b.mask) for a, b in zip(data, want, strict=True))
        assert any("can be deleted" in note for note in data.notes)
    made = [entry for entry in cache.iterdir() if entry.is_dir()]
    assert len(made) == 1, "unpacked once"
    assert cache.stat().st_mode & 0o077 == 0


def test_several_archives_and_hostile_ones(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.zip", "b.zip"):
        (tmp_path / "set").mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes(b"PK")
    with pytest.raises(FormatError, match="unpack them"):
        open_dataset(tmp_path / "set")
    with zipfile.ZipFile(tmp_path / "climbs.zip", "w") as archive:
        archive.writestr("../outside.txt", "x")
    with pytest.raises(FormatError, match="leaves the folder"):
        open_dataset(tmp_path / "climbs.zip")
    assert not (cache.parent / "outside.txt").exists() and not list(cache.glob("*/*"))
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        name = zipfile.ZipInfo("x")
        name.filename = "set\\images\\0.jpg"
        archive.writestr(name, "x")
    with pytest.raises(FormatError, match="backslashes"):
        open_dataset(tmp_path / "windows.zip")
    (tmp_path / "broken.zip").write_bytes(b"PK\x03\x04" + bytes(200))
    with pytest.raises(FormatError, match="broken"):
        open_dataset(tmp_path / "broken.zip")
    monkeypatch.setattr(archives, "MAX_FILES", 3)
    with zipfile.ZipFile(tmp_path / "flood.zip", "w") as archive:
        for i in range(9):
            archive.writestr(f"{i}.txt", "x")
    with pytest.raises(FormatError, match="more than 3 members"):
        open_dataset(tmp_path / "flood.zip")


def test_folders_are_counted_before_they_are_made(tmp_path: Path) -> None:
    path = tmp_path / "deep.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(6):
            info = tarfile.TarInfo(f"{i}/" + "/".join("abcdefgh") + "/x.txt")
            tar.addfile(info, io.BytesIO())
    with pytest.raises(DownloadError, match="more than 20 folders"):
        unpack(path, tmp_path / "out", limits=UnpackLimits(max_folders=20))
    with pytest.raises(DownloadError, match="more than 5 deep"):
        unpack(path, tmp_path / "out", limits=UnpackLimits(max_depth=5))
    assert not list((tmp_path / "out").iterdir())
