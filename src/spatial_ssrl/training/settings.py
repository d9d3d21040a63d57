"""How weights are updated: micro-batches, clipping, and the course of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from spatial_ssrl.core.errors import ConfigError


@dataclass(frozen=True)
class UpdateSettings:
    """How the gradient of one training step is made and applied.

    Args:
        micro_batch_size: Questions, with all their completions, in one forward and backward
            pass; lowers memory, changes nothing else.
        inner_epochs: Optimiser steps on the same completions; 1 stays on-policy. The cold
            start always takes one.
        clip_norm: Largest gradient norm; `inf` turns clipping off.
        drop_flat_groups: Leave out groups whose advantages are all zero: they add no policy
            gradient, only cost. With a divergence term they would still pull towards the
            reference, which is left out too.
    """

    micro_batch_size: int = 8
    inner_epochs: int = 1
    clip_norm: float = 1.0
    drop_flat_groups: bool = True

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "inner_epochs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"update.{name} must be at least 1, got {getattr(self, name)}.")
        if not self.clip_norm > 0:
            raise ConfigError(
                f"update.clip_norm must be above 0, got {self.clip_norm}; "
                "use inf to turn clipping off."
            )


@dataclass(frozen=True)
class ScheduleSettings:
    """The course of the learning rate over the optimiser steps of a run.

    Args:
        kind: "constant", "linear" or "cosine" from the peak down to `final`; the last two
            need a run of known length.
        warmup_steps: Optimiser steps over which the rate rises linearly to its peak.
        final: Rate at the last step, as a share of the peak, in [0, 1].
    """

    kind: Literal["constant", "linear", "cosine"] = "constant"
    warmup_steps: int = 0
    final: float = 0.05

    def __post_init__(self) -> None:
        if self.kind not in ("constant", "linear", "cosine"):
            raise ConfigError(
                f'schedule.kind must be "constant", "linear" or "cosine", got {self.kind!r}.'
            )
        if self.warmup_steps < 0:
            raise ConfigError(f"schedule.warmup_steps must be 0 or more, got {self.warmup_steps}.")
        if not 0 <= self.final <= 1:
            raise ConfigError(f"schedule.final must be in [0, 1], got {self.final}.")

    def factor(self, step: int, total_steps: int) -> float:
        """Return the share of the peak rate at optimiser step `step`, counted from 0."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.kind == "constant":
            return 1.0
        length = max(total_steps - 1 - self.warmup_steps, 1)
        passed = min((step - self.warmup_steps) / length, 1.0)
        if self.kind == "cosine":
            passed = (1 - math.cos(math.pi * passed)) / 2
        return 1.0 + (self.final - 1.0) * passed

    def scheduler(self, optimizer: Optimizer, total_steps: int | None) -> LambdaLR:
        """Return a scheduler to be stepped after every optimiser step.

        Args:
            optimizer: Its groups' rates are the peak.
            total_steps: Optimiser steps of the run; None when the run has no end.

        Raises:
            ConfigError: If the rate is to fall over a run without end.
        """
        if total_steps is None and self.kind != "constant":
            raise ConfigError(
                f"schedule.kind {self.kind!r} needs to know the end of the run; "
                "set trainer.max_steps."
            )
        return LambdaLR(optimizer, lambda step: self.factor(step, total_steps or 0))
