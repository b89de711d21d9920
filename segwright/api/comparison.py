"""Compare models on the same images: quality with paired intervals, speed, size, and where they differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.api.data import choose_split, opened, trained_on_note
from segwright.api.models import load
from segwright.core.counted import counted
from segwright.core.errors import LabelError, ModelError, UsageError
from segwright.data.dataset import Dataset, Split
from segwright.data.records import evenly_spread

if TYPE_CHECKING:
    from segwright.evaluation.compare import Comparison
    from segwright.evaluation.disagreements import Disagreement, Predict, SketchCollector
    from segwright.evaluation.model_costs import ModelCost
    from segwright.imageio import UInt8Array
    from segwright.inference.predictor import Predictor

__all__ = ["compare"]


def compare(
    models: Sequence[str | Path],
    data: Split | Dataset | str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    match: str = "names",
    speed: bool = True,
    disagreements: int = 6,
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Comparison:
    """Compare models on the same images, with the paired interval of the difference.

    Parameters
    ----------
    models : sequence of str or Path
        Two or more saved models; the first is the baseline.
    data : Split or Dataset or str or Path
        What to compare on.
    split, device, format, images, masks, match, eight_bit, trust_external
        As for :func:`segwright.evaluate`.
    speed : bool, default=True
        Also time the models in turn on a few of the images, and find which are dominated.
    disagreements : int >= 0, default=6
        How many images to keep of each model on which it differs most from the first.

    Returns
    -------
    Comparison
        ``evaluations``, ``differences`` and ``class_differences`` by model, ``costs``, ``dominated``,
        ``disagreements``; ``sentences()`` in words, ``to_json()``.

    Raises
    ------
    UsageError
        Fewer than two models, or one that is given twice.
    LabelError
        The classes of a model are not the data's.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.compare(["run", "other-run"], "streets").sentences()  # doctest: +SKIP
    """
    from segwright.evaluation.compare import compare as compare_evaluations
    from segwright.evaluation.disagreements import SketchCollector
    from segwright.evaluation.evaluate import evaluate, match_label_spaces
    from segwright.inference.exported_files import require_saved_model
    from segwright.inference.split_reader import as_model_sees

    check_models(models)
    if disagreements < 0:
        raise UsageError("the number of images is not negative", expected="0 or more", found=str(disagreements))
    for each in models:
        require_saved_model(each)
    chosen = data if isinstance(data, Split) else choose_split(opened(data, format, images, masks), split)
    loaded = {
        str(each): load(each, device=device, eight_bit=eight_bit, trust_external=trust_external) for each in models
    }
    for name, predictor in loaded.items():  # all of them before the first pass
        try:
            match_label_spaces(predictor.label_space, chosen.label_space, by_index=match == "index")
        except LabelError as error:
            error.where = name
            raise
    splits = {name: as_model_sees(chosen, predictor) for name, predictor in loaded.items()}
    found, sketches = {}, {}
    for name, predictor in loaded.items():
        sketches[name] = SketchCollector()
        collectors = [sketches[name]] if disagreements else []
        try:
            found[name] = evaluate(predictor, splits[name], match=match, collectors=collectors)
        except ModelError as error:
            error.where = error.where or name
            raise
        note = trained_on_note(name, chosen, "it has an advantage over models that were not")
        found[name].notes += [*predictor.notes, *filter(None, [note])]
    costs = _costs(loaded, splits) if speed else {}
    apart = _disagreements(loaded, splits, sketches, match, disagreements) if disagreements else []
    return compare_evaluations(found, costs=costs, disagreements=apart)


def check_models(models: Sequence[str | Path]) -> None:
    """UsageError for fewer than two models, or one that is given twice."""
    if len(models) < 2:
        raise UsageError("a comparison takes two models or more", found=str(len(models)))
    places: dict[Path, Path] = {}
    for model in map(Path, models):
        place = model.resolve()
        place = place.parent if place.name == "model" and place.is_dir() else place  # of a run, not in it
        if place in places:
            raise UsageError(
                "one model is given twice",
                expected="different models",
                found=f"{places[place]} and {model}",
                fix="leave one out; an evaluation of it alone: segwright evaluate MODEL DATA",
            )
        places[place] = model


def _costs(loaded: dict[str, Predictor], splits: dict[str, Split]) -> dict[str, ModelCost]:
    """Time on the same few images, interleaved, and sizes."""
    from segwright.evaluation.model_costs import TIMED, ModelCost, time_models

    first = next(iter(splits.values()))
    images = [first.read_image(index) for index in evenly_spread(len(first), TIMED)]
    times = time_models({name: predictor.predict for name, predictor in loaded.items()}, images)
    return {
        name: ModelCost(times[name].best, *_size(name, predictor), device_text(predictor), times[name].slowest)
        for name, predictor in loaded.items()
    }


def _size(name: str, predictor: Predictor) -> tuple[float, float]:
    """Megabytes of the weights' file, and parameters; NaN if not known."""
    from segwright.inference.description import WEIGHTS
    from segwright.inference.predictor import find_bundle

    path = Path(name)
    file = path if path.is_file() else find_bundle(path) / WEIGHTS
    megabytes = file.stat().st_size / 1e6 if file.is_file() else float("nan")
    network = getattr(predictor.runtime, "model", None)
    if network is None or not hasattr(network, "parameters"):
        return megabytes, float("nan")
    return megabytes, float(sum(one.numel() for one in network.parameters()))


def device_text(predictor: Predictor) -> str:
    """Such as "cpu, 2 threads" or a GPU's name."""
    import torch

    device = getattr(predictor.runtime, "device", None)
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads()
    return f"{device.type if device is not None else 'cpu'}, {counted(count, 'thread')}"


def _disagreements(
    loaded: dict[str, Predictor],
    splits: dict[str, Split],
    sketches: dict[str, SketchCollector],
    match: str,
    count: int,
) -> list[Disagreement]:
    """Of each model the ``count`` images on which it differs most from the first."""
    from segwright.evaluation.disagreements import disagreement

    first, *others = loaded
    predict = {name: _predict(loaded[name], splits[name], match) for name in loaded}
    found = []
    for name in others:
        ranked = sketches[first].difference(sketches[name])
        for differ, index in ranked[:count]:
            if differ > 0:
                pair = ((first, predict[first]), (name, predict[name]))
                one = disagreement(index, splits[first].ids[index], splits[first], pair)
                if one is not None:
                    found.append(one)
    return found


def _predict(predictor: Predictor, split: Split, match: str) -> Predict:
    from segwright.evaluation.evaluate import match_label_spaces

    table, _ = match_label_spaces(predictor.label_space, split.label_space, by_index=match == "index")

    def labels(index: int) -> UInt8Array:
        found = predictor.predict(split.read_image(index)).labels
        return found if table is None else table[found]

    return labels
