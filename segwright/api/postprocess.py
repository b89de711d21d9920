"""Post-processing: search it, and draw the figure of a CRF."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from segwright.api.data import choose_split, opened, trained_on_note
from segwright.api.inference import as_predictor
from segwright.api.models import load
from segwright.core.counted import as_sentence
from segwright.core.deprecated import renamed_parameters
from segwright.core.errors import UsageError
from segwright.core.progress import track
from segwright.data.dataset import Dataset, Split, open_dataset

if TYPE_CHECKING:
    from segwright.inference.predictor import Predictor
    from segwright.search.tune_postprocessing import PostprocessingStudy

__all__ = ["plot_crf", "tune_postprocessing"]


@renamed_parameters(chains="pipelines")
def tune_postprocessing(
    model: str | Path,
    data: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    keep: bool = True,
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    minutes: float = 10.0,
    tta: str | None = None,
    pipelines: Sequence[str] = (),
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> PostprocessingStudy:
    """Search post-processing on validation data. It is kept only if it raises the score beyond chance.

    Parameters
    ----------
    model : str or Path
        A run folder or a bundle.
    data : str or Path
        The dataset; ``split`` (``"val"``) is searched on one half and confirmed on the other.
    split, device, format, images, masks, eight_bit, trust_external
        As for :func:`segwright.evaluate`.
    keep : bool, default=True
        Save a winner into the model. If nothing is kept, the model's own pipeline stays.
    minutes : float > 0, default=10
        Wall-clock budget of the search.
    tta : str, optional
        The test-time views that the model will be used with.
    pipelines : sequence of str, optional
        Pipelines to try first, after the one that the model has.

    Returns
    -------
    PostprocessingStudy
        ``pipeline``, ``kept``, ``gain`` with its interval on the confirmation half, ``trials``.

    Raises
    ------
    UsageError
        The model is an exported file.
    DataError
        Fewer than four images have masks.

    Examples
    --------
    >>> import segwright as sw
    >>> found = sw.tune_postprocessing("run", "streets", minutes=1)  # doctest: +SKIP
    >>> found.kept, found.summary  # doctest: +SKIP
    """
    from segwright.data.splits import sequence_of
    from segwright.inference.bundle import load_bundle, read_attachments, save_bundle
    from segwright.inference.predictor import find_bundle
    from segwright.inference.split_reader import as_model_sees
    from segwright.search.tune_postprocessing import tune_post as search_post

    if Path(model).is_file():
        raise UsageError(
            "post-processing is tuned before the export",
            expected="a run folder or a bundle",
            found="an exported file",
            where=model,
            fix="tune the run folder, then export it again: the export takes the pipeline along",
        )
    folder = find_bundle(model)
    network, bundle = load_bundle(folder, trust_external=trust_external)
    predictor = load(
        folder, device=device, postprocess="none", tta=tta, eight_bit=eight_bit, trust_external=trust_external
    )
    chosen = as_model_sees(
        choose_split(open_dataset(data, format, images=images, masks=masks), split or "val"), predictor
    )
    known = [bundle.postprocess] if bundle.postprocess else []
    # Frames of one sequence err together: the bootstrap does not draw them one by one.
    groups = [sequence_of(name) for name in chosen.ids]
    result = search_post(predictor, chosen, minutes=minutes, pipelines=[*known, *pipelines], groups=groups)
    note = trained_on_note(model, chosen, "the gain may be another on other images")
    if note:
        result = replace(result, notes=(*result.notes, as_sentence(note)))
    if tta:
        result = replace(result, notes=(*result.notes, f"All with the test-time views {tta}; without them it differs."))
    if keep and result.kept:
        metrics = {**bundle.metrics, "postprocess": {**result.to_json(), "tta": tta}}
        save_bundle(
            folder, network, replace(bundle, postprocess=result.pipeline, metrics=metrics), read_attachments(folder)
        )
    elif keep and known:
        result = replace(result, notes=(*result.notes, f"The model's own pipeline stays as it was: {known[0]}."))
    return result


def plot_crf(
    model: str | Path | Predictor,
    data: Dataset | Split | str | Path,
    out: str | Path,
    *,
    split: str | None = None,
    device: str = "auto",
    format: str | None = None,
    images: str | None = None,
    masks: str | None = None,
    crf: str | None = None,
    count: int = 3,
    ids: Sequence[str] = (),
    iterations: Sequence[int] = (1, 2, 10),
    probability_of: str | None = None,
    width: int = 320,
    eight_bit: str | None = None,
    trust_external: bool = False,
) -> Path:
    """Draw the papers' figure of a CRF: image, network, labels after some iterations, ground truth.

    Parameters
    ----------
    model : str or Path or Predictor
        A saved or loaded model.
    data : Dataset or Split or str or Path
        Where the images come from.
    out : str or Path
        The figure, ``.png`` or ``.jpg``.
    split, device, format, images, masks, eight_bit, trust_external
        As for :func:`segwright.evaluate`.
    crf : str, optional
        One step of a pipeline, such as ``"crf(deeplab-v1)"``. Left out: the model's own, else DeepLab v1's.
    count : int >= 1, default=3
        Images, spread evenly over the split.
    ids : sequence of str, optional
        These images in place of ``count``.
    iterations : sequence of int, default=(1, 2, 10)
        The iterations after which labels are shown.
    probability_of : str, optional
        A class whose probability is shown, too.
    width : int, default=320
        Width of a panel in pixels.

    Returns
    -------
    Path
        The figure.

    Raises
    ------
    UsageError
        ``crf`` is not one CRF, or there is no image of such an id.

    Examples
    --------
    >>> import segwright as sw
    >>> sw.plot_crf("run", "streets", "crf.png", count=1, iterations=(1, 2), device="cpu").name
    'crf.png'
    """
    from segwright.evaluation.crf_figure import FigureRow
    from segwright.evaluation.crf_figure import crf_figure as draw
    from segwright.inference.split_reader import as_model_sees
    from segwright.postprocess.pipeline import parse_pipeline

    predictor = as_predictor(model, device, "none", None, eight_bit, trust_external)
    saved = predictor.bundle.postprocess if predictor.bundle is not None else None
    steps = parse_pipeline(crf or saved or "", predictor.label_space.names).steps
    found = next((step.crf for step in steps if step.crf is not None), None)
    if crf is not None and (found is None or len(steps) > 1):
        raise UsageError("the figure shows one CRF", expected="such as crf(deeplab-v1)", found=crf)
    chosen = as_model_sees(
        data if isinstance(data, Split) else choose_split(opened(data, format, images, masks), split), predictor
    )
    names = list(chosen.ids)
    missing = [name for name in ids if name not in names]
    if missing:
        raise UsageError("no such image in the split", expected=", ".join(names[:6]) + ", …", found=", ".join(missing))
    places = [names.index(name) for name in ids] or sorted(
        {round((i + 0.5) * len(names) / count - 0.5) for i in range(min(count, len(names)))}
    )
    same = chosen.label_space.names == predictor.label_space.names  # else the masks' numbers mean other classes
    rows = []
    for place in track(places, "drawing"):
        image = chosen.read_image(place)
        probabilities = predictor.predict(image, probabilities=True).probabilities
        assert probabilities is not None
        rows.append(FigureRow(image, probabilities, chosen.read_mask(place) if same else None))
    return draw(
        rows, predictor.label_space, out, crf=found, iterations=iterations, probability_of=probability_of, width=width
    )
