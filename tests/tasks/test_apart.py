from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import chisquare

from spatial_ssrl.tasks.apart import count_apart, draw_apart


def scattered(rng, count, size):
    return np.stack(np.divmod(rng.choice(size * size, count, replace=False), size), axis=1)


def valid_sets(groups, distance):
    return {
        tuple(map(tuple, chosen))
        for chosen in product(*[group.tolist() for group in groups])
        if all(np.hypot(a[0] - b[0], a[1] - b[1]) >= distance for a, b in combinations(chosen, 2))
    }


@pytest.mark.parametrize("distance", [1, 2, 5, 9])
def test_counts_equal_a_plain_count(distance):
    rng = np.random.default_rng(distance)
    places, others = scattered(rng, 30, 16) - 3, scattered(rng, 50, 12)
    expected = [sum(np.hypot(*(place - other)) >= distance for other in others) for place in places]
    assert count_apart(places, others, distance).tolist() == expected
    assert count_apart(places, others[:0], distance).tolist() == [0] * 30


@pytest.mark.parametrize(("count", "distance"), [(2, 6), (3, 5), (4, 5)])
def test_the_verdict_is_that_of_a_plain_enumeration(count, distance):
    verdicts = Counter()
    for seed in range(30):
        rng = np.random.default_rng(seed)
        groups = [scattered(rng, int(rng.integers(1, 7)), 7) for _ in range(count)]
        possible = valid_sets(groups, distance)
        drawn = draw_apart(groups, distance, rng)
        assert (drawn is None) == (not possible)
        if drawn is not None:
            assert tuple(map(tuple, drawn.tolist())) in possible
        verdicts[drawn is None] += 1
    assert len(verdicts) == 2, "both verdicts are put to the test"


@pytest.mark.parametrize(("count", "distance"), [(2, 5), (3, 5), (4, 3)])
def test_every_set_is_equally_likely(count, distance):
    rng = np.random.default_rng(0)
    groups = [scattered(rng, size, 9) for size in (6, 4, 5, 3)[:count]]
    possible = sorted(valid_sets(groups, distance))
    assert 5 < len(possible) < 200
    draws = Counter(
        tuple(map(tuple, draw_apart(groups, distance, rng).tolist()))
        for _ in range(30 * len(possible))
    )
    assert set(draws) <= set(possible)
    assert chisquare([draws[chosen] for chosen in possible]).pvalue > 1e-4


def test_six_groups_on_one_spot_are_known_not_to_fit():
    spot = np.argwhere(np.ones((12, 12)))
    assert draw_apart([spot] * 6, 13, np.random.default_rng(0)) is None
    row = np.argwhere(np.ones((1, 27)))
    drawn = draw_apart([row] * 3, 13, np.random.default_rng(0))
    assert sorted(drawn[:, 1].tolist()) == [0, 13, 26], "the only places, in some order"
