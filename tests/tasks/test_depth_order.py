from collections import Counter
from itertools import combinations, pairwise, permutations

import numpy as np
import pytest
from scipy.stats import chisquare

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.tasks import DepthOrder
from spatial_ssrl.tasks.depth_order import depth_bands


def window_at(depth, place, half=2):
    row, column = place
    return depth[row - half : row + half + 1, column - half : column + half + 1]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_answer_sorts_the_whole_regions_by_depth(scenes, count):
    task = DepthOrder(count=count)
    made = 0
    for seed, scene in enumerate(scenes):
        try:
            question = task.make(scene, np.random.default_rng(seed))
        except SceneRejected:
            continue
        made += 1
        numbers = [int(number) for number in question.answer.split(",")]
        assert sorted(numbers) == list(range(1, count + 1))
        # Half a fallback window, so that the check holds for both window sizes.
        windows = [window_at(scene.depth, question.meta["regions"][n - 1], 1) for n in numbers]
        for nearer, farther in pairwise(windows):
            assert nearer.max() < farther.min()
        read = [float(scene.depth[place]) for place in question.meta["regions"]]
        assert question.meta["depths"] == read
    assert made > 0.8 * len(scenes)


def test_regions_are_known_steady_in_their_bands_and_apart(scenes):
    for seed, scene in enumerate(scenes):
        meta = DepthOrder().make(scene, np.random.default_rng(seed)).meta
        low, high = np.nanpercentile(scene.depth, [0.5, 99.5])
        near_to_far = sorted(meta["regions"], key=lambda place: scene.depth[place])
        for place, band in zip(near_to_far, [(0, 0.3), (0.35, 0.65), (0.7, 1)], strict=True):
            inside = np.clip((window_at(scene.depth, place, 1) - low) / (high - low), 0, 1)
            assert not np.isnan(inside).any()
            assert band[0] - 1e-3 <= inside.min()
            assert inside.max() <= band[1] + 1e-3
            assert inside.max() - inside.min() <= 0.2
        for one, two in combinations(meta["regions"], 2):
            assert np.hypot(one[0] - two[0], one[1] - two[1]) >= 13, "markers overlap"


def test_markers_are_drawn_at_their_regions_and_nowhere_else(scenes):
    for seed, scene in enumerate(scenes[:20]):
        question = DepthOrder().make(scene, np.random.default_rng(seed))
        changed = np.argwhere((question.images[0] != scene.image).any(axis=-1))
        offsets = changed[:, None] - np.array(question.meta["regions"])[None]
        assert np.abs(offsets).max(axis=-1).min(axis=-1).max() <= 6
        for place in question.meta["regions"]:
            assert (question.images[0][place] != scene.image[place]).any()


def test_every_order_is_equally_likely(scenes):
    task, rng = DepthOrder(), np.random.default_rng(0)
    counts = Counter(task.make(scene, rng).answer for scene in scenes for _ in range(10))
    orders = [",".join(order) for order in permutations("123")]
    assert set(counts) == set(orders)
    assert chisquare([counts[order] for order in orders]).pvalue > 1e-3


def test_bands_follow_the_paper_for_three_and_never_touch():
    flat = [edge for band in depth_bands(3) for edge in band]
    assert flat == pytest.approx([0, 0.30, 0.35, 0.65, 0.70, 1.0], abs=1e-5)
    for count in range(2, 7):
        bands = depth_bands(count)
        assert bands[0][0] == 0
        assert bands[-1][1] == pytest.approx(1, abs=1e-5)
        gaps = [after[0] - before[1] for before, after in pairwise(bands)]
        assert gaps == pytest.approx([0.05] * (count - 1), abs=1e-5)


def steps(values, side=60):
    """A picture of horizontal strips, each at one depth."""
    depth = np.repeat(np.float32(values), side // len(values))[:, None].repeat(side, axis=1)
    return Scene(np.full((side, side, 3), 128, np.uint8), "steps", depth)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([4, 4, 4], "constant depth"),
        ([1, 1, 9], "no steady region in a middle band of depth"),
        ([np.nan] * 3, "no known depth"),
    ],
)
def test_depth_without_three_distances_is_rejected_with_its_reason(values, reason):
    with pytest.raises(SceneRejected) as caught:
        DepthOrder().make(steps(values), np.random.default_rng(0))
    assert caught.value.reason == reason


