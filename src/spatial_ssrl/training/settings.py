"""How weights are updated: micro-batches, clipping, and the course of the learning rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.tasks import TASKS

FlatGroups = Literal["skip", "keep", "resample"]


@dataclass(frozen=True)
class UpdateSettings:
    """How the gradients of one training step are made and applied.

    Args:
        micro_batch_size: Questions, with all their completions, in one forward and backward
            pass; lowers memory, changes nothing else.
        micro_batch_tokens: Most tokens in one forward and backward pass, those of prompts, of
            completions and of padding; None sets no limit. A group beyond it is split, and its
            prompt read once for each part; a single completion is never split. Lowers memory,
            changes nothing else.
        inner_epochs: Passes over the same completions; 1 stays on-policy. The cold start always
            takes one.
        mini_batches: Optimiser steps of one such pass, each on its share of the questions and
            divided by what that share holds. The cold start always takes one.
        clip_norm: Largest gradient norm; `inf` turns clipping off.
        flat_groups: What becomes of groups without signal, such as those whose rewards are all
            equal; one answer for all tasks, or one for each task by its key, "skip" for tasks
            left out. "skip" leaves them out of the passes: they add no policy gradient, only
            cost. The loss still divides by the whole batch; a divergence term, which would
            pull even these groups towards the reference, is left out with them. "keep" makes
            them take part. "resample" puts others in their places: groups of further batches,
            those that are left over waiting for the next update (dynamic sampling).
        resample_batches: Further batches that are sampled for one update at most; then it learns
            from what there is.
        self_check: Before the first step, make sure that ways of computing the same
            log-probabilities agree on a few questions, and during the first steps that all that
            is trained gets a gradient. Takes about as long as a step; not repeated on resuming.

    References:
        Dynamic sampling: DAPO, arXiv:2503.14476, section 3.2.
    """

    micro_batch_size: int = 8
    micro_batch_tokens: int | None = None
    inner_epochs: int = 1
    mini_batches: int = 1
    clip_norm: float = 1.0
    flat_groups: FlatGroups | dict[str, FlatGroups] = "skip"
    resample_batches: int = 3
    self_check: bool = True

    def __post_init__(self) -> None:
        for name in ("micro_batch_size", "inner_epochs", "mini_batches", "resample_batches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"update.{name} must be at least 1, got {getattr(self, name)}.")
        if self.micro_batch_tokens is not None and self.micro_batch_tokens < 1:
            raise ConfigError(
                f"update.micro_batch_tokens must be at least 1, got {self.micro_batch_tokens}; "
                "leave it out to set no limit."
            )
        if not self.clip_norm > 0:
            raise ConfigError(
                f"update.clip_norm must be above 0, got {self.clip_norm}; "
                "use inf to turn clipping off."
            )
        by_task = isinstance(self.flat_groups, dict)
        choices = self.flat_groups if isinstance(self.flat_groups, dict) else {"": self.flat_groups}
        for task, choice in choices.items():
            key = f"update.flat_groups.{task}" if by_task else "update.flat_groups"
            if choice not in get_args(FlatGroups):
                raise ConfigError(f'{key} must be "skip", "keep" or "resample", got {choice!r}.')
            if by_task and task not in tuple(TASKS):
                raise ConfigError(f"{key}: {TASKS.explain_unknown(task)}")

    @property
    def optimizer_steps(self) -> int:
        """Optimiser steps of one update in RL."""
        return self.inner_epochs * self.mini_batches

    @property
    def resamples(self) -> bool:
        """Whether groups without signal are replaced, of any task."""
        chosen = self.flat_groups
        return "resample" in (chosen.values() if isinstance(chosen, dict) else (chosen,))

    def flat_groups_of(self, task: str) -> FlatGroups:
        """Return what becomes of groups without signal of one task."""
        if isinstance(self.flat_groups, dict):
            return self.flat_groups.get(task, "skip")
        return self.flat_groups


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
