"""The parts of one update: which groups take part, in which micro-batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spatial_ssrl.core.batches import LossInputs, PromptBatch, Rollouts, ScoredRollouts
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.training.parts import Part, parts_of


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The questions of one forward pass, with everything their loss reads.

    Args:
        prompts: b questions.
        rollouts: Their n completions, all or, of one question, some; cut to the longest.
        advantages: Of each token, shape (n, c).
        old_logprobs: Shape (n, c), or None; see `ScoredRollouts`.
        ref_logprobs: Shape (n, c), or None.
    """

    prompts: PromptBatch
    rollouts: Rollouts
    advantages: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None

    def loss_inputs(self, logprobs: Tensor) -> LossInputs:
        """Return what a loss reads, given log-probabilities with gradient, shape (n, c)."""
        old = self.old_logprobs
        return LossInputs(
            logprobs=logprobs,
            # Ratios are exactly 1 then, whatever sampling and scoring differ by.
            old_logprobs=logprobs.detach() if old is None else old,
            ref_logprobs=self.ref_logprobs,
            sampling_logprobs=self.rollouts.logprobs,
            advantages=self.advantages,
            mask=self.rollouts.mask,
        )


def select_rollouts(rollouts: Rollouts, questions: Sequence[int]) -> tuple[Rollouts, Tensor]:
    """Return the completions of some questions, cut to the longest, and their row numbers."""
    device, group = rollouts.tokens.device, rollouts.group_size
    first = torch.tensor(questions, dtype=torch.long, device=device).unsqueeze(1) * group
    rows = (first + torch.arange(group, device=device)).flatten()
    return _rows_of(rollouts, rows, group), rows


def _rows_of(rollouts: Rollouts, rows: Tensor, group_size: int) -> Rollouts:
    """Return the completions of some rows, cut to the longest, `group_size` a question."""
    width = max(rollouts.mask[rows].sum(dim=1).tolist(), default=0)
    return replace(
        rollouts,
        tokens=rollouts.tokens[rows, :width],
        mask=rollouts.mask[rows, :width],
        logprobs=None if rollouts.logprobs is None else rollouts.logprobs[rows, :width],
        texts=tuple(rollouts.texts[row] for row in rows.tolist()),
        truncated=rollouts.truncated[rows],
        group_size=group_size,
    )


def _of_part(rollouts: Rollouts, part: Part) -> tuple[Rollouts, Tensor]:
    rows = torch.tensor(part.completions, device=rollouts.tokens.device)
    return _rows_of(rollouts, rows, len(part.completions) // len(part.questions)), rows


def micro_batches(
    policy: PolicyBackbone,
    prompts: PromptBatch,
    scored: ScoredRollouts,
    questions: Sequence[int],
    size: int,
    tokens: int | None = None,
) -> Iterator[MicroBatch]:
    """Yield the completions of chosen questions of a scored batch, a part at a time.

    See `parts_of` for `size` and `tokens`.
    """
    for part in parts_of(policy, prompts, scored.rollouts, questions, size, tokens):
        rollouts, rows = _of_part(scored.rollouts, part)
        width = rollouts.tokens.shape[1]
        old, reference = scored.old_logprobs, scored.ref_logprobs
        yield MicroBatch(
            prompts=policy.select(prompts, part.questions),
            rollouts=rollouts,
            advantages=scored.advantages[rows, :width],
            old_logprobs=None if old is None else old[rows, :width],
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
    tokens: int | None = None,
) -> Tensor:
    """Return log-probabilities of completions without gradient, shape (N, C), float32.

    Only the chosen questions are scored; the rows of the others stay 0. See `parts_of` for
    `size` and `tokens`.
    """
    scores = torch.zeros(rollouts.tokens.shape, device=rollouts.tokens.device)
    for part in parts_of(policy, prompts, rollouts, questions, size, tokens):
        chosen, rows = _of_part(rollouts, part)
        values = policy.logprobs(policy.select(prompts, part.questions), chosen, sampling)
        scores[rows, : values.shape[1]] = values.float()
    return scores
