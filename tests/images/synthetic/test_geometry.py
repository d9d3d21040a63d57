"""Depth against geometry worked out by hand, or by an implicit description of each body."""

import math

import numpy as np
import pytest

from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images.synthetic.camera import Camera
from spatial_ssrl.images.synthetic.compose import compose
from spatial_ssrl.images.synthetic.layout import Layout, Light
from spatial_ssrl.images.synthetic.render import FIRST_WALL, GROUND, SKY, render, sunshine
from spatial_ssrl.images.synthetic.solids import (
    Ellipsoid,
    Frustum,
    Polyhedron,
    Vectors,
    block,
    prism,
    roof,
)
from spatial_ssrl.images.synthetic.textures import Material

GREY = Material("plain", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 1.0, grain=0.0)
LIGHT = Light(
    sun=(-0.6, 0.8, 0.0), strength=0.6, ambient=(0.5, 0.5, 0.5), horizon=(0.9, 0.9, 0.9),
    zenith=(0.4, 0.5, 0.9), haze=1e6, clouds=0.0, vignette=0.0,
)  # fmt: skip


def layout_of(*solids, camera=None, walls=(), ceiling=None):
    camera = camera or Camera(height=1.0, pitch=0.0, focal=1.0)
    return Layout(camera, LIGHT, GREY, tuple(walls), ceiling, GREY, tuple(solids), 0.0)


def view(layout, size=65):
    return render(layout, size, np.zeros((size, size, 1), np.float32))


def world_points(camera, depth):
    """Back-project in float64, written out from the pinhole model."""
    size = depth.shape[0]
    offset = (np.arange(size) + 0.5 - size / 2) / (size * camera.focal)
    x, y = np.meshgrid(offset, -offset)
    sin, cos = math.sin(camera.pitch), math.cos(camera.pitch)
    return (
        x * depth,
        camera.height + (y * cos - sin) * depth,
        (y * sin + cos) * depth,
    )


def excess(solid, x, y, z):
    """Return by how much points lie outside a solid, in metres: 0 on it, negative inside."""
    cos, sin = math.cos(solid.yaw), math.sin(solid.yaw)
    x, y, z = x - solid.x, y - solid.base, z - solid.z
    a, c = cos * x - sin * z, sin * x + cos * z
    upright = np.maximum(-y, y - solid.height)
    if isinstance(solid, Ellipsoid):
        half = solid.height / 2
        return (np.sqrt((a**2 + c**2) / solid.radius**2 + ((y - half) / half) ** 2) - 1) * min(
            half, solid.radius
        )
    if isinstance(solid, Frustum):
        at = solid.radius + (solid.top_radius - solid.radius) * y / solid.height
        return np.maximum(np.hypot(a, c) - at, upright)
    assert isinstance(solid, Polyhedron)
    gaps = []
    for nx, ny, nz, low, high in solid.slabs:
        along = nx * a + ny * y + nz * c
        gaps += [low - along, along - high]
    return np.max(gaps, axis=0)


@pytest.mark.parametrize(
    ("solid", "expected"),
    [
        (Ellipsoid(0.0, 5.0, 0.0, 0.0, 2.0, GREY, 1.0), 4.0),
        (Ellipsoid(0.0, 5.0, 0.0, 0.0, 2.0, GREY, 0.5), 4.5),
        (Frustum(0.0, 5.0, 0.0, 0.3, 2.0, GREY, 0.5, 0.5), 4.5),
        (Frustum(0.0, 5.0, 0.0, 0.3, 2.0, GREY, 0.8, 0.0), 4.6),
        (block(0.0, 5.0, 0.0, 0.0, (2.0, 2.0, 1.0), GREY), 4.5),
        (block(0.0, 5.0, 0.0, math.pi / 4, (2.0, 2.0, 2.0), GREY), 5 - math.sqrt(2)),
        (block(0.0, 5.0, 0.0, math.pi / 2, (2.0, 2.0, 1.0), GREY), 4.0),
        # The sides of an unturned hexagon face 0, 60, 120 degrees from x: a corner is nearest.
        (prism(0.0, 5.0, 0.0, 2.0, 1.0, GREY), 4.0),
        (prism(0.0, 5.0, math.pi / 6, 2.0, 1.0, GREY), 5 - math.cos(math.pi / 6)),
        (roof(0.0, 5.0, 0.0, math.pi / 2, (2.0, 2.0, 3.0), GREY), 4.5),
        (roof(0.0, 5.0, 0.5, 0.0, (2.0, 2.0, 3.0), GREY), 3.5),
    ],
)
def test_depth_at_the_centre_is_the_distance_to_the_front(solid, expected):
    # The camera is 1 m high and looks straight ahead, so the middle ray is y = 1, x = 0.
    seen = view(layout_of(solid))
    assert seen.owner[32, 32] == FIRST_WALL
    assert seen.depth[32, 32] == pytest.approx(expected, abs=2e-3)