def test_a_scene_without_depth_is_rejected():
    scene = Scene(np.zeros((64, 64, 3), np.uint8), "photo")
    with pytest.raises(SceneRejected) as caught:
        DepthOrder().make(scene, np.random.default_rng(0))
    assert caught.value.reason == "no depth"


def test_markers_with_no_room_apart_are_rejected():
    scene = steps([1, 5, 9])
    scene.depth[:, :20] = scene.depth[:, 26:] = np.nan
    scene.depth[:17] = scene.depth[43:] = np.nan
    with pytest.raises(SceneRejected) as caught:
        DepthOrder().make(scene, np.random.default_rng(0))
    assert caught.value.reason == "the markers would overlap"


def test_small_regions_fall_back_to_the_smaller_window():
    scene = steps([1, 5, 9])
    scene.depth[20:40] = np.nan
    scene.depth[28:31, 5:55] = 5  # three pixels high: too low for a window of five
    question = DepthOrder().make(scene, np.random.default_rng(0))
    assert any(row == 29 for row, _ in question.meta["regions"])


def test_logarithmic_bands_find_regions_that_linear_bands_miss():
    scene = steps([1, 8, 64])
    with pytest.raises(SceneRejected, match="a middle band"):
        DepthOrder().make(scene, np.random.default_rng(0))
    question = DepthOrder(scale="log").make(scene, np.random.default_rng(0))
    assert sorted(question.meta["depths"]) == [1, 8, 64]


def test_every_set_of_regions_is_within_reach():
    scene = steps([1, 5, 9])
    rng = np.random.default_rng(0)
    drawn = np.array([DepthOrder().make(scene, rng).meta["regions"] for _ in range(300)])
    columns = drawn[..., 1].ravel()
    assert columns.min() <= 8
    assert columns.max() >= 51
    counts, _ = np.histogram(columns, bins=4, range=(6, 54))
    assert chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 7])
def test_count_out_of_range_is_refused(count):
    with pytest.raises(ConfigError, match=f"from 2 to 6 regions, got {count}"):
        DepthOrder(count=count)


def test_crowded_markers_are_placed_where_few_sets_will_do():
    """Three strips on a spot where one set of places in thousands keeps apart."""
    scene = steps([1, 5, 9])
    scene.depth[:, :19] = scene.depth[:, 27:] = np.nan
    scene.depth[:15] = scene.depth[45:] = np.nan
    task = DepthOrder()
    for seed in range(3):
        regions = task.make(scene, np.random.default_rng(seed)).meta["regions"]
        for one, two in combinations(regions, 2):
            assert np.hypot(one[0] - two[0], one[1] - two[1]) >= 13


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_depths_that_noise_could_turn_round_are_rejected(scale):
    scene = steps([4.0, 4.3, 4.6])
    assert DepthOrder(scale=scale, noise=0.01).make(scene, np.random.default_rng(0))
    # Two gaps of twice 2 % of 4.6 m take more than half of the .6 m between the ends.
    with pytest.raises(SceneRejected) as caught:
        DepthOrder(scale=scale, noise=0.02).make(scene, np.random.default_rng(0))
    assert caught.value.reason == "depths too close for the sensor's noise"


def test_regions_differ_by_more_than_the_noise():
    depth = np.linspace(4.0, 5.0, 240, dtype=np.float32)[None].repeat(240, axis=0)
    scene = Scene(np.full((240, 240, 3), 128, np.uint8), "slope", depth)
    rng = np.random.default_rng(0)
    for _ in range(30):
        question = DepthOrder(noise=0.01).make(scene, rng)
        numbers = [int(number) for number in question.answer.split(",")]
        windows = [window_at(depth, question.meta["regions"][n - 1], 6) for n in numbers]
        for nearer, farther in pairwise(windows):
            assert nearer.max() * 1.01 < farther.min() * 0.99 * 1.003


def test_noise_out_of_range_is_refused():
    with pytest.raises(ConfigError, match="noise must be in"):
        DepthOrder(noise=0.5)
