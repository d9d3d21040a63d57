import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest
from scipy.ndimage import maximum_filter, minimum_filter

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images import IMAGE_SOURCES, SyntheticScenes
from spatial_ssrl.images.synthetic.compose import compose


def same(one, other):
    return (
        one.source_id == other.source_id
        and np.array_equal(one.image, other.image)
        and np.array_equal(one.depth, other.depth, equal_nan=True)
    )


@pytest.fixture(scope="module")
def scenes():
    source = SyntheticScenes(count=80, size=64, seed=11)
    return [source.scene(index) for index in range(80)]


def test_scene_is_a_pure_function_of_seed_and_number(scenes):
    source = SyntheticScenes(count=80, size=64, seed=11)
    assert same(source.scene(7), scenes[7])  # Out of order, from another object.
    assert same(SyntheticScenes(count=1, size=64, seed=11, first=7).scene(0), scenes[7])
    assert same(pickle.loads(pickle.dumps(source)).scene(7), scenes[7])


def test_scene_is_the_same_in_another_process(scenes):
    program = (
        "import hashlib; from spatial_ssrl.images import SyntheticScenes;"
        "s = SyntheticScenes(count=80, size=64, seed=11).scene(3);"
        "print(hashlib.sha256(s.image.tobytes() + s.depth.tobytes()).hexdigest())"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    here = hashlib.sha256(scenes[3].image.tobytes() + scenes[3].depth.tobytes()).hexdigest()
    assert run.stdout.strip() == here


def test_other_seeds_and_numbers_give_other_scenes(scenes):
    assert len({scene.image.tobytes() for scene in scenes}) == 80
    other = SyntheticScenes(count=80, size=64, seed=12).scene(7)
    assert not np.array_equal(other.image, scenes[7].image)


def test_shape_type_and_unit(scenes):
    scene = scenes[0]
    assert scene.image.shape == (64, 64, 3)
    assert scene.image.dtype == np.uint8
    assert scene.depth.shape == (64, 64)
    assert scene.depth.dtype == np.float32
    assert scene.depth_unit == "metre"
    assert scene.source_id == "synthetic/s11/0/64px"
    assert SyntheticScenes.has_depth
    assert IMAGE_SOURCES.get("synthetic_scenes") is SyntheticScenes


def test_names_need_no_drawing(monkeypatch):
    # Splits ask for the names of every scene of a source, ten thousand by default.
    monkeypatch.setattr("spatial_ssrl.images.synthetic.source.draw", None)
    source = SyntheticScenes(count=3, size=64, seed=11, first=40)
    assert source.source_id(2) == "synthetic/s11/42/64px"
    for outside in (-1, 3):
        with pytest.raises(IndexError, match="there are 3 scenes"):
            source.source_id(outside)


def test_size_changes_the_sampling_not_the_scene():
    small = SyntheticScenes(size=32, seed=2).scene(5)
    large = SyntheticScenes(size=96, seed=2).scene(5)
    # Pixel centres of the small picture are those of every third pixel of the large one.
    centre = large.depth[1::3, 1::3]
    both = ~np.isnan(centre) & ~np.isnan(small.depth)
    np.testing.assert_allclose(centre[both], small.depth[both], rtol=1e-4)
    assert np.array_equal(np.isnan(centre), np.isnan(small.depth))


def test_depth_is_finite_and_spread(scenes):
    for scene in scenes:
        known = scene.depth[~np.isnan(scene.depth)]
        assert known.size > 0.5 * scene.depth.size
        assert np.isfinite(known).all()
        assert known.min() > 0.3
        assert known.max() / known.min() > 2.5


def test_almost_every_scene_has_steady_regions_in_three_bands(scenes):
    complete = 0
    for scene in scenes:
        low, high = np.nanpercentile(scene.depth, [0.5, 99.5])
        depth = np.clip((scene.depth - low) / (high - low), 0, 1)
        known = np.nan_to_num(depth, nan=9.0)  # Unknown pixels spoil the maximum.
        near, far = minimum_filter(known, 5), maximum_filter(known, 5)
        steady = far - near < 0.15
        bands = ((0, 0.3), (0.35, 0.65), (0.7, 1))
        complete += all(
            (steady & (near >= start) & (far <= stop))[2:-2, 2:-2].any() for start, stop in bands
        )
    assert complete >= 76


def test_light_falls_from_above_and_from_the_left(scenes):
    suns = np.array([compose(rng_for(0, "light", number)).light.sun for number in range(60)])
    np.testing.assert_allclose(np.linalg.norm(suns, axis=1), 1)
    assert (suns[:, 0] < -0.2).all()
    assert (suns[:, 1] > 0.4).all()
    images = np.stack([scene.image for scene in scenes]).mean(axis=3)
    assert images[:, :, :32].mean() > images[:, :, 32:].mean() + 4


def test_pictures_are_bright_and_have_contrast(scenes):
    for scene in scenes:
        assert 40 < scene.image.mean() < 215
        assert scene.image.std() > 12


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"count": -1}, "count must be at least 0, got -1"),
        ({"first": -3}, "first must be at least 0, got -3"),
        ({"size": 8}, "size must be at least 16 pixels, got 8"),
    ],
)
def test_settings_that_cannot_work(settings, text):
    with pytest.raises(ConfigError, match=text):
        SyntheticScenes(**settings)


@pytest.mark.parametrize("index", [-1, 5])
def test_index_out_of_range(index):
    with pytest.raises(IndexError):
        SyntheticScenes(count=5).scene(index)
