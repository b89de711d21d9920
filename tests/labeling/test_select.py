"""What is chosen: scores by hand, spread, near-duplicates, the random share, and everything that can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import segwright as sw
from segwright.cli import app
from segwright.core.types import LabelSpace
from segwright.inference.predictor import Predictor
from segwright.labeling.pool import Pool, PoolImage, choose_images
from segwright.labeling.questions import Selection
from segwright.labeling.scores import Opinion, UnitScores, choose_units, margin, opinion, rarity, score_units
from segwright.labeling.select import SelectOptions, ask
from segwright.labeling.store import LabelFolder, stroke_of_mask
from segwright.models.base import SegmentationModel

NAMES = ("sky", "road", "sign")


def a_predictor(seed: int = 0, channels: int = 3, names: tuple[str, ...] = NAMES) -> Predictor:
    torch.manual_seed(seed)
    model: SegmentationModel = sw.create_model(
        "leannet", classes=len(names), variant="small", weights=None, in_channels=channels
    )
    return Predictor.from_model(model.eval(), LabelSpace(names), "cpu")


def write_images(folder: Path, count: int = 6, size: tuple[int, int] = (48, 64), seed: int = 0) -> Path:
    """Images of a few large random blocks, all different."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        small = rng.integers(0, 255, (4, 5, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(small, size[::-1], interpolation=cv2.INTER_NEAREST))
    return folder


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return a_predictor()


# -- scores -----------------------------------------------------------------------------------------------------------


def test_margin_by_hand() -> None:
    found = margin(np.array([[[0.7, 0.4]], [[0.2, 0.4]], [[0.1, 0.2]]], np.float32))
    np.testing.assert_allclose(found, [[0.5, 1.0]], atol=1e-6)
    assert margin(np.ones((1, 2, 2), np.float32)).max() == 0


def test_rarity_by_hand() -> None:
    weights = rarity(np.array([0.64, 0.32, 0.04]))
    # 1/sqrt: 1.25, 1.768, 5; their mean over the pixels is 0.8 + 0.566 + 0.2 = 1.566
    np.testing.assert_allclose(weights, np.array([1.25, 1.7678, 5.0]) / 1.5657, rtol=1e-3)
    assert (weights * [0.64, 0.32, 0.04]).sum() == pytest.approx(1)
    absent = rarity(np.array([0.5, 0.5, 0.0]))
    np.testing.assert_allclose(absent, [1, 1, 1])
    np.testing.assert_array_equal(rarity(np.zeros(3)), np.ones(3))
    assert rarity(np.array([0.99999, 0.00001])).max() <= 8


def test_unit_scores_by_hand() -> None:
    units = np.array([[0, 0, 1, 1]], np.int32)
    chance = np.array([[[0.9, 0.7, 0.2, 0.4]], [[0.1, 0.3, 0.8, 0.6]]], np.float32)
    doubt = np.array([[0.2, 0.4, 0.1, 0.3]], np.float32)
    found = score_units(units, Opinion(chance, doubt), np.array([0.5, 2.0]), size_power=0.5, floor=0.1)
    np.testing.assert_allclose(
        found.score, [0.4 * (0.8 * 0.5 + 0.2 * 2) * 2**0.5, 0.3 * (0.3 * 0.5 + 0.7 * 2) * 2**0.5], rtol=1e-5
    )
    np.testing.assert_array_equal(found.predicted, [0, 1])
    np.testing.assert_allclose(found.confidence, [0.8, 0.7], rtol=1e-5)
    np.testing.assert_allclose(found.center, [[0, 0.5], [0, 2.5]])


def test_models_that_contradict_each_other_are_in_doubt() -> None:
    one, other = a_predictor(0), a_predictor(1)
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    alone, same, two = (opinion(models, pixels, "margin") for models in ([one], [one, one], [one, other]))
    np.testing.assert_allclose(same.disagreement, alone.disagreement, atol=2e-3)
    contradiction = two.disagreement - margin(two.probabilities)
    assert contradiction.mean() > 0.01 and two.disagreement.max() <= 1
    np.testing.assert_allclose(two.probabilities.sum(axis=0), 1, atol=1e-5)


