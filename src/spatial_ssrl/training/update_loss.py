"""The loss of one update, a few questions at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from spatial_ssrl.algorithms import Algorithm
from spatial_ssrl.core.batches import LossOutput, PromptBatch, ScoredRollouts
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.training.distributed import gather
from spatial_ssrl.training.failures import bad_update
from spatial_ssrl.training.settings import UpdateSettings
from spatial_ssrl.training.updates import micro_batches


@dataclass(frozen=True, slots=True)
class UpdateLoss:
    """What an algorithm says of scored completions under the present weights.

    Args:
        policy: The weights that are trained.
        algorithm: Whose loss.
        sampling: The distribution completions were drawn from.
        settings: Limits of micro-batches.
        prompts: B questions.
        scored: Their completions.
        live: Numbers of the questions to learn from.
    """

    policy: PolicyBackbone
    algorithm: Algorithm
    sampling: SamplingSettings
    settings: UpdateSettings
    prompts: PromptBatch
    scored: ScoredRollouts
    live: frozenset[int]

    def normaliser(self, share: Sequence[int]) -> float:
        """Return what the loss of an optimiser step divides by.

        That is all of its share of the questions in all processes, those that are left out
        included, so that leaving them out keeps the policy gradient as it is.

        Args:
            share: This process's questions of the optimiser step.
        """
        rollouts = self.scored.rollouts
        group = rollouts.group_size
        lengths = rollouts.mask.sum(dim=1).view(len(rollouts) // group, group)  # B may be 0.
        lengths = lengths[list(share)].flatten()
        everywhere = torch.cat(gather(lengths.cpu(), "counting tokens"))
        return self.algorithm.normaliser(everywhere) if len(everywhere) else 1.0

    def parts(self, share: Sequence[int], normaliser: float) -> Iterator[LossOutput]:
        """Yield the loss of one micro-batch after another of the live questions of a share."""
        rows = [row for row in share if row in self.live]
        limits = self.settings.micro_batch_size, self.settings.micro_batch_tokens
        for part in micro_batches(self.policy, self.prompts, self.scored, rows, *limits):
            logprobs = self.policy.logprobs(part.prompts, part.rollouts, self.sampling)
            yield self.algorithm.loss(part.loss_inputs(logprobs), normaliser)

    def culprit(
        self, share: Sequence[int], normaliser: float, parameters: Sequence[nn.Parameter]
    ) -> str | None:
        """Return which question's loss or gradient is not finite, in words; see `bad_update`."""
        return bad_update(
            self.prompts.questions,
            [row for row in share if row in self.live],
            lambda row: (part.loss for part in self.parts([row], normaliser)),
            parameters,
        )
