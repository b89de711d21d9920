"""Label images in the browser."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.api.models import load

if TYPE_CHECKING:
    from segwright.inference.predictor import Predictor
    from segwright.labeling.between import BetweenOptions
    from segwright.labeling.page.service import LabelService
    from segwright.labeling.questions import Selection

__all__ = ["label"]


def label(
    images: str | Path,
    *,
    model: str | Path | None = None,
    classes: Sequence[str] | str | Path | None = None,
    questions: str | Path | Selection | None = None,
    train_every: int | None = 50,
    train_minutes: float = 3.0,
    old: str | Path | None = None,
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
    train_every : int >= 1 or None, default=50
        With a model: after so many answers and strokes the model is refined on the labels in a child process, judged
        on held-out ones and replaced if it is not worse. None: only on a press of T.
    train_minutes : float > 0, default=3
        Of one such round, comparison included.
    old : str or Path, optional
        The data that the model was trained on, replayed in each round.
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
    from segwright.labeling.between import BetweenOptions
    from segwright.labeling.page.server import PageOptions, default_folder, run_label_page
    from segwright.labeling.page.summary import started_lines
    from segwright.serving.server import log_to_stderr

    place = Path(images)
    options = BetweenOptions(
        train_every, train_minutes, None if old is None else Path(old).resolve(), device, select=questions is None
    )
    folder = Path(out) if out is not None else default_folder(place)
    log_to_stderr(logging.getLogger("segwright.label"))
    run_label_page(
        lambda: _service(place, folder, model, classes, questions, options, eight_bit, trust_external),
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
    options: BetweenOptions,
    eight_bit: str | None,
    trust_external: bool,
) -> LabelService:
    from segwright.data.label_maps import class_space
    from segwright.inference.description import is_bundle
    from segwright.labeling.between import Between, resumed_model
    from segwright.labeling.page.images import LabelImages
    from segwright.labeling.page.queue import Queue
    from segwright.labeling.page.server import chosen_classes, open_label_page
    from segwright.labeling.questions import Selection
    from segwright.labeling.store import LabelFolder

    predictor: Predictor | None = None
    current: Path | None = None
    trains = False

    def load_model(path: Path) -> Predictor:
        return load(path, device=options.device, eight_bit=eight_bit, trust_external=trust_external)

    def make_trainer(store: LabelFolder, shown: LabelImages, queue: Queue) -> Between:
        assert current is not None
        return Between(store, shown, queue, current, load_model, options)

    if model is not None:
        current = resumed_model(folder, Path(model).resolve())
        predictor = load_model(current)
        trains = is_bundle(current) or is_bundle(current / "model")
    given = None if classes is None else class_space(classes)
    selection = questions if isinstance(questions, Selection) or questions is None else Selection.load(questions)
    asked = None if selection is None else selection.label_space
    space = chosen_classes(folder, given, None if predictor is None else predictor.label_space, asked)
    return open_label_page(
        images, folder, space, predictor=predictor, model=None if current is None else str(current),
        selection=selection, make_trainer=make_trainer if trains else None,
    )  # fmt: skip