def test_an_ensemble_is_judged_by_its_members(predictor: Predictor) -> None:
    from segwright.models.ensemble import Ensemble

    members = [a_predictor(seed).runtime.model for seed in (0, 1)]  # type: ignore[attr-defined]
    joined = Predictor.from_model(Ensemble(members=members), LabelSpace(NAMES), "cpu")
    pixels = np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)
    auto, plain = opinion([joined], pixels), opinion([joined], pixels, "margin")
    assert (auto.disagreement - plain.disagreement).mean() > 0.01
    with pytest.raises(sw.ModelError, match="no ensemble"):
        sw.select(predictor, "images", disagreement="ensemble")


def line_of_units(scores: list[float], predicted: list[int]) -> UnitScores:
    count = len(scores)
    place = np.stack([np.zeros(count), 10.0 * np.arange(count)], axis=1)
    return UnitScores(np.array(scores), np.array(predicted, np.uint8), np.ones(count), np.full(count, 9), place)


def test_chosen_units_spread_in_space() -> None:
    scores = line_of_units([1.0, 0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.8], list(range(9)))
    every = np.ones(9, bool)
    assert choose_units(scores, 2, (1, 90), every) == [0, 8]  # 0.9 is beside 1.0
    assert choose_units(scores, 2, (1, 90), every & (np.arange(9) != 0)) == [1, 8]
    assert choose_units(scores, 20, (1, 90), every)[0] == 0 and len(choose_units(scores, 20, (1, 90), every)) == 9
    answered = np.arange(9) == 8
    assert choose_units(scores, 1, (1, 90), ~answered, answered) == [0]


def test_units_are_drawn_in_proportion_to_their_scores() -> None:
    scores, rng = line_of_units([1.0, 2.0, 5.0], [0, 1, 2]), np.random.default_rng(0)
    drawn = [choose_units(scores, 1, (1, 90), np.ones(3, bool), rng=rng)[0] for _ in range(4000)]
    np.testing.assert_allclose(np.bincount(drawn) / 4000, [0.125, 0.25, 0.625], atol=0.03)
    never = np.array([True, True, False])
    assert all(choose_units(scores, 3, (1, 90), never, rng=rng) in ([0, 1], [1, 0]) for _ in range(50))


# -- images -----------------------------------------------------------------------------------------------------------


def pool_image(number: int, point: tuple[float, float], thumb: int, doubt: float = 0.5) -> PoolImage:
    small = np.zeros(256, np.float32)
    small[thumb] = 1
    return PoolImage(
        Path(f"/pool/{number}.png"), (8, 8), np.array(point, np.float32), small, 100.0,
        np.array([0.5, 0.5], np.float32), np.array([doubt, 0.0], np.float32),
    )  # fmt: skip


def test_chosen_images_spread_and_duplicates_count_once() -> None:
    images = [
        pool_image(0, (0, 0), 0, 0.9), pool_image(1, (0, 0.1), 1, 0.89), pool_image(2, (5, 5), 2, 0.3),
        pool_image(3, (0, 0), 0, 0.8),
    ]  # fmt: skip
    found = choose_images(Pool(Path("/pool"), images), 4, random_share=0, seed=0)
    assert found.places == [0, 2, 1]  # 3 shows what 0 shows; 1 lies close to 0
    assert found.stands_for[0] == [3] and not found.random


def test_images_with_labels_count_as_chosen_before() -> None:
    images = [
        pool_image(0, (0, 0), 0, 0.9), pool_image(1, (0, 0.1), 1, 0.89), pool_image(2, (5, 5), 2, 0.3),
        pool_image(3, (5, 0), 3, 0.28),
    ]  # fmt: skip
    pool = Pool(Path("/pool"), images)
    assert choose_images(pool, 2, random_share=0, seed=0).places == [0, 2]
    assert choose_images(pool, 2, random_share=0, seed=0, labeled=[0]).places == [2, 3], "1 is like 0, which has labels"
    again = choose_images(pool, 4, random_share=0, seed=0, labeled=[0, 1, 2, 3])
    assert sorted(again.places) == [0, 1, 2, 3], "where all have labels all come again"


