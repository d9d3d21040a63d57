import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images.pairing import compile_pattern, find_groups, matching


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize(
    ("pattern", "path", "fields"),
    [
        ("rgb/{name}.png", "rgb/1.png", {"name": "1"}),
        ("rgb/{name}.png", "rgb/1xpng", None),
        ("rgb/*.png", "rgb/sub/1.png", None),
        ("**/rgb/*.png", "rgb/1.png", {}),
        ("**/rgb/*.png", "a/b/rgb/1.png", {}),
        ("{name}_depth.npy", "val/s/1_depth.npy", {"name": "val/s/1"}),
        ("{a}/{a}.png", "x/x.png", {"a": "x"}),
        ("{a}/{a}.png", "x/y.png", None),
        ("im?.png", "im0.png", {}),
        ("a+b.png", "aab.png", None),
    ],
)
def test_patterns(pattern, path, fields):
    match = compile_pattern(pattern).fullmatch(path)
    assert (match.groupdict() if match else None) == fields


def test_fields_pair_by_name_and_count_the_lonely(tmp_path):
    touch(
        tmp_path,
        "rgb/2.png",
        "rgb/10.png",
        "rgb/3.png",
        "depth/10.npy",
        "depth/2.npy",
        "depth/9.npy",
    )
    groups, alone = find_groups(tmp_path, {"i": "rgb/{n}.png", "d": "depth/{n}.npy"})
    assert groups == [("rgb/10.png", "depth/10.npy"), ("rgb/2.png", "depth/2.npy")]
    assert alone == ["rgb/3.png"]


def test_a_picture_pattern_that_also_matches_depth_files_does_no_harm(tmp_path):
    touch(tmp_path, "a/1.png", "a/1_depth.png", "b/1.png", "b/1_depth.png")
    groups, alone = find_groups(tmp_path, {"i": "{n}.png", "d": "{n}_depth.png"})
    assert groups == [("a/1.png", "a/1_depth.png"), ("b/1.png", "b/1_depth.png")]
    assert alone == []


def test_without_fields_order_decides(tmp_path):
    touch(tmp_path, "c/b.jpg", "c/a.jpg", "d/2.png", "d/1.png")
    groups, _ = find_groups(tmp_path, {"i": "c/*.jpg", "d": "d/*.png"})
    assert groups == [("c/a.jpg", "d/1.png"), ("c/b.jpg", "d/2.png")]


def test_unequal_counts_are_refused(tmp_path):
    touch(tmp_path, "c/a.jpg", "c/b.jpg", "d/1.png")
    with pytest.raises(ConfigError, match=r"'c/\*\.jpg': 2, 'd/\*\.png': 1\); use a field"):
        find_groups(tmp_path, {"i": "c/*.jpg", "d": "d/*.png"})


def test_no_match_names_the_pattern(tmp_path):
    touch(tmp_path, "c/a.jpg")
    with pytest.raises(ConfigError, match=r"depth_pattern 'd/\{n\}\.png' matches no file"):
        find_groups(tmp_path, {"image_pattern": "c/{n}.jpg", "depth_pattern": "d/{n}.png"})


def test_nothing_in_common(tmp_path):
    touch(tmp_path, "c/a.jpg", "d/b.png")
    with pytest.raises(ConfigError, match=r"c/a\.jpg has no partner"):
        find_groups(tmp_path, {"i": "c/{n}.jpg", "d": "d/{n}.png"})


def test_ambiguous_matches_are_refused(tmp_path):
    touch(tmp_path, "c1/a.jpg", "c2/a.jpg", "d/a.png")
    with pytest.raises(ConfigError, match=r"both c1/a\.jpg and c2/a\.jpg"):
        find_groups(tmp_path, {"i": "c?/{n}.jpg", "d": "d/{n}.png"})


def test_fields_must_agree():
    with pytest.raises(ConfigError, match="must have the same fields"):
        matching({"i": "c/{n}.jpg", "d": "d/*.png"})
    matching({"i": "{a}/{b}.jpg", "d": "{b}/{a}.png"})


@pytest.mark.parametrize("pattern", ["c/{n.jpg", "c/n}.jpg", "{}.jpg"])
def test_stray_braces(pattern):
    with pytest.raises(ConfigError, match="stray"):
        compile_pattern(pattern)
