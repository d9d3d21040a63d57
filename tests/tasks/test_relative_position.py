import re
from collections import Counter, defaultdict
from itertools import product

import numpy as np
import pytest
from scipy.stats import chisquare

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.tasks import RelativePosition
from spatial_ssrl.tasks.relative_position import (
    FACINGS,
    ONE_WORD,
    TWO_WORDS,
    offset_of,
)

# Degrees a camera that looks where the viewer looks must turn clockwise, seen from above.
HEADING = {"away": 0, "right": 90, "toward": 180, "left": 270}


def seen_from(facing, right, away):
    """Rotate an offset in the viewer's axes into the camera's: (to its right, ahead of it)."""
    angle = np.deg2rad(HEADING[facing])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return turn @ np.array([right, away])


def in_words(aside, ahead, words):
    """Name a direction in the camera's frame: its quadrant, or the axis it is nearer to."""
    sides = "Right" if aside > 0 else "Left", "Front" if ahead > 0 else "Back"
    if words == 2:
        return "-".join(sides)
    return sides[0] if abs(aside) > abs(ahead) else sides[1]


def in_space(scene, place, field_of_view=60):
    """The (right, down, away) of a pixel in space, through a pinhole."""
    height, width = scene.image.shape[:2]
    focal = max(height, width) / 2 / np.tan(np.deg2rad(field_of_view) / 2)
    depth = float(scene.depth[place])
    row, column = place[0] - (height - 1) / 2, place[1] - (width - 1) / 2
    return np.array([column / focal, row / focal, 1.0]) * depth


def looking(facing):
    """The rotation from the viewer's axes to those of an upright camera, from its line of sight."""
    ahead = {"away": (0, 0, 1), "toward": (0, 0, -1), "left": (-1, 0, 0), "right": (1, 0, 0)}
    forward, down = np.array(ahead[facing]), np.array((0, 1, 0))
    turn = np.stack([np.cross(down, forward), down, forward])
    np.testing.assert_array_equal(turn @ turn.T, np.eye(3))
    assert np.linalg.det(turn) == pytest.approx(1), "a rotation, not a mirror"
    return turn


def draws(task, scenes, times, seed=0):
    rng = np.random.default_rng(seed)
    return [(scene, task.make(scene, rng)) for scene in scenes for _ in range(times)]


@pytest.fixture(scope="module")
def drawn(scenes):
    return draws(RelativePosition(facing_weights=(1, 1, 1, 1)), scenes, 40)


def chosen(question):
    return question.meta["options"]["ABCD".index(question.answer)]


@pytest.mark.parametrize(("facing", "direction"), list(product(FACINGS, ONE_WORD + TWO_WORDS)))
def test_offsets_agree_with_an_explicit_rotation(facing, direction):
    aside, ahead = seen_from(facing, *offset_of(direction, facing))
    expected = {
        "Right": aside > 0.5,
        "Left": aside < -0.5,
        "Front": ahead > 0.5,
        "Back": ahead < -0.5,
    }
    assert {word for word, holds in expected.items() if holds} == set(direction.split("-"))


@pytest.mark.parametrize(("facing", "direction"), list(product(FACINGS, ONE_WORD + TWO_WORDS)))
def test_directions_are_those_of_points_in_space_at_any_height(facing, direction):
    right, away = offset_of(direction, facing)
    rng = np.random.default_rng(0)
    for camera in rng.uniform((-2, -1, 2), (2, 1, 6), (20, 3)):
        # Somewhere in the quadrant, or in the quarter around an axis, far above or below.
        reach, slack = rng.uniform(0.5, 3), rng.uniform(-0.9, 0.9)
        away_by = away * rng.uniform(0.2, 1) if right and away else away or slack
        moved = reach * np.array([right or slack, rng.uniform(-5, 5), away_by])
        aside, _, ahead = looking(facing) @ ((camera + moved) - camera)
        assert in_words(aside, ahead, 1 + ("-" in direction)) == direction


