from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from spatial_ssrl.training import RLModule
from spatial_ssrl.training.callbacks import StopBetweenSteps
from support.tiny_training import StepLog, tiny_data, tiny_rl, tiny_trainer


@pytest.fixture(autouse=True)
def _own_handler() -> Any:
    """Give Ctrl-C back to pytest: a Trainer that was interrupted ignores it from then on."""
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)


def interrupted_run(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    signals: int,
    call: int = 1,
    **settings: Any,
) -> tuple[list[int], int]:
    """Send Ctrl-C before and, if twice, after the `call`-th call of a method of the module.

    Returns:
        Steps that ended, and the step of the checkpoint that was left, or 0.
    """
    inner, calls = getattr(RLModule, method), 0

    def watched(self: RLModule, *args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGINT)
        result = inner(self, *args)
        if calls == call and signals == 2:
            signal.raise_signal(signal.SIGINT)
        return result

    monkeypatch.setattr(RLModule, method, watched)
    log = StepLog()
    saved = ModelCheckpoint(
        folder, save_last=True, save_top_k=0, every_n_train_steps=100, save_on_exception=True
    )
    trainer = tiny_trainer(
        folder, 3, [StopBetweenSteps(), log, saved], enable_checkpointing=True, **settings
    )
    with pytest.raises(SystemExit):
        trainer.fit(tiny_rl(), tiny_data())
    last = folder / "last.ckpt"
    kept = torch.load(last)["global_step"] if last.exists() else 0
    return [step for step, _ in log.steps], kept


def test_the_step_is_finished_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert interrupted_run(tmp_path, monkeypatch, "training_step", 1) == ([], 1)


def test_a_step_after_held_out_questions_is_finished_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted_run(
        tmp_path,
        monkeypatch,
        "training_step",
        1,
        call=2,
        limit_val_batches=1,
        val_check_interval=1,
        check_val_every_n_epoch=None,
    )
    assert run == ([1], 2)


def test_the_second_time_it_stops_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Both within one step: the optimiser has stepped, but the step has not ended.
    inner = RLModule.step_optimizer
    after: list[int] = []

    def noted(self: RLModule) -> dict[str, float]:
        after.append(1)
        return inner(self)

    monkeypatch.setattr(RLModule, "step_optimizer", noted)
    steps, _ = interrupted_run(tmp_path, monkeypatch, "on_train_batch_start", 2)
    assert steps == []
    assert after == []


def test_held_out_questions_are_left_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[int] = []
    inner = RLModule._answer

    def noted(self: RLModule, batch: Any) -> Any:
        answered.append(1)
        return inner(self, batch)

    monkeypatch.setattr(RLModule, "_answer", noted)
    run = interrupted_run(
        tmp_path,
        monkeypatch,
        "validation_step",
        1,
        limit_val_batches=2,
        val_check_interval=2,
        check_val_every_n_epoch=None,
    )
    assert run == ([1, 2], 2)
    assert answered == []


def test_nothing_is_left_behind_by_a_run_that_ends(tmp_path: Path) -> None:
    seen: list[Any] = []

    class Look(StepLog):
        def on_train_batch_end(self, *args: Any) -> None:
            seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    callback = StopBetweenSteps()
    tiny_trainer(tmp_path, 1, [callback, Look()]).fit(tiny_rl(), tiny_data())
    assert seen == [callback._note]
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_train_without_it(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def train() -> None:
        try:
            tiny_trainer(tmp_path, 1, [StopBetweenSteps()]).fit(tiny_rl(), tiny_data())
        except BaseException as failure:  # noqa: BLE001 - a thread would lose it.
            failures.append(failure)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=train)
    thread.start()
    thread.join(120)
    assert failures == []
    assert signal.getsignal(signal.SIGINT) is before
