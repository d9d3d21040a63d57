from collections import Counter

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chisquare

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.tasks import CroppedInpainting
from spatial_ssrl.tasks.cropped_inpainting import DISTRACTORS


def hole_of(question, scene):
    """Find the hole as the smallest box around what changed, grown to a square of black."""
    rows, columns = np.nonzero((question.images[0] != scene.image).any(axis=-1))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def mean_blocks(image, side):
    """Area averages on a grid of `side` x `side`, by Pillow's box filter."""
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((side, side), Image.Resampling.BOX)).astype(float)


def test_hole_is_where_meta_says_and_everything_else_is_untouched(scenes):
    for seed, scene in enumerate(scenes):
        question = CroppedInpainting().make(scene, np.random.default_rng(seed))
        top, left, bottom, right = question.meta["box"]
        assert (bottom - top, right - left) == (32, 32)
        assert 0 <= top < bottom <= 64
        assert 0 <= left < right <= 64
        filled = question.images[0].copy()
        assert not filled[top:bottom, left:right].any()
        filled[top:bottom, left:right] = scene.image[top:bottom, left:right]
        assert np.array_equal(filled, scene.image)


def test_the_hole_may_be_anywhere(scenes):
    rng = np.random.default_rng(0)
    corners = np.array(
        [
            CroppedInpainting().make(scene, rng).meta["box"][:2]
            for scene in scenes
            for _ in range(10)
        ]
    )
    for places in corners.T:
        assert (places.min(), places.max()) == (0, 32)
        assert chisquare(np.histogram(places, bins=3, range=(-0.5, 32.5))[0]).pvalue > 1e-3


def test_candidate_nearest_to_the_missing_pixels_is_the_answer(scenes):
    for seed, scene in enumerate(scenes):
        question = CroppedInpainting().make(scene, np.random.default_rng(seed))
        top, left, bottom, right = hole_of(question, scene)
        missing = mean_blocks(scene.image[top:bottom, left:right], 8)
        errors = [np.abs(mean_blocks(image, 8) - missing).mean() for image in question.images[1:]]
        assert "ABCD"[int(np.argmin(errors))] == question.answer


def test_each_distractor_shows_what_its_kind_says(scenes):
    seen = set()
    for seed, scene in enumerate(scenes):
        question = CroppedInpainting().make(scene, np.random.default_rng(seed))
        top, left, bottom, right = question.meta["box"]
        crop = scene.image[top:bottom, left:right]
        expected = {
            "true": crop,
            "rotated_left": crop.swapaxes(0, 1)[::-1],
            "rotated_right": crop.swapaxes(0, 1)[:, ::-1],
            "interior": crop[8:24, 8:24],
            "exterior_2": scene.image,
        }
        y, x = min(max(top - 8, 0), 16), min(max(left - 8, 0), 16)
        expected["exterior_1.5"] = scene.image[y : y + 48, x : x + 48]
        for kind, image in zip(question.meta["candidates"], question.images[1:], strict=True):
            difference = np.abs(mean_blocks(image, 8) - mean_blocks(expected[kind], 8)).mean()
            assert difference < 6, kind
            seen.add(kind)
    assert seen == {"true", *DISTRACTORS}


def test_kinds_and_letters_are_equally_likely(scenes):
    task, rng = CroppedInpainting(), np.random.default_rng(0)
    questions = [task.make(scene, rng) for scene in scenes for _ in range(6)]
    letters = Counter(question.answer for question in questions)
    assert chisquare([letters[letter] for letter in "ABCD"]).pvalue > 1e-3
    for question in questions:
        kinds = question.meta["candidates"]
        assert len(set(kinds)) == 4
        assert kinds["ABCD".index(question.answer)] == "true"
    kinds = Counter(kind for question in questions for kind in question.meta["candidates"])
    assert chisquare([kinds[kind] for kind in DISTRACTORS]).pvalue > 1e-3


