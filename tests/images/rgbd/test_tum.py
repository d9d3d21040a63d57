import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images import TUMRGBD
from support.rgbd_trees import place


def add(folder, *names):
    for number, name in enumerate(names):
        path = place(folder / name)
        if path.parent.name == "depth":
            Image.fromarray(np.full((4, 6), 5000 + number, np.uint16)).save(path)
        else:
            Image.new("RGB", (6, 4), (number, 0, 0)).save(path)


def pairs(folder, **settings):
    return TUMRGBD(folder, **settings)._found()


def test_frames_go_with_the_depth_nearest_in_time(tmp_path):
    add(
        tmp_path,
        "rgb/10.000.png", "rgb/10.033.png", "rgb/10.066.png",
        "depth/10.015.png", "depth/10.040.png", "depth/11.000.png",
    )  # fmt: skip
    source = TUMRGBD(tmp_path)
    assert source._found() == [
        ("rgb/10.000.png", "depth/10.015.png"),
        ("rgb/10.033.png", "depth/10.040.png"),
    ]
    assert set(source.left_out()) == {"rgb/10.066.png"}
    assert pairs(tmp_path, tolerance=0.01) == [("rgb/10.033.png", "depth/10.040.png")]
    with pytest.raises(ConfigError, match="looked for rgb"):
        pairs(tmp_path, tolerance=0.001)


def test_lists_tell_the_times_of_files_named_otherwise(tmp_path):
    add(tmp_path, "s/rgb/a.png", "s/rgb/b.png", "s/depth/x.png", "s/depth/y.png")
    (tmp_path / "s/rgb.txt").write_text("# time file\n1.00 rgb/a.png\n2.00 rgb/b.png\n")
    (tmp_path / "s/depth.txt").write_text("2.01 depth/x.png\n1.01 depth/y.png\n3 depth/gone.png\n")
    assert pairs(tmp_path) == [
        ("s/rgb/a.png", "s/depth/y.png"),
        ("s/rgb/b.png", "s/depth/x.png"),
    ]


@pytest.mark.parametrize("row", ["0 depth/1.png 9 rgb/7.png", "9 rgb/7.png 0 depth/1.png"])
def test_associations_come_before_times(tmp_path, row):
    add(tmp_path, "rgb/1.png", "rgb/7.png", "depth/1.png", "depth/7.png")
    (tmp_path / "associations.txt").write_text(f"{row}\n3 depth/gone.png 3 rgb/1.png\nodd\n")
    assert pairs(tmp_path) == [("rgb/7.png", "depth/1.png")]


def test_recordings_do_not_mix(tmp_path):
    add(tmp_path, "a/rgb/1.png", "b/depth/1.png", "c/rgb/1.png", "c/depth/1.png")
    source = TUMRGBD(tmp_path)
    assert source._found() == [("c/rgb/1.png", "c/depth/1.png")]
    assert set(source.left_out()) == {"a/rgb/1.png"}


def test_files_without_a_time_are_left_out(tmp_path):
    add(tmp_path, "rgb/1.png", "rgb/cover.png", "depth/1.png", "depth/nan.png")
    source = TUMRGBD(tmp_path)
    assert len(source) == 1
    assert set(source.left_out()) == {"rgb/cover.png"}


@pytest.mark.parametrize("settings", [{"tolerance": -1.0}, {"depth_scale": 0.0}])
def test_settings_that_cannot_work(tmp_path, settings):
    with pytest.raises(ConfigError, match=f"{next(iter(settings))} must be"):
        TUMRGBD(tmp_path, **settings)
