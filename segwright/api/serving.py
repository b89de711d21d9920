"""Serve models over HTTP, and the keys of those who may use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.api.models import load
from segwright.core.deprecated import renamed_parameters
from segwright.core.errors import BundleError, UsageError

if TYPE_CHECKING:
    from segwright.inference.predictor import Predictor
    from segwright.monitoring.recorder import JournalOptions
    from segwright.serving.models import ModelSource

__all__ = ["create_api_key", "serve"]

Models = str | Path | Sequence[str | Path] | Mapping[str, str | Path]


@renamed_parameters(post="postprocess", queue="max_concurrent_requests", timeout="upload_timeout", say="message")
def serve(
    model: Models,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    precision: str = "auto",
    postprocess: str | None = None,
    tta: str | None = None,
    max_concurrent_requests: int = 32,
    batch: int | None = None,
    window: int | None = None,
    max_megabytes: float = 32.0,
    max_megapixels: float = 32.0,
    upload_timeout: float = 30.0,
    predict_timeout: float = 120.0,
    eight_bit: str | None = None,
    models_memory: int | str | None = None,
    api_keys: str | Path | None = None,
    tls_cert: str | Path | None = None,
    tls_key: str | Path | None = None,
    watch: bool = False,
    journal: str | Path | None = None,
    keep_images: float | str = 0.0,
    retention: float | str = "30d",
    journal_max_size: int | str = "1GB",
    label_studio: str | None = None,
    label_studio_key_file: str | Path | None = None,
    label_studio_labels: str = "",
    label_folder: str | Path | None = None,
    trust_external: bool = False,
    runtime: str = "auto",
    message: Callable[[str], None] = print,
) -> None:
    """Serve one or several models over HTTP until SIGINT or SIGTERM. Requests that were accepted are finished first.

    Parameters
    ----------
    model : str or Path, or a sequence or mapping of them
        A run folder, a bundle, an ``.onnx`` file, or a slot, whose promotions are then taken over as they come. Of
        several, the first is the default one; ``{"street": "runs/a", "fields": "runs/b"}`` or ``"street=runs/a"``
        gives them names, which are otherwise those of their folders.
    host : str, default="127.0.0.1"
        Address to listen on; ``"0.0.0.0"`` for all.
    port : int, default=8000
        0 takes a free one.
    device, precision, postprocess, tta, eight_bit, trust_external
        As for :func:`segwright.load`.
    runtime : {"auto", "usual", "torch", "onnxruntime", "openvino"}, default="auto"
        The fastest that :func:`segwright.benchmark` has proven for this model on this machine, else the usual one, as
        for :func:`segwright.load`. What only the network itself has (features of a journal, dropout) takes the usual.
    max_concurrent_requests : int >= 1, default=32
        Requests at a time; more are answered with 503.
    batch : int >= 1, optional
        Images of one size that run together. Left out: 8 on a GPU, 1 on a CPU.
    window : int, optional
        Images of more than ``window``² pixels are predicted in windows, between which waiting images are run; smaller
        windows let them pass sooner. Left out: as :func:`segwright.predict` does, so that the labels are the same.
    max_megabytes, max_megapixels : float > 0
        The largest body and image.
    upload_timeout : float > 0, default=30
        Seconds that a client may take to send an image.
    predict_timeout : float > 0, default=120
        Seconds that the network may take for one image.
    models_memory : int or str, optional
        The largest size of the files of all models that are loaded at a time, such as ``"2GB"``. Versions of a slot
        that are not in use are unloaded for it.
    api_keys : str or Path, optional
        A file of :func:`create_api_key`: every request needs one of its keys.
    tls_cert, tls_key : str or Path, optional
        A certificate with its chain, and its private key, as PEM files: HTTPS.
    watch : bool, default=False
        Reload the model when its files change, as SIGHUP does.
    journal, keep_images, retention, journal_max_size
        As for :func:`segwright.predict`. A full disk never stops the service: rows that are lost are counted in
        ``/metrics``.
    label_studio : str, optional
        The address of a Label Studio server: its backend protocol is served under ``/label-studio``, and the images of
        its tasks are fetched from this server alone.
    label_studio_key_file : str or Path, optional
        A file with an API key of Label Studio; left out: the environment variable ``LABEL_STUDIO_API_KEY``.
    label_studio_labels : str, default=""
        The project's labels where they differ from the classes, ``"car=Vehicle,sky="``; an empty one is not sent.
    label_folder : str or Path, optional
        Where annotations of Label Studio become masks. Without ``api_keys`` a loopback ``host`` is required: whoever
        reaches the port could change them.
    message : callable, default=print
        Receives lines for the user, such as the URL. Requests are logged to ``segwright.serve``.

    Raises
    ------
    UsageError
        The port cannot be had; two models have one name; keys or certificate cannot be used; a label folder without
        keys on an address that other machines reach.
    BundleError
        There is no saved model.
    MissingExtraError
        The extra ``serve`` is not installed.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.serve("run", port=0)  # doctest: +SKIP
    >>> sw.serve({"street": "runs/a", "fields": "runs/b"}, api_keys="keys.json")  # doctest: +SKIP

    For other ASGI servers see :func:`segwright.serving.app.create_app`.
    """
    from segwright.serving.packages import require_packages

    require_packages()
    from segwright.inference.predictor import MIN_WINDOW
    from segwright.monitoring.recorder import JournalOptions, parse_size
    from segwright.serving.limits import ServiceLimits
    from segwright.serving.server import ListenOptions, log_to_stderr, serve_models
    from segwright.serving.tls import tls_files

    limits = ServiceLimits(
        max_megabytes=max_megabytes, max_megapixels=max_megapixels, max_concurrent_requests=max_concurrent_requests,
        batch=batch, body_seconds=upload_timeout, header_seconds=min(10.0, upload_timeout),
        predict_seconds=predict_timeout,
        models_megabytes=None if models_memory is None else parse_size(models_memory) / 1e6,
    )  # fmt: skip

    if window is not None and (not MIN_WINDOW <= window <= 8192 or window % 32):
        raise UsageError(
            "no size for windows", expected=f"{MIN_WINDOW} to 8192 pixels, a multiple of 32", found=str(window)
        )

    def load_model(path: Path) -> Predictor:
        predictor = load(
            path, device=device, precision=precision, postprocess=postprocess, tta=tta, eight_bit=eight_bit,
            trust_external=trust_external, runtime="usual" if runtime == "auto" and journal is not None else runtime,
        )  # fmt: skip
        predictor.window = predictor.window if window is None else window
        predictor.window_batch = 1  # small images get their turn between the windows of a large one
        return predictor

    def recorded(path: Path) -> JournalOptions | None:
        if journal is None:
            return None
        return JournalOptions(journal, keep_images, journal_max_size, retention, reference=path)

    sources = [_source(name, path, load_model, watch, recorded(path)) for name, path in named_models(model)]
    log_to_stderr()
    more = None
    if label_studio is not None:
        from segwright.labeling.label_studio import label_studio_routes

        name, path = named_models(model)[0]
        more = label_studio_routes(label_studio, path, name, label_studio_key_file, label_studio_labels, label_folder)
    elif label_folder is not None or label_studio_key_file is not None or label_studio_labels:
        raise UsageError("options of Label Studio without its address", fix="--label-studio http://localhost:8080")
    options = ListenOptions(
        host, port, None if api_keys is None else Path(api_keys), tls_files(tls_cert, tls_key),
        stores=None if label_folder is None else Path(label_folder),
    )  # fmt: skip
    serve_models(sources, limits, options, more=more, message=message)


def _source(
    name: str, path: Path, load_model: Callable[[Path], Predictor], watch: bool, journal: JournalOptions | None
) -> ModelSource:
    from segwright.inference.exported_files import find_exported
    from segwright.inference.predictor import find_bundle
    from segwright.serving.models import ModelSource, files_size

    try:
        exported = find_exported(path)
        place = exported.file if exported is not None else find_bundle(path)
    except BundleError:  # loading raises it, once the port and the other options are known to be good
        place = path
    watched, versions = place if watch else None, None
    if (path / "versions").is_dir():  # a slot, which is made to be switched
        from segwright.labeling.slot import Slot
        from segwright.serving.models import FolderVersions

        watched = path / "model"  # the link, and not the version that it leads to now
        slot = Slot(path)
        versions = FolderVersions(slot.versions, slot.version, load_model)
    return ModelSource(name, lambda: load_model(path), watched, versions, journal, files_size(place))


def named_models(model: Models) -> list[tuple[str, Path]]:
    """The names and paths of one or several models; UsageError without any."""
    if isinstance(model, Mapping):
        pairs = [(name, Path(path)) for name, path in model.items()]
    else:
        pairs = [_named(one) for one in ([model] if isinstance(model, str | Path) else model)]
    if not pairs:
        raise UsageError("no model to serve", expected="one or more saved models", found="none")
    return pairs


def _named(model: str | Path) -> tuple[str, Path]:
    """``NAME=PATH``, or a path, whose folder gives the name. A path that exists is one, whatever is in it."""
    name, sign, rest = str(model).partition("=")
    if sign and isinstance(model, str) and not Path(model).exists() and "/" not in name:
        return name, Path(rest)
    path = Path(model)
    place = path.resolve()
    folder = place.parent if place.name == "model" else place  # of a run, not in it
    return place.stem if place.is_file() else folder.name, path


def create_api_key(
    file: str | Path,
    name: str,
    *,
    requests_per_minute: float | None = None,
    max_concurrent: int | None = None,
    models: Sequence[str] | None = None,
    may_reload: bool = False,
) -> str:
    """Make an API key for :func:`serve`, add its hash to a file, and return the key, which is stored nowhere.

    A service that uses the file takes the key within a second.

    Parameters
    ----------
    file : str or Path
        The file of keys; made if there is none, readable by its owner alone.
    name : str
        The name of whoever gets the key: letters, digits, ``.``, ``_`` and ``-``.
    requests_per_minute : float > 0, optional
        Images per minute; more are answered with 429. Left out: not limited.
    max_concurrent : int >= 1, optional
        Images at a time.
    models : sequence of str, optional
        The names of the models that the key is for. Left out: all.
    may_reload : bool, default=False
        Whether the key may reload models.

    Returns
    -------
    str
        The key, for the header ``Authorization: Bearer KEY``.

    Raises
    ------
    UsageError
        There is a key of this name, a limit cannot be, or the file is no file of keys.

    Examples
    --------
    >>> import segwright as sw
    >>> key = sw.create_api_key("keys.json", "street-app", requests_per_minute=600)
    >>> key.startswith("sw_")
    True
    """
    from segwright.serving.packages import require_packages

    require_packages()
    from segwright.serving.keys import create_key

    return create_key(
        file, name, requests_per_minute=requests_per_minute, max_concurrent=max_concurrent, models=models,
        may_reload=may_reload,
    )  # fmt: skip
