"""What tests of several folders share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import pytest
import torch
from pretend_cuda import DEVICE, pretended_gpu


@pytest.fixture(autouse=True)
def no_variable_stays() -> Iterator[None]:
    """A command that runs in this process forbids its children to import from their folder; a test's script does."""
    yield
    if not sys.flags.safe_path:
        os.environ.pop("PYTHONSAFEPATH", None)


@pytest.fixture(params=["pretended", "real"])
def gpu(request: pytest.FixtureRequest) -> Iterator[torch.device]:
    """A GPU: one that is pretended on the CPU (see pretend_cuda), and this machine's own."""
    if request.param == "pretended":
        with pretended_gpu():
            yield DEVICE
        return
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU")
    # Answers are compared with a CPU's: TF32, the default of convolutions there, keeps ten bits of the mantissa.
    allowed = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    yield DEVICE
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = allowed


@pytest.fixture
def asked() -> Iterator[set[str]]:
    """The operations that a pretended GPU has been asked for, while the test runs."""
    with pretended_gpu() as operations:
        yield operations


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "tests/fuzz, with -m fuzz")
    group.addoption("--fuzz-inputs", type=int, default=int(os.environ.get("FUZZ_INPUTS", "2000")), help="per target")
    group.addoption("--fuzz-seed", type=int, default=int(os.environ.get("FUZZ_SEED", "1")))
    group.addoption("--fuzz-first", type=int, default=0, help="index of the first input: where an earlier run ended")
