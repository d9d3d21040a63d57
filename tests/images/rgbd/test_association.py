import numpy as np
import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images.rgbd.association import check_tolerance, nearest_pairs


def test_each_time_goes_with_the_nearest_once():
    assert nearest_pairs([0.0, 1.0, 2.0], [0.01, 1.5, 1.99], 0.02) == [(0, 0), (2, 2)]
    # 1.00 and 1.01 both want 1.012; the nearer one gets it.
    assert nearest_pairs([1.00, 1.01], [1.012], 0.02) == [(1, 0)]
    assert nearest_pairs([1.00, 1.01], [1.012, 0.99], 0.02) == [(0, 1), (1, 0)]
    assert nearest_pairs([], [1.0], 1.0) == []


def test_like_trying_every_pair_in_the_order_of_differences():
    rng = np.random.default_rng(0)
    first, second = rng.random(40), rng.random(50)
    by_difference = sorted(
        (abs(a - b), i, j) for i, a in enumerate(first) for j, b in enumerate(second)
    )
    expected, left, right = [], set(), set()
    for difference, i, j in by_difference:
        if difference <= 0.02 and i not in left and j not in right:
            expected.append((i, j))
            left.add(i)
            right.add(j)
    assert nearest_pairs(first, second, 0.02) == sorted(expected)


def test_tolerance_below_0():
    with pytest.raises(ConfigError, match="tolerance must be 0 seconds or more"):
        check_tolerance(-1.0)
