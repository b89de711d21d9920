"""Choose what to label."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.api.inference import as_predictor

if TYPE_CHECKING:
    from segwright.inference.predictor import Predictor
    from segwright.labeling.questions import Selection
    from segwright.labeling.task_files import Tasks

    Model = str | Path | Predictor

__all__ = ["select", "write_tasks"]


def select(
    model: Model | Sequence[Model] | None,
    images: str | Path | Sequence[str | Path],
    *,
    count: int = 100,
    clicks: int = 10,
    units: str = "superpixels",
    unit_size: int = 22,
    unit_count: int = 80,
    questions: str = "auto",
    disagreement: str = "auto",
    draw: str = "proportional",
    random_share: float = 0.15,
    labels: str | Path | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    sheet: str | Path | None = None,
    device: str = "auto",
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Selection:
    """Choose the images to label, and the regions of them to ask about.

    Valuable is what the models disagree on or are unsure of, of classes that are rare in their predictions. The chosen
    images spread over what the images show, near-duplicates count once, and a share of them is drawn at random.

    Parameters
    ----------
    model : str or Path or Predictor, sequence of them, or None
        A saved model, as for :func:`segwright.load`, or a loaded one; several are asked for their disagreement. None:
        there is no model yet, and the choice spreads over images and colors.
    images : str or Path or sequence of them
        Images, folders, globs, or a journal that keeps images.
    count : int >= 1, default=100
        The number of images.
    clicks : int >= 0, default=10
        The number of questions per image.
    units : {"superpixels", "merged", "segments"}, default="superpixels"
        What a question is about (:mod:`segwright.labeling.units`).
    unit_size : int, default=22
        The side of a superpixel in pixels, for an image whose shorter side is 256; it grows with the image.
    unit_count : int, default=80
        Units per image, if they are merged ones.
    questions : {"auto", "check", "class"}, default="auto"
        Whether the prediction is right, or which class the region has; auto checks what is predicted with 0.8 or more.
    disagreement : {"auto", "margin", "views", "dropout", "ensemble"}, default="auto"
        What doubt is measured by (:func:`segwright.labeling.scores.opinion`).
    draw : {"proportional", "best"}, default="proportional"
        Regions are drawn in proportion to their value, so that easy ones stay among the labels, or the best are taken.
    random_share : float, default=0.15
        The share of the images, 0 to 1, that are drawn at random; so are their regions.
    labels : str or Path, optional
        A label folder, or a folder of masks named as the images, 255: not labeled. What has labels is not asked about.
    seed : int, default=0
        Of the random share.
    out : str or Path, optional
        The JSON file of the selection.
    sheet : str or Path, optional
        A page (``.html``) or an image (``.png``) that shows the first 60 images with their questions.
    device, eight_bit, trust_external
        As for :func:`segwright.load`.

    Returns
    -------
    Selection
        ``items`` (the questions), ``images``, ``failed``, ``notes``; ``save()``, ``to_json()``.

    Raises
    ------
    UsageError
        There is no image, or a setting is out of range.
    DataError
        None of the images can be used. Among several, a bad one is listed under ``failed``.
    ModelError
        The models differ in their classes.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.select("run", "streets/images/test", count=2, clicks=5, device="cpu")
    >>> len(found.images), len(found.items)
    (2, 10)
    """
    from segwright.core.atomic_io import check_output
    from segwright.inference.predictor import Predictor
    from segwright.labeling.pool import read
    from segwright.labeling.select import SelectOptions
    from segwright.labeling.select import select as choose

    options = SelectOptions(
        count=count, clicks=clicks, units=units, unit_size=unit_size, unit_count=unit_count, questions=questions,
        disagreement=disagreement, draw=draw, random_share=random_share, seed=seed,
    )  # fmt: skip
    targets = [target for target in (out, sheet) if target is not None]
    for target in targets:
        check_output(target)
    if model is None:
        given: list[Model] = []
    else:
        given = [model] if isinstance(model, str | Path | Predictor) else list(model)
    predictors = [as_predictor(one, device, None, None, eight_bit, trust_external) for one in given]
    names = [str(one) if isinstance(one, str | Path) else "a loaded model" for one in given]
    found = choose(predictors, images, options, names=names, labels=labels, outputs=targets)
    if out is not None:
        found.save(out)
    if sheet is not None:
        from segwright.labeling.sheet import write_sheet

        write_sheet(sheet, found, lambda path: read(path, predictors))
    return found


def write_tasks(
    selection: Selection | str | Path,
    to: str,
    out: str | Path,
    *,
    model: Model | None = None,
    document_root: str | Path | None = None,
    device: str = "auto",
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Tasks:
    """Write the images of a selection as files that a labeling tool imports, most valuable first, with masks.

    One mask per class, equal to the model's prediction pixel by pixel. Images are not copied.

    Parameters
    ----------
    selection : Selection or str or Path
        Of :func:`segwright.select`, or its file.
    to : {"cvat", "label-studio", "labelme"}
        The tool.
    out : str or Path
        A new folder.
    model : str or Path or Predictor, optional
        Gives the masks; left out: the images alone.
    document_root : str or Path, optional
        The folder from which Label Studio serves local files; the parent of the images' folder if left out.
    device, eight_bit, trust_external
        As for :func:`segwright.load`.

    Returns
    -------
    Tasks
        ``folder``, ``images`` in their order, ``failed`` (file, why), ``notes``.

    Raises
    ------
    UsageError
        An unknown tool, a folder that is not empty, or images outside the document root.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.select("run", "streets/images/test", count=2, clicks=5, device="cpu")
    >>> len(sw.write_tasks(found, "label-studio", "tasks", model="run", device="cpu").images)
    2
    """
    from segwright.labeling import task_files
    from segwright.labeling.label_studio_version import model_version
    from segwright.labeling.questions import Selection

    found = selection if isinstance(selection, Selection) else Selection.load(selection)
    if model is None:
        return task_files.write_tasks(found, to, out, root=document_root)
    predictor = as_predictor(model, device, None, None, eight_bit, trust_external)
    version = model_version(Path(model), Path(model).name) if isinstance(model, str | Path) else "segwright"
    return task_files.write_tasks(
        found, to, out, lambda path: predictor.predict(predictor.read(path)), version=version, root=document_root
    )
