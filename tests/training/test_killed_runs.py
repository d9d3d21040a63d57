"""Item by item, a run killed five times is the run that was never stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from support.tiny_training import tiny_data

SCRIPT = Path(__file__).with_name("killed_run.py")
OF_THE_MACHINE = ("seconds/", "_per_s", "peak_memory")


def runs(folder: Path, seed: int, steps: int, **update: Any) -> list[list[Any]]:
    """Train both runs; return where the second was killed."""
    paths = os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])
    # The lives are forks, and threads do not survive a fork.
    environment = os.environ | {"PYTHONPATH": paths, "TOKENIZERS_PARALLELISM": "false"}
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT), str(folder), str(seed), str(steps), json.dumps(update)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    killed: list[list[Any]] = json.loads((folder / "killed.json").read_text())
    return killed


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the steps of a run in their order, those that were done again taken out."""
    kept: list[dict[str, Any]] = []
    for line in (folder / "steps.jsonl").read_text().splitlines():
        step = json.loads(line)
        kept = [earlier for earlier in kept if earlier["at"] < step["at"]]
        step["metrics"] = {
            name: value
            for name, value in step["metrics"].items()
            if not any(part in name for part in OF_THE_MACHINE)
        }
        kept.append(step)
    return kept


def check(folder: Path, killed: list[list[Any]]) -> list[dict[str, Any]]:
    """Compare both runs: questions, metrics and the bytes of every weight; return the steps."""
    assert [ended for *_, ended in killed] == [signal.SIGKILL] * 5 + [0]
    moments = {moment for _, moment, *_ in killed}
    assert {"between inner epochs", "half written", "between renames"} <= moments
    # Whenever a run dies, its last checkpoint and the adapter beside it are of one step, but
    # for the one moment that the next life mends.
    assert all(consistent or moment == "between renames" for _, moment, consistent, _ in killed)
    whole, resumed = lines(folder / "whole"), lines(folder / "killed")
    assert [step["at"] for step in whole] == list(range(len(whole)))
    assert resumed == whole
    # Some step was done more than once, or nothing was put to the test.
    assert len((folder / "killed" / "steps.jsonl").read_text().splitlines()) > len(whole)
    # Every question of the stream in its turn, none twice and none left out.
    stream = tiny_data().train_dataloader()
    for step, questions in zip(whole, stream, strict=False):
        assert step["uids"] == [question.uid for question in questions]
    first, second = (torch.load(folder / name / "weights.pt") for name in ("whole", "killed"))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.numpy().tobytes() == second[name].numpy().tobytes(), name
    moved = [value for name, value in first.items() if name.endswith("lora_B.default.weight")]
    assert any(bool((value != 0).any()) for value in moved)
    # What a kill in the middle of writing left behind was overwritten by the next checkpoint.
    assert {file.name for file in (folder / "killed").iterdir()} == {
        "last.ckpt",
        "last.adapter",
        "steps.jsonl",
        "weights.pt",
    }
    return whole


def test_a_run_killed_five_times_is_the_run_that_was_never_stopped(tmp_path: Path) -> None:
    assert len(check(tmp_path, runs(tmp_path, seed=0, steps=10))) == 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_over_twenty_steps(tmp_path: Path, seed: int) -> None:
    assert len(check(tmp_path, runs(tmp_path, seed=seed, steps=20))) == 20


@pytest.mark.slow
def test_with_groups_that_wait_for_an_update(tmp_path: Path) -> None:
    killed = runs(tmp_path, seed=3, steps=12, flat_groups="resample", mini_batches=2)
    steps = check(tmp_path, killed)
    assert any(step["metrics"]["groups_waiting"] for step in steps)
    # Some batches found too few groups for an update.
    assert len(steps) > len({step["step"] for step in steps})
