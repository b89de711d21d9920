"""Compare the runtimes of a model on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from segwright.training.config import parse_size

if TYPE_CHECKING:
    from segwright.exporting.benchmark import Benchmark

__all__ = ["benchmark"]


def benchmark(
    model: str | Path,
    *,
    data: str | Path | None = None,
    size: str | None = None,
    batch: int = 4,
    seconds: float = 20.0,
    memory: bool = True,
    keep: bool = True,
    trust_external: bool = False,
) -> Benchmark:
    """Compare the runtimes of a model on this machine's CPU: latency, throughput, memory, agreement.

    They run in turn on the same images. The fastest one whose labels are at least 99.9 % those of the usual runtime is
    what ``runtime="auto"`` takes from then on, on this machine, for this model.

    Parameters
    ----------
    model : str or Path
        A run folder, a bundle or an exported file.
    data : str or Path, optional
        Images to run on, as for :func:`segwright.export`.
    size : str, optional
        Height x width of the timed image, such as ``"352x480"``; left out, its own.
    batch : int >= 1, default=4
        Images of a run for the throughput.
    seconds : float > 0, default=20
        Of timing one image; half as long for the batch.
    memory : bool, default=True
        Also measure each runtime's memory, in a process of its own.
    keep : bool, default=True
        Keep the result in the user's cache, for ``runtime="auto"``.
    trust_external : bool, default=False
        As for :func:`segwright.load`.

    Returns
    -------
    Benchmark
        ``runtimes`` (``latency_ms``, ``latency_p95_ms``, ``images_per_second``, ``memory_mb``, ``agreement``,
        ``speedup`` over the first), ``fastest``, ``machine``.

    Raises
    ------
    BundleError
        There is no saved model or exported file.
    UsageError
        A size, batch or time that is none.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.benchmark("run", data="streets", seconds=0.1, batch=1, memory=False, keep=False)
    >>> found.runtimes[0].runtime, found.runtimes[0].agreement
    ('torch', 1.0)
    """
    from segwright.api.models import parity_samples
    from segwright.exporting.benchmark import benchmark as compare_runtimes

    samples, source = parity_samples(model, data, trust_external)
    return compare_runtimes(
        model, samples=samples, source=source, size=None if size is None else parse_size(size), batch=batch,
        seconds=seconds, memory=memory, keep=keep, trust_external=trust_external,
    )  # fmt: skip
