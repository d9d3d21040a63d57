"""Questions on depth, solved again from the picture's pixels and the raw depth file."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cache
from itertools import permutations
from types import SimpleNamespace

import numpy as np
import pytest

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.tasks import TASKS, DepthOrder, RelativePosition
from support.rgbd_samples import NAMES, SAMPLES, Sample, sample

# The colours of markers 1 to 6, as anyone sees them.
COLOURS = (
    (214, 39, 40),
    (20, 130, 40),
    (31, 80, 220),
    (170, 60, 190),
    (200, 100, 0),
    (0, 130, 140),
)
DRAWS = 3
DEPTH_TASKS = [key for key in TASKS if TASKS.get(key).needs_depth]

every_task = pytest.mark.parametrize("key", DEPTH_TASKS)
on_samples = pytest.mark.skipif(
    not SAMPLES, reason="SPATIAL_SSRL_SAMPLES names no folder of samples"
)


def marker_places(question: Question, plain: np.ndarray, count: int) -> list[tuple[int, int]]:
    """Return where the discs of each number lie, found by their colours in what was painted."""
    picture = question.images[0]
    painted = (picture != plain).any(axis=-1)
    places = []
    for colour in COLOURS[:count]:
        rows, columns = np.nonzero(painted & (picture == colour).all(axis=-1))
        assert len(rows) >= 20, "a disc of this colour is seen"
        middle = (rows.min() + rows.max()) / 2, (columns.min() + columns.max()) / 2
        assert max(np.ptp(rows), np.ptp(columns)) < 0.08 * min(plain.shape[:2]) + 13, "one disc"
        places.append((round(middle[0]), round(middle[1])))
    return places


def value_at(stored: np.ndarray, place: tuple[int, int]) -> float:
    """Return the stored value at a place, or the middle one around it: pixels may be off by 1."""
    row, column = place
    return float(np.nanmedian(stored[row - 1 : row + 2, column - 1 : column + 2]))


def solve_order(question: Question, sample: Sample) -> str:
    count = question.answer.count(",") + 1
    places = marker_places(question, sample.image, count)
    away = np.array([value_at(sample.stored, place) for place in places])
    return ",".join(str(n + 1) for n in np.argsort(-away if sample.inverse else away))


def solve_position(question: Question, sample: Sample) -> str:
    """Turn points in space by the camera's heading; a usual lens sees 60 degrees."""
    text = question.prompt
    options = re.findall(r"\b([A-D])\. ((?:Left|Right)(?:-\w+)?|Front|Back)\b", text)
    assert len(options) == 4
    if "away from the viewer" in text:
        heading = 0
    elif "the viewer" in text:
        heading = 180
    else:
        heading = 90 if "the right of the picture" in text else 270
    height, width = sample.image.shape[:2]
    focal = max(height, width) / 2 / np.tan(np.deg2rad(30))
    points = []
    for row, column in marker_places(question, sample.image, 2):
        stored = value_at(sample.stored, (row, column))
        depth = 1000 / stored if sample.inverse else stored
        points.append(np.array([(column - (width - 1) / 2) / focal * depth, depth]))
    angle = np.deg2rad(heading)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    aside, ahead = turn @ (points[1] - points[0])
    words = "Right" if aside > 0 else "Left", "Front" if ahead > 0 else "Back"
    if "-" in options[0][1]:
        named = "-".join(words)
    else:
        named = words[0] if abs(aside) > abs(ahead) else words[1]
    return next(letter for letter, option in options if option == named)


SOLVERS = {"depth_order": solve_order, "relative_position": solve_position}


@cache
def asked(key: str, name: str) -> tuple[dict[int, Question], set[str]]:
    """Questions on one sample by their seeds, and why there are no others."""
    made, reasons = {}, set()
    for seed in range(DRAWS):
        try:
            made[seed] = TASKS.get(key)().make(sample(name).scene(), np.random.default_rng(seed))
        except SceneRejected as refusal:
            reasons.add(refusal.reason)
    return made, reasons


def test_every_depth_task_has_a_solver():
    assert sorted(SOLVERS) == sorted(DEPTH_TASKS)


