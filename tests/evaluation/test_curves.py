from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from spatial_ssrl.evaluation.curves import _smooth, draw_curves, read_curves

CHANCES = {"flipped_patch": 0.125, "depth_order": 1 / 6}


def log(folder: Path, name: str, points: dict[int, float]) -> None:
    """Write one scalar as TensorBoard's own writer does."""
    writer = SummaryWriter(str(folder))
    for step, value in points.items():
        writer.add_scalar(name, value, step)
    writer.close()


def log_stage(folder: Path, signal: str, steps: int, accuracy: float = 0.5) -> None:
    log(folder, signal, {step: step / steps for step in range(0, steps, 10)})
    for task in CHANCES:
        log(folder, f"val/accuracy/{task}", {step: accuracy for step in range(0, steps, 50)})


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_logged_numbers_are_read_back(tmp_path: Path) -> None:
    points = {1: 0.25, 7: 0.5, 30: -2.0}
    log(tmp_path, "train/loss", points)
    log(tmp_path, "val/accuracy/depth_order", {5: 1.0})
    curves = read_curves(tmp_path)
    assert curves["train/loss"] == (list(points), list(points.values()))
    assert curves["val/accuracy/depth_order"] == ([5], [1.0])


def test_resumed_run_overrides_what_it_repeats(tmp_path: Path) -> None:
    log(tmp_path, "train/loss", {1: 0.1, 2: 0.2, 3: 0.3})
    # A later file continues from step 2.
    writer = SummaryWriter(str(tmp_path), filename_suffix=".resumed")
    for step, value in {2: 2.0, 3: 3.0, 4: 4.0}.items():
        writer.add_scalar("train/loss", value, step)
    writer.close()
    steps, values = read_curves(tmp_path)["train/loss"]
    assert steps == [1, 2, 3, 4]
    assert values == pytest.approx([0.1, 2.0, 3.0, 4.0])


def test_folder_without_logs_has_no_curves(tmp_path: Path) -> None:
    assert read_curves(tmp_path) == {}


def test_smoothing_is_a_running_mean_that_averages_what_there_is() -> None:
    values = [0.0, 3.0, 6.0, 9.0, 0.0]
    assert _smooth(values, share=0.6).tolist() == pytest.approx([1.5, 3, 6, 5, 4.5])
    assert _smooth(values, share=0.01).tolist() == pytest.approx(values)


def test_picture_shows_the_curves(tmp_path: Path) -> None:
    stages = {"cold start": tmp_path / "a", "GRPO": tmp_path / "b"}
    log_stage(stages["cold start"], "train/loss", 200)
    log_stage(stages["GRPO"], "train/reward", 100)
    out = draw_curves(stages, CHANCES, tmp_path / "deep" / "curves.png")
    assert Image.open(out).format == "PNG"
    picture = pixels(out)
    assert picture.shape == (840, 1320, 3)
    # Each task in a colour of its own, which only a curve or a line of chance can bring.
    for colour in ((31, 119, 180), (255, 127, 14)):
        assert (np.abs(picture - colour).sum(-1) < 6).sum() > 100
    assert [file.name for file in out.parent.iterdir()] == ["curves.png"]


def test_accuracy_moves_the_curve(tmp_path: Path) -> None:
    drawn = []
    for accuracy in (0.3, 0.9):
        folder = tmp_path / str(accuracy)
        log_stage(folder, "train/loss", 200, accuracy)
        out = draw_curves({"GRPO": folder}, {"depth_order": 0.0}, folder / "curves.png")
        blue = np.abs(pixels(out) - (31, 119, 180)).sum(-1) < 6
        top = blue[: 840 * 3 // 5]
        drawn.append(np.median(np.nonzero(top)[0]))
    # Rows of a picture are counted from the top: a higher accuracy is drawn further up.
    assert drawn[1] < drawn[0] - 100


def test_run_too_short_to_log_anything_is_drawn_empty(tmp_path: Path) -> None:
    stages = {"cold start": tmp_path / "a", "GRPO": tmp_path / "b"}
    log(stages["cold start"], "train/loss", {1: 0.5})
    stages["GRPO"].mkdir()
    out = draw_curves(stages, CHANCES, tmp_path / "curves.png")
    assert pixels(out).std() > 1
