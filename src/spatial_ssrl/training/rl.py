"""Reinforcement learning from verified answers."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from functools import partial

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.optim import AdamW

from spatial_ssrl.algorithms import Algorithm
from spatial_ssrl.core.batches import Feedback, PromptBatch, Rollouts, ScoredRollouts
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Verdict
from spatial_ssrl.core.seeding import seed_for
from spatial_ssrl.policies.base import Collator, PolicyBackbone
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.rollout.base import RolloutEngine
from spatial_ssrl.training.held_out import answer_greedily, judge
from spatial_ssrl.training.metrics import (
    Metrics,
    StageTimer,
    peak_memory_gib,
    reported,
    rollout_metrics,
)
from spatial_ssrl.training.module import PolicyModule
from spatial_ssrl.training.settings import ScheduleSettings, UpdateSettings
from spatial_ssrl.training.updates import micro_batches, score_in_micro_batches
from spatial_ssrl.verifiers.base import Verifier


class RLModule(PolicyModule):
    """Samples groups of completions, verifies them, and reinforces the better ones.

    The policy stays in evaluation mode, gradients on: sampling and scoring must see the same
    network, so no dropout and no batch statistics.

    Args:
        policy: The policy to train, usually after a cold start.
        algorithm: Rewards to advantages to loss.
        rollout: Samples completions; None lets the training model do it in process.
        verifier: Judges completions; None takes 0.9 accuracy and 0.1 format.
        group_size: Completions of each question, compared with one another.
        sampling: Length limit and temperature of those completions.
        optimizer: Builds the optimiser from the trainable parameters.
        schedule: Course of the learning rate.
        update: Micro-batches, inner epochs, clipping, and whether flat groups are dropped.
        seed: Names the completions drawn; together with the step, never the machine's state.

    Raises:
        ConfigError: If the algorithm cannot work with this group size, or the temperature
            is 0.
    """

    def __init__(
        self,
        policy: PolicyBackbone,
        algorithm: Algorithm,
        rollout: RolloutEngine | None = None,
        verifier: Verifier | None = None,
        group_size: int = 8,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
        optimizer: OptimizerCallable = AdamW,
        schedule: ScheduleSettings = ScheduleSettings(),  # noqa: B008
        update: UpdateSettings = UpdateSettings(),  # noqa: B008
        seed: int = 0,
    ) -> None:
        if group_size < 1:
            raise ConfigError(f"group_size must be at least 1, got {group_size}.")
        if sampling.temperature == 0:
            raise ConfigError(
                "sampling.temperature is 0, so every completion of a group would be the same; "
                "set it above 0, usually to 1."
            )
        super().__init__(policy, rollout, verifier, sampling, optimizer, schedule, update, seed)
        # Asked now, so that what cannot work fails before weights are loaded.
        algorithm.check(group_size, self.verifier.part_weights)
        self.algorithm = algorithm
        self.group_size = group_size

    def collator(self) -> Collator:
        """Return the policy's collator, without targets."""
        return self.policy.collator()

    def on_train_start(self) -> None:
        """Freeze dropout and batch statistics; fix the reference at the first start."""
        self.policy.eval()
        if self.algorithm.needs_reference:
            with self.policy.reference():
                pass

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Sample, verify, and update the policy on one batch of questions."""
        time = StageTimer()
        with time("sample"):
            seed = seed_for(self.seed, "rollouts", self.global_step)
            rollouts = self.rollout.sample(self.policy, batch, self.group_size, self.sampling, seed)
            greedy = self._greedy_rewards(batch)
        with time("verify"):
            verdicts, feedback = self._verify(batch, rollouts, greedy)
            signal = self.algorithm.has_signal(feedback)
            live = self._taking_part(signal)
        with time("score"):
            feedback = self._score(batch, rollouts, feedback, live)
            scored = self._with_advantages(rollouts, verdicts, feedback)
        metrics = rollout_metrics(batch.questions, rollouts, verdicts, signal)
        with time("update"):
            metrics.merge(self._update(batch, scored, live))
        metrics.merge(time.metrics())
        metrics.peak("peak_memory_gib", peak_memory_gib())
        self.log_training(reported(metrics))

    def _greedy_rewards(self, batch: PromptBatch) -> Tensor | None:
        """Return the reward of each question's most likely completion, (B,), when it is read."""
        if not self.algorithm.needs_greedy:
            return None
        records = answer_greedily(self.policy, self.rollout, self.verifier, batch, self.sampling)
        return torch.tensor([record.reward for record in records], device=self.device)

    def _verify(
        self, batch: PromptBatch, rollouts: Rollouts, greedy: Tensor | None
    ) -> tuple[tuple[Verdict, ...], Feedback]:
        """Judge completions; return the verdicts, and rewards as tensors."""
        verdicts = judge(self.verifier, batch.questions, rollouts)
        shape = (len(batch), self.group_size)

        def tensor(values: Iterable[float]) -> Tensor:
            return torch.tensor(list(values), dtype=torch.float32, device=self.device).view(shape)

        names = sorted({name for verdict in verdicts for name in verdict.parts})
        return verdicts, Feedback(
            rewards=tensor(verdict.reward for verdict in verdicts),
            parts={name: tensor(v.parts.get(name, math.nan) for v in verdicts) for name in names},
            weights=self.verifier.part_weights,
            mask=rollouts.mask,
            greedy_rewards=greedy,
            truncated=rollouts.truncated,
        )

    def _taking_part(self, signal: Tensor) -> list[int]:
        """Return the questions an update learns from."""
        if not self.update.drop_flat_groups:
            return list(range(len(signal)))
        return [int(row) for row in signal.nonzero()]

    def _score(
        self, batch: PromptBatch, rollouts: Rollouts, feedback: Feedback, live: list[int]
    ) -> Feedback:
        """Add old and reference log-probabilities, of the groups that take part."""
        old, reference = rollouts.logprobs, None
        score = partial(
            score_in_micro_batches,
            self.policy,
            batch,
            rollouts,
            live,
            self.update.micro_batch_size,
            self.sampling,
        )
        if old is None or self.algorithm.needs_old_scores:
            old = score()
        if self.algorithm.needs_reference:
            with self.policy.reference():
                reference = score()
        return replace(feedback, old_logprobs=old, ref_logprobs=reference)

    def _with_advantages(
        self, rollouts: Rollouts, verdicts: tuple[Verdict, ...], feedback: Feedback
    ) -> ScoredRollouts:
        assert feedback.old_logprobs is not None
        return ScoredRollouts(
            rollouts=rollouts,
            verdicts=verdicts,
            rewards=feedback.rewards,
            advantages=self.algorithm.advantages(feedback),
            old_logprobs=feedback.old_logprobs,
            ref_logprobs=feedback.ref_logprobs,
        )

    def _update(self, batch: PromptBatch, scored: ScoredRollouts, live: list[int]) -> Metrics:
        """Take `inner_epochs` optimiser steps on scored completions; return the last's metrics.

        The loss divides by the whole batch, dropped groups included, so that dropping them
        leaves the policy gradient as it is. When no group carries a signal the step is counted
        but, there being no gradient, changes no weight.
        """
        normaliser = self.algorithm.normaliser(scored.rollouts.mask.sum(dim=1))
        for _ in range(self.update.inner_epochs):
            metrics, total = Metrics(), torch.zeros((), device=self.device)
            for part in micro_batches(
                self.policy, batch, scored, live, self.update.micro_batch_size
            ):
                logprobs = self.policy.logprobs(part.prompts, part.rollouts, self.sampling)
                output = self.algorithm.loss(part.loss_inputs(logprobs), normaliser)
                self.manual_backward(output.loss)
                metrics.add_stats(output.stats)
                total += output.loss.detach()
            metrics.count("loss", total)
            for name, value in self.step_optimizer().items():
                metrics.add(name, value)
        metrics.count("groups_used", len(live))
        return metrics
