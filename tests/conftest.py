"""What tests of several folders share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from pretend_cuda import DEVICE, pretended_gpu


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
