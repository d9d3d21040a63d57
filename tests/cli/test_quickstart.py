"""The whole quick-start on a budget of seconds, interrupted and resumed."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from spatial_ssrl.cli.commands.quickstart import STAGES, Settings, scaled_steps, stage_arguments
from spatial_ssrl.cli.main import main
from spatial_ssrl.cli.shipped import shipped_config
from spatial_ssrl.training import MuonWithAdamW, SFTModule

TASKS = {
    "cropped_inpainting",
    "depth_order",
    "flipped_patch",
    "relative_position",
    "shuffled_patches",
}

# Few scenes, few questions and short answers: everything else is as shipped.
SMALL = (
    "--data.images.source.count=64",
    "--data.held_out.source.count=40",
    "--data.evaluation={val_questions: 1, test_questions: 3, batch_size: 15}",
    "--data.batch_size=5",
    "--model.sampling.max_new_tokens=8",
)


def words(
    out: Path, *more: str, overrides: Sequence[str] = SMALL, minutes: float = 0.02
) -> list[str]:
    """Return the command line of a small quick-start."""
    return [
        "quickstart",
        *("--out", str(out)),
        *("--minutes", str(minutes)),
        *("--overrides", json.dumps(list(overrides))),
        *more,
    ]


def results_of(out: Path) -> dict[str, Any]:
    results: dict[str, Any] = json.loads((out / "results.json").read_text())
    return results


def weights(out: Path, stage: str) -> dict[str, Tensor]:
    name = "model" if stage == "cold_start" else "adapter_model"
    return load_file(out / stage / "policy" / f"{name}.safetensors")


def largest_difference(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.fixture(autouse=True)
def ctrl_c_counts() -> Iterator[None]:
    """Heed Ctrl-C even where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a quick-start that ran through."""
    out = tmp_path_factory.mktemp("runs") / "quickstart"
    assert main(words(out)) == 0
    return out


# What a finished run leaves.


def test_results_file_holds_what_it_promises(finished: Path) -> None:
    results = results_of(finished)
    assert set(results) == {"tasks", "mean", "settings", "steps", "seconds", "versions"}
    assert set(results["tasks"]) == TASKS
    for row in (*results["tasks"].values(), results["mean"]):
        assert set(row) == {"chance", "n", "cold_start", "grpo", "gain"}
        assert 0 < row["chance"] < 1
        for stage in STAGES:
            low, high = row[stage]["ci95"]
            assert 0 <= low <= row[stage]["accuracy"] <= high <= 1
        low, high = row["gain"]["ci95"]
        assert low <= row["gain"]["points"] <= high
    assert {row["n"] for row in results["tasks"].values()} == {3}
    assert results["steps"] == {"cold_start": 2, "grpo": 2}
    assert results["settings"]["overrides"] == list(SMALL)
    assert set(results["seconds"]) == set(STAGES)
    assert min(results["seconds"].values()) > 0


def test_results_are_those_of_the_recorded_answers(finished: Path) -> None:
    results = results_of(finished)
    asked = []
    for stage in STAGES:
        lines = (finished / stage / "records.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        asked.append([record["uid"] for record in records])
        for task, row in results["tasks"].items():
            answers = [record["correct"] for record in records if record["task"] == task]
            assert len(answers) == row["n"]
            assert row[stage]["accuracy"] == pytest.approx(sum(answers) / len(answers))
    assert asked[0] == asked[1]
    assert len(set(asked[0])) == 15


def test_pictures_and_policies_are_written(finished: Path) -> None:
    for name in ("curves.png", "questions.png"):
        picture = np.asarray(Image.open(finished / name).convert("RGB"))
        assert min(picture.shape[:2]) > 300
        assert picture.std() > 5
    assert any("lora" in name for name in weights(finished, "grpo"))
    adapter = json.loads((finished / "grpo" / "policy" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"].endswith("cold_start/policy")
    for stage in STAGES:
        assert (finished / stage / "checkpoints" / "last.ckpt").stat().st_size > 0
        assert any((finished / stage).glob("events.out.tfevents.*"))


def test_the_stages_are_ordinary_runs_of_the_shipped_configs(finished: Path) -> None:
    for stage, module in (("cold_start", "SFTModule"), ("grpo", "RLModule")):
        ran = yaml.safe_load((finished / stage / "config.yaml").read_text())
        shipped = yaml.safe_load(shipped_config(f"quickstart/{stage}.yaml").read_text())
        assert ran["model"]["class_path"].endswith(module)
        rate = shipped["model"]["init_args"]["optimizer"]["init_args"]["lr"]
        assert float(ran["model"]["init_args"]["optimizer"]["init_args"]["lr"]) == float(rate)
        assert ran["data"]["init_args"]["batch_size"] == 5


def test_a_finished_run_is_only_reported_again(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = results_of(finished)
    times = {path: path.stat().st_mtime_ns for path in finished.glob("*/policy/*")}
    assert times
    assert main(words(finished)) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert results_of(finished) == before
    said = capsys.readouterr().out
    assert "Held-out accuracy" in said
    assert "wrote" in said


def test_each_stage_is_reported_by_its_own_answers(finished: Path, tmp_path: Path) -> None:
    # So short a training answers nothing right; with better answers on record, it is the report
    # alone that is made again.
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for stage, right in (("cold_start", 1), ("grpo", 2)):
        path = out / stage / "records.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        seen: Counter[str] = Counter()
        for record in records:
            seen[record["task"]] += 1
            record["correct"] = seen[record["task"]] <= right
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert main(words(out)) == 0
    for row in (*results_of(out)["tasks"].values(), results_of(out)["mean"]):
        assert row["cold_start"]["accuracy"] == pytest.approx(1 / 3)
        assert row["grpo"]["accuracy"] == pytest.approx(2 / 3)
        assert row["gain"]["points"] == pytest.approx(100 / 3)


def test_seed_names_the_result(finished: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    # Only the seconds may differ.
    assert main(words(again)) == 0
    first, second = results_of(finished), results_of(again)
    for results in (first, second):
        results.pop("seconds")
    assert first == second
    for stage in STAGES:
        assert largest_difference(weights(finished, stage), weights(again, stage)) == 0


def test_other_seed_is_another_run() -> None:
    def seeds(stage: str) -> list[str]:
        arguments = stage_arguments(stage, Path("out"), Settings(1.0, 5, None))
        return [flag for flag, value in pairwise(arguments) if value == "5"]

    common = ["--seed_everything", "--data.seed"]
    assert seeds("cold_start") == [*common, "--model.policy.init_args.seed"]
    assert seeds("grpo") == [*common, "--model.seed"]


def test_budget_scales_the_steps() -> None:
    config = shipped_config("quickstart/cold_start.yaml")
    full = yaml.safe_load(config.read_text())["trainer"]["max_steps"]
    assert scaled_steps(config, 10) == full
    assert scaled_steps(config, 60) == 6 * full
    assert scaled_steps(config, 1e-9) == 2


# Photos.


def test_photos_join_the_tasks_without_depth(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        noise = rng.integers(0, 256, (60 + 30 * number, 90, 3), dtype=np.uint8)
        Image.fromarray(noise).save(photos / f"{number}.png")
    out = tmp_path / "run"
    assert main(words(out, "--images", str(photos))) == 0
    assert results_of(out)["settings"]["images"] == str(photos)
    ran = yaml.safe_load((out / "grpo" / "config.yaml").read_text())["data"]["init_args"]
    drawn, added = (source["init_args"]["source"] for source in ran["images"])
    assert drawn["class_path"].endswith("SyntheticScenes")
    assert drawn["init_args"]["count"] == 64
    assert added["class_path"].endswith("ImageFolder")
    assert added["init_args"]["folder"] == str(photos)
    # The cache holds the three photos at the size of the scenes.
    (arrays,) = (out / "photos").glob("images-*.npy")
    assert np.load(arrays, mmap_mode="r").shape == (3, 64, 64, 3)
    # Held out are drawn scenes alone: every run is asked the same questions.
    assert len(ran["held_out"]) == 1


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_photos_that_are_not_there(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "run"
    assert main(words(out, "--images", str(tmp_path / name))) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("spatial-ssrl: error: ")
    assert str(tmp_path / name) in said
    assert not out.exists()


# One folder, one run.


def test_other_settings_in_the_same_folder_are_refused(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / "results.json").read_bytes()
    assert main(words(finished, "--seed", "1")) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"spatial-ssrl: error: out: {str(finished)!r} holds a quick-start with ")
    assert "seed 0" in said
    assert said.endswith("choose another folder with --out, or replace it with --restart true.")
    assert (finished / "results.json").read_bytes() == before


def stop_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(arguments: list[str]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("spatial_ssrl.cli.commands.quickstart.fit.run", stop)


def claimed(out: Path) -> Path:
    """Make `out` look like a quick-start with a checkpoint; return the checkpoint."""
    last = out / "cold_start" / "checkpoints" / "last.ckpt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"weights")
    for name in ("results.json", "curves.png"):
        (out / name).write_text("old")
    settings = {"minutes": 3.0, "seed": 0, "images": None, "overrides": []}
    (out / "quickstart.json").write_text(json.dumps(settings))
    return last


def test_restart_deletes_the_earlier_run_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_once(monkeypatch)
    last = claimed(tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert main(words(tmp_path, "--restart", "true")) == 130
    assert not last.exists()
    assert not (tmp_path / "results.json").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "quickstart.json").read_text())["minutes"] == 0.02


def test_restart_leaves_a_folder_alone_that_no_quickstart_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at_once(monkeypatch)
    photo = tmp_path / "photos" / "holiday.jpg"
    photo.parent.mkdir()
    photo.write_bytes(b"dear")
    assert main(words(tmp_path, "--restart", "true")) == 130
    assert photo.read_bytes() == b"dear"


def test_a_start_that_failed_binds_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(tmp_path, overrides=["--data.batch_sise=5"])) == 2
    assert "batch_size" in capsys.readouterr().err
    stop_at_once(monkeypatch)
    assert main(words(tmp_path)) == 130


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--minutes", "0"], "minutes must be above 0, got 0"),
        (["--minutes", "long"], "minutes"),
    ],
)
def test_bad_options(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["quickstart", "--out", str(tmp_path / "run"), *options]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert told in said
    assert not (tmp_path / "run").exists()


def test_folder_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(words(tmp_path / "file" / "run")) == 2
    assert "cannot be written" in capsys.readouterr().err


# Interrupted.


class CtrlC:
    """Sends this process the signal of Ctrl-C when a method is called for the `call`-th time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, cls: type, method: str, call: int) -> None:
        self.calls = 0
        inner = getattr(cls, method)

        def interrupted(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls == call:
                signal.raise_signal(signal.SIGINT)
            return inner(*args, **kwargs)

        monkeypatch.setattr(cls, method, interrupted)


def test_interrupted_at_any_point_the_run_goes_on_as_if_nothing_had_happened(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(code: int, *ctrl_c: Any) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            if ctrl_c:
                CtrlC(monkeypatch, *ctrl_c)
            assert main(words(tmp_path)) == code
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        said = capsys.readouterr().err
        assert code == 0 or said.endswith("Stopped. Run the same command again to go on.\n")

    def done(stage: str) -> int:
        path = tmp_path / stage / "checkpoints" / "last.ckpt"
        return int(torch.load(path)["global_step"]) if path.exists() else 0

    # Before the first step; there is no checkpoint, and the run begins again.
    run(130, SFTModule, "on_fit_start", 1)
    assert done("cold_start") == 0
    assert (tmp_path / "cold_start" / "config.yaml").exists()
    # In the middle of a step, which is finished first.
    run(130, MuonWithAdamW, "step", 1)
    assert done("cold_start") == 1
    # In the test at the end of the cold start.
    run(130, SFTModule, "test_step", 1)
    assert done("cold_start") == 2
    assert not (tmp_path / "cold_start" / "records.jsonl").exists()
    # In the first step of RL; the cold start is not done again.
    written = (tmp_path / "cold_start" / "policy" / "model.safetensors").stat().st_mtime_ns
    run(130, MuonWithAdamW, "step", 1)
    assert done("grpo") == 1
    run(0)
    assert done("grpo") == 2
    again = (tmp_path / "cold_start" / "policy" / "model.safetensors").stat().st_mtime_ns
    assert again == written

    for stage in STAGES:
        assert largest_difference(weights(tmp_path, stage), weights(finished, stage)) == 0
    for part in ("tasks", "mean", "steps"):
        assert results_of(tmp_path)[part] == results_of(finished)[part]


def test_ctrl_c_from_outside(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "spatial_ssrl", *words(tmp_path, minutes=60)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 240
    started = tmp_path / "cold_start"
    while not list(started.glob("events.*")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said.decode()
    assert said.decode().endswith("Stopped. Run the same command again to go on.\n")
    assert "Traceback" not in said.decode()