def test_the_random_share_is_a_fair_draw() -> None:
    """Each image is drawn as often as another, whatever its score, copies included."""
    images = [pool_image(k, (k % 3, k % 5), k % 4, doubt=k / 10) for k in range(10)]
    pool, times = Pool(Path("/pool"), images), np.zeros(10)
    for seed in range(600):
        found = choose_images(pool, 10, random_share=0.2, seed=seed)
        assert len(found.random) == 2 and found.places[:2] == [place for place in found.places if place in found.random]
        times[list(found.random)] += 1
    assert np.abs(times - 120).max() < 4.5 * (600 * 0.2 * 0.8) ** 0.5


def test_random_units_are_a_fair_draw_too(predictor: Predictor) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 40, 3), np.uint8)
    options = SelectOptions(units="superpixels", unit_size=64, clicks=1)
    boxes: dict[tuple[int, ...], int] = {}
    for seed in range(150):
        (item,) = ask("x", pixels, None, None, options, drawn=True, rng=np.random.default_rng(seed))
        assert item.random and item.kind == "class" and item.predicted is None
        boxes[item.box + item.region] = boxes.get(item.box + item.region, 0) + 1
    expected = 150 / len(boxes)
    assert len(boxes) > 3 and max(abs(times - expected) for times in boxes.values()) < 4.5 * expected**0.5


# -- the whole --------------------------------------------------------------------------------------------------------


