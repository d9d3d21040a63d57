"""What is decided for code that is rehearsed, where ghosts have no numbers to decide it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.planning import parts
from spatial_ssrl.policies.base import ReadState
from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.rollout.parts import Part

if TYPE_CHECKING:
    from spatial_ssrl.planning.rehearsal import Rehearsal

# Steps of sampling that are rehearsed: the first, in which completions part, the last two, one
# completion ending between them, and one before in which the cache grows.
STEPS = 4

# Passes of scoring that are rehearsed.
_PASSES = 2


class Scripted(InProcess):
    """Decides what ghosts cannot: which tokens are drawn, and that most steps are left out.

    All completions of a question part at the first token, or at the second where they outnumber
    the vocabulary. One of them ends a step before the
    last, for which the cache of the others is copied: the most that sampling ever keeps.

    Args:
        rehearsal: Whose policy samples.
        batch_tokens: See `InProcess`.
        length: Tokens of a completion, of which few are drawn.
    """

    def __init__(self, rehearsal: Rehearsal, batch_tokens: int | None, length: int) -> None:
        super().__init__(batch_tokens)
        self.rehearsal, self.length, self.decoded = rehearsal, length, 0

    def divide(self, prompts: PromptBatch, group: int, limit: int, once: bool) -> Iterator[Part]:
        """Yield the first part, as it is for completions in full."""
        yield next(super().divide(prompts, group, self.length, once))

    def choose(self, scores: Tensor, row: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        """Draw as always, for the memory of it, and take other tokens."""
        policy = self.rehearsal.policy
        drawn, logprobs = super().choose(scores, row, *rest)
        tokens = parting_tokens(policy, len(drawn), self.decoded)
        if len(drawn) > 1 and self.decoded == min(self.length, STEPS) - 2:
            tokens[-1] = policy.end_token_ids[0]
        stage = self.rehearsal.stage
        stage.ledger.enter(f"{stage.name}: chosen", parts.COMPLETION_CACHE)
        return tokens, logprobs

    @contextmanager
    def skipping(self) -> Iterator[None]:
        """Let the policy find most of a completion said at its second step."""
        policy: Any = self.rehearsal.policy
        read_on = policy.read_on

        def read_or_skip(state: ReadState, *rest: Any) -> Any:
            self.decoded += 1
            if self.decoded == 1:
                # Moments of their own: a model with few layers is at its peak while prompts are
                # read, one with many when completions are long.
                self.rehearsal.stage.enter("saying", parts.COMPLETION_CACHE)
            if self.decoded == 2 and self.length > STEPS:
                state = self.rehearsal.skip(state, self.length - STEPS)
            return read_on(state, *rest)

        policy.read_on = read_or_skip
        try:
            yield
        finally:
            del policy.read_on


@contextmanager
def first_passes(policy: Any) -> Iterator[None]:
    """Leave out all passes of scoring but the first two.

    Passes are alike and the first of a group is its largest; the second finds what is left of
    the one before, as all later ones do.
    """
    logprobs, done = policy.logprobs, 0

    def scored_or_zero(prompts: Any, rollouts: Rollouts, *rest: Any) -> Tensor:
        nonlocal done
        done += 1
        if done > _PASSES:
            return torch.zeros(rollouts.tokens.shape)
        scores: Tensor = logprobs(prompts, rollouts, *rest)
        return scores

    policy.logprobs = scored_or_zero
    try:
        yield
    finally:
        del policy.logprobs


def parting_tokens(policy: HFVisionLanguagePolicy, count: int, step: int) -> Tensor:
    """Return a token of text for each completion, none of which ends it.

    A completion says its number, digit by digit, the lowest first: each step parts as many of
    them as can be.

    Args:
        policy: Whose tokens they are.
        count: Completions, L.
        step: Which of their tokens, from 0.

    Returns:
        Shape (L,), int64.
    """
    others = torch.tensor([*policy.end_token_ids, *policy.media_token_ids])
    tokens = torch.arange(min(policy.vocabulary_size, count + len(others)))
    tokens = tokens[~torch.isin(tokens, others)]
    return tokens[torch.arange(count) // len(tokens) ** step % len(tokens)]
