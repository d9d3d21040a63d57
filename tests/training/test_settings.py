from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.training import ScheduleSettings, UpdateSettings
from support.tiny_training import tiny_data, tiny_rl, tiny_trainer


def rates(settings: ScheduleSettings, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    scheduler = settings.scheduler(optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_linear_rises_to_the_peak_and_falls_to_the_final_share() -> None:
    found = rates(ScheduleSettings("linear", warmup_steps=3, final=0.1), 8)
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 1.55, 1.1, 0.65, 0.2])


def test_cosine_is_half_way_at_half_time() -> None:
    found = rates(ScheduleSettings("cosine", final=0.2), 5)
    assert found == pytest.approx([2.0, 0.4 + 1.6 * 0.853553, 1.2, 0.4 + 1.6 * 0.146447, 0.4])


def test_constant_stays_after_warming_up() -> None:
    assert rates(ScheduleSettings(warmup_steps=1), 4) == [1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("limit", [{"max_steps": 8}, {"max_steps": -1, "max_epochs": 2}])
@pytest.mark.parametrize(("inner_epochs", "mini_batches"), [(2, 1), (2, 2)])
def test_every_optimiser_step_counts_for_the_schedule(
    tmp_path: Path, limit: dict[str, int], inner_epochs: int, mini_batches: int
) -> None:
    found: list[float] = []

    def optimizer(params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        made = torch.optim.SGD(params, lr=2.0)
        made.register_step_pre_hook(lambda *_: found.append(made.param_groups[0]["lr"]))
        return made

    module = tiny_rl(
        optimizer=optimizer,
        schedule=ScheduleSettings("linear", warmup_steps=3, final=0.1),
        update=UpdateSettings(inner_epochs=inner_epochs, mini_batches=mini_batches),
    )
    # Two epochs of two batches in two steps, or of one batch in four.
    steps, rest = limit["max_steps"], {k: v for k, v in limit.items() if k != "max_steps"}
    trainer = tiny_trainer(tmp_path, steps, **rest)
    trainer.fit(module, tiny_data(epoch_questions=8 // mini_batches))
    assert found == pytest.approx([0.5, 1.0, 1.5, 2.0, 1.55, 1.1, 0.65, 0.2])


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_run_longer_than_planned_keeps_the_final_rate(kind: str) -> None:
    settings = ScheduleSettings(kind, final=0.05)
    assert settings.factor(99, 100) == pytest.approx(0.05)
    assert settings.factor(250, 100) == pytest.approx(0.05)


def test_a_run_without_end_cannot_fall() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(ConfigError, match=r"'cosine' needs to know the end.*max_steps"):
        ScheduleSettings("cosine").scheduler(optimizer, None)
    ScheduleSettings("constant").scheduler(optimizer, None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ScheduleSettings("step"), "schedule.kind must be .* got 'step'"),
        (lambda: ScheduleSettings(warmup_steps=-1), "warmup_steps must be 0 or more, got -1"),
        (lambda: ScheduleSettings(final=2.0), r"final must be in \[0, 1\], got 2.0"),
        (lambda: UpdateSettings(micro_batch_size=0), "micro_batch_size must be at least 1, got 0"),
        (
            lambda: UpdateSettings(micro_batch_tokens=0),
            "micro_batch_tokens must be at least 1, got",
        ),
        (lambda: UpdateSettings(inner_epochs=0), "inner_epochs must be at least 1, got 0"),
        (lambda: UpdateSettings(clip_norm=0.0), "clip_norm must be above 0, got 0.0; use inf"),
    ],
)
def test_bad_settings_are_named(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
