"""Reinforcement learning from verified answers."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from spatial_ssrl.algorithms import Algorithm
from spatial_ssrl.core.batches import PromptBatch, Rollouts, ScoredRollouts
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.seeding import seed_for
from spatial_ssrl.policies.base import Collator, PolicyBackbone
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.rollout.base import RolloutEngine
from spatial_ssrl.training.buffer import GroupBuffer
from spatial_ssrl.training.failures import bad_reward, stop_if_any, within_memory
from spatial_ssrl.training.groups import Groups, feedback_of, of_all_processes
from spatial_ssrl.training.held_out import judge, sample_greedily
from spatial_ssrl.training.intervals import check_intervals
from spatial_ssrl.training.metrics import (
    Metrics,
    StageTimer,
    cost_metrics,
    reported,
    rollout_metrics,
)
from spatial_ssrl.training.mini_batches import shares_of
from spatial_ssrl.training.module import PolicyModule
from spatial_ssrl.training.optimizers import RL_RATES
from spatial_ssrl.training.settings import ScheduleSettings, UpdateSettings
from spatial_ssrl.training.update_loss import UpdateLoss
from spatial_ssrl.training.updates import score_in_micro_batches
from spatial_ssrl.verifiers.base import Verifier

_SAMPLING = "sampling"


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
        optimizer: Builds the optimiser from the trainable parameters; None takes AdamW with a
            learning rate of 1e-5 for adapters, 1e-6 for every weight of a pretrained model
            and 1e-3 from scratch (the sources are in `training/optimizers.py`).
        schedule: Course of the learning rate.
        update: Micro-batches, mini-batches, inner epochs, clipping, and what becomes of groups
            without signal.
        seed: Names the completions drawn; together with the step, never the machine's state.

    Raises:
        ConfigError: If the algorithm cannot work with this group size, or the temperature
            is 0.
    """

    rates = RL_RATES

    def __init__(
        self,
        policy: PolicyBackbone,
        algorithm: Algorithm,
        rollout: RolloutEngine | None = None,
        verifier: Verifier | None = None,
        group_size: int = 8,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
        optimizer: OptimizerCallable | None = None,
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
        self.buffer = GroupBuffer()
        self.sampled_batches = 0  # Names completions: not every batch leads to a step.

    def collator(self) -> Collator:
        """Return the policy's collator, without targets."""
        return self.policy.collator()

    def on_fit_start(self) -> None:
        """Refuse mini-batches and checkpoints that would come out otherwise than they read.

        Raises:
            ConfigError: If a batch has fewer questions than mini-batches, or checkpoints would
                be left out because an update takes several optimiser steps.
        """
        super().on_fit_start()
        batch = getattr(getattr(self.trainer, "datamodule", None), "batch_size", math.inf)
        if batch < self.update.mini_batches:
            raise ConfigError(
                f"update.mini_batches is {self.update.mini_batches}, more than the questions of "
                f"a step (data.batch_size is {batch}); lower it."
            )
        check_intervals(self.trainer, self.steps_of_update)

    def on_train_start(self) -> None:
        """Freeze dropout and batch statistics; fix the reference at the first start."""
        self.policy.eval()
        if self.algorithm.needs_reference:
            with self.policy.reference():
                pass

    @within_memory
    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        """Sample, verify, and update the policy, unless the update waits for more groups."""
        time, tokens = StageTimer(), self.policy.tokens
        with time("sample"):
            rollouts, greedy = self._sample(batch)
        with time("verify"):
            groups = self._judge(batch.questions, rollouts, greedy)
            metrics = rollout_metrics(groups)
        with time("score"):
            groups = self._with_old_logprobs(batch, groups)
            update = self._groups_of_update(batch, groups)
            scored = None if update is None else self._with_advantages(*update)
        if update is not None and scored is not None:
            with time("update"):
                metrics.merge(self._update(*update, scored))
        metrics.add("groups_waiting", len(self.buffer))
        metrics.merge(cost_metrics(time, self.policy.tokens - tokens, self.device))
        self.log_training(reported(metrics))

    # Sampling and verifying.

    def _sample(self, batch: PromptBatch) -> tuple[Rollouts, Tensor | None]:
        """Return completions, and the rewards of the most likely ones, (B,), if they are read."""
        seed = seed_for(self.seed, "rollouts", self.sampled_batches)
        self.sampled_batches += 1
        rollouts = self.rollout.sample(self.policy, batch, self.group_size, self.sampling, seed)
        if not self.algorithm.needs_greedy:
            return rollouts, None
        likely = sample_greedily(self.policy, self.rollout, batch, self.sampling)
        verdicts = judge(self.verifier, batch.questions, likely)
        self._refuse(bad_reward(batch.questions, verdicts, 1, type(self.verifier).__name__))
        rewards = torch.tensor([verdict.reward for verdict in verdicts], device=self.device)
        return rollouts, self.algorithm.shaped(rewards, likely.mask.sum(dim=1))

    def _judge(
        self, questions: tuple[Question, ...], rollouts: Rollouts, greedy: Tensor | None
    ) -> Groups:
        """Judge completions, and find the groups that an update would learn from."""
        verdicts = judge(self.verifier, questions, rollouts)
        self._refuse(bad_reward(questions, verdicts, self.group_size, type(self.verifier).__name__))
        feedback = feedback_of(rollouts, verdicts, self.verifier.part_weights, greedy)
        everywhere, here = of_all_processes(feedback)
        signal = self.algorithm.has_signal(everywhere)[here]
        kept = [self.update.flat_groups_of(question.task) == "keep" for question in questions]
        return Groups(
            questions=questions,
            rollouts=rollouts,
            verdicts=verdicts,
            greedy_rewards=greedy,
            has_signal=signal,
            takes_part=signal | torch.tensor(kept, device=signal.device),
        )

    def _groups_of_update(
        self, batch: PromptBatch, groups: Groups
    ) -> tuple[PromptBatch, Groups] | None:
        """Return what an update learns from now, or None to wait for more.

        Without resampling that is the batch. With it, groups that are to be replaced are left
        out, and the others wait until they fill a batch.
        """
        if not self.update.resamples:
            return batch, groups
        taken = self.buffer.exchange(groups, self.update)
        if taken is None:
            return None
        if taken is groups or not len(taken):
            return batch, taken  # No prompt is read for no group.
        # Collated anew: batches are padded differently.
        prompts: PromptBatch = self.collator()(taken.questions)
        return prompts.to(self.device), taken.to(self.device)

    # Scoring.

    def _with_old_logprobs(self, prompts: PromptBatch, groups: Groups) -> Groups:
        """Add log-probabilities under the weights that sampled, which are still the present."""
        old = groups.rollouts.logprobs
        if old is None or self.scores_anew or bool(old.isnan().any()):
            old = self._scores(prompts, groups)
        return replace(groups, old_logprobs=old)

    @property
    def scores_anew(self) -> bool:
        """Whether old log-probabilities are scored although sampling has kept them."""
        return self.algorithm.needs_old_scores and not self._is_one_step

    @property
    def _is_one_step(self) -> bool:
        """Whether the weights of an update's only optimiser step are those that sampled."""
        return self.update.optimizer_steps == 1 and not self.update.resamples

    def _with_advantages(self, prompts: PromptBatch, groups: Groups) -> ScoredRollouts:
        """Add reference log-probabilities and advantages."""
        assert groups.old_logprobs is not None
        reference = None
        if self.algorithm.needs_reference:
            with self.policy.reference():
                reference = self._scores(prompts, groups)
        rollouts, weights = groups.rollouts, self.verifier.part_weights
        feedback = replace(
            feedback_of(rollouts, groups.verdicts, weights, groups.greedy_rewards),
            old_logprobs=groups.old_logprobs,
            ref_logprobs=reference,
        )
        everywhere, here = of_all_processes(feedback)
        advantages, size = self.algorithm.advantages(everywhere), self.group_size
        return ScoredRollouts(
            rollouts=rollouts,
            verdicts=groups.verdicts,
            rewards=feedback.rewards,
            advantages=advantages[here.start * size : here.stop * size, : rollouts.mask.shape[1]],
            old_logprobs=None if self._is_one_step else groups.old_logprobs,
            ref_logprobs=reference,
        )

    def _scores(self, prompts: PromptBatch, groups: Groups) -> Tensor:
        return score_in_micro_batches(
            self.policy,
            prompts,
            groups.rollouts,
            groups.rows(),
            self.update.micro_batch_size,
            self.sampling,
            self.update.micro_batch_tokens,
        )

    # Updating.

    def _update(self, prompts: PromptBatch, groups: Groups, scored: ScoredRollouts) -> Metrics:
        """Take the optimiser steps of one update; return the metrics of its last inner epoch."""
        live = frozenset(groups.rows())
        loss = UpdateLoss(
            self.policy, self.algorithm, self.sampling, self.update, prompts, scored, live
        )
        for epoch in range(self.update.inner_epochs):
            metrics, count = Metrics(), self.update.mini_batches
            order = ("order", self.sampled_batches, epoch)
            for share in shares_of(groups.questions, count, self.seed, *order):
                metrics.merge(self._take_step(loss, share))
        metrics.count("groups_used", len(live))
        return metrics

    def _take_step(self, loss: UpdateLoss, share: list[int]) -> Metrics:
        """Take one optimiser step on a share of the questions.

        When none carries a signal the step is counted but, there being no gradient, changes no
        weight.
        """
        metrics, total = Metrics(), torch.zeros((), device=self.device)
        normaliser = loss.normaliser(share)
        for part in loss.parts(share, normaliser):
            self.manual_backward(part.loss)
            metrics.add_stats(part.stats)
            total += part.loss.detach()
        culprit = partial(loss.culprit, share, normaliser, self.trainable_parameters())
        self.check_loss(total, culprit)
        metrics.count("loss", total / self.update.mini_batches)
        for name, value in self.step_optimizer(culprit).items():
            metrics.add(name, value)
        return metrics

    @property
    def steps_of_update(self) -> int:
        """Optimiser steps on one batch of questions."""
        return self.update.optimizer_steps

    def _refuse(self, problem: str | None) -> None:
        stop_if_any(self.trainer, self.global_step, problem)

    # Resuming.

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what names the next completions, and the groups that wait for an update."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[_SAMPLING] = {
            "batches": self.sampled_batches,
            "buffer": self.buffer.state_dict(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on where the checkpoint was written; one of the cold start begins anew."""
        super().on_load_checkpoint(checkpoint)
        if (state := checkpoint.get(_SAMPLING)) is None:
            return
        self.sampled_batches = state["batches"]
        self.buffer.load_state_dict(state["buffer"])
        self.buffer.drop_other_sizes(self.group_size)
