"""Real files of each data set, laid out as their publishers do, against the samples' index."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_gradient_magnitude

from spatial_ssrl.images import (
    DIODE,
    SUNRGBD,
    TUMRGBD,
    Hypersim,
    KITTIDepth,
    MegaDepth,
    NYUv2Pairs,
    NYUv2Raw,
    PFMDisparity,
    ScanNet,
)
from support.rgbd_trees import place

SAMPLES = Path(os.environ.get("SPATIAL_SSRL_SAMPLES", "nowhere")) / "rgbd"
pytestmark = pytest.mark.skipif(
    "SPATIAL_SSRL_SAMPLES" not in os.environ, reason="SPATIAL_SSRL_SAMPLES is not set"
)

DRIVE = "2011_09_26_drive_0001_sync"
TRUE_DEPTH = f"train/{DRIVE}/proj_depth/groundtruth/image_02"
KV2 = "kv2/align_kv2/2014-12-18_11-31-54_260595134347"

# Reader and its settings; where each sample lies in the native tree; and of the first picture the
# share of known depth with its smallest, middle and largest value, as the index states them,
# counted there by other code.
CASES = {
    "diode": (
        DIODE,
        {},
        {
            "diode/RGB-D_img3.png": "val/outdoor/scene_1/scan_2/a.png",
            "diode/RGB-D_depth3.npy": "val/outdoor/scene_1/scan_2/a_depth.npy",
            "diode/RGB-D_depth_mask3.npy": "val/outdoor/scene_1/scan_2/a_depth_mask.npy",
        },
        (0.8934, 0.3003, 10.78, 150.2),
    ),
    "megadepth": (
        MegaDepth,
        {},
        {
            "megadepth/RGB-D_img1.jpg": "0015/dense0/imgs/1_o.jpg",
            "megadepth/RGB-D_depth1.h5": "0015/dense0/depths/1_o.h5",
        },
        (0.6618, 38.15, 210.3, 757.6),
    ),
    "nyu_sync": (
        NYUv2Pairs,
        {"crop": None},
        {
            "nyuv2_png/metric3d_demo/rgb_00000.jpg": "basement/rgb_00000.jpg",
            "nyuv2_png/metric3d_demo/sync_depth_00000.png": "basement/sync_depth_00000.png",
            "nyuv2_png/metric3d_demo/rgb_00100.jpg": "basement/rgb_00100.jpg",
            "nyuv2_png/metric3d_demo/sync_depth_00100.png": "basement/sync_depth_00100.png",
        },
        (0.7328, 1.39, 3.258, 6.625),
    ),
    "nyu_single": (
        NYUv2Pairs,
        {"crop": None},
        {"nyuv2_png/unidepth_demo": "unidepth_demo"},
        (0.6813, 1.653, 3.495, 10),
    ),
    "nyu_pgm": (
        NYUv2Pairs,
        {"crop": None},
        {"nyuv2_pgm_mm/slambook2_ch5": "dining_room"},
        (0.6811, 0.946, 2.915, 9.823),
    ),
    "nyu_raw": (
        NYUv2Raw,
        {"crop": None, "register": False},
        {
            "nyuv2_raw/NYU_color.ppm": "basement/r-1294886360.208451-1996513504.ppm",
            "nyuv2_raw/NYU_depth.pgm": "basement/d-1294886360.214842-2018819140.pgm",
        },
        (0.9277, 1.386, 3.268, 6.691),
    ),
    "tum": (
        TUMRGBD,
        {},
        {
            "tum/slambook2_ch7/1.png": "fr1/rgb/1305031102.175304.png",
            "tum/slambook2_ch7/1_depth.png": "fr1/depth/1305031102.160407.png",
        },
        (0.6669, 0.9694, 1.502, 8.564),
    ),
    "icl_nuim": (
        TUMRGBD,
        {},
        {"icl_nuim_tumformat/slambook2_ch12": "living_room"},
        (1.0, 1.643, 3.03, 3.432),
    ),
    "kitti": (
        KITTIDepth,
        {},
        {
            "kitti/rgb/0000000005.png": f"2011_09_26/{DRIVE}/image_02/data/0000000005.png",
            "kitti/depth/0000000005.png": f"{TRUE_DEPTH}/0000000005.png",
        },
        (0.1950, 5.332, 13.84, 84.89),
    ),
    "kitti_selection": (
        KITTIDepth,
        {},
        {
            "kitti/rgb/0000000050.png": f"s/image/{DRIVE}_image_0000000050_image_02.png",
            "kitti/depth/0000000050.png": (
                f"s/groundtruth_depth/{DRIVE}_groundtruth_depth_0000000050_image_02.png"
            ),
        },
        (0.2064, 5.203, 13.44, 83.23),
    ),
    "sunrgbd": (SUNRGBD, {}, {"sunrgbd": "SUNRGBD"}, (0.8660, 0.64, 2.397, 3.783)),
    "sun3d": (
        SUNRGBD,
        {},
        {
            "sun3d/SUN_color.jpg": "xtion/sun3ddata/a/b/image/0001.jpg",
            "sun3d/SUN_depth.png": "xtion/sun3ddata/a/b/depth/0001-000.png",
        },
        (0.8177, 1.057, 2.723, 9.87),
    ),
    "eth3d": (PFMDisparity, {}, {"middlebury_pfm": "two_view"}, (0.4963, 1.614, 3.588, 15.17)),
    "7scenes": (ScanNet, {}, {"7scenes": "seq-01"}, (0.8917, 0.801, 1.878, 3.493)),
    "redwood": (ScanNet, {}, {"redwood": "bedroom"}, (0.8696, 0.955, 1.861, 2.702)),
}


def lay_out(folder, places):
    for sample, name in places.items():
        place(folder / name).symlink_to(SAMPLES / sample)
    return folder


@pytest.mark.parametrize("case", sorted(CASES))
def test_depth_agrees_with_the_index(case, tmp_path):
    cls, settings, places, (share, low, middle, high) = CASES[case]
    if cls is MegaDepth:
        pytest.importorskip("h5py")
    source = cls(lay_out(tmp_path, places), **settings)
    source.prepare()
    assert source.left_out() == {}
    scene = source.scene(0)
    assert scene.depth.shape == scene.image.shape[:2]
    known = scene.depth[~np.isnan(scene.depth)]
    assert known.size / scene.depth.size == pytest.approx(share, abs=6e-5)
    np.testing.assert_allclose(
        [known.min(), np.median(known), known.max()], [low, middle, high], rtol=6e-4
    )


def test_second_frames(tmp_path):
    for case, second in {
        "nyu_sync": (0.6705, 6.446),
        "7scenes": (0.8756, 3.975),
        "icl_nuim": (1.0, 4.283),
    }.items():
        cls, settings, places, _ = CASES[case]
        depth = cls(lay_out(tmp_path / case, places), **settings).scene(1).depth
        assert np.isfinite(depth).mean() == pytest.approx(second[0], abs=6e-5)
        assert np.nanmax(depth) == pytest.approx(second[1], rel=6e-4)


@pytest.mark.parametrize("case", ["nyu_sync", "nyu_single", "nyu_pgm"])
def test_frame_of_registered_pictures_is_cut_off(case, tmp_path):
    cls, settings, places, _ = CASES[case]
    folder = lay_out(tmp_path, places)
    whole, cut = cls(folder, **settings).scene(0), cls(folder).scene(0)
    np.testing.assert_array_equal(cut.image, whole.image[45:471, 41:601])
    np.testing.assert_array_equal(cut.depth, whole.depth[45:471, 41:601])

    def flat_lines(image):
        """Count border rows and columns of a single white or black colour."""
        lines = [image[0], image[-1], image[:, 0], image[:, -1]]
        return sum(line.mean() > 245 or line.mean() < 10 for line in lines)

    assert flat_lines(whole.image) >= 3
    assert flat_lines(cut.image) == 0
    scaled = cls(folder, size=280).scene(0)
    assert scaled.image.shape == (213, 280, 3)
    assert flat_lines(scaled.image) == 0


def test_registered_depth_jumps_where_the_picture_has_edges(tmp_path):
    _, _, places, _ = CASES["nyu_raw"]
    folder = lay_out(tmp_path, places)

    def edges_at_jumps(depth, grey):
        """Return how strong the picture's edges are where depth jumps, 1 being the average."""
        jumps = np.zeros(depth.shape, bool)
        for axis in (0, 1):
            first = np.moveaxis(depth, axis, 0)
            step = np.abs(first[1:] - first[:-1]) > 0.08 * np.fmin(first[1:], first[:-1])
            np.moveaxis(jumps, axis, 0)[1:] |= step
        strength = gaussian_gradient_magnitude(grey, 1.0)
        return strength[jumps].mean() / strength.mean()

    scene = NYUv2Raw(folder).scene(0)
    grey = scene.image.mean(axis=2)
    aligned = edges_at_jumps(scene.depth, grey)
    assert aligned > 1.5 * edges_at_jumps(NYUv2Raw(folder, register=False).scene(0).depth, grey)
    for shift in (-4, -2, 2, 4):
        for axis in (0, 1):
            assert edges_at_jumps(np.roll(scene.depth, shift, axis), grey) < aligned


