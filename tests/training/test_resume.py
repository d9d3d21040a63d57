"""A run that is killed and resumed is the run that was never stopped."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).with_name("resumable_run.py")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("resumable_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def steps_of(folder: Path) -> list[str]:
    path = folder / "steps.txt"
    return path.read_text().splitlines() if path.exists() else []


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, script: ModuleType
) -> None:
    killed = tmp_path / "killed"
    command = [sys.executable, str(SCRIPT), str(killed), "8"]
    paths = os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 300
    while len(steps_of(killed)) < 5 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert process.returncode == -signal.SIGKILL, errors.decode()
    before = steps_of(killed)
    assert [line.split()[0] for line in before] == ["1", "2", "3", "4", "5"]

    (killed / "steps.txt").unlink()
    resumed = script.run(killed, killed / "last.ckpt", max_steps=8)
    whole_folder = tmp_path / "whole"
    whole = script.run(whole_folder, max_steps=8)

    # The last checkpoint was that of step 4; step 5 is done again, on the same questions.
    assert before[:4] + steps_of(killed) == steps_of(whole_folder)
    assert before[4] == steps_of(killed)[0]
    assert distance(resumed, whole) < 1e-6


@pytest.mark.parametrize(
    ("kind", "limit", "data"),
    [
        ("sft", "max_steps", {"num_workers": 2}),
        # Epochs of three steps: the checkpoint of step 4 is inside the second.
        ("rl", "max_steps", {"epoch_questions": 12}),
        # Of four steps: it is the end of the first.
        ("sft", "max_steps", {"epoch_questions": 16}),
        ("sft", "max_epochs", {"epoch_questions": 4}),
        ("sft_with_dropout", "max_steps", {}),
    ],
    ids=["workers", "later_epoch", "epoch_end", "counted_in_epochs", "dropout"],
)
def test_resuming_at_any_place(
    tmp_path: Path, script: ModuleType, kind: str, limit: str, data: dict[str, int]
) -> None:
    settings = {"kind": kind, "data": data, "schedule": "constant"}
    whole = script.run(tmp_path / "whole", **settings, **{limit: 8})
    part = tmp_path / "part"
    script.run(part, **settings, **{limit: 4})
    resumed = script.run(part, part / "last.ckpt", **settings, **{limit: 8})
    assert steps_of(part) == steps_of(tmp_path / "whole")
    assert len(set(steps_of(part))) == 8
    assert distance(resumed, whole) < 1e-6


def test_checkpoints_hold_what_learns_and_load_as_plain_tensors(
    tmp_path: Path, script: ModuleType
) -> None:
    state = script.run(tmp_path, max_steps=2)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert checkpoint["state_dict"] == {}
    assert checkpoint["policy"].keys() == state.keys()
    assert all("lora_" in name for name in checkpoint["policy"])
    assert checkpoint["global_step"] == 2
    assert "hyper_parameters" not in checkpoint
