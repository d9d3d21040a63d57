import numpy as np
import pytest

from spatial_ssrl.images.synthetic.textures import PATTERNS, Material, cloud, paint, pulse


def plane(count=64, step=0.05):
    a, b = np.meshgrid(np.arange(count, dtype=np.float32), np.arange(count, dtype=np.float32))
    return a.ravel() * np.float32(step), b.ravel() * np.float32(step)


def test_pulse_by_hand():
    x = np.array([0.5, 0.0, 0.25, 7.5, -0.5], np.float32)
    sharp = np.full(5, 0.02, np.float32)
    np.testing.assert_allclose(pulse(x, 0.5, sharp), [1, 0, 0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize("duty", [0.2, 0.5, 0.9])
def test_pulse_fades_to_its_mean_when_pixels_are_larger_than_periods(duty):
    x = np.linspace(0, 1, 50, dtype=np.float32)
    np.testing.assert_allclose(pulse(x, duty, np.full(50, 5, np.float32)), duty, atol=1e-6)


def test_cloud_repeats_and_loses_detail():
    u = np.linspace(0, 8, 512, endpoint=False, dtype=np.float32)
    fine = cloud(u, u * 0, np.full(512, 0.01, np.float32))
    coarse = cloud(u, u * 0, np.full(512, 4, np.float32))
    np.testing.assert_array_equal(fine, cloud(u + 8, u * 0, np.full(512, 0.01, np.float32)))
    assert fine.min() >= 0
    assert fine.max() <= 1
    assert np.abs(np.diff(fine)).sum() > 1.5 * np.abs(np.diff(coarse)).sum()


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_every_pattern_paints_finite_colours_with_contrast(pattern):
    a, b = plane()
    material = Material(pattern, (0.2, 0.3, 0.4), (0.8, 0.7, 0.6), 0.7, turn=0.4, shift=3.0)
    colour = paint(material, a, b, np.full(a.size, 0.01, np.float32))
    assert colour.shape == (a.size, 3)
    assert colour.dtype == np.float32
    assert np.isfinite(colour).all()
    assert colour.min() >= 0
    assert colour.max() <= 1.3
    assert colour[:, 0].std() > 0.01


@pytest.mark.parametrize("pattern", sorted(PATTERNS))
def test_contrast_never_grows_with_distance(pattern):
    a, b = plane(step=0.37)
    material = Material(pattern, (0.2, 0.2, 0.2), (0.8, 0.8, 0.8), 0.7, grain=0.0)
    near = paint(material, a, b, np.full(a.size, 0.005, np.float32))
    far = paint(material, a, b, np.full(a.size, 10, np.float32))
    assert far.std() <= near.std() + 1e-6
