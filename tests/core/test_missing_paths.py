"""What is named where a path is missing."""

from __future__ import annotations

from pathlib import Path

from segwright.core.missing_paths import beside_missing


def test_the_nearest_names_come_first(tmp_path: Path) -> None:
    for name in ("alpha", "beta", "photos", "zeta.jpg"):
        (tmp_path / name).mkdir()
    assert beside_missing(tmp_path / "Fotos") == f"photos/, alpha/, beta/, zeta.jpg/ (in {tmp_path})"


def test_the_deepest_folder_that_exists_is_listed(tmp_path: Path) -> None:
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "a.txt").touch()
    assert beside_missing(tmp_path / "runs" / "frist" / "model") == f"first/, a.txt (in {tmp_path / 'runs'})"
    assert beside_missing(tmp_path / "runs" / "first" / "x") == f"nothing in {tmp_path / 'runs' / 'first'}"


def test_many_names_are_counted(tmp_path: Path) -> None:
    for number in range(10):
        (tmp_path / f"{number}.png").touch()
    assert str(beside_missing(tmp_path / "x")).endswith(f"5.png and 4 more (in {tmp_path})")


def test_what_exists_and_what_is_no_path(tmp_path: Path) -> None:
    assert beside_missing(tmp_path) is None
    assert beside_missing("s3://bucket/x") is None
    assert beside_missing("a\0b") is None
