"""`spatial-ssrl preview` draws questions from drawn scenes, folders and data files."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from spatial_ssrl.cli.commands import preview as module
from spatial_ssrl.cli.main import main
from spatial_ssrl.data.contact_sheet import SheetItem

FIVE = {
    "cropped_inpainting",
    "depth_order",
    "flipped_patch",
    "relative_position",
    "shuffled_patches",
}


@pytest.fixture
def items(monkeypatch: pytest.MonkeyPatch) -> list[SheetItem]:
    """Catch what is drawn; drawing goes on."""
    caught: list[SheetItem] = []
    draw = module.draw_sheet

    def catch(items: list[SheetItem], out: Path, columns: int) -> Path:
        caught[:] = items
        return draw(items, out, columns)

    monkeypatch.setattr(module, "draw_sheet", catch)
    return caught


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a.jpg", "b.png", "c.webp"):
        noise = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC).save(folder / name)
    return folder


def test_without_images_it_draws_all_tasks_on_drawn_scenes(
    tmp_path: Path, items: list[SheetItem], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "sheet.png"
    assert main(["preview", "--count", "10", "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    tasks = [item.question.task for item in items]
    assert {task: tasks.count(task) for task in tasks} == dict.fromkeys(FIVE, 2)
    assert tasks == sorted(tasks), "one band a task"
    with Image.open(out) as picture:
        assert picture.width > 500


def test_the_seed_names_the_questions(tmp_path: Path, items: list[SheetItem]) -> None:
    drawn = []
    for seed in ("0", "0", "1"):
        args = ["--tasks", "FlippedPatch", "--count", "3", "--seed", seed]
        assert main(["preview", *args, "--out", str(tmp_path / "s.png")]) == 0
        drawn.append([item.question.uid for item in items])
    assert drawn[0] == drawn[1]
    assert not set(drawn[0]) & set(drawn[2])


def test_a_folder_of_photos_gives_the_tasks_without_depth(
    tmp_path: Path, photos: Path, items: list[SheetItem]
) -> None:
    assert main(["preview", str(photos), "--count", "6", "--out", str(tmp_path / "s.png")]) == 0
    tasks = [item.question.task for item in items]
    assert sorted(set(tasks)) == ["cropped_inpainting", "flipped_patch", "shuffled_patches"]
    assert len(tasks) == 6


def test_an_image_source_with_settings(tmp_path: Path, items: list[SheetItem]) -> None:
    args = ["--images=SyntheticScenes", "--images.size=64", "--tasks=[DepthOrder]", "--count=2"]
    assert main(["preview", *args, "--out", str(tmp_path / "s.png")]) == 0
    assert [item.question.images[0].shape for item in items] == [(64, 64, 3)] * 2


def test_a_data_file_shows_what_it_trains_on(
    tmp_path: Path, photos: Path, items: list[SheetItem]
) -> None:
    data = {
        "class_path": "PretextDataModule",
        "init_args": {
            "images": [{"class_path": "ImageFolder", "init_args": {"folder": str(photos)}}],
            "tasks": ["FlippedPatch"],
            "batch_size": 2,
        },
    }
    path = tmp_path / "data.yaml"
    path.write_text(yaml.safe_dump(data))
    out = str(tmp_path / "s.png")
    assert main(["preview", "--data", str(path), "--count", "4", "--out", out]) == 0
    assert [item.question.task for item in items] == ["flipped_patch"] * 4


def test_bad_arguments_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*args: str) -> str:
        assert main(["preview", *args, "--out", str(tmp_path / "s.png")]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line.removeprefix("spatial-ssrl: error: ")

    assert said("--images", "SyntheticScene").endswith("Did you mean SyntheticScenes?")
    assert said("no/such/folder").startswith("images: 'no/such/folder' is neither a folder nor")
    assert said("--count", "0") == "count must be at least 1, got 0."
    assert said("--tasks", "DepthOrdr").startswith("tasks: no class is called 'DepthOrdr'. Did yo")
    assert not (tmp_path / "s.png").exists()


def test_depth_task_on_photos_is_refused(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["preview", str(photos), "--tasks", "DepthOrder", "--out", str(tmp_path / "s.png")]
    assert main(args) == 2
    assert "'depth_order' needs depth" in capsys.readouterr().err


@pytest.mark.skipif("SPATIAL_SSRL_SAMPLES" not in os.environ, reason="no sample photos")
def test_real_photos(tmp_path: Path, items: list[SheetItem]) -> None:
    folder = Path(os.environ["SPATIAL_SSRL_SAMPLES"]) / "rgb"
    out = tmp_path / "sheet.png"
    assert main(["preview", str(folder), "--count", "9", "--out", str(out)]) == 0
    assert len(items) == 9
    assert out.stat().st_size > 100_000
