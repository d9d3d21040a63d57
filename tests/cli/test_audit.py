"""`spatial-ssrl audit` tells what it found and writes it down."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spatial_ssrl.cli.main import main

SMALL = ["--images=SyntheticScenes", "--images.size=64"]


def test_a_small_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "audit.json"
    args = ["audit", *SMALL, "--count", "100", "--seed", "3", "--out", str(out)]
    assert main([*args, "--settings.folds", "3"]) == 0
    said = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["questions"] == 100
    assert found["seed"] == 3
    assert found["settings"]["folds"] == 3
    assert "numpy" in found["versions"]
    assert set(found["tasks"]) == {
        "cropped_inpainting",
        "depth_order",
        "flipped_patch",
        "relative_position",
        "shuffled_patches",
    }
    for name, task in found["tasks"].items():
        assert name.replace("_", " ") in said
        assert task["questions"] == 20
        assert task["pictures"]["shorter_side_px"] == [64, 64, 64]
        assert 0 < task["chance"] <= 0.25
        for baseline in task["baselines"]:
            assert baseline["ci95"][0] <= baseline["accuracy"] <= baseline["ci95"][1]
    seen = {one["sees"] for one in found["tasks"]["cropped_inpainting"]["baselines"]}
    assert seen == {"prompt", "candidates", "candidates and their relations"}
    seen = {one["sees"] for one in found["tasks"]["relative_position"]["baselines"]}
    assert {"prompt", "options", "markers"} <= seen
    assert said.splitlines()[-1] == str(out)
    assert sorted(path.name for path in out.parent.iterdir()) == ["audit.json"]


def test_the_same_seed_gives_the_same_record(tmp_path: Path) -> None:
    records = []
    for name in ("a.json", "b.json"):
        args = ["audit", *SMALL, "--tasks=[RelativePosition]", "--count=24"]
        assert main([*args, "--out", str(tmp_path / name)]) == 0
        records.append((tmp_path / name).read_text())
    assert records[0] == records[1]


def test_a_data_file_and_its_rejections(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((160, 120)).save(folder / "a.png")
    Image.fromarray(noise[::-1]).resize((160, 120)).save(folder / "b.png")
    Image.new("RGB", (160, 120)).save(folder / "black.png")
    data = {
        "class_path": "PretextDataModule",
        "init_args": {
            "images": [{"class_path": "ImageFolder", "init_args": {"folder": str(folder)}}],
            "held_out": [{"class_path": "SyntheticScenes", "init_args": {"size": 64}}],
            "tasks": ["FlippedPatch"],
        },
    }
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(data))
    out = tmp_path / "audit.json"
    assert main(["audit", "--data", str(path), "--count", "20", "--out", str(out)]) == 0
    task = json.loads(out.read_text())["tasks"]["flipped_patch"]
    assert task["scenes"] == 2
    assert task["baselines"] == [], "two scenes are too few to fit and to measure"
    assert list(task["rejections"]) == ["flipping a patch changes nothing"]
    # Sixteen different questions can be made of two pictures; of twenty, four are repetitions.
    assert task["duplicates"]["same"] >= 4


def test_bad_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*args: str) -> str:
        assert main(["audit", *args]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("spatial-ssrl: error: ")

    assert said("--count", "0") == "count must be at least 1, got 0."
    assert "is a folder; name a JSON file in it" in said("--out", str(tmp_path))
    assert "folds must be at least 2, got 1" in said("--settings.folds", "1")
    assert said("no/such/folder").startswith("images: 'no/such/folder' is neither a folder nor")


def test_a_set_on_disk_is_audited_and_shown(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    args = ["curate", *SMALL, "--tasks=[FlippedPatch,DepthOrder]", "--count=24"]
    assert main([*args, "--out", str(folder)]) == 0
    out = tmp_path / "audit.json"
    assert main(["audit", "--curated", str(folder), "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert found["questions"] == 24, "all there are, each once"
    assert set(found["tasks"]) == {"depth_order", "flipped_patch"}
    assert sum(task["duplicates"]["same"] for task in found["tasks"].values()) == 0
    recorded = json.loads((folder / "manifest.json").read_text())["tasks"]
    for name, task in found["tasks"].items():
        assert task["rejections"] == recorded[name]["rejections"]
    counts = found["tasks"]["flipped_patch"]["answers"]["counts"]
    given = {answer: times for answer, times in counts.items() if times}
    assert given == recorded["flipped_patch"]["answers"]
    sheet = tmp_path / "sheet.png"
    assert main(["preview", "--curated", str(folder), "--count=99", "--out", str(sheet)]) == 0
    with Image.open(sheet) as picture:
        assert picture.width > 500


def test_only_one_way_to_name_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", *SMALL, "--curated", str(tmp_path)]) == 2
    assert "give either curated or images and tasks" in capsys.readouterr().err
    assert main(["audit", "--curated", str(tmp_path / "none")]) == 2
    assert "name a curated set" in capsys.readouterr().err
