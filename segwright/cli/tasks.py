"""The commands by task, with examples and the page of each: for ``--help``, ``--help-json`` and ``segwright`` alone."""

from __future__ import annotations

TASKS: dict[str, dict[str, str]] = {  # task → command → what it does, in one line of 80 columns
    "Start": {"demo": "Everything at work in two minutes, on generated scenes"},
    "Data": {
        "check": "Find what would spoil a training, each with its fix",
        "convert": "Write a dataset in another format",
        "datasets": "List the formats that are read; download datasets",
    },
    "Training": {
        "train": "Train a model; what you leave out is planned",
        "models": "List the networks: when to use which, licenses",
        "tune": "Search for better settings than the planned ones",
        "lr-range": "Plot the loss over the learning rate, suggest one",
        "import": "Make a model of weights that were trained elsewhere",
    },
    "Evaluation": {
        "evaluate": "Score a model, or masks made by any tool",
        "compare": "Is one model better than another, beyond chance?",
        "label-errors": "Rank the regions whose labels are likely wrong",
    },
    "Prediction": {
        "predict": "Segment images, folders, videos, large rasters",
        "tune-post": "Search post-processing that raises the score",
        "plot-crf": "Draw what a CRF does to the labels, step by step",
    },
    "Deployment": {
        "export": "Write ONNX, OpenVINO, Triton and more, verified",
        "benchmark": "Compare the runtimes of a model on this machine",
        "serve": "Serve models over HTTP, with a page to try them",
        "api-key": "Make, list and remove the keys of a service",
    },
    "Monitoring and labeling": {
        "monitor": "Has the world changed, and how good is the model now?",
        "reference": "Make what monitoring compares with, if a model has none",
        "select": "Choose the images to label, and what to ask about them",
        "label": "Label images in the browser, with a model's help",
        "refine": "Fine-tune on new labels, and compare with before",
        "promote": "Put a model into service, if it is better",
        "lineage": "Show where a model came from",
    },
}
OTHER = "Other"  # the task of a command that is not listed above

# Each is parsed by a test, so that no option in it is unknown.
EXAMPLES: dict[str, tuple[str, ...]] = {
    "": ("segwright demo", "segwright train photos/ --minutes 20", "segwright predict runs/latest street.jpg"),
    "demo": ("segwright demo", "segwright demo --out /tmp/first-look --no-open"),
    "check": (
        "segwright check photos/",
        "segwright check photos/ --html check.html",
        "segwright check scans/ --images '*.jpg' --masks 'truth/*_gt.png'",
    ),
    "convert": ("segwright convert photos/ --to coco --out photos-coco",),
    "datasets": ("segwright datasets", "segwright datasets download camvid"),
    "datasets download": ("segwright datasets download camvid --out data/camvid",),
    "train": (
        "segwright train photos/ --minutes 20",
        "segwright train photos/ --dry-run",
        "segwright train photos/ --model unet --encoder resnet34 --epochs 50 --out runs/first",
        "segwright train photos/ --out runs/first --resume",
        "segwright train new-photos/ --init-from runs/first",
    ),
    "models": ("segwright models", "segwright models unet deeplabv3plus --measure", "segwright models --licenses"),
    "tune": ("segwright tune photos/ --minutes 120 --out runs/tuned",),
    "lr-range": ("segwright lr-range photos/ --model unet",),
    "import": (
        "segwright import weights.pth --model smp:Unet --encoder resnet34 --classes road,car,sky --out imported",
    ),
    "evaluate": (
        "segwright evaluate runs/latest photos/ --split test",
        "segwright evaluate runs/latest photos/ --report report.html --json scores.json",
        "segwright evaluate runs/latest photos/ --corruption all --corruption fog:5",
        "segwright evaluate masks-of-another-tool/ photos/",
    ),
    "compare": ("segwright compare runs/first runs/second --data photos/ --html compare.html",),
    "label-errors": ("segwright label-errors runs/latest photos/ --split val",),
    "predict": (
        "segwright predict runs/latest street.jpg",
        "segwright predict runs/latest 'new/*.jpg' --out masks --mask-format index --no-overlay",
        "segwright predict runs/latest drive.mp4 --video",
        "segwright predict runs/latest field.tif --polygons geojson --csv areas.csv",
        "segwright predict runs/latest s3://bucket/images --out s3://bucket/masks --ray",
    ),
    "tune-post": ("segwright tune-post runs/latest photos/ --minutes 10",),
    "plot-crf": ("segwright plot-crf runs/latest photos/ --crf 'crf(deeplab-v1)'",),
    "export": (
        "segwright export runs/latest --to onnx --out model.onnx",
        "segwright export runs/latest --precision int8 --data photos/",
    ),
    "benchmark": ("segwright benchmark runs/latest",),
    "serve": ("segwright serve runs/latest", "segwright serve runs/latest --host 0.0.0.0 --port 8080 --watch"),
    "api-key": (
        "segwright api-key camera-7 --requests-per-minute 60",
        "segwright api-key camera-7 --remove",
        "segwright api-key",
    ),
    "monitor": ("segwright monitor journal/ --reference runs/latest --html monitor.html",),
    "reference": ("segwright reference runs/latest photos/",),
    "select": ("segwright select runs/latest unlabeled/ --count 50",),
    "label": ("segwright label unlabeled/ --model runs/latest", "segwright label unlabeled/ --classes road,car,sky"),
    "refine": ("segwright refine runs/latest unlabeled-labels/ --with photos/ --minutes 10",),
    "promote": ("segwright promote runs/refined service/", "segwright promote service/ --back"),
    "lineage": ("segwright lineage runs/latest",),
}

# The page of the documentation on each.
PAGES = {
    "": "docs/programs.md",
    "demo": "README.md",
    "check": "docs/check.md",
    "convert": "docs/datasets.md",
    "datasets": "docs/datasets.md",
    "datasets download": "docs/datasets.md",
    "train": "docs/training.md",
    "models": "docs/models.md",
    "tune": "docs/tuning.md",
    "lr-range": "docs/tuning.md",
    "import": "docs/models.md",
    "evaluate": "docs/metrics.md",
    "compare": "docs/inspection.md",
    "label-errors": "docs/inspection.md",
    "predict": "docs/predict.md",
    "tune-post": "docs/postprocessing.md",
    "plot-crf": "docs/postprocessing.md",
    "export": "docs/export.md",
    "benchmark": "docs/export.md",
    "serve": "docs/serving.md",
    "api-key": "docs/serving.md",
    "monitor": "docs/monitoring.md",
    "reference": "docs/monitoring.md",
    "select": "docs/selecting.md",
    "label": "docs/labeling.md",
    "refine": "docs/refining.md",
    "promote": "docs/refining.md",
    "lineage": "docs/refining.md",
}


def by_task(names: list[str]) -> dict[str, list[str]]:
    """The commands of ``names`` under their task, in the order of :data:`TASKS`.

    >>> by_task(["train", "check"])
    {'Data': ['check'], 'Training': ['train']}
    """
    found = {task: [name for name in members if name in names] for task, members in TASKS.items()}
    listed = {name for members in TASKS.values() for name in members}
    found[OTHER] = [name for name in names if name not in listed]
    return {task: members for task, members in found.items() if members}
