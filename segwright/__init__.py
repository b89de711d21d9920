"""segwright turns a folder of images and masks into a deployed segmentation model, and keeps it good.

``import segwright as sw`` is cheap: torch is loaded only when a name that needs it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from segwright.core.deprecated import warn_renamed
from segwright.core.renamed import install as _install_renamed_modules
from segwright.core.version import __version__

_install_renamed_modules()

if TYPE_CHECKING:
    from segwright.api import (
        ConvertResult,
        FailedFile,
        ModelInfo,
        PredictedFile,
        PredictResult,
        benchmark,
        check,
        choose_split,
        compare,
        convert,
        create_api_key,
        create_model,
        cross_validate,
        ensemble,
        evaluate,
        export,
        find_label_errors,
        fit_error_model,
        import_weights,
        label,
        list_models,
        load,
        lr_range,
        make_reference,
        monitor,
        open_dataset,
        plot_crf,
        predict,
        predict_on_ray,
        promote,
        read_journal,
        read_lineage,
        read_reference,
        refine,
        select,
        serve,
        train,
        tune,
        tune_postprocessing,
        write_tasks,
    )
    from segwright.augment.corruptions import corrupt
    from segwright.core.errors import (
        BundleError,
        BundleWriteError,
        CheckpointError,
        ConfigError,
        DataError,
        DeadProcessError,
        DepthError,
        DownloadError,
        ExportError,
        FormatError,
        ImageReadError,
        LabelError,
        MissingExtraError,
        ModelError,
        NameClashError,
        NonFiniteLossError,
        OutOfMemoryError,
        OutputError,
        PluginError,
        PostprocessError,
        PromotionRefusedError,
        SegwrightError,
        TooLargeError,
        TrainingError,
        UsageError,
        WeightsError,
    )
    from segwright.core.types import Batch, LabelSpace, Sample
    from segwright.data.check.runner import CheckResult
    from segwright.data.dataset import Dataset, Split
    from segwright.data.records import Problem
    from segwright.evaluation.compare import Comparison
    from segwright.evaluation.evaluate import Evaluation
    from segwright.evaluation.label_errors import LabelErrors, SuspectRegion
    from segwright.exporting.benchmark import Benchmark
    from segwright.exporting.job import ExportResult
    from segwright.inference.lineage import Lineage
    from segwright.inference.prediction import Prediction
    from segwright.inference.predictor import Predictor
    from segwright.labeling.promote import Promotion
    from segwright.labeling.questions import Question, SelectedImage, Selection
    from segwright.labeling.refine import Refinement
    from segwright.models.base import SegmentationModel, SegOutput
    from segwright.monitoring.journal import Journal
    from segwright.monitoring.observation import Observation
    from segwright.monitoring.reference import Reference
    from segwright.monitoring.result import MonitorResult
    from segwright.postprocess.crf import DenseCRF
    from segwright.training.config import TrainConfig
    from segwright.training.run import Run

# Module → the names that it gives to this one.
_HOME = {
    "segwright.api": (
        "ConvertResult FailedFile ModelInfo PredictResult PredictedFile benchmark check choose_split compare convert "
        "create_api_key create_model cross_validate ensemble evaluate export find_label_errors fit_error_model "
        "import_weights label list_models load lr_range make_reference monitor open_dataset plot_crf predict "
        "predict_on_ray promote "
        "read_journal read_lineage read_reference refine select serve train tune tune_postprocessing "
        "write_tasks"
    ),
    "segwright.core.errors": (
        "BundleError BundleWriteError CheckpointError ConfigError DataError DeadProcessError DepthError DownloadError "
        "ExportError FormatError ImageReadError LabelError MissingExtraError ModelError NameClashError "
        "NonFiniteLossError OutOfMemoryError OutputError PluginError PostprocessError PromotionRefusedError "
        "SegwrightError TooLargeError TrainingError UsageError WeightsError"
    ),
    "segwright.augment.corruptions": "corrupt",
    "segwright.core.types": "Batch LabelSpace Sample",
    "segwright.data.check.runner": "CheckResult",
    "segwright.data.dataset": "Dataset Split",
    "segwright.data.records": "Problem",
    "segwright.evaluation.compare": "Comparison",
    "segwright.evaluation.evaluate": "Evaluation",
    "segwright.evaluation.label_errors": "LabelErrors SuspectRegion",
    "segwright.exporting.benchmark": "Benchmark",
    "segwright.exporting.job": "ExportResult",
    "segwright.inference.lineage": "Lineage",
    "segwright.inference.prediction": "Prediction",
    "segwright.inference.predictor": "Predictor",
    "segwright.labeling.promote": "Promotion",
    "segwright.labeling.refine": "Refinement",
    "segwright.labeling.questions": "Question SelectedImage Selection",
    "segwright.models.base": "SegOutput SegmentationModel",
    "segwright.monitoring.journal": "Journal",
    "segwright.monitoring.observation": "Observation",
    "segwright.monitoring.reference": "Reference",
    "segwright.monitoring.result": "MonitorResult",
    "segwright.postprocess.crf": "DenseCRF",
    "segwright.training.config": "TrainConfig",
    "segwright.training.run": "Run",
}
_NAMES = {name: module for module, names in _HOME.items() for name in names.split()}
_RENAMED = {"tune_post": "tune_postprocessing", "crf_figure": "plot_crf"}

__all__ = [
    "Batch",
    "Benchmark",
    "BundleError",
    "BundleWriteError",
    "CheckResult",
    "CheckpointError",
    "Comparison",
    "ConfigError",
    "ConvertResult",
    "DataError",
    "Dataset",
    "DeadProcessError",
    "DenseCRF",
    "DepthError",
    "DownloadError",
    "Evaluation",
    "ExportError",
    "ExportResult",
    "FailedFile",
    "FormatError",
    "ImageReadError",
    "Journal",
    "LabelError",
    "LabelErrors",
    "LabelSpace",
    "Lineage",
    "MissingExtraError",
    "ModelError",
    "ModelInfo",
    "MonitorResult",
    "NameClashError",
    "NonFiniteLossError",
    "Observation",
    "OutOfMemoryError",
    "OutputError",
    "PluginError",
    "PostprocessError",
    "PredictResult",
    "PredictedFile",
    "Prediction",
    "Predictor",
    "Problem",
    "Promotion",
    "PromotionRefusedError",
    "Question",
    "Reference",
    "Refinement",
    "Run",
    "Sample",
    "SegOutput",
    "SegmentationModel",
    "SegwrightError",
    "SelectedImage",
    "Selection",
    "Split",
    "SuspectRegion",
    "TooLargeError",
    "TrainConfig",
    "TrainingError",
    "UsageError",
    "WeightsError",
    "__version__",
    "benchmark",
    "check",
    "choose_split",
    "compare",
    "convert",
    "corrupt",
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


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warn_renamed(f"segwright.{name}", f"segwright.{_RENAMED[name]}")
        name = _RENAMED[name]
    if name not in _NAMES:
        raise AttributeError(f"module 'segwright' has no attribute {name!r}")
    return getattr(import_module(_NAMES[name]), name)


def __dir__() -> list[str]:
    return __all__
