"""The label page on a port, until a signal ends it."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.core.errors import UsageError
from segwright.core.types import LabelSpace
from segwright.data.formats.label_folder import is_label_folder, read_info
from segwright.labeling.page.app import LabelApplication
from segwright.labeling.page.images import LabelImages, list_images
from segwright.labeling.page.queue import Queue
from segwright.labeling.page.service import LabelService, Trainer
from segwright.labeling.questions import Selection
from segwright.labeling.store import LabelFolder
from segwright.serving.http import LOOPBACK
from segwright.serving.server import Address, bind, build_server

if TYPE_CHECKING:
    from segwright.inference.predictor import Predictor

MakeTrainer = Callable[[LabelFolder, LabelImages, Queue], Trainer]


@dataclass(frozen=True)
class PageOptions:
    """Where the page listens, and who may see it."""

    host: str = "127.0.0.1"
    port: int = 8010
    token: str | None = None  # None: one is made if others can reach the port, none on this machine alone


def default_folder(images: Path) -> Path:
    """The label folder of a folder of images: beside it."""
    place = images.resolve()
    return place.parent / f"{place.name}-labels"


def chosen_classes(
    folder: Path, given: LabelSpace | None, model: LabelSpace | None, asked: LabelSpace | None = None
) -> LabelSpace:
    """The classes: the given ones, the model's, those of the label folder, or those that questions are ``asked`` about;
    UsageError without any of them.

    Given names that are not the model's are refused: its masks would mean other things than the labels. So are
    questions about other classes. A label folder may have further classes after the model's, of a later model.
    """
    if given is not None and model is not None and given.names != model.names:
        raise UsageError(
            "the classes are not those of the model", expected=", ".join(model.names)[:200],
            found=", ".join(given.names)[:200], fix="leave --classes out, or label without a model",
        )  # fmt: skip
    own = read_info(folder).label_space if given is None and is_label_folder(folder) else None
    found = given or model or own or asked
    about = found
    if model is not None and own is not None and own.names[: len(model.names)] == model.names:
        found = own
    if about is not None and asked is not None and about.names != asked.names:
        raise UsageError(
            "the questions are about other classes", expected=", ".join(about.names)[:200],
            found=", ".join(asked.names)[:200], fix="choose them with this model: segwright select MODEL IMAGES",
        )  # fmt: skip
    if found is None:
        raise UsageError(
            "no classes to label with", expected="--model MODEL, or --classes road,sky,car", found="neither"
        )
    return found


def open_label_page(
    images: Path,
    folder: Path,
    label_space: LabelSpace,
    *,
    predictor: Predictor | None = None,
    model: str | None = None,
    selection: Selection | None = None,
    make_trainer: MakeTrainer | None = None,
) -> LabelService:
    """The service of one label folder; UsageError or DataError if images or folder cannot be used."""
    if images.is_dir() and folder.resolve() == images.resolve():
        raise UsageError(
            "the folder holds something else", expected="a label folder", found="the images", where=folder,
            fix="name another one with --out",
        )  # fmt: skip
    names = list_images(images, exclude=(folder,))
    store = LabelFolder.open(folder, images, label_space, model)
    try:
        shown = LabelImages(images, names, predictor)
        queue = Queue(shown, store, selection)
        trainer = None if make_trainer is None else make_trainer(store, shown, queue)
        return LabelService(store, shown, queue, title=images.resolve().name, model=model, trainer=trainer)
    except BaseException:
        store.close()
        raise


def run_label_page(
    make_service: Callable[[], LabelService],
    options: PageOptions,
    *,
    describe: Callable[[LabelService], Sequence[str]] = lambda service: (),
    message: Callable[[str], None] = print,
) -> None:
    """Serve the label page until SIGINT or SIGTERM. UsageError for a port that cannot be bound, before any work."""
    sock, address = bind(options.host, options.port)
    with contextlib.closing(sock):
        token = options.token or (None if address.loopback else secrets.token_urlsafe(18))
        service = make_service()
        app = LabelApplication(service, LOOPBACK if address.loopback else None, token)

        def announce() -> None:
            for line in describe(service):
                message(line)
            _announce(address, token, message)

        server = build_server(app, announce)
        server.run([sock])
    if server.lifespan.should_exit:
        raise UsageError("the label page could not start", found="see the log")
    message("Stopped; every stroke is kept")


def _announce(address: Address, token: str | None, message: Callable[[str], None]) -> None:
    query = f"?token={token}" if token else ""
    message(f"Label at {address.url}{query}  (press Ctrl-C to stop)")
    if not address.loopback:
        message(
            "Warning: others on the network can reach this port. The address with its token is the password, and it "
            "travels unencrypted: put a TLS reverse proxy in front of it outside of a trusted network."
        )
