"""Writes three small pictures with depth in the native layout of each RGB-D data set.

Every writer encodes what its data set stores by arithmetic of its own, so that a reader is held
against it, and returns the depth that a reader must find.
"""

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 12, 16
COUNT = 3


def frames(height=HEIGHT, width=WIDTH, picture=None):
    """Yield random pictures with depth of 0.5 to 5 m in whole millimetres, a tenth unknown."""
    rng = np.random.default_rng(0)
    for _ in range(COUNT):
        colours = rng.integers(0, 256, (*(picture or (height, width)), 3), dtype=np.uint8)
        metres = rng.integers(500, 5000, (height, width)) / 1000
        metres[rng.random((height, width)) < 0.1] = np.nan
        yield colours, metres


def place(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(path, values):
    Image.fromarray(values).save(place(path))


def steps(metres, per_metre):
    """Return depth as 16-bit steps, 0 where unknown."""
    return np.nan_to_num(np.rint(metres * per_metre)).astype(np.uint16)


def diode(folder):
    depths = []
    for number, (colours, metres) in enumerate(frames()):
        stem = folder / "val/indoors/scene_00019/scan_00183" / f"00019_00183_indoors_{number:03d}"
        save(stem.with_name(f"{stem.name}.png"), colours)
        known = np.isfinite(metres)
        # Untrusted depth is positive and far, so that only the mask tells it.
        values = np.where(known, metres, 250).astype(np.float32)[..., None]
        np.save(stem.with_name(f"{stem.name}_depth.npy"), values)
        np.save(stem.with_name(f"{stem.name}_depth_mask.npy"), known.astype(np.float32))
        depths.append(metres)
    return depths


def megadepth(folder):
    import h5py

    depths = []
    for number, (colours, metres) in enumerate(frames()):
        scene = folder / "phoenix/S6/zl548/MegaDepth_v1/0015/dense0"
        save(scene / f"imgs/{number}_o.png", colours)
        with h5py.File(place(scene / f"depths/{number}_o.h5"), "w") as archive:
            archive["depth"] = np.nan_to_num(metres * 40).astype(np.float32)
        depths.append(metres * 40)
    return depths


def nyu_labelled(folder, size=(HEIGHT, WIDTH)):
    import h5py

    pairs = list(frames(*size))
    with h5py.File(place(folder / "nyu_depth_v2_labeled.mat"), "w") as archive:
        # MATLAB counts axes the other way round: (number, channel, column, row).
        archive["images"] = np.stack([colours.transpose(2, 1, 0) for colours, _ in pairs])
        depths = np.stack([metres.T for _, metres in pairs]).astype(np.float32)
        archive["rawDepths"] = np.nan_to_num(depths)
        archive["depths"] = np.nan_to_num(depths, nan=1.5)
    return [metres for _, metres in pairs]


def nyu_pairs(folder, size=(HEIGHT, WIDTH)):
    depths = []
    for number, (colours, metres) in enumerate(frames(*size)):
        save(folder / f"basement_0001a/rgb_{number:05d}.png", colours)
        save(folder / f"basement_0001a/sync_depth_{number:05d}.png", steps(metres, 1000))
        depths.append(metres)
    return depths


def nyu_raw(folder, size=(HEIGHT, WIDTH)):
    depths = []
    for number, (colours, metres) in enumerate(frames(*size)):
        scene = folder / "basement_0001a"
        codes = np.where(np.isfinite(metres), np.rint(1092.5 - 351.3 / metres), 2047)
        save(scene / f"r-{1294886360 + number}.208451-1996513504.ppm", colours)
        header = b"P5 %d %d 65535\n" % (codes.shape[1], codes.shape[0])
        body = codes.astype("<u2").tobytes()
        place(scene / f"d-{1294886360 + number}.214842-2018819140.pgm").write_bytes(header + body)
        depths.append(np.where(codes == 2047, np.nan, 351.3 / (1092.5 - codes)))
    return depths


def tum(folder):
    depths, times = [], {"rgb": [], "depth": []}
    start = folder / "rgbd_dataset_freiburg1_xyz"
    for number, (colours, metres) in enumerate(frames()):
        names = {"rgb": f"{100 + number / 30:.6f}", "depth": f"{100 + number / 30 - 0.015:.6f}"}
        save(start / f"rgb/{names['rgb']}.png", colours)
        save(start / f"depth/{names['depth']}.png", steps(metres, 5000))
        for kind, time in names.items():
            times[kind].append(f"{time} {kind}/{time}.png\n")
        depths.append(metres)
    for kind, lines in times.items():
        (start / f"{kind}.txt").write_text("# timestamp filename\n" + "".join(lines))
    return depths


def scannet(folder):
    depths = []
    for number, (colours, metres) in enumerate(frames(picture=(HEIGHT * 2, WIDTH * 2))):
        save(folder / f"scans/scene0000_00/color/{number}.png", colours)
        save(folder / f"scans/scene0000_00/depth/{number}.png", steps(metres, 1000))
        depths.append(np.kron(metres, np.ones((2, 2))))
    return depths


def kitti(folder):
    depths = []
    drive = "2011_09_26_drive_0001_sync"
    annotated = folder / "data_depth_annotated/train" / drive / "proj_depth/groundtruth/image_02"
    for number, (colours, metres) in enumerate(frames()):
        save(folder / f"raw/2011_09_26/{drive}/image_02/data/{number + 5:010d}.png", colours)
        save(annotated / f"{number + 5:010d}.png", steps(metres, 256))
        depths.append(np.rint(metres * 256) / 256)
    return depths


def hypersim(folder):
    import h5py

    depths = []
    for number, (colours, metres) in enumerate(frames(*(96, 128))):
        images = folder / "ai_001_001/images"
        save(images / f"scene_cam_00_final_preview/frame.{number:04d}.tonemap.jpg", colours)
        path = images / f"scene_cam_00_geometry_hdf5/frame.{number:04d}.depth_meters.hdf5"
        row, column = np.mgrid[:96, :128].astype(float)
        focal = 886.81 / 8
        ray = np.sqrt(((column - 63.5) / focal) ** 2 + ((row - 47.5) / focal) ** 2 + 1)
        with h5py.File(place(path), "w") as archive:
            archive["dataset"] = (metres * ray).astype(np.float16)
        depths.append(metres)
    return depths


def sunrgbd(folder):
    depths = []
    for number, (colours, metres) in enumerate(frames()):
        scene = folder / f"SUNRGBD/kv1/NYUdata/NYU{number:04d}"
        metres = metres + 6  # beyond 8.19 m the rotation wraps around
        save(scene / "image/img_0063.png", colours)
        millimetres = steps(metres, 1000).astype(np.uint32)
        rotated = (millimetres << 3 | millimetres >> 13) & 0xFFFF
        save(scene / "depth/img_0063_abs.png", rotated.astype(np.uint16))
        depths.append(metres)
    return depths


def pfm(folder):
    focal, baseline, doffs = 40.0, 120.0, 3.5
    depths = []
    for number, (colours, metres) in enumerate(frames()):
        scene = folder / f"Scene{number}-perfect"
        save(scene / "im0.png", colours)
        disparity = np.nan_to_num(baseline * focal / (metres * 1000) - doffs, nan=np.inf)
        body = disparity[::-1].astype("<f4").tobytes()
        (scene / "disp0.pfm").write_bytes(b"Pf\n%d %d\n-1\n" % (WIDTH, HEIGHT) + body)
        (scene / "calib.txt").write_text(
            f"cam0=[{focal} 0 8; 0 {focal} 6; 0 0 1]\ncam1=[{focal} 0 9; 0 {focal} 6; 0 0 1]\n"
            f"doffs={doffs}\nbaseline={baseline}\nwidth={WIDTH}\nheight={HEIGHT}\nndisp=64\n"
        )
        depths.append(metres)
    return depths


WRITERS = {
    "diode": diode,
    "hypersim": hypersim,
    "kitti_depth": kitti,
    "megadepth": megadepth,
    "nyuv2_labelled": nyu_labelled,
    "nyuv2_pairs": nyu_pairs,
    "nyuv2_raw": nyu_raw,
    "pfm_disparity": pfm,
    "scannet": scannet,
    "sunrgbd": sunrgbd,
    "tum_rgbd": tum,
}
IN_HDF5 = ("hypersim", "megadepth", "nyuv2_labelled")
FRAMED = ("nyuv2_labelled", "nyuv2_pairs", "nyuv2_raw")


def as_stored(key):
    """Return settings with which a reader takes small frames as they are."""
    settings = {"crop": None} if key in FRAMED else {}
    return {**settings, "register": False} if key == "nyuv2_raw" else settings


def build(cls, folder, key, **settings):
    """Write the layout of a reader and return the reader."""
    WRITERS[key](folder)
    return cls(folder, **{**as_stored(key), **settings})
