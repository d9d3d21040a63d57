import numpy as np
import pytest

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.tasks import pairs
from spatial_ssrl.tasks.regions import depth_range, normalise
from support.pairs import OFFSETS, SETTINGS, all_pairs, plain_match, scattered


def staircase(side=64):
    """Vertical strips, the first and third alike in depth, sloping, with a step in the middle."""
    depth = np.repeat([2.0, 16.0, 2.2, 8.0], side // 4)[None].repeat(side, axis=0)
    depth = depth + 0.02 * np.arange(side)[:, None]
    depth[10:20] += 1.5
    return depth.astype(np.float32)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_matches_equal_the_rule_for_scattered_regions(offset, settings):
    seen = 0
    for seed in range(3):
        found = scattered(seed, **settings)
        first, second = all_pairs(found)
        expected = [plain_match(found, offset, i, j) for i, j in zip(first, second, strict=True)]
        assert pairs.matches(found, offset, first, second).tolist() == expected
        seen += sum(expected)
    assert seen > 5


@pytest.mark.parametrize("offset", OFFSETS)
def test_matches_equal_the_rule_in_plain_words(offset):
    found = pairs.find_regions(staircase())
    some = np.random.default_rng(1).choice(len(found), size=120, replace=False)
    first, second = (grid.ravel() for grid in np.meshgrid(some, some))
    given = pairs.matches(found, offset, first, second)
    expected = [plain_match(found, offset, i, j) for i, j in zip(first, second, strict=True)]
    assert 10 < sum(expected) < len(expected) / 2
    assert given.tolist() == expected


def test_a_pair_that_lies_to_other_sides_in_the_picture_and_in_space_is_no_diagonal():
    found = pairs.RegionSet(
        rows=np.array([40, 30, 30]),
        columns=np.array([8, 29, 31]),  # both to the right in the picture
        low=np.float32([0, 0.9, 0.9]),
        high=np.float32([0, 0.9, 0.9]),
        depth=np.float32([1, 20, 20]),  # aside by -23.5, -50 and -10: left, then right, in space
        height=64,
        width=64,
    )
    first, second = np.array([0, 0]), np.array([1, 2])
    assert pairs.matches(found, (1, 1), first, second).tolist() == [False, True]
    assert not pairs.matches(found, (-1, 1), first, second).any()


@pytest.mark.parametrize("offset", OFFSETS)
def test_swapping_a_pair_turns_its_offset_round(offset):
    found = pairs.find_regions(staircase())
    first, second = np.random.default_rng(2).integers(len(found), size=(2, 20_000))
    back = (-offset[0], -offset[1])
    there = pairs.matches(found, offset, first, second)
    assert there.any()
    assert np.array_equal(there, pairs.matches(found, back, second, first))


def test_regions_are_steady_known_and_away_from_the_edge():
    depth = staircase()
    depth[30:40, 30:40] = np.nan
    scaled = normalise(depth, *depth_range(depth))
    found = pairs.find_regions(depth)
    assert len(found) > 100
    for row, column, low, high in zip(
        found.rows, found.columns, found.low, found.high, strict=True
    ):
        inside = scaled[row - 2 : row + 3, column - 2 : column + 3]
        assert inside.shape == (5, 5)
        assert (float(inside.min()), float(inside.max())) == (low, high)
        assert high - low <= 0.15
        assert 6 <= row <= 57
        assert 6 <= column <= 57


def test_depths_that_noise_could_turn_round_are_rejected():
    depth = np.linspace(4.0, 5.0, 64, dtype=np.float32)[None].repeat(64, axis=0)
    # A quarter of the range, .25 m, against twice 2 % and twice 3 % of 5 m.
    assert len(pairs.find_regions(depth, noise=0.02))
    with pytest.raises(SceneRejected) as caught:
        pairs.find_regions(depth, noise=0.03)
    assert caught.value.reason == "depths too close for the sensor's noise"


def test_the_lens_sees_its_angle_across_the_longer_side():
    for shape in ((64, 96), (96, 64)):
        depth = np.linspace(1, 5, 96 * 64, dtype=np.float32).reshape(shape)
        focal = pairs.find_regions(depth, field_of_view=60).focal
        assert np.rad2deg(2 * np.arctan(48 / focal)) == pytest.approx(60)


def test_sparse_depth_has_no_regions():
    depth = np.full((64, 64), np.nan, np.float32)
    depth[::5] = np.arange(13, dtype=np.float32)[:, None]
    with pytest.raises(SceneRejected, match="no two regions of steady depth"):
        pairs.find_regions(depth)


def test_regions_beside_each_other_differ_by_a_tenth_of_the_depth_at_most():
    level = np.array([0.5, 0.59, 0.61, 0.41, 0.39], dtype=np.float32)
    found = pairs.RegionSet(
        rows=np.full(5, 50), columns=np.array([20, 60, 60, 60, 60]), low=level, high=level,
        depth=1 + level, height=100, width=100, noise=0.0, focal=None,
    )  # fmt: skip
    first, second = np.zeros(4, dtype=np.int64), np.arange(1, 5)
    assert pairs.matches(found, (1, 0), first, second).tolist() == [True, False, True, False]