def test_the_papers_four_frames():
    assert offset_of("Front", "left") == (-1, 0)
    assert offset_of("Right", "left") == (0, 1)
    assert offset_of("Front", "right") == (1, 0)
    assert offset_of("Right", "right") == (0, -1)
    assert offset_of("Front", "toward") == (0, -1)
    assert offset_of("Right", "toward") == (-1, 0)
    assert offset_of("Front", "away") == (0, 1)
    assert offset_of("Right", "away") == (1, 0)


def test_answer_is_what_points_in_space_say(drawn):
    cases = Counter()
    for scene, question in drawn:
        meta = question.meta
        camera, target = (in_space(scene, meta[name]) for name in ("camera", "target"))
        aside, _, ahead = looking(meta["facing"]) @ (target - camera)
        assert chosen(question) == in_words(aside, ahead, 2 if meta["kind"] == "wide" else 1)
        cases[meta["kind"], meta["facing"], chosen(question)] += 1
    assert len(cases) == 4 * (2 + 2 + 4), "every facing with every direction it allows"


def test_answer_is_what_the_picture_says(drawn):
    for scene, question in drawn:
        (row, column), (other_row, other_column) = question.meta["camera"], question.meta["target"]
        right = other_column - column
        away = float(scene.depth[other_row, other_column]) - float(scene.depth[row, column])
        kind = question.meta["kind"]
        aside, ahead = seen_from(
            question.meta["facing"], right * (kind != "narrow"), away * (kind != "near")
        )
        assert chosen(question) == in_words(aside, ahead, 2 if kind == "wide" else 1)


def test_kinds_keep_their_distances(drawn):
    for scene, question in drawn:
        meta = question.meta
        span = np.nanmax(scene.depth) - np.nanmin(scene.depth)
        down, across = np.abs(np.subtract(meta["target"], meta["camera"]))
        behind = abs(meta["depths"][1] - meta["depths"][0]) / span
        assert np.hypot(down, across) >= 13, "markers overlap"
        if meta["kind"] == "near":
            assert down < 4
            assert behind <= 0.25
        else:
            assert behind >= 0.25
            assert across <= 8 if meta["kind"] == "narrow" else across > 20


def test_regions_are_marked_one_and_two_where_meta_says(drawn):
    for scene, question in drawn[::40]:
        changed = np.argwhere((question.images[0] != scene.image).any(axis=-1))
        places = np.array([question.meta["camera"], question.meta["target"]])
        assert np.abs(changed[:, None] - places).max(axis=-1).min(axis=-1).max() <= 6
        assert question.meta["depths"] == [float(scene.depth[tuple(place)]) for place in places]


def test_letters_and_directions_are_equally_likely(drawn):
    letters = Counter(question.answer for _, question in drawn)
    assert chisquare([letters[letter] for letter in "ABCD"]).pvalue > 1e-3
    for words in (ONE_WORD, TWO_WORDS):
        named = Counter(chosen(q) for _, q in drawn if set(q.meta["options"]) == set(words))
        assert chisquare([named[word] for word in words]).pvalue > 1e-3


def test_the_text_says_nothing_of_the_direction(scenes):
    """Given facing and options, which are all the text tells, directions stay uniform."""
    by_text = defaultdict(Counter)
    for _, question in draws(RelativePosition(), scenes, 60, seed=1):
        meta = question.meta
        by_text[meta["facing"], meta["kind"] == "wide"][chosen(question)] += 1
    assert len(by_text) == 8
    for counts in by_text.values():
        assert len(counts) == 4
        assert chisquare(list(counts.values())).pvalue > 1e-3


def test_facings_follow_their_weights(scenes):
    task = RelativePosition(kind_weights=(0, 0, 1))
    counts = Counter(question.meta["facing"] for _, question in draws(task, scenes, 20))
    total = sum(counts.values())
    expected = [weight * total for weight in (0.3, 0.3, 0.3, 0.1)]
    assert chisquare([counts[facing] for facing in FACINGS], expected).pvalue > 1e-3


