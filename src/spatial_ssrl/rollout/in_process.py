"""Sampling by the training model itself: no merge, no second copy, no staleness."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.seeding import seed_for
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.counting import TokenCount, repeated_tokens
from spatial_ssrl.policies.sampling import SamplingSettings, adjusted_logits
from spatial_ssrl.rollout.base import ROLLOUTS, RolloutEngine


@ROLLOUTS.register("in_process")
class InProcess(RolloutEngine):
    """Samples from the training model, reading each prompt once per group.

    Completions of a group that agree so far share one row of the key-value cache: the prompt is
    read once, the cache grows a row only where completions part, and completions that ended
    leave the batch. The distribution is that of independent sampling, because each completion
    draws its own random numbers.
    """

    @torch.no_grad()
    def sample(
        self,
        policy: PolicyBackbone,
        prompts: PromptBatch,
        group_size: int,
        sampling: SamplingSettings,
        seed: int,
    ) -> Rollouts:
        """Sample `group_size` completions of each prompt; see `RolloutEngine.sample`."""
        count, limit = len(prompts) * group_size, sampling.max_new_tokens
        device = prompts.input_ids.device
        uniform = _uniform(prompts, group_size, limit, seed)
        draw = _Draw(
            uniform=uniform.to(device),
            tokens=torch.zeros(count, limit, dtype=torch.long, device=device),
            mask=torch.zeros(count, limit, dtype=torch.bool, device=device),
            logprobs=torch.zeros(count, limit, device=device),
            truncated=torch.zeros(count, dtype=torch.bool, device=device),
        )
        for rows in prompts.alike():
            part = policy.select(prompts, rows) if len(rows) < len(prompts) else prompts
            questions = torch.tensor(rows, device=device)
            _sample_part(policy, part, questions, group_size, sampling, draw)
        width = int(draw.mask.sum(1).max())
        tokens, mask = draw.tokens[:, :width], draw.mask[:, :width]
        policy.tokens += TokenCount(repeated=repeated_tokens(prompts, mask))
        return Rollouts(
            tokens=tokens,
            mask=mask,
            logprobs=draw.logprobs[:, :width] if sampling.temperature > 0 else None,
            texts=policy.decode(tokens, mask),
            truncated=draw.truncated,
            group_size=group_size,
        )


def _uniform(prompts: PromptBatch, group_size: int, limit: int, seed: int) -> Tensor:
    """Return the random numbers of each completion, shape (N, limit), float64, on the CPU.

    Named by the question, so that they depend neither on the device, nor on which other questions
    share the batch or the process, nor on when other completions end.
    """
    rows, seen = [], Counter[str]()
    for question in prompts.questions:
        number = seed_for(seed, question.uid, seen[question.uid])
        seen[question.uid] += 1
        generator = torch.Generator().manual_seed(number)
        rows.append(torch.rand(group_size, limit, generator=generator, dtype=torch.float64))
    return torch.cat(rows)


@dataclass(frozen=True, slots=True)
class _Draw:
    """The completions being drawn, one row each: N rows, at most C tokens.

    Args:
        uniform: Random numbers in [0, 1), shape (N, C), float64.
        tokens: Shape (N, C), int64.
        mask: Shape (N, C), bool.
        logprobs: Shape (N, C), float32.
        truncated: Shape (N,), bool.
    """

    uniform: Tensor
    tokens: Tensor
    mask: Tensor
    logprobs: Tensor
    truncated: Tensor


def _sample_part(
    policy: PolicyBackbone,
    prompts: PromptBatch,
    questions: Tensor,
    group_size: int,
    sampling: SamplingSettings,
    draw: _Draw,
) -> None:
    """Draw the completions of some prompts, numbered `questions` in the whole batch."""
    device, limit = questions.device, sampling.max_new_tokens
    ends = torch.tensor(policy.end_token_ids, device=device)
    state = policy.read(prompts)
    live = (questions.unsqueeze(1) * group_size + torch.arange(group_size, device=device)).flatten()
    row = torch.arange(len(prompts), device=device).repeat_interleave(group_size)
    for step in range(limit):
        scores = policy.logits(state.hidden)
        chosen, logprobs = _choose(scores, row, draw.uniform[live, step], sampling)
        draw.tokens[live, step], draw.mask[live, step] = chosen, True
        draw.logprobs[live, step] = logprobs
        going = ~torch.isin(chosen, ends)
        live, row, chosen = live[going], row[going], chosen[going]
        if len(live) == 0 or step == limit - 1:
            break
        branches, row = torch.unique(row * scores.shape[-1] + chosen, return_inverse=True)
        parents = branches // scores.shape[-1]
        if not _is_identity(parents, len(state.hidden)):
            state = state.select(parents)
        new = (branches % scores.shape[-1]).unsqueeze(1)
        state, _ = policy.read_on(state, new, torch.ones_like(new, dtype=torch.bool))
    draw.truncated[live] = True


def _choose(
    scores: Tensor, row: Tensor, uniform: Tensor, sampling: SamplingSettings
) -> tuple[Tensor, Tensor]:
    """Draw the next token of each live completion by inverting the cumulative distribution.

    Args:
        scores: Next-token logits of each cache row, shape (R, V), float32.
        row: Cache row of each live completion, shape (L,), int64.
        uniform: One number in [0, 1) per live completion, shape (L,), float64.
        sampling: Temperature and limits; temperature 0 picks the most likely token.

    Returns:
        Tokens, shape (L,), int64, and their log-probabilities, shape (L,), float32.
    """
    if sampling.temperature == 0:
        best = scores.argmax(dim=-1)
        return best[row], torch.zeros(len(row), device=scores.device)
    logprobs = adjusted_logits(scores, sampling).log_softmax(dim=-1)
    cumulative = logprobs.double().exp().cumsum(dim=-1)[row]
    # right=True finds the first token whose sum exceeds the number: never one of zero mass.
    drawn = torch.searchsorted(
        cumulative, (uniform * cumulative[:, -1]).unsqueeze(1), right=True
    ).squeeze(1)
    drawn = drawn.clamp(max=scores.shape[-1] - 1)
    return drawn, logprobs[row, drawn]


def _is_identity(parents: Tensor, rows: int) -> bool:
    return len(parents) == rows and bool(
        (parents == torch.arange(rows, device=parents.device)).all()
    )
