"""What ``import segwright`` offers: one function per command, over paths or objects.

Functions import what they need when they are called: a data check must not wait seconds for torch.
"""

from __future__ import annotations

from segwright.api.comparison import compare
from segwright.api.data import check, choose_split, convert, open_dataset
from segwright.api.inference import evaluate, predict
from segwright.api.journal import make_reference, read_journal, read_reference
from segwright.api.label_errors import find_label_errors
from segwright.api.label_page import label
from segwright.api.labeling import select, write_tasks
from segwright.api.many_machines import predict_on_ray
from segwright.api.models import create_model, ensemble, export, import_weights, list_models, load
from segwright.api.monitoring import monitor
from segwright.api.postprocess import plot_crf, tune_postprocessing
from segwright.api.quality import fit_error_model
from segwright.api.refinement import promote, read_lineage, refine
from segwright.api.results import ConvertResult, FailedFile, ModelInfo, PredictedFile, PredictResult
from segwright.api.runtimes import benchmark
from segwright.api.serving import create_api_key, serve
from segwright.api.training import cross_validate, lr_range, train, tune
from segwright.core.deprecated import renamed_names

__all__ = [
    "ConvertResult",
    "FailedFile",
    "ModelInfo",
    "PredictResult",
    "PredictedFile",
    "benchmark",
    "check",
    "choose_split",
    "compare",
    "convert",
    "create_api_key",
    "create_model",
    "cross_validate",
    "ensemble",
    "evaluate",
    "export",
    "find_label_errors",
    "fit_error_model",
    "import_weights",
    "label",
    "list_models",
    "load",
    "lr_range",
    "make_reference",
    "monitor",
    "open_dataset",
    "plot_crf",
    "predict",
    "predict_on_ray",
    "promote",
    "read_journal",
    "read_lineage",
    "read_reference",
    "refine",
    "select",
    "serve",
    "train",
    "tune",
    "tune_postprocessing",
    "write_tasks",
]

__getattr__ = renamed_names(
    __name__, {"tune_post": "tune_postprocessing", "crf_figure": "plot_crf", "evaluate_path": "evaluate"}
)
