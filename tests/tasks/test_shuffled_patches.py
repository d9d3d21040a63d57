from collections import Counter
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.tasks import ShuffledPatches

MARGIN = 12  # pixels of a 32-pixel patch that a border and an index may cover


def bare(image, rows, columns):
    """The parts of each patch without border and index, in reading order."""
    h, w = image.shape[0] // rows, image.shape[1] // columns
    return [
        image[r * h + MARGIN : (r + 1) * h - 2, c * w + MARGIN : (c + 1) * w - 2]
        for r in range(rows)
        for c in range(columns)
    ]


def solve(question, scene, rows, columns):
    """Find by their pixels where the drawn patches come from."""
    drawn, original = bare(question.images[0], rows, columns), bare(scene.image, rows, columns)
    return ",".join(
        str(next(i for i, patch in enumerate(drawn) if np.array_equal(patch, place)))
        for place in original
    )


@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (1, 2), (2, 1)])
def test_answer_is_what_matching_pixels_finds(scenes, rows, columns):
    task = ShuffledPatches(rows, columns)
    for seed, scene in enumerate(scenes):
        question = task.make(scene, np.random.default_rng(seed))
        assert question.answer == solve(question, scene, rows, columns)


def test_answer_lists_for_each_place_the_patch_that_belongs_there():
    scene = Scene(np.zeros((64, 64, 3), np.uint8), "four greys")
    for place in range(4):
        r, c = divmod(place, 2)
        scene.image[32 * r : 32 * r + 32, 32 * c : 32 * c + 32] = 60 * place
    question = ShuffledPatches().make(scene, np.random.default_rng(5))
    shown = [
        int(question.images[0][32 * r + 20, 32 * c + 20, 0]) // 60 for r, c in np.ndindex(2, 2)
    ]
    assert sorted(shown) == [0, 1, 2, 3]
    assert [shown[int(index)] for index in question.answer.split(",")] == [0, 1, 2, 3]
    assert question.meta["permutation"] == shown


def test_undo_recovers_the_picture_under_border_and_index(scenes):
    task = ShuffledPatches()
    for seed, scene in enumerate(scenes[:20]):
        undone = task.undo(task.make(scene, np.random.default_rng(seed)))
        pairs = zip(bare(undone, 2, 2), bare(scene.image, 2, 2), strict=True)
        assert all(np.array_equal(one, two) for one, two in pairs)


def test_without_labels_undo_recovers_all_but_the_borders(scenes):
    task = ShuffledPatches(label_style="place")
    undone = task.undo(task.make(scenes[0], np.random.default_rng(0)))
    inside = np.pad(np.ones((30, 30), bool), 1)
    inside = np.tile(inside, (2, 2))
    assert np.array_equal(undone[inside], scenes[0].image[inside])


def test_every_order_is_equally_likely(scenes):
    task, rng = ShuffledPatches(), np.random.default_rng(0)
    counts = Counter(task.make(scene, rng).answer for scene in scenes for _ in range(20))
    orders = [",".join(order) for order in permutations("0123")]
    assert set(counts) == set(orders)
    assert chisquare([counts[order] for order in orders]).pvalue > 1e-3


def test_a_masked_patch_is_white_and_still_has_its_place(scenes):
    task = ShuffledPatches(masked=True, label_style="place")
    masked = set()
    for seed, scene in enumerate(scenes[:30]):
        question = task.make(scene, np.random.default_rng(seed))
        drawn = bare(question.images[0], 2, 2)
        white = [i for i, patch in enumerate(drawn) if (patch == 255).all()]
        assert white == [question.meta["masked"]]
        masked.update(white)
        original = bare(scene.image, 2, 2)
        for place, index in enumerate(question.answer.split(",")):
            if int(index) not in white:
                assert np.array_equal(drawn[int(index)], original[place])
        assert "painted white" in question.prompt
    assert masked == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("rows", "columns", "example"),
    [(2, 2, "1,0,3,2"), (1, 3, "1,0,2"), (3, 3, "1,0,3,2,5,4,7,6,8")],
)
def test_prompt_names_the_grid_and_a_possible_answer(scenes, rows, columns, example):
    task = ShuffledPatches(rows, columns)
    prompt = task.make(scenes[0], np.random.default_rng(0)).prompt
    grid = f"{rows} row{'s' * (rows > 1)} and {columns} columns"
    assert grid in prompt
    assert prompt.endswith(f"such as {example}.")


