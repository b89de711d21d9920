"""Modules that were renamed in 0.2: the old name still imports, with a DeprecationWarning, for one release.

Only the table knows the old names. An old name is the new module itself, so that patching either patches both.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGE = "segwright."

RENAMED = {
    "augment.colour": "augment.color",
    "augment.geometry": "augment.warp",
    "cli.post": "cli.postprocess",
    "compiled": "kernels.jit",
    "config": "training.config",
    "console": "core.progress",
    "data.cache": "data.loading.cache",
    "data.catalogue": "data.download.catalog",
    "data.check_page": "data.check.report_html",
    "data.check_text": "data.check.report_text",
    "data.classes": "data.label_maps",
    "data.content": "data.grouping",
    "data.drawing": "data.annotations.rasterize",
    "data.duplicates": "data.check.duplicates",
    "data.examine": "data.check.scan",
    "data.findings": "data.check.rules",
    "data.fingerprint": "data.check.fingerprint",
    "data.formats.depth": "data.formats.bit_depth",
    "data.formats.figures": "data.formats.shapes",
    "data.formats.layers": "data.formats.multi_mask",
    "data.formats.names": "data.formats.name_parts",
    "data.formats.pairing": "data.formats.name_matching",
    "data.formats.pairs": "data.formats.csv_pairs",
    "data.formats.published": "data.formats.published_layout",
    "data.formats.references": "data.formats.file_references",
    "data.formats.tree": "data.formats.file_tree",
    "data.formats.values": "data.formats.mask_encoding",
    "data.inspect": "data.check.runner",
    "data.label_findings": "data.check.label_rules",
    "data.loader": "data.loading.loader",
    "data.oversampling": "data.loading.sampling",
    "data.polygons": "data.annotations.polygons",
    "data.rle": "data.annotations.rle",
    "data.street": "demo.street_scene",
    "data.street_canvas": "demo.canvas",
    "data.suspects": "data.check.label_outliers",
    "data.synthetic": "demo.dataset",
    "data.totals": "data.check.aggregate",
    "data.unpack": "data.download.unpack",
    "deploy.answers": "serving.responses",
    "deploy.batcher": "serving.batcher",
    "deploy.decoding": "serving.decoding",
    "deploy.export": "exporting.onnx",
    "deploy.limits": "serving.limits",
    "deploy.listen": "serving.server",
    "deploy.patience": "serving.uvicorn_timeouts",
    "deploy.requests": "serving.http",
    "deploy.server": "serving.app",
    "deploy.service": "serving.service",
    "deploy.service_metrics": "serving.metrics",
    "deploy.service_page": "serving.page",
    "eager": "kernels.dispatch",
    "errors": "core.errors",
    "evaluation.independent": "evaluation.sequences",
    "evaluation.tune_post": "search.tune_postprocessing",
    "files": "core.atomic_io",
    "halves": "kernels.bf16",
    "images": "imageio",
    "images.decode": "imageio.decode",
    "images.encode": "imageio.encode",
    "images.headers": "imageio.headers",
    "images.isolated": "imageio.sandbox",
    "images.jpeg": "imageio.jpeg",
    "images.limits": "imageio.limits",
    "images.png": "imageio.png",
    "images.raster": "imageio.raster",
    "images.tiff": "imageio.tiff",
    "images.tiff_tags": "imageio.tiff_tags",
    "images.windows": "imageio.tiles",
    "images.wire": "imageio.messages",
    "inference.imported": "inference.import_weights",
    "inference.placement": "inference.georeference",
    "inference.polygons": "inference.vectorize",
    "inference.reading": "inference.split_reader",
    "inference.tiling": "inference.sliding_window",
    "lanes": "kernels.simd",
    "losses.crossentropy": "losses.cross_entropy",
    "losses.pixels": "losses.base",
    "losses.weights": "losses.class_weights",
    "metrics.intervals": "metrics.bootstrap",
    "models.depthwise": "kernels.depthwise",
    "models.depthwise_kernels": "kernels.depthwise_kernels",
    "models.fcn_torchvision": "models.fcn_resnet",
    "models.measure": "models.profile",
    "models.mix_transformer": "models.encoders.mix_transformer",
    "models.norm_kernels": "kernels.batch_norm_kernels",
    "models.norms": "kernels.batch_norm",
    "models.quicken": "kernels.patching",
    "models.segmenter": "models.base",
    "models.timm_layers": "kernels.timm_layers",
    "models.unet2015": "models.unet_2015",
    "models.vgg": "models.encoders.vgg",
    "models.weights": "models.encoders.pretrained",
    "models.winograd": "kernels.winograd",
    "models.winograd_kernels": "kernels.winograd_kernels",
    "pages": "reports",
    "pages.charts": "reports.charts",
    "pages.markup": "reports.html",
    "pages.style": "reports.html",
    "postprocess.chain": "postprocess.pipeline",
    "postprocess.crf_torch": "postprocess.crf_layer",
    "postprocess.meanfield": "kernels.mean_field",
    "postprocess.permutohedral": "kernels.permutohedral",
    "postprocess.spec": "postprocess.pipeline_spec",
    "sides": "core.left_right",
    "training.adjustment": "training.logit_adjustment",
    "training.checkpoint_shards": "training.distributed.sharded_checkpoint",
    "training.cpu": "training.planning.cpu",
    "training.crossval": "search.cross_validation",
    "training.crossval_page": "search.cross_validation_page",
    "training.data_print": "training.data_fingerprint",
    "training.decomposition": "training.distributed.decomposition",
    "training.dtensors": "training.distributed.dtensors",
    "training.folder": "training.run_dir",
    "training.heartbeat": "training.distributed.watchdog",
    "training.interrupt": "training.callbacks.signals",
    "training.launcher": "training.distributed.launcher",
    "training.log": "training.callbacks.log",
    "training.loop": "training.trainer",
    "training.lr_range": "search.lr_range",
    "training.memory": "training.planning.memory",
    "training.muon": "training.optim.muon",
    "training.norm_statistics": "training.optim.norm_statistics",
    "training.plan": "training.planning.plan",
    "training.probe": "training.planning.memory_probe",
    "training.reproducible": "training.deterministic",
    "training.schedule": "training.optim.schedule",
    "training.shards": "training.distributed.fsdp",
    "training.step": "training.train_step",
    "training.trackers": "training.callbacks.trackers",
    "training.tune": "search.tune",
    "training.tune_page": "search.tune_page",
    "training.tune_space": "search.search_space",
    "training.unfreeze": "training.freezing",
    "training.watch": "training.callbacks.diagnostics",
    "types": "core.types",
    "workers": "kernels.threads",
    "yaml_text": "core.yaml_text",
    "deploy": "serving",
}


class _Renamed(Loader):
    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self.new)


class RenamedModules(MetaPathFinder):
    """Finds a module by a name that it had in an earlier release."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PACKAGE) or (new := RENAMED.get(fullname[len(PACKAGE) :])) is None:
            return None
        warnings.warn(
            f"{fullname} is now {PACKAGE}{new}; the old name works until the next release",
            DeprecationWarning,
            stacklevel=2,
        )
        return ModuleSpec(fullname, _Renamed(PACKAGE + new), is_package=True)


def install() -> None:
    """Make the old names importable. Once per process is enough; again changes nothing."""
    if not any(isinstance(finder, RenamedModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, RenamedModules())