def test_a_single_facing_and_kind_can_be_asked_for(scenes):
    task = RelativePosition(facing_weights=(0, 0, 0, 1), kind_weights=(1, 0, 0))
    questions = [question for _, question in draws(task, scenes, 4)]
    assert {(q.meta["facing"], q.meta["kind"]) for q in questions} == {("away", "near")}
    assert {chosen(question) for question in questions} == {"Left", "Right"}


def test_fixed_options_keep_the_letters_balanced(scenes):
    questions = [q for _, q in draws(RelativePosition(fixed_options=1), scenes, 10)]
    assert {tuple(q.meta["options"]) for q in questions} == {ONE_WORD, TWO_WORDS}
    letters = Counter(question.answer for question in questions)
    assert chisquare([letters[letter] for letter in "ABCD"]).pvalue > 1e-3


def test_prompt_lists_the_options_and_the_facing(scenes):
    for _, question in draws(RelativePosition(), scenes, 5):
        listed = " ".join(
            f"{o}. {n}" for o, n in zip("ABCD", question.meta["options"], strict=True)
        )
        assert f" {listed} " in question.prompt
        facing = re.search(
            "(?:faces|look|looking) (?:toward )?(.*?) (picture|viewer)", question.prompt
        )
        assert {
            ("the left of the", "picture"): "left",
            ("the right of the", "picture"): "right",
            ("the", "viewer"): "toward",
            ("away from the", "viewer"): "away",
        }[facing.groups()] == question.meta["facing"]


def test_short_explanation_states_three_facts_that_fit_the_scene(scenes):
    for _, question in draws(RelativePosition(wording="terse"), scenes, 6):
        first, second, third = question.explanation.removesuffix(".").split(". ")
        across = question.meta["target"][1] - question.meta["camera"][1]
        away = question.meta["depths"][1] - question.meta["depths"][0]
        kind = question.meta["kind"]
        assert ("left" in first, "right" in first) == (
            kind != "narrow" and across < 0,
            kind != "narrow" and across > 0,
        )
        assert ("farther" in first, "nearer" in first) == (
            kind != "near" and away > 0,
            kind != "near" and away < 0,
        )
        assert second in question.prompt.replace("A camera stands at region 1 and", "The camera")
        assert third == f"So it lies {chosen(question)}"


def strips(values):
    depth = np.repeat(np.float32(list(values)), 64 // len(values))[None].repeat(64, axis=0)
    return Scene(np.full((64, 64, 3), 128, np.uint8), "strips", depth)


@pytest.mark.parametrize(
    ("scene", "weights", "reason"),
    [
        (strips([3, 3]), (1, 1, 1), "constant depth"),
        (strips(range(1, 9)), (1, 0, 0), "no two regions beside each other"),
        (strips([1, 3, 5, 9]), (0, 0, 1), "no two regions on one of the diagonals"),
        (Scene(np.zeros((64, 64, 3), np.uint8), "photo"), (1, 1, 1), "no depth"),
    ],
)
def test_rejection_names_its_reason(scene, weights, reason):
    with pytest.raises(SceneRejected) as caught:
        RelativePosition(kind_weights=weights).make(scene, np.random.default_rng(0))
    assert caught.value.reason == reason


@pytest.mark.parametrize("seed", range(5))
def test_one_word_needs_both_kinds_of_pair_unless_one_is_switched_off(seed):
    beside = strips([1, 9, 1, 9])
    assert RelativePosition(kind_weights=(1, 0, 0)).make(beside, np.random.default_rng(seed))
    beside.depth[:, 14:18] = beside.depth[:, 30:34] = beside.depth[:, 46:50] = np.nan
    scene = Scene(beside.image, "gaps", beside.depth)
    with pytest.raises(SceneRejected, match="behind each other"):
        RelativePosition(kind_weights=(1, 1, 0)).make(scene, np.random.default_rng(seed))


@pytest.mark.parametrize(
    "settings",
    [
        {"facing_weights": (0, 0, 0, 0)},
        {"kind_weights": (1, -1, 1)},
        {"fixed_options": 1.5},
        {"wording": "long"},
    ],
)
def test_settings_out_of_range_are_refused_by_name(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        RelativePosition(**settings)
