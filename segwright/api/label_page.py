"""Label images in the browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.api.models import load

if TYPE_CHECKING:
    from segwright.labeling.page.service import LabelService
    from segwright.labeling.questions import Selection

__all__ = ["label"]


def label(
    images: str | Path,
    *,
    model: str | Path | None = None,
    classes: Sequence[str] | str | Path | None = None,
    questions: str | Path | Selection | None = None,
    out: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int = 8010,
    token: str | None = None,
    device: str = "auto",
    eight_bit: str | None = None,
    trust_external: bool = False,
    message: Callable[[str], None] = print,
) -> None:
    """Serve a page on which people label images, until SIGINT or SIGTERM. Every stroke is on the disk at once.

    Parameters
    ----------
    images : str or Path
        A folder of images.
    model : str or Path, optional
        A run folder or bundle whose masks are shown, and whose doubts are the questions. Left out: plain labeling.
    classes : sequence of str, or str, or Path, optional
        Class names, ``"a,b,c"``, or a file that lists them. Left out: those of the model or of the label folder.
    questions : str or Path or Selection, optional
        A saved selection: its questions, in its order. Left out: the least certain regions, image by image.
    out : str or Path, optional
        The label folder. Left out: beside the images, with ``-labels`` after their name. It opens as a dataset.
    host : str, default="127.0.0.1"
        Address to listen on; ``"0.0.0.0"`` for all.
    port : int, default=8010
        0 takes a free one.
    token : str, optional
        What others need to see the page. Left out: one is made if others can reach the port.
    device, eight_bit, trust_external
        As for :func:`segwright.load`.
    message : callable, default=print
        Receives lines for the user, such as the URL.

    Raises
    ------
    UsageError
        There are no classes, the label folder is about other images or classes, or the port cannot be had.
    DataError
        The folder holds no image.
    MissingExtraError
        The extra ``serve`` is not installed.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.label("photos", model="run", port=0)  # doctest: +SKIP
    >>> sw.open_dataset("photos-labels").train  # doctest: +SKIP
    """
    from segwright.serving.packages import require_packages

    require_packages()
    from segwright.labeling.page.server import PageOptions, default_folder, log_to_stderr, run_label_page
    from segwright.labeling.page.summary import started_lines

    place = Path(images)
    folder = Path(out) if out is not None else default_folder(place)
    log_to_stderr()
    run_label_page(
        lambda: _service(place, folder, model, classes, questions, device, eight_bit, trust_external),
        PageOptions(host, port, token),
        describe=started_lines,
        message=message,
    )


def _service(
    images: Path,
    folder: Path,
    model: str | Path | None,
    classes: Sequence[str] | str | Path | None,
    questions: str | Path | Selection | None,
    device: str,
    eight_bit: str | None,
    trust_external: bool,
) -> LabelService:
    from segwright.inference.import_weights import class_space
    from segwright.labeling.page.server import chosen_classes, open_label_page
    from segwright.labeling.questions import Selection

    predictor = None
    if model is not None:
        predictor = load(model, device=device, eight_bit=eight_bit, trust_external=trust_external)
    given = None if classes is None else class_space(classes)
    selection = questions if isinstance(questions, Selection) or questions is None else Selection.load(questions)
    space = chosen_classes(folder, given, predictor.label_space if predictor else None)
    return open_label_page(
        images, folder, space, predictor=predictor, model=None if model is None else str(model), selection=selection
    )
