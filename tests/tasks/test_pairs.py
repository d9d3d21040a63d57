from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.tasks import pairs
from spatial_ssrl.tasks.regions import normalise

OFFSETS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]


def staircase(side=64):
    """Vertical strips, the first and third alike in depth, sloping, with a step in the middle."""
    depth = np.repeat([2.0, 16.0, 2.2, 8.0], side // 4)[None].repeat(side, axis=0)
    depth = depth + 0.02 * np.arange(side)[:, None]
    depth[10:20] += 1.5
    return depth.astype(np.float32)


def plain_match(found, offset, i, j, radius=6):
    """The rule in plain words, for a picture of 64 x 64."""
    right, away = offset
    dx = int(found.columns[j]) - int(found.columns[i])
    dy = int(found.rows[j]) - int(found.rows[i])
    apart = max(64 / 8, 2 * radius + 1)
    middles = [(float(found.low[k]) + float(found.high[k])) / 2 for k in (i, j)]
    if away == 0:
        return dx * right >= apart and abs(dy) < 4 and abs(middles[1] - middles[0]) <= 0.10
    gap = found.low[j] - found.high[i] if away > 0 else found.low[i] - found.high[j]
    if gap < 0.25 or np.hypot(dx, dy) < apart:
        return False
    if right == 0:
        return abs(dx) <= 8
    x = [(int(found.columns[k]) - 31.5) * float(found.depth[k]) for k in (i, j)]
    return dx * right > 20 and (x[1] - x[0]) * right > 0


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


def test_every_pair_that_will_do_is_equally_likely():
    depth = np.full((64, 64), np.nan, np.float32)
    depth[24:32, 16:23], depth[26:33, 40:47], depth[50:55, 30:35] = 2.0, 2.1, 9.0
    found = pairs.find_regions(depth)
    first, second = (grid.ravel() for grid in np.meshgrid(*[np.arange(len(found))] * 2))
    valid = pairs.matches(found, (1, 0), first, second)
    possible = set(zip(first[valid].tolist(), second[valid].tolist(), strict=True))
    assert 5 < len(possible) < 200
    rng = np.random.default_rng(3)
    draws = Counter(pairs.draw_pair(found, (1, 0), rng) for _ in range(30 * len(possible)))
    assert set(draws) <= possible
    assert chisquare([draws[pair] for pair in possible]).pvalue > 1e-4


def test_regions_are_steady_known_and_away_from_the_edge():
    depth = staircase()
    depth[30:40, 30:40] = np.nan
    scaled = normalise(depth)
    found = pairs.find_regions(depth)
    for row, column, low, high in zip(
        found.rows, found.columns, found.low, found.high, strict=True
    ):
        inside = scaled[row - 2 : row + 3, column - 2 : column + 3]
        assert inside.shape == (5, 5)
        assert (float(inside.min()), float(inside.max())) == (low, high)
        assert high - low <= 0.15
        assert 6 <= row <= 57
        assert 6 <= column <= 57


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        ((1, 0), "no two regions beside each other"),
        ((0, -1), "no two regions behind each other"),
        ((1, 1), "no two regions on one of the diagonals"),
    ],
)
def test_a_missing_kind_of_pair_is_named(offset, reason):
    depth = np.full((64, 64), np.nan, np.float32)
    depth[20:26, 20:26] = 1
    depth[25, 25] = 1.01
    found = pairs.find_regions(depth)
    with pytest.raises(SceneRejected) as caught:
        pairs.draw_pair(found, offset, np.random.default_rng(0))
    assert caught.value.reason == reason


def test_sparse_depth_has_no_regions():
    depth = np.full((64, 64), np.nan, np.float32)
    depth[::5] = np.arange(13, dtype=np.float32)[:, None]
    with pytest.raises(SceneRejected, match="no two regions of steady depth"):
        pairs.find_regions(depth)
