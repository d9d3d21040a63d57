"""`spatial-ssrl curate` makes sets from options and from files, and says what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from spatial_ssrl.cli.main import main
from spatial_ssrl.data.curated import CuratedQuestions

SCENES = ["--images", "SyntheticScenes", "--images.count=20", "--images.size=64"]


def test_options_make_a_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "set"
    options = [*SCENES, "--tasks", "[FlippedPatch,ShuffledPatches]", "--count", "10"]
    assert main(["curate", *options, "--out", str(out), "--encoding.kind=jpeg"]) == 0
    printed = capsys.readouterr().out
    assert "flipped_patch" in printed
    assert printed.strip().endswith(str(out))
    assert [question.task for question in CuratedQuestions(out)].count("flipped_patch") == 5
    assert json.loads((out / "manifest.json").read_text())["settings"]["encoding"]["kind"] == "jpeg"
    assert main(["curate", *options, "--out", str(out), "--seed=1"]) == 2
    assert "settings.seed is 0 there and 1 here" in capsys.readouterr().err


def test_a_file_names_parts(tmp_path: Path) -> None:
    scenes = {"class_path": "SyntheticScenes", "init_args": {"count": 20, "size": 64}}
    deep = {"class_path": "DepthOrder", "init_args": {"count": 2}}
    parts = [
        {"images": [scenes], "tasks": ["FlippedPatch"], "count": 6},
        {"images": [scenes], "tasks": [deep], "count": 3},
    ]
    config = tmp_path / "set.yaml"
    config.write_text(yaml.safe_dump({"parts": parts, "shard_questions": 4, "seed": 3}))
    out = tmp_path / "set"
    assert main(["curate", "--config", str(config), "--out", str(out)]) == 0
    tasks = [question.task for question in CuratedQuestions(out)]
    assert tasks.count("flipped_patch") == 6
    assert tasks.count("depth_order") == 3
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["parts"][1]["tasks"][0]["init_args"]["count"] == 2
    # What the manifest says of the parts can be used as a config again.
    again = tmp_path / "again.yaml"
    again.write_text(yaml.safe_dump(manifest["settings"]))
    assert main(["curate", "--config", str(again), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "manifest.json").read_bytes() == (
        out / "manifest.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--count", "0"], "count must be at least 1 question, got 0"),
        (["--workers", "0"], "workers must be at least 1"),
        (["--out", "/proc/set"], "cannot be written"),
        (["--images", "phtos"], "neither a folder nor an image source"),
        (["--tasks", "[FlipedPatch]"], "Did you mean FlippedPatch"),
    ],
)
def test_mistakes_are_told_in_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = [] if "--out" in options else ["--out", str(tmp_path / "set")]
    assert main(["curate", *options, *out]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
