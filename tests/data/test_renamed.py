"""Names of the data packages that were renamed still work for one release, with a DeprecationWarning."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from trees import make_image, mask

from segwright.data.check.runner import check_path
from segwright.data.dataset import open_dataset
from segwright.data.formats import FORMATS

MODULES = [
    ("segwright.data.check.runner", "inspect_path", "check_path"),
    ("segwright.data.check.runner", "inspect_dataset", "check_dataset"),
    ("segwright.data.dataset", "recognize", "detect_format"),
    ("segwright.imageio", "extent", "tiff_info"),
]


@pytest.mark.parametrize(("module", "old", "new"), MODULES)
def test_functions_under_their_old_names(module: str, old: str, new: str) -> None:
    home = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=new):
        assert getattr(home, old) is getattr(home, new)
    with pytest.raises(AttributeError, match="no attribute 'never_there'"):
        home.never_there  # noqa: B018


def test_attributes_under_their_old_names(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_image(tmp_path / f"images/{name}.png")
        mask(tmp_path / f"masks/{name}.png", [0, 1])
    data = open_dataset(tmp_path)
    with pytest.warns(DeprecationWarning, match="with_label_space"):
        assert data.relabeled(data.label_space).label_space == data.label_space
    with pytest.warns(DeprecationWarning, match="outliers"):
        assert check_path(tmp_path, workers=0).suspects == ()
    with pytest.warns(DeprecationWarning, match="layout"):
        assert FORMATS["voc"].looks_for == FORMATS["voc"].layout