@on_samples
@every_task
@pytest.mark.parametrize("name", NAMES)
def test_the_raw_depth_file_gives_the_answer(key, name):
    made, reasons = asked(key, name)
    assert made or reasons
    for question in made.values():
        assert question.prompt.count("<image>") == len(question.images) == 1
        assert question.images[0].shape == sample(name).image.shape
        assert SOLVERS[key](question, sample(name)) == question.answer


@on_samples
@every_task
def test_most_samples_give_questions(key):
    used = [name for name in NAMES if asked(key, name)[0]]
    assert len(used) >= 14, {name: asked(key, name)[1] for name in NAMES if name not in used}


@on_samples
@every_task
@pytest.mark.parametrize("name", NAMES[::3])
def test_a_real_scene_is_not_modified_and_gives_the_same_bytes_again(key, name):
    scene = sample(name).scene()
    before = [hashlib.sha256(part.tobytes()).digest() for part in (scene.image, scene.depth)]
    for seed, question in asked(key, name)[0].items():
        again = TASKS.get(key)().make(scene, np.random.default_rng(seed))
        assert again.images[0].tobytes() == question.images[0].tobytes()
        assert (again.prompt, again.answer, again.uid) == (
            question.prompt, question.answer, question.uid,
        )  # fmt: skip
    after = [hashlib.sha256(part.tobytes()).digest() for part in (scene.image, scene.depth)]
    assert before == after


@every_task
def test_drawn_scenes_are_solved_from_their_pixels_and_guessing_earns_chance(key):
    source = SyntheticScenes(count=25, size=96, seed=5)
    rng, guesses, answers = np.random.default_rng(1), 0, Counter()
    for index in range(len(source)):
        scene = source.scene(index)
        seen = SimpleNamespace(image=scene.image, stored=scene.depth, inverse=False)
        for _ in range(8):
            try:
                question = TASKS.get(key)().make(scene, rng)
            except SceneRejected:
                continue
            assert SOLVERS[key](question, seen) == question.answer
            answers[question.answer] += 1
            options = list(question.choices) or [",".join(p) for p in permutations("123")]
            guesses += str(rng.choice(options)) == question.answer
            chance = question.chance
    count = answers.total()
    assert count > 150
    assert abs(guesses - count * chance) < 4 * (count * chance * (1 - chance)) ** 0.5
    assert len(answers) == round(1 / chance)


@every_task
@pytest.mark.parametrize(
    ("depth", "reason"),
    [
        (None, "no depth"),
        (np.full((64, 64), np.nan), "no known depth"),
        (np.full((64, 64), -3.0), "no depth above zero"),
        (np.zeros((64, 64)), "no depth above zero"),
        (np.full((64, 64), 2.5), "constant depth"),
        (np.ones((32, 64)), "depth and picture differ in size"),
        (np.linspace(5.0, 5.1, 4096).reshape(64, 64), "depths too close for the sensor's noise"),
    ],
)
def test_bad_depth_is_rejected_with_its_reason(key, depth, reason):
    image = np.full((64, 64, 3), 128, np.uint8)
    scene = Scene(image, "bad", None if depth is None else depth.astype(np.float32))
    with pytest.raises(SceneRejected) as caught:
        TASKS.get(key)().make(scene, np.random.default_rng(0))
    assert caught.value.reason == reason


@pytest.mark.parametrize("side", [64, 224, 1024])
@pytest.mark.parametrize("task", [DepthOrder(count=6), RelativePosition()])
def test_markers_are_seen_at_every_size(task, side):
    ramp = np.linspace(1, 10, side, dtype=np.float32)[:, None].repeat(side, axis=1)
    shaped = ramp if isinstance(task, DepthOrder) else ramp + ramp.T
    scene = Scene(np.full((side, side, 3), 128, np.uint8), "ramp", shaped)
    question = task.make(scene, np.random.default_rng(2))
    meta = question.meta
    said = meta.get("regions") or [meta["camera"], meta["target"]]
    found = marker_places(question, scene.image, len(said))
    assert np.abs(np.subtract(found, said)).max() <= 1