def test_nearer_is_smaller_in_converted_disparity(tmp_path):
    source = PFMDisparity(lay_out(tmp_path, CASES["eth3d"][2]))
    depth = source.scene(0).depth
    stored = np.array(Image.open(SAMPLES / "middlebury_pfm/eth3d_playground/disp0.pfm"))
    known = np.isfinite(stored)
    np.testing.assert_array_equal(np.isfinite(depth), known)
    np.testing.assert_allclose(depth[known] * stored[known], 59.5549 * 542.019 / 1000, rtol=1e-5)


def test_hypersim_distance_becomes_depth_through_the_published_projection(tmp_path):
    h5py = pytest.importorskip("h5py")
    name = "images/scene_cam_00_geometry_hdf5/frame.0000.depth_meters.hdf5"
    stored = SAMPLES / "hypersim/ai_037_002" / name
    table = SAMPLES / "hypersim/metadata_camera_parameters_ai_037_002_only.csv"
    place(tmp_path / "ai_037_002" / name).symlink_to(stored)
    preview = tmp_path / "ai_037_002/images/scene_cam_00_final_preview/frame.0000.tonemap.jpg"
    Image.new("RGB", (1024, 768)).save(place(preview))
    source = Hypersim(tmp_path, camera_file=table)
    source.prepare()
    depth = source.scene(0).depth
    with h5py.File(stored) as archive:
        distance = np.asarray(archive["dataset"], np.float64)
    assert np.isfinite(depth).all()
    assert distance.min() == pytest.approx(2.961, rel=6e-4)  # as the index has it
    # Another matrix of the same table takes points to the screen: solve it for the ray of a pixel.
    with table.open() as lines:
        (row,) = csv.DictReader(lines)
    projection = np.array([[float(row[f"M_proj_{i}{j}"]) for j in range(4)] for i in range(4)])
    for i, j in [(0, 0), (0, 1023), (767, 0), (400, 512), (767, 1023), (123, 890)]:
        u, v = (j + 0.5) / 512 - 1, 1 - (i + 0.5) / 384
        equations = projection[:2, :3] - np.outer([u, v], projection[3, :3])
        x, y = np.linalg.solve(equations[:, :2], equations[:, 2])
        expected = distance[i, j] / np.sqrt(x * x + y * y + 1)
        assert depth[i, j] == pytest.approx(expected, rel=1e-4)
    plain = Hypersim(tmp_path).scene(0).depth
    assert not np.allclose(plain, depth, rtol=0.01)  # this scene's lens is shifted