def test_the_enlarged_interior_is_as_sharp_as_the_rest():
    """Without a common grid, the blurriest candidate is never the answer."""
    noise = np.random.default_rng(0).normal(size=(96, 96, 3))
    spectrum = np.fft.fft2(noise, axes=(0, 1))
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(96), np.fft.fftfreq(96))) + 0.01
    image = np.fft.ifft2(spectrum / frequency[..., None], axes=(0, 1)).real
    image = np.uint8(np.clip(128 + 40 * image / image.std(), 0, 255))

    def roughness(detail):
        found = {}
        task = CroppedInpainting(detail=detail)
        for seed in range(20):
            question = task.make(Scene(image, "1/f noise"), np.random.default_rng(seed))
            for kind, patch in zip(question.meta["candidates"], question.images[1:], strict=True):
                grey = patch.astype(float).mean(axis=-1)
                bends = np.abs(np.diff(grey, 2, axis=0)).mean()
                found.setdefault(kind, []).append(bends / np.abs(np.diff(grey, axis=0)).mean())
        means = {kind: np.mean(values) for kind, values in found.items()}
        return means["interior"] / means["true"]

    assert roughness(0.5) == pytest.approx(1, abs=0.15)
    assert roughness(1.0) < 0.8


def test_a_plain_picture_is_rejected():
    scene = Scene(np.full((64, 64, 3), 90, np.uint8), "plain")
    with pytest.raises(SceneRejected) as caught:
        CroppedInpainting().make(scene, np.random.default_rng(0))
    assert caught.value.reason == "a distractor looks like the right patch"


def test_too_small_a_picture_is_rejected():
    with pytest.raises(SceneRejected, match="too small for the hole"):
        CroppedInpainting().make(
            Scene(np.zeros((15, 40, 3), np.uint8), "x"), np.random.default_rng(0)
        )


@pytest.mark.parametrize("settings", [{"side_ratio": 0.6}, {"side_ratio": 0}, {"detail": 1.5}])
def test_settings_out_of_range_are_refused_with_value_and_bound(settings):
    ((name, value),) = settings.items()
    with pytest.raises(ConfigError, match=rf"{name} must be in .*, got {value}"):
        CroppedInpainting(**settings)


def test_wide_picture_has_a_square_hole(scenes):
    wide = Scene(np.concatenate([scene.image for scene in scenes[:3]], axis=1), "wide")
    question = CroppedInpainting(side_ratio=0.25).make(wide, np.random.default_rng(1))
    assert [image.shape for image in question.images] == [(64, 192, 3)] + 4 * [(16, 16, 3)]


@pytest.mark.parametrize(("fill", "value"), [("black", 0), ("grey", 128), ("white", 255)])
@pytest.mark.parametrize("mix", ["paper", "matched"])
def test_hole_has_the_colour_asked_for(scenes, fill, value, mix):
    question = CroppedInpainting(fill=fill, mix=mix).make(scenes[0], np.random.default_rng(0))
    top, left, bottom, right = question.meta["box"]
    assert (question.images[0][top:bottom, left:right] == value).all()
    assert f"{fill} " in question.prompt


def test_mean_hole_does_not_depend_on_what_it_hides(scenes):
    task = CroppedInpainting(fill="mean")
    question = task.make(scenes[0], np.random.default_rng(0))
    top, left, bottom, right = question.meta["box"]
    hidden = np.zeros((64, 64), bool)
    hidden[top:bottom, left:right] = True
    expected = scenes[0].image[~hidden].astype(float).mean(axis=0)
    colour = question.images[0][top, left]
    assert (question.images[0][hidden] == colour).all()
    assert colour == pytest.approx(expected, abs=1)


def test_a_hole_that_cannot_be_seen_is_rejected():
    """Grey with a few spots: crops differ twice as much from each other as from plain grey."""
    spots = np.random.default_rng(0).choice([88, 128, 168], (32, 32, 1), p=[0.05, 0.9, 0.05])
    image = np.kron(spots, np.ones((8, 8, 3))).astype(np.uint8)
    scene, settings = Scene(image, "fog"), {"side_ratio": 0.3, "min_difference": 0.02}
    grey = CroppedInpainting(mix="matched", fill="grey", min_shift=1.0, **settings)
    black = CroppedInpainting(mix="matched", min_shift=1.0, **settings)
    reasons = set()
    for seed in range(10):
        with pytest.raises(SceneRejected) as caught:
            grey.make(scene, np.random.default_rng(seed))
        reasons.add(caught.value.reason)
        black.make(scene, np.random.default_rng(seed))
    assert "the hole can hardly be seen" in reasons


