"""The real command line trains a tiny policy: files, overrides, Ctrl-C and resuming."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
import yaml

from spatial_ssrl.cli.main import main

if TYPE_CHECKING:
    from conftest import RunFile

MODEL, DATA = "model.init_args", "data.init_args"


def logged(folder: Path) -> dict[int, dict[str, float]]:
    """Return the logged values by step."""
    rows: dict[int, dict[str, float]] = {}
    for path in sorted(folder.rglob("metrics.csv")):
        with path.open() as lines:
            for row in csv.DictReader(lines):
                values = {name: float(value) for name, value in row.items() if value}
                rows.setdefault(int(values.pop("step")), {}).update(values)
    return rows


def saved_config(folder: Path) -> dict[str, object]:
    (path,) = folder.rglob("config.yaml")
    content: dict[str, object] = yaml.safe_load(path.read_text())
    return content


def checkpointed(run_file: RunFile, steps: int) -> None:
    """Log and keep a checkpoint at every step."""
    run_file.set("trainer.max_steps", steps)
    run_file.set("trainer.log_every_n_steps", 1)
    run_file.set("trainer.enable_checkpointing", True)
    run_file.set(
        "trainer.callbacks",
        [
            {
                "class_path": "ModelCheckpoint",
                "init_args": {
                    "dirpath": "${trainer.default_root_dir}/checkpoints",
                    "every_n_train_steps": 1,
                    "save_last": True,
                },
            }
        ],
    )


def test_fit_writes_finite_metrics_and_the_resolved_config(run_file: RunFile) -> None:
    run_file.set("trainer.log_every_n_steps", 1)
    args = ["--trainer.max_steps=1", f"--{MODEL}.group_size=2", "--data.tasks=[FlippedPatch]"]
    assert main(["fit", "-c", run_file.write(), *args]) == 0
    (values,) = logged(run_file.folder / "run").values()
    assert 0 <= values["train/reward"] <= 1
    assert values["train/grad_norm"] > 0
    assert set(values) >= {"train/accuracy/flipped_patch", "train/lr", "train/loss"}
    config = saved_config(run_file.folder / "run")
    assert config["trainer"]["max_steps"] == 1
    model, data = config["model"], config["data"]
    assert model["class_path"] == "spatial_ssrl.training.RLModule"
    assert model["init_args"]["group_size"] == 2
    assert model["init_args"]["algorithm"]["class_path"] == "spatial_ssrl.algorithms.GRPO"
    assert model["init_args"]["policy"]["init_args"]["hidden_size"] == 96
    assert [task["class_path"] for task in data["init_args"]["tasks"]] == [
        "spatial_ssrl.tasks.FlippedPatch"
    ]


def test_groups_without_signal_may_be_treated_by_task(
    run_file: RunFile, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file.set("trainer.log_every_n_steps", 1)
    run_file.set("model.init_args.verifier", "support.tiny_training.FlatForFlips")
    flat, steps = f"--{MODEL}.update.flat_groups", "--trainer.max_steps=1"
    ways = "{flipped_patch: resample, depth_order: keep}"
    assert main(["fit", "-c", run_file.write(), f"{flat}={ways}", steps]) == 0
    rows = logged(run_file.folder / "run")
    # Two of four questions a batch are flipped patches: the first batch waits for the second.
    assert rows[0]["train/groups_waiting"] == 2
    assert "train/loss" not in rows[0]
    assert rows[1]["train/groups_used"] == 4
    assert main(["fit", "-c", run_file.write(), f"{flat}={{flip_patch: keep}}"]) == 2
    assert "flat_groups.flip_patch: Unknown task" in capsys.readouterr().err


def test_the_saved_config_repeats_the_run(run_file: RunFile) -> None:
    run_file.set("trainer.log_every_n_steps", 1)
    first, second = run_file.folder / "run", run_file.folder / "again"
    assert main(["fit", "-c", run_file.write()]) == 0
    (config,) = first.rglob("config.yaml")
    args = [f"--trainer.default_root_dir={second}", f"--trainer.logger.save_dir={second}"]
    assert main(["fit", "-c", str(config), *args]) == 0
    same = ("train/reward", "train/loss", "train/grad_norm")
    one, two = logged(first), logged(second)
    assert list(one) == list(two) == [0, 1]
    assert [[one[s][n] for n in same] for s in one] == [[two[s][n] for n in same] for s in two]


def test_ctrl_c_says_how_to_resume_and_resuming_continues(
    run_file: RunFile, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpointed(run_file, steps=3)
    whole, folder = run_file.folder / "whole", run_file.folder / "run"
    args = [f"--trainer.default_root_dir={whole}", f"--trainer.logger.save_dir={whole}"]
    assert main(["fit", "-c", run_file.write(), *args]) == 0

    stop = "--trainer.callbacks+=support.callbacks.InterruptAt"
    handler = signal.getsignal(signal.SIGINT)
    assert main(["fit", "-c", str(run_file.path), stop, "--trainer.callbacks.step=2"]) == 130
    assert signal.getsignal(signal.SIGINT) is handler
    words = shlex.split(capsys.readouterr().err.splitlines()[-1])
    assert words[0] == "Stopped."
    assert words[-2] == "--ckpt_path"
    checkpoint = Path(words[-1])
    assert checkpoint.parent == folder / "checkpoints"
    stopped_at = torch.load(checkpoint, weights_only=True)["global_step"]
    assert 1 <= stopped_at <= 2

    assert main(["fit", "-c", str(run_file.path), *words[-2:]]) == 0
    expected, found = logged(whole), logged(folder)
    assert list(expected) == [0, 1, 2]
    assert set(found) == {0, 1, 2}
    assert len({values["train/reward"] for values in expected.values()}) == 3
    for step in (0, 1, 2):
        for name in ("train/reward", "train/loss", "train/grad_norm", "train/lr"):
            assert found[step][name] == pytest.approx(expected[step][name], rel=1e-5, abs=1e-6), (
                step,
                name,
            )


def test_a_reward_that_is_not_a_number_is_one_line_and_keeps_the_checkpoint(
    run_file: RunFile, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpointed(run_file, steps=4)
    saver = run_file.content["trainer"]["callbacks"][0]["init_args"]
    saver |= {"every_n_train_steps": 2, "save_top_k": 0, "save_on_exception": True}
    run_file.set(
        "model.init_args.verifier",
        # Sixteen completions a step: the last of the last question of the fourth step, whose
        # predecessor left no checkpoint.
        {"class_path": "support.failing.NotANumberAt", "init_args": {"completion": 63}},
    )
    assert main(["fit", "-c", run_file.write()]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("spatial-ssrl: error: Stopped at optimiser step 4: the reward of ")
    assert re.search(r"completion 3 of question [0-9a-f]{16} \(\w+, .+\) is nan\. Let Not", error)
    folder = run_file.folder / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 2

    # With the verifier mended, the run ends as one that never failed.
    run_file.set("model.init_args.verifier", "support.tiny_training.DigitShare")
    assert main(["fit", "-c", run_file.write(), "--ckpt_path", str(folder / "last.ckpt")]) == 0
    resumed = torch.load(folder / "last.ckpt", weights_only=True)
    whole = run_file.folder / "whole"
    args = [f"--trainer.default_root_dir={whole}", f"--trainer.logger.save_dir={whole}"]
    assert main(["fit", "-c", run_file.write(), *args]) == 0
    expected = torch.load(whole / "checkpoints" / "last.ckpt", weights_only=True)
    assert resumed["global_step"] == expected["global_step"] == 4
    assert all(torch.equal(resumed["policy"][n], v) for n, v in expected["policy"].items())


def test_ctrl_c_before_the_first_checkpoint(
    run_file: RunFile, capsys: pytest.CaptureFixture[str]
) -> None:
    stop = "--trainer.callbacks=[support.callbacks.InterruptAt]"
    run_file.set("trainer.max_steps", 2)
    code = main(["fit", "-c", run_file.write(), stop, "--trainer.callbacks.step=1"])
    assert code == 130
    assert "there is nothing to resume" in capsys.readouterr().err


def test_validate_and_test_answer_held_out_questions(
    run_file: RunFile, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file.set("trainer.limit_val_batches", 1.0)
    run_file.set(f"{DATA}.evaluation", {"val_questions": 3, "test_questions": 5})
    run_file.set("trainer.logger", False)
    path = run_file.write()
    assert main(["validate", "-c", path]) == 0
    assert "val/accuracy/flipped_patch" in capsys.readouterr().out
    assert main(["test", "-c", path]) == 0
    assert "test/accuracy/depth_order" in capsys.readouterr().out
    assert main(["predict", "-c", path]) == 0
    written = Path(capsys.readouterr().out.splitlines()[-1])
    answers = [json.loads(line) for line in written.read_text().splitlines()]
    assert [answer["task"] for answer in answers].count("flipped_patch") == 5
    assert len({answer["uid"] for answer in answers}) == len(answers) == 10


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_help_of_every_trainer_command(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--trainer.max_steps" in shown
    assert f"spatial-ssrl {command} -c run.yaml" in " ".join(shown.split())


def test_print_config_is_yaml_that_fit_accepts(
    run_file: RunFile, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "-c", run_file.write(), "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["model"]["class_path"] == "spatial_ssrl.training.RLModule"
    assert not (run_file.folder / "run").exists()


def test_a_resumed_run_keeps_the_log_of_the_one_it_continues(run_file: RunFile) -> None:
    checkpointed(run_file, 2)
    run_file.set("trainer.logger.init_args.version", "only")
    run_file.set("trainer.logger.init_args.name", "")
    assert main(["fit", "-c", run_file.write()]) == 0
    (log,) = (run_file.folder / "run").rglob("metrics.csv")
    before = log.read_text()
    assert main(["fit", "-c", run_file.write(), "--ckpt_path=last", "--trainer.max_steps=4"]) == 0
    assert log.with_name("metrics.1.csv").read_text() == before
    assert sorted(logged(log.parent)) == [2, 3]


@pytest.mark.slow
def test_two_processes_started_by_the_command(run_file: RunFile) -> None:
    checkpointed(run_file, 2)
    run_file.set("data.init_args.evaluation", {"test_questions": 3, "batch_size": 2})
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "spatial_ssrl"]
    options = ["-c", run_file.write(), "--trainer.devices=2", "--trainer.strategy=ddp"]
    answers = run_file.folder / "run" / "predictions.jsonl"
    for words in (["fit"], ["predict", "--ckpt_path=last"]):
        done = subprocess.run(
            [*command, *words, *options],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "Starting with 2 processes" in done.stderr
    assert len({json.loads(line)["uid"] for line in answers.read_text().splitlines()}) == 6
    assert sorted(logged(run_file.folder / "run")) == [0, 1]
