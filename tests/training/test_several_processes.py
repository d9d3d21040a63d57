"""Two processes do what one does with the same questions."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from filelock import FileLock

SCRIPT = Path(__file__).with_name("several_processes_run.py")
NAMES = (
    "rl",
    "one_without_signal",
    "all_without_signal",
    "sft",
    "resampled",
    "resampled_scarce",
)
OF_THE_MACHINE = ("seconds/", "_per_s", "peak_memory")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("several_processes_run", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of what two processes ended with; they run once, whichever worker asks first."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    folder = folder / "together"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            train_together(folder)
    return folder


def train_together(folder: Path) -> None:
    unfinished = folder.with_name("unfinished")
    unfinished.mkdir(exist_ok=True)
    paths = os.pathsep.join([str(SCRIPT.parents[1]), *sys.path])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(unfinished)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "sync_dist" not in done.stderr
    unfinished.rename(folder)


def ended(folder: Path, name: str) -> list[dict[str, Any]]:
    """Return what each process ended with."""
    return [torch.load(folder / f"{name}-{rank}.pt", weights_only=False) for rank in range(2)]


def same(metrics: dict[str, float]) -> dict[str, float]:
    return {
        name: value
        for name, value in metrics.items()
        if not any(part in name for part in OF_THE_MACHINE)
    }


@pytest.mark.parametrize("name", NAMES)
def test_two_processes_are_one(
    tmp_path: Path, script: ModuleType, together: Path, name: str
) -> None:
    alone = script.run(name, tmp_path, processes=1)
    first, second = ended(together, name)

    # The same questions in the same order, half of each batch in either process.
    pairs = zip(first["steps"], second["steps"], strict=True)
    assert [(step, mine + others) for (step, mine), (_, others) in pairs] == alone["steps"]
    waits = name.startswith("resampled")
    assert len(alone["steps"]) > script.STEPS if waits else len(alone["steps"]) == script.STEPS

    for process in (first, second):
        assert process["weights"].keys() == alone["weights"].keys()
        for key, value in alone["weights"].items():
            assert torch.allclose(process["weights"][key], value, rtol=0, atol=1e-6), key
        for mine, expected in zip(process["metrics"], alone["metrics"], strict=True):
            assert same(mine) == pytest.approx(same(expected), rel=1e-4, abs=1e-6)
        assert same(process["validated"]) == pytest.approx(same(alone["validated"]), 1e-4, 1e-6)
        assert process["tested"] == pytest.approx(alone["tested"])
    for key, value in first["weights"].items():
        assert torch.equal(second["weights"][key], value), key
    # Every held-out question once, in the usual order.
    written = (together / f"{name}.jsonl").read_text()
    assert written == (tmp_path / f"{name}.jsonl").read_text()


def test_these_runs_are_what_they_are_called(together: Path) -> None:
    def flat(name: str) -> list[float]:
        return [step["train/flat_groups"] for step in ended(together, name)[0]["metrics"]]

    assert min(flat("one_without_signal")) >= 0.5
    assert min(flat("one_without_signal")) < 1
    assert flat("all_without_signal") == [1.0] * 2
    still = ended(together, "all_without_signal")[0]["weights"]
    assert all(bool((value == 0).all()) for key, value in still.items() if "lora_B" in key)
    moved = ended(together, "one_without_signal")[0]["weights"]
    assert any(bool((value != 0).any()) for key, value in moved.items() if "lora_B" in key)


def test_processes_share_groups_that_one_of_them_found(together: Path) -> None:
    # The first process never finds any, so that it learns from the second's.
    for process in ended(together, "resampled"):
        steps = [0, *(step for step, _ in process["steps"])]
        waiting = [metrics["train/groups_waiting"] for metrics in process["metrics"]]
        assert waiting[0] in (1, 2)
        for place, metrics in enumerate(process["metrics"]):
            if steps[place + 1] > steps[place]:
                assert metrics["train/groups_used"] == 4


def test_a_process_may_have_no_part_in_an_update(together: Path) -> None:
    # Too few groups were found in time: one for two processes, so that one goes without.
    for process in ended(together, "resampled_scarce"):
        used = [step.get("train/groups_used") for step in process["metrics"]]
        assert 1 in used


def test_groups_that_wait_are_kept(together: Path) -> None:
    for process in ended(together, "interrupted"):
        resumed, whole = process["steps"]
        assert resumed == whole[-len(resumed) :]
        assert len(resumed) < len(whole)
        assert process["waiting"] > 0
        for name, value in process["whole"].items():
            assert torch.equal(process["resumed"][name], value), name


def test_what_processes_exchange(together: Path) -> None:
    for process in ended(together, "collectives"):
        both, one, none, half = process["gradients"]
        assert both.tolist() == [[3.0, 3.0]] * 3
        assert one.tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert none is None
        assert half.tolist() == [2.0, 3 / 256]
        assert [mean.tolist() for mean in process["means"]] == [[1.5, 1.5], 6.0]
        assert process["gathered"] == [{"rank": 0}, {"rank": 1}]
        assert process["total"] == 3
