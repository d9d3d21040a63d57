from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.tasks import pair_search, pairs
from support.pairs import OFFSETS, SETTINGS, all_pairs, plain_match, scattered


def valid_pairs(found, offset):
    first, second = all_pairs(found)
    return {
        (int(i), int(j))
        for i, j in zip(first, second, strict=True)
        if plain_match(found, offset, i, j)
    }


def narrowed(found, offset):
    """All pairs that are left when boxes are split down to single regions."""
    tree = pair_search._Tree(found)
    boxes = (np.zeros(1, np.int64),) * 2
    for level in range(tree.height, -1, -1):
        kept = pairs.may_match(found, offset, *(tree.at(level, box) for box in boxes))
        boxes = tuple(box[kept] for box in boxes)
        if level:
            boxes = tree.split(level, boxes)
    return list(zip(*(tree.order[box].tolist() for box in boxes), strict=True))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("offset", OFFSETS)
def test_narrowing_leaves_exactly_the_pairs_of_a_plain_enumeration(offset, settings):
    for seed in range(2):
        found = scattered(10 + seed, **settings)
        left = narrowed(found, offset)
        assert len(left) == len(set(left))
        assert set(left) == valid_pairs(found, offset)


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(pair_search, "_DRAWS", (1, 1, 4))


@pytest.mark.parametrize("most_boxes", [1 << 17, 4])
@pytest.mark.parametrize("offset", OFFSETS)
def test_the_verdict_is_that_of_a_plain_enumeration(few_draws, monkeypatch, offset, most_boxes):
    monkeypatch.setattr(pair_search, "_MOST_BOXES", most_boxes)
    monkeypatch.setattr(pair_search, "_AT_ONCE", 8)
    verdicts = Counter()
    for seed in range(12):
        found = scattered(40 + seed, count=7, focal=55.4)
        expected = valid_pairs(found, offset)
        drawn = pair_search.search_pair(found, offset, np.random.default_rng(seed))
        assert drawn in expected if expected else drawn is None
        verdicts[drawn is None] += 1
    assert len(verdicts) == 2, "both verdicts are put to the test"


@pytest.mark.parametrize("most_boxes", [1 << 17, 4])
def test_every_rare_pair_is_equally_likely(few_draws, monkeypatch, most_boxes):
    monkeypatch.setattr(pair_search, "_MOST_BOXES", most_boxes)
    found = scattered(3, count=40)
    possible = sorted(valid_pairs(found, (1, 0)))
    assert 8 < len(possible) < 60
    rng = np.random.default_rng(3)
    draws = Counter(pair_search.search_pair(found, (1, 0), rng) for _ in range(25 * len(possible)))
    assert set(draws) <= set(possible)
    assert chisquare([draws[pair] for pair in possible]).pvalue > 1e-4


def test_every_pair_of_a_picture_is_equally_likely():
    depth = np.full((64, 64), np.nan, np.float32)
    depth[24:32, 16:23], depth[26:33, 40:47], depth[50:55, 30:35] = 2.0, 2.1, 9.0
    found = pairs.find_regions(depth)
    possible = sorted(valid_pairs(found, (1, 0)))
    assert 5 < len(possible) < 200
    rng = np.random.default_rng(3)
    draws = Counter(pair_search.draw_pair(found, (1, 0), rng) for _ in range(30 * len(possible)))
    assert set(draws) <= set(possible)
    assert chisquare([draws[pair] for pair in possible]).pvalue > 1e-4


def test_one_pair_among_billions_is_found():
    """Two walls with a step of too little depth between them, and one deep hole."""
    depth = np.full((480, 640), 2.0, np.float32)
    depth[:, 320:] = 2.4
    depth[100:115, 300:315] = 4.0  # one window of 15 pixels
    found = pairs.find_regions(depth)
    assert len(found) > 200_000
    hole = int(np.flatnonzero(found.low > 0.9)[0])
    for seed in range(2):
        first, second = pair_search.draw_pair(found, (1, 1), np.random.default_rng(seed))
        assert second == hole
        assert pairs.matches(found, (1, 1), np.array([first]), np.array([second])).all()


def test_that_no_pair_will_do_is_known_without_trying_billions():
    depth = np.linspace(1, 5, 480, dtype=np.float32)[:, None].repeat(640, axis=1)
    depth[:, 310:330] = np.nan
    left = np.arange(640) < 320
    depth[:, left] = depth[::-1][:, left]
    found = pairs.find_regions(np.where(left, depth, np.float32(3.0)))
    assert len(found) > 100_000
    # The left half has every depth, but the right half only the middle one.
    for offset in ((1, 1), (-1, 1)):
        pair_search.draw_pair(found, offset, np.random.default_rng(0))
    flat = np.full((480, 640), 2.0, np.float32)
    flat[230:250, 300:320] = 9.0  # nothing to the side of it is far enough in the right depth
    flat[:, :300] = flat[:, 320:] = np.nan
    found = pairs.find_regions(flat)
    with pytest.raises(SceneRejected, match="one of the diagonals"):
        pair_search.draw_pair(found, (1, 1), np.random.default_rng(0))


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
        pair_search.draw_pair(found, offset, np.random.default_rng(0))
    assert caught.value.reason == reason
