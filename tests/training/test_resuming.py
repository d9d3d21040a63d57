from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.training import ScheduleSettings
from spatial_ssrl.training.optimizers import MuonWithAdamW
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer


def eight_bit(params: Any) -> Optimizer:
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.optim import AdamW8bit

    return AdamW8bit(params, lr=1e-2)


def trained(
    make: Callable[[Any], Optimizer], steps: int, stops: tuple[int, ...] = ()
) -> list[Tensor]:
    """Descend on fixed noise; at every stop, go on with a new optimiser that loads the state."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((64, 128), (16, 4, 3, 3), (100,), ())  # The first is large enough for 8 bits.
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = make(weights)
    for step in range(steps):
        if step in stops:
            file = io.BytesIO()
            torch.save(optimizer.state_dict(), file)
            file.seek(0)
            optimizer = make(weights)
            optimizer.load_state_dict(torch.load(file, weights_only=True))
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        weights[step % 2].grad = None  # A step that one weight sits out.
        optimizer.step()
    return [weight.detach() for weight in weights]


@pytest.mark.parametrize(
    "make",
    [
        lambda params: AdamW(params, lr=1e-2),
        lambda params: AdamW(params, lr=1e-2, amsgrad=True),
        lambda params: MuonWithAdamW(params, lr=1e-2, weight_decay=0.1),
        eight_bit,
    ],
    ids=["adamw", "amsgrad", "muon", "adamw_8_bit"],
)
def test_a_state_that_was_stored_goes_on_to_the_last_bit(
    make: Callable[[Any], Optimizer],
) -> None:
    whole, resumed = trained(make, 7), trained(make, 7, stops=(2, 5))
    assert all(torch.equal(a, b) for a, b in zip(whole, resumed, strict=True))
    assert not torch.equal(whole[1], trained(make, 6)[1])


def fitted(
    folder: Path, steps: int, optimizer: Any, resume: bool = False, **settings: Any
) -> StepLog:
    """Train to a step, from the last checkpoint when asked to; return what was logged."""
    torch.manual_seed(0)
    log = StepLog()
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)
    trainer = tiny_trainer(folder, steps, [log, saver], enable_checkpointing=True)
    module = tiny_rl(tiny_policy(), optimizer=optimizer, **settings)
    trainer.fit(module, tiny_data(), ckpt_path=folder / "last.ckpt" if resume else None)
    return log


def rates(log: StepLog) -> list[float]:
    return [step["train/lr"] for step in log.metrics]


def test_a_changed_learning_rate_counts_from_the_first_step_on(tmp_path: Path) -> None:
    schedule = ScheduleSettings("constant", warmup_steps=3)

    def adam(rate: float) -> Callable[[Any], Optimizer]:
        return lambda params: AdamW(params, lr=rate)

    first = rates(fitted(tmp_path, 2, adam(1e-3), schedule=schedule))
    second = rates(fitted(tmp_path, 6, adam(1e-2), resume=True, schedule=schedule))
    assert first == pytest.approx([0.25e-3, 0.5e-3])
    assert second == pytest.approx([0.75e-2, 1e-2, 1e-2, 1e-2])


def test_other_changed_settings_count_and_unchanged_ones_are_the_state_s(tmp_path: Path) -> None:
    class Counting(SGD):
        """Keeps a running value among its settings, as some optimisers do."""

        def __init__(self, params: Any, lr: float, momentum: float = 0.0) -> None:
            super().__init__(params, lr, momentum)
            for group in self.param_groups:
                group.setdefault("taken", 0)

        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                group["taken"] += 1
            return super().step(closure)

    made: list[Counting] = []

    def make(momentum: float) -> Callable[[Any], Optimizer]:
        def optimizer(params: Any) -> Optimizer:
            made.append(Counting(params, 0.1, momentum))
            return made[-1]

        return optimizer

    fitted(tmp_path, 2, make(0.5))
    fitted(tmp_path, 3, make(0.9), resume=True)
    assert [group["momentum"] for group in made[-1].param_groups] == [0.9, 0.9]
    assert [group["taken"] for group in made[-1].param_groups] == [3, 3]


def test_another_algorithm_goes_on(tmp_path: Path) -> None:
    fitted(tmp_path, 2, SGD)
    with pytest.warns(UserWarning, match="group_size was 4 and is 3"):
        log = fitted(
            tmp_path, 4, SGD, resume=True, algorithm=GRPO(kl_coefficient=0.2), group_size=3
        )
    assert [step for step, _ in log.steps] == [3, 4]
    assert "train/kl" in log.metrics[-1]


def test_another_optimiser_is_refused(tmp_path: Path) -> None:
    fitted(tmp_path, 1, SGD)
    with pytest.raises(ConfigError, match=r"state of SGD over 2 .* is MuonWithAdamW over 2; resu"):
        fitted(tmp_path, 2, MuonWithAdamW, resume=True)


def test_a_checkpoint_of_another_program_is_refused(tmp_path: Path) -> None:
    fitted(tmp_path, 1, SGD)
    checkpoint = torch.load(tmp_path / "last.ckpt")
    del checkpoint["policy"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    with pytest.raises(ConfigError, match="ckpt_path: the checkpoint is of another program"):
        fitted(tmp_path, 2, SGD, resume=True)
