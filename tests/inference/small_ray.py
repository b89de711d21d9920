"""A Ray cluster of this machine for tests, with a deadline that a busy machine meets."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

DEADLINE = 400.0  # seconds; a few on a quiet machine
AGENTS = {  # options of `ray start`, and the files in which the agents state these ports
    "--metrics-export-port": "metrics_export_port", "--dashboard-agent-grpc-port": "metrics_agent_port",
    "--dashboard-agent-listen-port": "dashboard_agent_listen_port",
    "--runtime-env-agent-port": "runtime_env_agent_port",
}  # fmt: skip


@dataclass(frozen=True)
class SmallCluster:
    """A cluster that runs."""

    address: str
    folder: Path  # of its logs
    process: int  # whose descendants its processes are
    variables: dict[str, str]  # that a program needs to join it

    def workers(self) -> list[psutil.Process]:
        """The processes that predict."""
        found = []
        for one in psutil.Process(self.process).children(recursive=True):
            with suppress(psutil.Error):
                if any(part.startswith("ray::") and "BlockWorker" in part for part in one.cmdline()):
                    found.append(one)
        return found


@contextmanager
def small_cluster(cpus: int = 2, **environment: str) -> Iterator[SmallCluster]:
    """A cluster with ``cpus`` processors, which ends with the block."""
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="sw-t-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        ports = _free_ports(len(AGENTS) + 1)
        address = f"127.0.0.1:{ports[-1]}"
        agents = dict(zip(AGENTS, ports, strict=False))
        command = [
            sys.executable, "-P", "-m", "ray.scripts.scripts", "start", "--head", "--block",
            "--include-dashboard=false", "--disable-usage-stats",
            "--node-ip-address=127.0.0.1", f"--port={ports[-1]}", f"--num-cpus={cpus}",
            "--object-store-memory=200000000", f"--temp-dir={folder}", "--include-log-monitor=false",
            *(f"{option}={port}" for option, port in agents.items()),
        ]  # fmt: skip
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        variables = {
            **os.environ, **token, "RAY_USAGE_STATS_ENABLED": "0", "PYTHONSAFEPATH": "1",
            "RAY_worker_register_timeout_seconds": str(int(DEADLINE)), "OMP_NUM_THREADS": "1", **environment,
        }  # fmt: skip
        log = stack.enter_context(open(folder / "start.log", "wb"))
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
        stack.callback(_end, process)
        end = time.monotonic() + DEADLINE
        while not _answers(ports[-1]) or not _sockets(folder):
            _state_ports(folder, agents)
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"no cluster: {(folder / 'start.log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield SmallCluster(address, folder, process.pid, token)


def _state_ports(folder: Path, agents: dict[str, int]) -> None:
    """Write the files in which Ray's agents state their ports, which are fixed: the node waits only 15 s for them."""
    for known in folder.glob("session_2*/gcs_server_port_*"):
        node = known.name.removeprefix("gcs_server_port_")
        for option, name in AGENTS.items():
            place = known.with_name(f"{name}_{node}")
            if not place.exists():
                beside = place.with_suffix(".new")
                beside.write_text(str(agents[option]))
                beside.rename(place)


def _sockets(folder: Path) -> bool:
    return any(folder.glob("session_2*/sockets/raylet"))


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in found]


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