def test_patches_as_pictures_are_whole_and_undone_by_the_answer(scenes):
    task = ShuffledPatches(2, 3, label_style="images")
    for seed, scene in enumerate(scenes[:20]):
        question = task.make(scene, np.random.default_rng(seed))
        assert [image.shape for image in question.images] == [(32, 21, 3)] * 6
        assert np.array_equal(task.undo(question), scene.image[:64, :63])
        assert question.prompt.startswith("<image>" * 6)
        assert "in the order in which they are shown" in question.prompt


def test_worked_answer_names_the_place_and_the_neighbours_of_each_patch(scenes):
    """Read back from the words: `place` and "its right edge goes on in patch n"."""
    corners = ("top-left", "top-right", "bottom-left", "bottom-right")
    starts = set()
    for seed in range(40):
        question = ShuffledPatches().make(scenes[0], np.random.default_rng(seed))
        order = question.answer.split(",")
        sentences = question.explanation.split(". ")
        starts.add(sentences[0])
        for place, corner in enumerate(corners):
            (told,) = [sentence for sentence in sentences if f"{corner} corner" in sentence]
            named, _, edges = told.partition(":")
            assert [c for c in named if c.isdigit()] == [order[place]]
            others = {1: "right", 2: "lower"}
            expected = {
                f"{others[step]} edge goes on in patch {order[place + step]}"
                for step in others
                if place + step < 4 and not (place == 1 and step == 1)
            }
            assert edges.count("edge") == len(expected)
            assert all(sentence in edges for sentence in expected)
        assert f"{', '.join(order[:3])} and {order[3]}" in sentences[-1]
    assert len(starts) >= 4


def test_worked_answer_gives_a_white_patch_the_place_that_is_left(scenes):
    task = ShuffledPatches(masked=True)
    for seed in range(10):
        question = task.make(scenes[0], np.random.default_rng(seed))
        masked = question.meta["masked"]
        corners = ("top-left", "top-right", "bottom-left", "bottom-right")
        corner = corners[question.meta["order"].index(masked)]
        told = f"Patch {masked} is white and takes the place that is left, the {corner} corner."
        assert told in question.explanation
        assert f"in patch {masked}" not in question.explanation


def test_unknown_label_style_is_refused():
    with pytest.raises(ConfigError, match="label_style must be one of index, place, images, got"):
        ShuffledPatches(label_style="letters")


def test_chance_is_one_in_all_orders(scenes):
    assert ShuffledPatches().make(scenes[0], np.random.default_rng(0)).chance == 1 / 24


@pytest.mark.parametrize("noise", [0, 6])
def test_patches_that_look_alike_are_rejected_despite_noise(noise):
    rng = np.random.default_rng(0)
    image = np.full((96, 96, 3), 128.0)
    image[:48, :48], image[48:, 48:] = 40, 220  # the other two are alike
    image = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
    with pytest.raises(SceneRejected) as caught:
        ShuffledPatches().make(Scene(image, "sky"), rng)
    assert caught.value.reason == "two patches look alike"


def test_too_small_a_picture_is_rejected():
    with pytest.raises(SceneRejected, match="too small for the grid"):
        ShuffledPatches().make(
            Scene(np.zeros((15, 64, 3), np.uint8), "x"), np.random.default_rng(0)
        )


def test_one_patch_is_no_question():
    with pytest.raises(ConfigError, match="2 patches or more"):
        ShuffledPatches(rows=1, columns=1)
