"""The parts of one update: which groups take part, in which micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spatial_ssrl.core.batches import LossInputs, PromptBatch, Rollouts, ScoredRollouts
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.sampling import SamplingSettings


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The questions of one forward pass, with everything their loss reads.

    Args:
        prompts: b questions.
        rollouts: Their n = b * G completions, cut to the longest of them.
        advantages: Of each token, shape (n, c).
        old_logprobs: Shape (n, c).
        ref_logprobs: Shape (n, c), or None.
    """

    prompts: PromptBatch
    rollouts: Rollouts
    advantages: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor | None

    def loss_inputs(self, logprobs: Tensor) -> LossInputs:
        """Return what a loss reads, given log-probabilities with gradient, shape (n, c)."""
        return LossInputs(
            logprobs=logprobs,
            old_logprobs=self.old_logprobs,
            ref_logprobs=self.ref_logprobs,
            sampling_logprobs=self.rollouts.logprobs,
            advantages=self.advantages,
            mask=self.rollouts.mask,
        )


def select_rollouts(rollouts: Rollouts, questions: Sequence[int]) -> tuple[Rollouts, Tensor]:
    """Return the completions of some questions, cut to the longest, and their row numbers."""
    device, group = rollouts.tokens.device, rollouts.group_size
    first = torch.tensor(questions, device=device).unsqueeze(1) * group
    rows = (first + torch.arange(group, device=device)).flatten()
    width = int(rollouts.mask[rows].sum(dim=1).max())
    chosen = replace(
        rollouts,
        tokens=rollouts.tokens[rows, :width],
        mask=rollouts.mask[rows, :width],
        logprobs=None if rollouts.logprobs is None else rollouts.logprobs[rows, :width],
        texts=tuple(rollouts.texts[row] for row in rows.tolist()),
        truncated=rollouts.truncated[rows],
    )
    return chosen, rows


def micro_batches(
    policy: PolicyBackbone,
    prompts: PromptBatch,
    scored: ScoredRollouts,
    questions: Sequence[int],
    size: int,
) -> Iterator[MicroBatch]:
    """Yield the chosen questions of a scored batch, at most `size` alike ones at a time."""
    for chunk in prompts.alike(questions, size):
        rollouts, rows = select_rollouts(scored.rollouts, chunk)
        width = rollouts.tokens.shape[1]
        reference = scored.ref_logprobs
        yield MicroBatch(
            prompts=policy.select(prompts, chunk),
            rollouts=rollouts,
            advantages=scored.advantages[rows, :width],
            old_logprobs=scored.old_logprobs[rows, :width],
            ref_logprobs=None if reference is None else reference[rows, :width],
        )


@torch.no_grad()
def score_in_micro_batches(
    policy: PolicyBackbone,
    prompts: PromptBatch,
    rollouts: Rollouts,
    questions: Sequence[int],
    size: int,
    sampling: SamplingSettings,
) -> Tensor:
    """Return log-probabilities of completions without gradient, shape (N, C), float32.

    Only the chosen questions are scored; the rows of the others stay 0.
    """
    scores = torch.zeros(rollouts.tokens.shape, device=rollouts.tokens.device)
    for chunk in prompts.alike(questions, size):
        chosen, rows = select_rollouts(rollouts, chunk)
        values = policy.logprobs(policy.select(prompts, chunk), chosen, sampling)
        scores[rows, : values.shape[1]] = values.float()
    return scores
