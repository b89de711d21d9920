"""Orthogonalization for Muon: ours beside timm's, on the kernels of LeanNet medium, in turn in this process.

    python benchmarks/muon.py [--rounds 20] [--variant medium]

Both take the last three of the ``quintic`` coefficients, so that they compute the same; the largest difference is
printed. Both take matrices of one shape together. Times are the least of the rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from timm.optim.muon import zeropower_via_newtonschulz

from segwright.models.catalog import create_model
from segwright.training.optim.muon import QUINTIC, muon_parameters, orthogonalize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--variant", default="medium")
    options = parser.parse_args()
    torch.manual_seed(0)
    network = create_model("leannet", classes=11, weights=None, variant=options.variant)
    groups: dict[torch.Size, list[torch.Tensor]] = {}
    for parameter in muon_parameters(network):
        groups.setdefault(parameter.shape, []).append(torch.randn(parameter.shape[0], parameter[0].numel()))
    count = sum(map(len, groups.values()))
    print(f"{count} kernels of {len(groups)} shapes, {torch.get_num_threads()} threads")
    print("| | segwright, ms | timm, ms | ratio | largest difference, over the mean entry |\n|---|---:|---:|---:|---:|")
    for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):

        def ours(dtype: torch.dtype = dtype) -> list[torch.Tensor]:
            bf16 = dtype == torch.bfloat16
            found = [orthogonalize(torch.stack(same), 3, bf16=bf16).unbind() for same in groups.values()]
            return [one for same in found for one in same]

        def theirs(dtype: torch.dtype = dtype) -> list[torch.Tensor]:
            last = list(QUINTIC[-3:])
            stacks = [torch.stack(same) for same in groups.values()]
            found = [zeropower_via_newtonschulz(x, steps=3, coefficients=last, dtype=dtype).float() for x in stacks]
            return [one for same in found for one in same.unbind()]

        difference = 0.0
        for a, b in zip(ours(), theirs(), strict=True):
            scaled = b * (a.shape[0] ** 0.5 / b.norm())
            difference = max(difference, float((a - scaled).abs().max() / a.abs().mean()))
        seconds: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
        for _ in range(options.rounds):
            for contestant, times in seconds.items():
                began = time.perf_counter()
                contestant()
                times.append(time.perf_counter() - began)
        own, other = (1000 * min(times) for times in seconds.values())
        print(f"| {name} | {own:.1f} | {other:.1f} | {other / own:.2f} | {difference:.3f} |")


if __name__ == "__main__":
    main()
