from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.tasks import FlippedPatch


def cells(image):
    """The four patches without their borders."""
    h, w = image.shape[0] // 2, image.shape[1] // 2
    return [
        image[r * h + 1 : (r + 1) * h - 1, c * w + 1 : (c + 1) * w - 1] for r, c in np.ndindex(2, 2)
    ]


def test_answer_is_the_one_patch_that_changed_and_how(scenes):
    task = FlippedPatch(labels=False)
    for seed, scene in enumerate(scenes):
        question = task.make(scene, np.random.default_rng(seed))
        pairs = list(zip(cells(question.images[0]), cells(scene.image), strict=True))
        changed = [i for i, (now, before) in enumerate(pairs) if not np.array_equal(now, before)]
        assert len(changed) == 1
        now, before = pairs[changed[0]]
        direction = "horizontal" if np.array_equal(now, before[:, ::-1]) else "vertical"
        if direction == "vertical":
            assert np.array_equal(now, before[::-1])
        assert question.answer == f"{changed[0]},{direction}"
        assert (question.meta["patch"], question.meta["axis"]) == (changed[0], direction)


def test_undo_recovers_the_picture_under_border_and_index(scenes):
    task = FlippedPatch(labels=False)
    for seed, scene in enumerate(scenes[:20]):
        undone = task.undo(task.make(scene, np.random.default_rng(seed)))
        for now, before in zip(cells(undone), cells(scene.image), strict=True):
            assert np.array_equal(now, before)


def test_indices_stand_upright_whatever_was_flipped(scenes):
    task = FlippedPatch()
    labels = [
        task.make(scene, np.random.default_rng(seed)).images[0][33:44, 1:10]
        for seed, scene in enumerate(scenes[:40])
    ]
    white = np.mean([(label > 180).all(axis=-1) for label in labels], axis=0) > 0.9
    assert white.sum() >= 4, "the index of patch 2 is the same in every picture"


def test_every_answer_is_equally_likely(scenes):
    task, rng = FlippedPatch(), np.random.default_rng(0)
    questions = [task.make(scene, rng) for scene in scenes for _ in range(10)]
    counts = Counter(question.answer for question in questions)
    assert set(counts) == set(questions[0].choices)
    assert len(counts) == 8
    assert chisquare(list(counts.values())).pvalue > 1e-3


def test_larger_grids_flip_one_of_their_patches(scenes):
    question = FlippedPatch(rows=2, columns=3).make(scenes[0], np.random.default_rng(0))
    assert question.images[0].shape == (64, 63, 3)
    assert len(question.choices) == 12
    assert question.chance == 1 / 12
    assert "2 rows and 3 columns" in question.prompt


def pattern(quarter):
    """A picture whose top-left patch is `quarter` and whose others are plainly lopsided."""
    rng = np.random.default_rng(0)
    image = np.kron(rng.integers(0, 255, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
    image[:32, :32] = quarter
    return Scene(image, "pattern")


def test_worked_answer_names_the_patch_its_neighbours_and_the_direction(scenes):
    neighbours = {0: "1 and 3", 1: "0, 2 and 4", 2: "1 and 5"}
    neighbours |= {3: "0 and 4", 4: "1, 3 and 5", 5: "2 and 4"}
    texts = set()
    for seed in range(60):
        question = FlippedPatch(2, 3).make(scenes[0], np.random.default_rng(seed))
        patch, axis = question.answer.split(",")
        text = question.explanation
        assert f"patches {neighbours[int(patch)]}" in text
        assert f"atch {patch}" in text
        assert axis in text.split(". ")[-1]
        texts.add(text)
    assert len(texts) > 30


ROWS, COLUMNS = np.indices((32, 32))
QUARTERS = {
    "plain": np.full((32, 32), 100),
    "gradient downward, as a sky": 100 + 4 * ROWS,
    "gradient sideways": 100 + 4 * COLUMNS,
    "half turn symmetric": np.where((ROWS < 16) == (COLUMNS < 16), 40, 200),
}


@pytest.mark.parametrize("quarter", QUARTERS.values(), ids=QUARTERS.keys())
def test_a_patch_with_an_ambiguous_flip_rejects_the_picture_whatever_was_drawn(quarter):
    scene = pattern(quarter[..., None])
    for seed in range(8):
        with pytest.raises(SceneRejected) as caught:
            FlippedPatch().make(scene, np.random.default_rng(seed))
        assert caught.value.reason == "flipping a patch changes nothing"


def test_a_lopsided_patch_is_accepted():
    scene = pattern((3 * ROWS + 2 * COLUMNS)[..., None])
    question = FlippedPatch().make(scene, np.random.default_rng(0))
    assert question.answer in question.choices
