"""A connection to Ray: a cluster of this machine alone, or one that runs.

Ray's usage statistics and dashboard stay off, its processes take no modules from the current folder, and a local
cluster has a token of its own and leaves no files.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segwright.core.errors import MissingExtraError, SegwrightError, UsageError
from segwright.inference.destination import within
from segwright.kernels.threads import processors

REACH_SECONDS = 10.0  # for an address to answer
JOIN_SECONDS = 90.0
START_TRIES = 4  # on a busy machine, Ray gives up on its own processes
OBJECTS = 200_000_000  # bytes of Ray's shared memory in a local cluster; images do not pass through it
SILENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_USAGE_STATS_PROMPT_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "PYTHONSAFEPATH": "1",
}
JOINING = (
    "ray start --head on one machine and ray start --address=HOST:6379 on the others; RAY_AUTH_MODE=token if the "
    "cluster needs one"
)
EXTRA = "pip install 'segwright[ray]', on every machine"


def import_ray() -> Any:
    """Ray with Ray Data; MissingExtraError without it."""
    for key, value in SILENT.items():
        os.environ.setdefault(key, value)
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingExtraError("--ray needs Ray", found=f"no module {error.name}", fix=EXTRA) from error
    for name in ("ray", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return ray


@contextmanager
def cluster(address: str | None, processes: int, threads: int, objects: int = 0) -> Iterator[Any]:
    """Ray, connected; UsageError if the address does not answer in time.

    ``address``: ``HOST:PORT`` of a cluster, ``auto`` for the one that runs on this machine, ``local`` for a new one of
    ``processes`` × ``threads`` processors; None: what ``RAY_ADDRESS`` names, else ``local``. ``objects``: bytes that a
    new cluster's shared memory must hold. A connection that the program already has is used, and kept.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    place = address or os.environ.get("RAY_ADDRESS") or "local"
    folder: str | None = None
    try:
        if place == "local":
            folder = _short_folder()
            _start(ray, folder, processes * threads, max(OBJECTS, 2 * objects))
        else:
            _join(ray, place)
        yield ray
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def _start(ray: Any, folder: str, processors_of_it: int, objects: int) -> None:
    """Start a cluster of this machine."""
    for number in range(START_TRIES):
        try:
            with _own_token():
                ray.init(
                    address="local", num_cpus=processors_of_it, object_store_memory=objects, include_dashboard=False,
                    log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False, job_config=_job(ray),
                    _temp_dir=folder, _node_ip_address="127.0.0.1",
                )  # fmt: skip
            return
        except Exception as error:  # Ray raises the plain class if its processes are slow to start
            ray.shutdown()
            if number == START_TRIES - 1:
                raise SegwrightError(
                    "Ray does not start on this machine", found=f"{type(error).__name__}: {str(error)[:300]}",
                    fix="less load on the machine, more memory, or --ray-address of a cluster that runs",
                ) from error  # fmt: skip
            time.sleep(1.0)


@contextmanager
def _own_token() -> Iterator[None]:
    """Give a new cluster a token of this process, in place of the one that Ray would write into the home folder.

    Ray reads it once per process, and sets ``RAY_AUTH_MODE`` itself: the next cluster must find both as this one did.
    """
    if "RAY_AUTH_MODE" in os.environ or "RAY_AUTH_TOKEN" in os.environ:
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = _token()
    try:
        yield
    finally:
        os.environ.pop("RAY_AUTH_TOKEN", None)
        os.environ.pop("RAY_AUTH_MODE", None)


@functools.cache
def _token() -> str:
    return secrets.token_hex(32)


def _join(ray: Any, address: str) -> None:
    """Connect to a cluster that runs."""
    if address.startswith("ray://"):
        raise UsageError(
            "a Ray client's address is no machine of the cluster", found=address,
            expected="HOST:PORT of the head node, or auto, from a machine of the cluster",
            fix="run the command on a machine of the cluster, or with: ray job submit -- segwright predict …",
        )  # fmt: skip
    if address != "auto":
        _check_answers(address)
    refused = UsageError(
        "the Ray cluster cannot be joined", where=address, found=f"no connection within {JOIN_SECONDS:.0f} s",
        expected="a cluster of the same versions of Ray and Python, that this machine belongs to", fix=JOINING,
    )  # fmt: skip
    try:
        within(
            JOIN_SECONDS,
            lambda: ray.init(
                address=address, log_to_driver=False, logging_level=logging.CRITICAL, configure_logging=False,
                job_config=_job(ray),
            ),
            refused,
        )  # fmt: skip
    except UsageError:
        raise
    except Exception as error:
        found = f"{type(error).__name__}: {str(error)[:400]}"
        raise UsageError(
            refused.message, where=address, found=found, expected=refused.expected, fix=JOINING
        ) from error  # fmt: skip


def _check_answers(address: str) -> None:
    """UsageError if nothing listens at an address, within REACH_SECONDS."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise UsageError("no address of a Ray cluster", expected="HOST:PORT, auto or local", found=address)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_SECONDS):
            pass
    except OSError as error:
        raise UsageError(
            "the Ray cluster does not answer", expected=f"an answer within {REACH_SECONDS:.0f} s",
            found=str(error) or type(error).__name__, where=address,
            fix="check the address and that the cluster runs: ray status --address HOST:PORT",
        ) from error  # fmt: skip


def cluster_size(ray: Any, device: str, workers: int | None, threads: int) -> tuple[int, int]:
    """The number of worker processes, and of GPUs for each; UsageError if the cluster has too little for one, or for
    those that were asked for."""
    found = ray.cluster_resources()
    cpus, gpus = int(found.get("CPU", 0)) // threads, int(found.get("GPU", 0))
    each = 1 if gpus and device != "cpu" else 0
    most = min(cpus, gpus) if each else cpus
    if most < 1 or (workers or 0) > most:
        raise UsageError(
            "the cluster has too few processors for that",
            expected=f"{workers or 1} workers of {threads} processors{' and a GPU' if each else ''}",
            found=f"{found.get('CPU', 0):g} processors, {gpus} GPUs",
            fix="--workers and --worker-threads that fit, or more machines",
        )
    return workers or most, each


def default_workers(threads: int) -> int:
    """The workers of a local cluster."""
    return max(1, processors() // threads)


def _job(ray: Any) -> Any:
    """The job's configuration, without the current folder and the script's folder in the workers' search path."""
    job = ray.job_config.JobConfig()
    job._py_driver_sys_path = _Fixed(_package())
    return job


class _Fixed(list[str]):
    """A list to which Ray adds nothing."""

    def extend(self, values: Any) -> None:
        """Keep the list as it is."""


def _package() -> list[str]:
    """The folder of this package if no installation leads to it, as for a checkout in PYTHONPATH."""
    root = str(Path(__file__).resolve().parent.parent.parent)
    return [root] if root in os.environ.get("PYTHONPATH", "").split(os.pathsep) else []


def _short_folder() -> str:
    """A temporary folder whose path leaves room for the names of sockets, which have 107 bytes at most."""
    place = tempfile.gettempdir()
    if sys.platform != "win32" and len(place) > 30:
        place = "/tmp"
    return tempfile.mkdtemp(prefix="sw-ray-", dir=place)
