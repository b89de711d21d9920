"""An exported ``.pt2`` file as a runtime: a program of torch.export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.export.passes import move_to_device_pass

from segwright.core.errors import BundleError, ModelError
from segwright.core.types import UInt8Array
from segwright.inference.exported import METADATA_KEY, WEIGHTS_KEY, ExportedRuntime
from segwright.inference.torch_runtime import choose_device


class TorchProgramRuntime(ExportedRuntime):
    """An exported ``.pt2`` file on any device. The format holds pickles: open only files whose origin you trust."""

    name = "torch"

    def __init__(self, path: str | Path, device: str = "auto") -> None:
        path = Path(path)
        if not path.is_file():
            raise BundleError("no such exported file", where=path)
        extra = {METADATA_KEY: "", WEIGHTS_KEY: "", "outputs": "[]"}
        try:
            program = torch.export.load(str(path), extra_files=extra)
            outputs = json.loads(extra["outputs"])
        except Exception as error:  # zip, json and torch each have their own errors
            raise BundleError("torch cannot load the file", found=str(error)[:300], where=path) from error
        super().__init__(path, extra[METADATA_KEY] or None, extra[WEIGHTS_KEY], outputs)
        shapes = [tuple(node.meta["val"].shape) for node in program.graph.nodes
                  if node.op == "placeholder" and node.name in program.graph_signature.user_inputs]  # fmt: skip
        self._check_signature(len(shapes) == 1 and len(shapes[0]) == 4, [str(shape) for shape in shapes])
        self.in_channels = int(shapes[0][3])
        self.device = choose_device(device)
        if self.device.type != "cpu":
            program = move_to_device_pass(program, str(self.device))
        self.program = program.module()

    @torch.inference_mode()
    def run(self, outputs: tuple[str, ...], images: UInt8Array) -> list[npt.NDArray[Any]]:
        pixels = torch.from_numpy(np.require(images, requirements=["C", "W"])).to(self.device)
        try:
            found = dict(zip(self.outputs, self.program(pixels), strict=True))
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                "torch cannot run the exported file on this image",
                found=f"{str(error)[:300]} (image {images.shape})",
                where=self.path,
                fix="use a smaller image if memory is short; otherwise export the model again",
            ) from error
        return [found[name].cpu().numpy() for name in outputs]
