"""The KITTI depth data set: streets with depth from a laser scanner."""

from __future__ import annotations

from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import read_16_bit, to_depth


@IMAGE_SOURCES.register("kitti_depth")
class KITTIDepth(RGBDFiles):
    """Street pictures of KITTI with laser depth in metres; four pixels in five are unknown.

    Reads pictures of the raw recordings, `<drive>_sync/image_02/data/<frame>.png`, with depth of
    the annotated set, `<drive>_sync/proj_depth/groundtruth/image_02/<frame>.png`, wherever the two
    lie below the folder, and the cropped selections, `image/` with `groundtruth_depth/`. Pictures
    and depth are matched by drive, camera and frame: the first and last frames of a drive have
    no depth. Put the two downloads, or links to them, into one folder.

    Laser readings are scattered, so at full size no window of a few pixels is known throughout,
    and tasks that need depth find no region. With `size` a pixel takes the reading nearest to its
    centre of all inside it: none is made up, and at half the size (621) the road and what stands
    on it are known well enough.

    Disparity of the KITTI stereo benchmarks has the same type and another meaning; it is not
    found by this reader.

    Args:
        folder: Folder that holds pictures and depth; `~` is expanded.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    References:
        Sparsity Invariant CNNs, arXiv:1708.06500; the devkit of the depth benchmark: metres are
        raw / 256, 0 is unknown.
    """

    layouts = (
        (
            r"(?:|.*/)(?P<drive>[^/]+_sync)/image_(?P<camera>0[23])/data/(?P<frame>\d+)\.(?:png|jpg)",
            r"(?:|.*/)(?P<drive>[^/]+_sync)/proj_depth/groundtruth/image_(?P<camera>0[23])"
            r"/(?P<frame>\d+)\.png",
        ),
        (
            r"(?:|.*/)image/(?P<drive>[^/]+_sync)_image_(?P<frame>\d+)_image_(?P<camera>0[23])\.png",
            r"(?:|.*/)groundtruth_depth/(?P<drive>[^/]+_sync)_groundtruth_depth_(?P<frame>\d+)"
            r"_image_(?P<camera>0[23])\.png",
        ),
    )
    looked_for = (
        "<drive>_sync/image_02/data/<frame>.png with "
        "<drive>_sync/proj_depth/groundtruth/image_02/<frame>.png"
    )
    licence = "CC BY-NC-SA 3.0"
    sparse = True

    def _depth(self, group: Group) -> Depth:
        return to_depth(read_16_bit(self._root() / group[1]), 1 / 256)