def test_depth_is_along_the_axis_not_along_the_ray():
    # A face square to the axis has one depth, although its edges are farther from the eye.
    seen = view(layout_of(block(0.0, 5.0, 0.0, 0.0, (4.0, 2.0, 1.0), GREY)))
    face = seen.depth[20:32][seen.owner[20:32] == FIRST_WALL]
    assert face.size > 200
    np.testing.assert_allclose(face, 4.5, atol=1e-4)


def test_ground_depth_by_hand():
    # Looking straight ahead from 1 m, a ray that drops by s per metre meets the ground at 1 / s.
    seen = view(layout_of(), size=64)
    drop = (63 + 0.5 - 32) / 64
    assert seen.depth[63, 5] == pytest.approx(1 / drop, rel=1e-5)
    assert Camera(1.0, 0.0, 1.0).ground_depth(1.0) == pytest.approx(2.0)
    assert np.isnan(seen.depth[:32]).all()
    assert (seen.owner[:32] == SKY).all()


def test_nearer_things_hide_farther_ones_whatever_their_order():
    near = block(0.0, 3.0, 0.0, 0.0, (1.0, 1.5, 1.0), GREY)
    far = block(0.3, 6.0, 0.0, 0.0, (1.0, 3.0, 1.0), GREY)
    one, other = view(layout_of(near, far)), view(layout_of(far, near))
    np.testing.assert_array_equal(one.depth, other.depth)
    assert one.owner[32, 32] == FIRST_WALL
    assert other.owner[32, 32] == FIRST_WALL + 1
    assert one.depth[32, 32] == pytest.approx(2.5)
    # The far block is taller and stands to the right: it shows above and beside the near one.
    assert (one.owner == FIRST_WALL + 1).sum() > 50


@pytest.mark.parametrize("number", range(12))
def test_every_pixel_lies_on_its_owner(number):
    layout = compose(rng_for(3, "geometry", number))
    seen = view(layout, 64)
    x, y, z = world_points(layout.camera, seen.depth.astype(np.float64))
    ground = seen.owner == GROUND
    assert ground.any()
    np.testing.assert_allclose(y[ground], 0, atol=2e-4)
    if layout.ceiling is not None:
        np.testing.assert_allclose(y[seen.owner == 2], layout.ceiling, atol=2e-4)
    for k, wall in enumerate(layout.walls):
        mine = seen.owner == FIRST_WALL + k
        gap = wall.normal[0] * x[mine] + wall.normal[1] * z[mine] + wall.distance
        np.testing.assert_allclose(gap, 0, atol=1e-3)
        assert (y[mine] >= -1e-3).all()
        assert (y[mine] <= wall.top + wall.rough / 2 + 1e-3).all()
    first = FIRST_WALL + len(layout.walls)
    for k, solid in enumerate(layout.solids):
        mine = seen.owner == first + k
        np.testing.assert_allclose(excess(solid, x[mine], y[mine], z[mine]), 0, atol=3e-3)
    np.testing.assert_array_equal(np.isnan(seen.depth), seen.owner == SKY)


# The last two are open: there one looks over walls.
@pytest.mark.parametrize("number", [0, 1, 2, 3, 15, 19])
def test_nothing_stands_between_the_camera_and_what_is_seen(number):
    layout = compose(rng_for(4, "geometry", number))
    seen = view(layout, 32)
    depth = np.where(np.isnan(seen.depth), 30.0, seen.depth).astype(np.float64)
    for share in np.linspace(0.02, 0.995, 60):
        x, y, z = world_points(layout.camera, depth * share)
        for solid in layout.solids:
            assert (excess(solid, x, y, z) > -3e-3).all()
        for wall in layout.walls:
            if wall.rough == 0:
                gap = wall.normal[0] * x + wall.normal[1] * z + wall.distance
                behind = gap < -1e-3
                # The line of sight to what is beyond a wall meets its plane above its edge.
                share_before = wall.distance / (wall.distance - gap[behind])
                met = layout.camera.height + share_before * (y[behind] - layout.camera.height)
                assert (met > wall.top - 1e-3).all()


def test_things_stand_apart_and_before_the_walls():
    for number in range(40):
        layout = compose(rng_for(5, "geometry", number))
        assert 1 <= len({(solid.x, solid.z) for solid in layout.solids}) <= 7
        for solid in layout.solids:
            for wall in layout.walls:
                gap = wall.normal[0] * solid.x + wall.normal[1] * solid.z + wall.distance
                assert gap > 0