def test_only_the_distractors_asked_for_are_drawn(scenes):
    allowed = ("rotated_left", "interior", "exterior_2")
    task = CroppedInpainting(distractors=allowed)
    for seed, scene in enumerate(scenes[:20]):
        kinds = task.make(scene, np.random.default_rng(seed)).meta["candidates"]
        assert sorted(kinds) == sorted([*allowed, "true"])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distractors": ("interior", "exterior_2")}, "distractors must be three or more"),
        ({"distractors": ("interior",) * 3}, "each once, got .'interior'"),
        ({"distractors": ("interior", "exterior_2", "blurred")}, "got .*'blurred'"),
        ({"fill": "red"}, "fill must be one of black, grey, white, mean, got 'red'"),
        ({"mix": "hard"}, "mix must be one of paper, matched, got 'hard'"),
        ({"min_shift": 0}, r"min_shift must be in \(0, 1\], got 0"),
    ],
)
def test_unknown_choices_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        CroppedInpainting(**settings)


def test_matched_candidates_are_equal_squares_well_apart(scenes):
    task = CroppedInpainting(mix="matched", side_ratio=0.3, detail=1.0, min_shift=0.7)
    for seed, scene in enumerate(scenes[:30]):
        question = task.make(scene, np.random.default_rng(seed))
        places = np.array(question.meta["places"])
        assert tuple(places["ABCD".index(question.answer)]) == question.meta["box"]
        for (top, left, bottom, right), image in zip(places, question.images[1:], strict=True):
            assert np.array_equal(image, scene.image[top:bottom, left:right])
        shifts = np.abs(places[:, None, :2] - places[None, :, :2]).max(axis=-1)
        assert shifts[np.triu_indices(4, 1)].min() >= 0.7 * 19


def test_nothing_in_matched_candidates_tells_the_right_one(scenes):
    """The rank of the right candidate is uniform by any measure of the candidates alone."""
    task, rng = CroppedInpainting(mix="matched"), np.random.default_rng(5)
    ranks = {"letter": [], "bright": [], "rough": [], "upright": [], "outer": []}
    for scene in [scene for scene in scenes for _ in range(20)]:
        try:
            question = task.make(scene, rng)
        except SceneRejected:
            continue
        values = np.stack(question.images[1:]).astype(float).mean(axis=-1)
        answer = "ABCD".index(question.answer)
        mean = values.mean(axis=0)
        scores = {
            "letter": np.arange(4),
            "bright": values.mean(axis=(1, 2)),
            "rough": np.abs(np.diff(values, axis=1)).mean(axis=(1, 2)),
            "upright": values[:, :16].mean(axis=(1, 2)) - values[:, 16:].mean(axis=(1, 2)),
            "outer": np.abs(values - mean).mean(axis=(1, 2)),
        }
        for name, score in scores.items():
            ranks[name].append(int((score < score[answer]).sum()))
    for name, found in ranks.items():
        assert len(found) > 800
        assert chisquare(np.bincount(found, minlength=4)).pvalue > 1e-3, name


def test_matched_worked_answer_tells_where_each_distractor_lies(scenes):
    task = CroppedInpainting(mix="matched")
    for seed, scene in enumerate(scenes[:30]):
        question = task.make(scene, np.random.default_rng(seed))
        top, left = question.meta["box"][:2]
        sentences = question.explanation.split(". ")
        for letter, place in zip("ABCD", question.meta["places"], strict=True):
            down, right = place[0] - top, place[1] - left
            (told,) = [s for s in sentences[1:5] if letter in s.replace("Candidate", "")]
            if letter == question.answer:
                assert "further" not in told
                continue
            where = told.partition("further ")[2]
            assert where.startswith("down") == (down > 0 and 2 * down >= abs(right))
            assert where.startswith("up") == (down < 0 and -2 * down >= abs(right))
            assert ("to the right" in where) == (right > 0 and 2 * right >= abs(down))
            assert ("to the left" in where) == (right < 0 and -2 * right >= abs(down))


def test_no_room_for_four_squares_is_a_reason():
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    with pytest.raises(SceneRejected, match="no room for squares that are well apart"):
        CroppedInpainting(mix="matched", min_shift=1).make(
            Scene(image, "square"), np.random.default_rng(0)
        )