def test_a_selection_is_the_same_again_and_survives_its_file(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images")
    found = sw.select(
        predictor, folder, count=4, clicks=3, random_share=0.25, out=tmp_path / "s.json", sheet=tmp_path / "s.html"
    )
    again = sw.select(predictor, folder, count=4, clicks=3, random_share=0.25)
    assert found == again
    assert sum(image.random for image in found.images) == 1
    assert len(found.images) == 4 and len(found.items) == 12 and found.considered == 6
    assert Selection.load(tmp_path / "s.json").to_json() == found.to_json()
    assert any("taught little more than random ones" in note for note in found.notes)
    drawn = sw.select(predictor, folder, count=2, clicks=2, random_share=1)
    assert not any("taught little more" in note for note in drawn.notes)  # they are the random ones
    for item in found.items:
        assert item.image_size == (48, 64) and item.predicted is not None and found.path(item).is_file()
    per_image = [found.of_image(image.image) for image in found.images]
    for asked in per_image:
        masks = np.sum([item.mask() for item in asked], axis=0)
        assert masks.max() == 1  # no pixel is asked about twice
    page = (tmp_path / "s.html").read_text()
    assert page.count("<img") == 4 and "Content-Security-Policy" in page


def test_a_selection_without_a_control_says_so(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images")
    found = sw.select(predictor, folder, count=3, clicks=1)
    assert not any(image.random for image in found.images)
    assert any(
        note == "no image is drawn at random, so there is no control: 15 % of 3 images is less than half an image; "
        "--random-share 0.33 draws one" for note in found.notes
    )  # fmt: skip
    assert not any("marked as random" in note for note in found.notes)
    found = sw.select(predictor, folder, count=3, clicks=1, random_share=0.33)
    assert sum(image.random for image in found.images) == 1
    assert any("marked as random are the control" in note for note in found.notes)
    asked_for = sw.select(predictor, folder, count=3, clicks=1, random_share=0).notes
    assert not any("no control" in note or "marked as random" in note for note in asked_for)


def test_images_alone_without_questions(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images")
    arguments = ["select", "none", str(folder), "--count", "4", "--clicks", "0", "--out", str(tmp_path / "s.json")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = Selection.load(tmp_path / "s.json")
    assert len(found.images) == 4 and found.items == () and found.clicks == 0
    with_model = sw.select(predictor, folder, count=4, clicks=0, sheet=tmp_path / "s.html")
    assert len(with_model.images) == 4 and not with_model.items
    assert not any("taught little more" in note for note in with_model.notes)
    assert (tmp_path / "s.html").read_text().count("<img") == 4


def test_a_cold_start_needs_no_model(tmp_path: Path) -> None:
    found = sw.select(None, write_images(tmp_path / "images"), count=3, clicks=4, sheet=tmp_path / "s.png")
    assert found.model is None and found.label_space is None and len(found.items) == 12
    assert {item.kind for item in found.items} == {"class"} and {item.predicted for item in found.items} == {None}
    assert (tmp_path / "s.png").is_file()


@pytest.mark.parametrize("units", ["segments", "superpixels"])
def test_other_units_and_models_that_vote(tmp_path: Path, units: str) -> None:
    folder = write_images(tmp_path / "images", 2)
    found = sw.select([a_predictor(0), a_predictor(1)], folder, count=2, clicks=2, units=units, questions="check")
    assert {item.kind for item in found.items} == {"check"} and len(found.models) == 2


def test_labels_that_are_there_are_not_asked_for(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images", 1)
    mask = np.full((48, 64), 255, np.uint8)
    mask[:, :40] = 1
    (tmp_path / "labels" / "masks").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "labels" / "masks" / "00.png"), mask)
    found = sw.select(predictor, folder, count=1, clicks=50, labels=tmp_path / "labels", random_share=0)
    assert found.items
    for item in found.items:
        assert (mask[item.mask()] == 255).mean() > 0.5
    cv2.imwrite(str(tmp_path / "labels" / "masks" / "00.png"), mask[:-1])
    found = sw.select(predictor, folder, count=1, labels=tmp_path / "labels")
    assert not found.items and "another size" in found.failed[0][1]
    with pytest.raises(sw.UsageError, match="no label folder"):
        sw.select(predictor, folder, labels=tmp_path / "nowhere")


def two_suffixes(folder: Path, size: tuple[int, int] = (48, 64)) -> Path:
    folder.mkdir()
    for number, name in enumerate(("a.png", "a.jpg")):
        pixels = np.random.default_rng(number).integers(0, 256, (*(size if number else (48, 64)), 3), dtype=np.uint8)
        cv2.imwrite(str(folder / name), pixels)
    return folder


@pytest.mark.parametrize("size", [(48, 64), (40, 64)])
@pytest.mark.parametrize("compacted", [True, False])
def test_masks_of_a_label_folder_belong_to_the_images_that_it_lists(
    tmp_path: Path, predictor: Predictor, size: tuple[int, int], compacted: bool
) -> None:
    images = two_suffixes(tmp_path / "images", size)
    labels = LabelFolder.open(tmp_path / "labels", images, LabelSpace(("x", "y", "z")))
    whole = np.ones((48, 64), bool)
    labels.append(stroke_of_mask(whole, id="1", image="a.png", by="me", kind="brush", label=0))
    if compacted:
        labels.compact()
    labels.close()
    if not compacted:  # as after a kill: the strokes are in the journal alone
        for mask in (tmp_path / "labels" / "masks").glob("*"):
            mask.unlink()
    found = sw.select(predictor, images, count=2, clicks=5, labels=tmp_path / "labels", random_share=0)
    assert not found.failed and {item.image for item in found.items} == {"a.jpg"}
    second = np.ones(size, bool)
    labels = LabelFolder.open(tmp_path / "labels", images, LabelSpace(("x", "y", "z")))
    labels.append(stroke_of_mask(second, id="2", image="a.jpg", by="me", kind="brush", label=1))
    labels.compact()
    labels.close()
    assert (tmp_path / "labels" / "masks" / "a.jpg.png").is_file(), "the second mask has a name of its own"
    found = sw.select(predictor, images, count=2, clicks=5, labels=tmp_path / "labels", random_share=0)
    assert not found.failed and not found.items
    assert any("2 chosen images have no region to ask about" in note for note in found.notes)
    found = sw.select(predictor, images, count=2, clicks=0, labels=tmp_path / "labels", random_share=0)
    assert not any("no region" in note for note in found.notes), "none was asked for"


def test_one_mask_for_two_images_is_not_used_and_that_is_said(tmp_path: Path, predictor: Predictor) -> None:
    images = two_suffixes(tmp_path / "images")
    (tmp_path / "masks").mkdir()
    cv2.imwrite(str(tmp_path / "masks" / "a.png"), np.zeros((48, 64), np.uint8))
    found = sw.select(predictor, images, count=2, clicks=5, labels=tmp_path / "masks", random_share=0)
    assert {item.image for item in found.items} == {"a.png", "a.jpg"}
    assert any("2 images have no labels that are known" in note for note in found.notes)
    cv2.imwrite(str(tmp_path / "masks" / "a.jpg.png"), np.zeros((48, 64), np.uint8))
    found = sw.select(predictor, images, count=2, clicks=5, labels=tmp_path / "masks", random_share=0)
    assert {item.image for item in found.items} == {"a.png"}


def test_flat_images_of_one_color_are_one(tmp_path: Path, predictor: Predictor) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    colors = {"black0": (0, 0, 0), "black1": (0, 0, 0), "black2": (1, 0, 0), "gray": (76, 76, 76), "red": (0, 0, 255)}
    for name, color in colors.items():
        cv2.imwrite(str(folder / f"{name}.png"), np.full((48, 64, 3), color, np.uint8))
    for model in (None, predictor):
        found = sw.select(model, folder, count=5, clicks=1, random_share=0)
        assert sorted((one.image[:3], len(one.stands_for)) for one in found.images) == [
            ("bla", 2),
            ("gra", 0),
            ("red", 0),
        ]


def test_large_images_are_cut_at_a_bounded_size(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images", 1, (900, 1200))
    (first, *_) = sw.select(predictor, folder, count=1, clicks=2, disagreement="margin").items
    assert first.image_size == (900, 1200) and first.pixels > 1000


def test_a_bad_image_is_listed_and_the_rest_goes_on(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images", 3)
    (folder / "cut.png").write_bytes((folder / "00.png").read_bytes()[:60])
    found = sw.select(predictor, folder, count=3, clicks=1)
    assert len(found.images) == 3 and len(found.failed) == 1 and found.failed[0][0].endswith("cut.png")
    assert "--skip-bad" not in found.failed[0][1], "select has no such option"


def test_more_images_than_there_are(tmp_path: Path, predictor: Predictor) -> None:
    found = sw.select(predictor, write_images(tmp_path / "images", 2), count=50, clicks=1)
    assert len(found.images) == 2 and any("2 images are chosen, not 50" in note for note in found.notes)


def test_all_duplicates_are_one(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images", 1)
    for number in range(1, 5):
        (folder / f"copy{number}.png").write_bytes((folder / "00.png").read_bytes())
    found = sw.select(predictor, folder, count=3, clicks=1, random_share=0)
    assert len(found.images) == 1 and len(found.images[0].stands_for) == 4
    assert any("4 of them near-duplicates" in note for note in found.notes)


def test_what_cannot_be_selected_from_is_refused(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images", 1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(sw.DataError, match="no images"):
        sw.select(predictor, tmp_path / "empty")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    with pytest.raises(sw.DataError, match="none of the 1 image"):
        sw.select(predictor, tmp_path / "bad")
    (tmp_path / "bad" / "y.png").write_bytes(b"")
    with pytest.raises(sw.DataError, match="none of the 2 images") as caught:
        sw.select(predictor, tmp_path / "bad")
    reasons = str(caught.value.found)
    assert "x.png: " in reasons and "y.png: the file is empty" in reasons and "\n" not in reasons, "each kind once"
    five = tmp_path / "five"
    five.mkdir()
    with pytest.raises(sw.DataError, match="channels"):
        sw.select(a_predictor(channels=5), folder)
    with pytest.raises(sw.ModelError, match="different classes"):
        sw.select([predictor, a_predictor(names=("a", "b"))], folder)
    for wrong in (
        {"count": 0},
        {"random_share": 2.0},
        {"units": "x"},
        {"questions": "x"},
        {"disagreement": "x"},
        {"unit_size": 0},
    ):
        with pytest.raises(sw.UsageError):
            sw.select(predictor, folder, **wrong)  # type: ignore[arg-type]
    for wrong in ({"units": "segments"}, {"questions": "check"}):
        with pytest.raises(sw.UsageError):
            sw.select(None, folder, **wrong)  # type: ignore[arg-type]


def test_images_that_a_journal_keeps_are_selected_from(tmp_path: Path, predictor: Predictor) -> None:
    pytest.importorskip("pyarrow")
    folder = write_images(tmp_path / "images", 3)
    sw.predict(predictor, folder, out=tmp_path / "out", journal=tmp_path / "kept", keep_images=1.0)
    found = sw.select(predictor, tmp_path / "kept", count=2, clicks=1)
    assert len(found.images) == 2 and found.considered == 3
    sw.predict(predictor, folder, out=tmp_path / "out2", journal=tmp_path / "rows")
    with pytest.raises(sw.DataError, match="no images"):
        sw.select(predictor, tmp_path / "rows")


def test_globs_files_and_videos(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images", 4)
    assert sw.select(predictor, str(folder / "0[01].png"), count=9, clicks=1).considered == 2
    both = sw.select(predictor, [folder / "00.png", folder / "03.png"], count=9, clicks=1)
    assert {image.image for image in both.images} == {"00.png", "03.png"} and both.root == folder
    (tmp_path / "x.mp4").write_bytes(b"no video")
    with pytest.raises(sw.UsageError, match="no images to select from"):
        sw.select(predictor, tmp_path / "x.mp4")


def test_no_output_replaces_an_image(tmp_path: Path, predictor: Predictor) -> None:
    folder = write_images(tmp_path / "images", 2)
    before = (folder / "00.png").read_bytes()
    with pytest.raises(sw.UsageError, match="would replace an image"):
        sw.select(predictor, folder, count=1, sheet=folder / "00.png")
    assert (folder / "00.png").read_bytes() == before


def test_a_link_in_the_path_of_the_images(tmp_path: Path, predictor: Predictor) -> None:
    write_images(tmp_path / "far" / "away" / "images", 2)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    found = sw.select(predictor, tmp_path / "link" / "images", count=2, clicks=1, out=tmp_path / "s.json")
    again = Selection.load(tmp_path / "s.json")
    assert {image.image for image in again.images} == {"00.png", "01.png"}
    assert all(found.path(item).is_file() for item in again.items)


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (3, 2)])
def test_tiny_images(tmp_path: Path, predictor: Predictor, size: tuple[int, int]) -> None:
    found = sw.select(
        predictor, write_images(tmp_path / "images", 2, size), count=2, clicks=3, sheet=tmp_path / "s.html"
    )
    assert found.images and all(item.pixels >= 1 for item in found.items) and not found.failed


def test_labels_of_other_images_are_named(tmp_path: Path, predictor: Predictor) -> None:
    (tmp_path / "labels").mkdir()
    found = sw.select(predictor, write_images(tmp_path / "images", 1), count=1, labels=tmp_path / "labels")
    assert any("no chosen image has a mask" in note for note in found.notes)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_images(tmp_path / "images", 3)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["select", "none", str(folder), "--count", "2", "--clicks", "3", "--json", "r.json"])
    assert done.exit_code == 0, done.output
    assert "2 of 3 images, 6 questions" in done.output
    assert f"next: segwright label {folder} --classes road,sky,car --questions selection.json" in done.output
    assert Selection.load("selection.json").to_json() == json.loads(Path("r.json").read_text())
    assert Path("selection.html").is_file()
    wrong = CliRunner().invoke(app, ["select", str(folder), str(folder)])
    assert isinstance(wrong.exception, sw.SegwrightError) and "no saved model" in str(wrong.exception)
