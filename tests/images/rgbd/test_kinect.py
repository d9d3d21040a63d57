import numpy as np
import pytest

from spatial_ssrl.images.rgbd.kinect import COLOUR, DEPTH, HEIGHT, ROTATION, WIDTH, register


def wall(metres):
    return np.full((HEIGHT, WIDTH), metres, np.float32)


def middle_of(mask):
    return np.argwhere(mask).mean(axis=0)


def test_lenses_are_undone():
    x, y = np.meshgrid(np.linspace(-0.55, 0.55, 9), np.linspace(-0.42, 0.42, 7))
    for lens in (COLOUR, DEPTH):
        np.testing.assert_allclose(lens.bend(*lens.straighten(x, y)), (x, y), atol=1e-9)


def test_turning_keeps_lengths():
    np.testing.assert_allclose(ROTATION @ ROTATION.T, np.eye(3), atol=1e-8)
    assert np.linalg.det(ROTATION) == pytest.approx(1)


def test_a_wall_stays_a_wall_of_its_depth():
    seen = register(wall(2.0))
    known = np.isfinite(seen)
    # The cameras look the same way to a quarter of a degree: 4 mm per metre to the side.
    np.testing.assert_allclose(seen[known], 2.0, atol=0.02)
    # The depth camera's view is narrower: some border is unknown, and nothing else.
    assert known[60:450, 50:580].all()
    assert not known[:, 0].any()


def test_near_things_move_against_far_ones_by_their_parallax():
    row, column = np.mgrid[:HEIGHT, :WIDTH]
    disc = (row - 240) ** 2 + (column - 310) ** 2 < 60**2
    places = {
        metres: middle_of(np.isfinite(register(np.where(disc, np.float32(metres), np.nan))))
        for metres in (1.0, 4.0)
    }
    # Cameras 25.03 mm apart and a focal length of 518.86 pixels: 518.86 * 0.02503 * (1 - 1/4).
    assert places[4.0][1] - places[1.0][1] == pytest.approx(9.74, abs=0.2)
    assert places[4.0][0] - places[1.0][0] == pytest.approx(0.26, abs=0.2)


def test_the_nearest_hides_what_is_behind_and_nothing_lies_between():
    depth = wall(4.0)
    depth[200:280, 260:380] = 1.0
    seen = register(depth)
    known = seen[np.isfinite(seen)]
    assert ((np.abs(known - 1) < 0.02) | (np.abs(known - 4) < 0.04)).all()
    alone = np.full_like(depth, np.nan)
    alone[200:280, 260:380] = 1.0
    np.testing.assert_array_equal(seen < 2, np.isfinite(register(alone)))


def test_unknown_depth_stays_unknown():
    assert np.isnan(register(wall(np.nan))).all()
