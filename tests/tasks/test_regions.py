import numpy as np
import pytest

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.tasks import regions


def rough_depth(seed, shape=(17, 23), unknown=0.03):
    rng = np.random.default_rng(seed)
    depth = rng.random(shape, dtype=np.float32)
    depth[rng.random(shape) < unknown] = np.nan
    return depth


@pytest.mark.parametrize("window", [1, 2, 3, 5, 11, 17])
def test_window_extremes_equal_a_plain_search(window):
    depth = rough_depth(window, unknown=0.01)
    low, high = regions.window_extremes(depth, window)
    assert low.shape == high.shape == (17 - window + 1, 23 - window + 1)
    for row in range(low.shape[0]):
        for column in range(low.shape[1]):
            inside = depth[row : row + window, column : column + window]
            np.testing.assert_equal(low[row, column], inside.min())
            np.testing.assert_equal(high[row, column], inside.max())


@pytest.mark.parametrize("margin", [0, 2, 4])
def test_steady_regions_equal_a_plain_search(margin):
    depth = rough_depth(3)
    depth[6:12] *= 0.2
    found = regions.steady_regions(depth, 5, 0.7, margin)
    expected = [
        (row, column, float(inside.min()), float(inside.max()))
        for row in range(max(2, margin), 17 - max(2, margin))
        for column in range(max(2, margin), 23 - max(2, margin))
        for inside in [depth[row - 2 : row + 3, column - 2 : column + 3]]
        if not np.isnan(inside).any() and inside.max() - inside.min() <= 0.7
    ]
    assert 5 < len(expected) < 200
    given = zip(found.rows, found.columns, found.low, found.high, strict=True)
    assert [(int(r), int(c), float(a), float(b)) for r, c, a, b in given] == expected


def test_a_margin_wider_than_the_picture_leaves_nothing():
    assert len(regions.steady_regions(rough_depth(0), 3, 1.0, margin=12)) == 0


def test_picture_smaller_than_the_window_is_rejected():
    with pytest.raises(SceneRejected, match="smaller than a region"):
        regions.window_extremes(np.zeros((4, 9), np.float32), 5)


@pytest.mark.parametrize(("lower", "upper"), [(0.0, 100.0), (0.5, 99.5), (10.0, 90.0)])
def test_normalise_maps_percentiles_to_zero_and_one(lower, upper):
    depth = 3 + 40 * rough_depth(5)
    near, far = np.nanpercentile(depth, [lower, upper])
    expected = np.clip((depth - near) / (far - near), 0, 1)
    np.testing.assert_allclose(
        regions.normalise(depth, *regions.depth_range(depth, lower, upper)), expected, atol=1e-5
    )


@pytest.mark.parametrize("value", [0.0, 5.0, -2.0])
def test_constant_depth_is_rejected(value):
    depth = np.full((8, 8), value, np.float32)
    depth[0, 0] = np.nan
    with pytest.raises(SceneRejected, match="constant depth"):
        regions.depth_range(depth)


@pytest.mark.parametrize(
    ("fraction", "size", "side"),
    [(25 / 480, (480, 640), 25), (11 / 480, (640, 480), 11), (25 / 480, (64, 64), 5)],
)
def test_window_follows_the_shorter_side(fraction, size, side):
    assert regions.window_side(fraction, *size) == side


def test_window_is_odd_and_at_least_the_smallest():
    sides = [regions.window_side(0.05, side, 900, smallest=3) for side in range(20, 900)]
    assert min(sides) == 3
    assert all(side % 2 for side in sides)


@pytest.mark.parametrize(
    ("depth", "reason"),
    [
        (None, "no depth"),
        (np.zeros((5, 4), np.float32), "depth and picture differ in size"),
        (np.full((4, 5), np.nan, np.float32), "no known depth"),
        (np.full((4, 5), np.inf, np.float32), "no known depth"),
        (np.zeros((4, 5), np.float32), "no depth above zero"),
        (np.full((4, 5), -2, np.float32), "no depth above zero"),
    ],
)
def test_unusable_depth_is_rejected_with_its_reason(depth, reason):
    scene = Scene(image=np.zeros((4, 5, 3), np.uint8), source_id="x", depth=depth)
    with pytest.raises(SceneRejected) as caught:
        regions.known_depth(scene)
    assert caught.value.reason == reason


@pytest.mark.parametrize("value", [np.inf, -np.inf, 0.0, -1.0])
def test_depth_that_cannot_be_counts_as_unknown(value):
    depth = np.arange(1, 21, dtype=np.float32).reshape(4, 5)
    depth[1, 1] = value
    known = regions.known_depth(Scene(np.zeros((4, 5, 3), np.uint8), "x", depth))
    assert np.argwhere(np.isnan(known)).tolist() == [[1, 1]]
    assert depth[1, 1] == value, "the scene is not modified"


@pytest.mark.parametrize("noise", [-0.1, 0.3])
def test_noise_that_leaves_no_order_is_refused(noise):
    with pytest.raises(ConfigError, match=r"noise must be in \[0, 0.25\]"):
        regions.check_noise(noise)