def test_window_holds_every_pixel_of_a_solid():
    shown = 0
    for number in range(25):
        layout = compose(rng_for(6, "geometry", number))
        first = FIRST_WALL + len(layout.walls)
        seen = view(layout, 48)
        for k, solid in enumerate(layout.solids):
            top, bottom, left, right = layout.camera.window_of(
                solid.x, solid.z, solid.reach, solid.base, solid.base + solid.height, 48
            )
            rows, columns = np.nonzero(seen.owner == first + k)
            # A window that cuts off a solid would show it ending on the window's very border.
            for places, low, high in ((rows, top, bottom), (columns, left, right)):
                if places.size:
                    shown += 1
                    assert places.min() > low or low == 0
                    assert places.max() < high - 1 or high == 48
    assert shown > 200


def test_shadow_falls_on_the_side_away_from_the_sun():
    pole = block(0.0, 6.0, 0.0, 0.0, (0.5, 2.0, 0.5), GREY)
    camera = Camera(height=3.0, pitch=0.5, focal=1.0)
    image = view(layout_of(pole, camera=camera), 97).image.mean(axis=2)
    bare = view(layout_of(camera=camera), 97).image.mean(axis=2)
    row = round(
        (0.5 - (-3 * math.cos(0.5) + 6 * math.sin(0.5)) / (6 * math.cos(0.5) + 3 * math.sin(0.5)))
        * 97
    )
    darker = bare[row] - image[row]
    assert darker[60] > 15  # The sun stands on the left: one metre to the right lies in shadow.
    assert abs(darker[37]) < 3


@pytest.mark.parametrize("number", range(8))
def test_shadow_lies_where_the_way_to_the_sun_is_blocked(number):
    layout = compose(rng_for(7, "geometry", number))
    rng = np.random.default_rng(number)
    x, z = rng.uniform(-6, 6, 1500), rng.uniform(1, 16, 1500)
    ground = Vectors(x.astype(np.float32), 0.0, z.astype(np.float32))
    lit = sunshine(layout, ground)
    deepest = np.full(1500, np.inf)
    for way in np.linspace(0, 8, 400):
        along = [
            start + way * part for start, part in zip((x, 0, z), layout.light.sun, strict=True)
        ]
        for solid in layout.solids:
            deepest = np.minimum(deepest, excess(solid, *along))
    assert (lit[deepest < -0.03] < 1).all()
    assert (lit[deepest > 0.03] == 1).all()
    assert ((deepest < -0.03).sum() > 5) or number  # The first of them does cast shadows.


@pytest.mark.parametrize(
    "solid",
    [
        Ellipsoid(0.5, 4.0, 0.2, 0.3, 2.0, GREY, 0.6),
        Frustum(0.5, 4.0, 0.0, 0.3, 2.0, GREY, 0.8, 0.2),
        Frustum(0.5, 4.0, 0.0, 0.3, 2.0, GREY, 0.5, 0.5),
        block(0.5, 4.0, 0.0, 0.3, (1.0, 2.0, 0.7), GREY),
        roof(0.5, 4.0, 0.3, 0.3, (1.0, 1.0, 0.7), GREY),
        prism(0.5, 4.0, 0.3, 2.0, 0.6, GREY),
    ],
)
def test_normals_point_where_the_way_out_is_steepest(solid):
    camera = Camera(height=3.0, pitch=0.5, focal=1.0)
    seen = view(layout_of(solid, camera=camera), 64)
    mine = seen.owner == FIRST_WALL
    x, y, z = (axis[mine] for axis in world_points(camera, seen.depth.astype(np.float64)))
    step = 1e-5
    slope = [
        (excess(solid, x + step * i, y + step * j, z + step * k) - excess(solid, x, y, z)) / step
        for i, j, k in np.eye(3)
    ]
    slope = np.array(slope) / np.linalg.norm(slope, axis=0)
    normal, _, _ = solid.surface(solid.to_local(Vectors(x, y, z)))
    expected = solid.turned(Vectors(*slope))
    length = np.sqrt(normal.x**2 + normal.y**2 + normal.z**2)
    dot = (normal.x * expected.x + normal.y * expected.y + normal.z * expected.z) / length
    # On edges and rims two normals are right.
    assert (dot > 0.99).mean() > 0.9


def test_ball_is_brighter_towards_the_sun():
    image = view(layout_of(Ellipsoid(0.0, 5.0, 0.0, 0.0, 2.0, GREY, 1.0)), 65).image.mean(axis=2)
    assert image[32, 24] > image[32, 40] + 20  # The sun of LIGHT stands on the left.
    assert image[26, 32] > image[38, 32] + 20  # And high.
