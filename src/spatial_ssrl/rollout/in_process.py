"""Sampling by the training model itself: no merge, no second copy, no staleness."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.base import PolicyBackbone, ReadState
from spatial_ssrl.policies.counting import TokenCount, repeated_tokens
from spatial_ssrl.policies.sampling import SamplingSettings, adjusted_logits
from spatial_ssrl.rollout.base import ROLLOUTS, RolloutEngine
from spatial_ssrl.rollout.continuing import Branching, Continuation, Recorded, Recorder
from spatial_ssrl.rollout.cuda_graphs import CudaGraphs
from spatial_ssrl.rollout.measuring import Choices, Measured
from spatial_ssrl.rollout.noise import completion_numbers
from spatial_ssrl.rollout.parts import Part, parts
from spatial_ssrl.rollout.stops import StopTexts

Graphs = Literal["never", "always", "measured"]


@ROLLOUTS.register("in_process")
class InProcess(RolloutEngine):
    """Samples from the training model, reading each prompt once per group.

    Completions of a group that agree so far share one row of the key-value cache: the prompt is
    read once, the cache grows a row only where completions part, and completions that ended
    leave the batch. The distribution is that of independent sampling, because each completion
    draws its own random numbers. These are named by seed, question and completion alone, so a
    completion depends neither on the rest of the batch nor on how it is split.

    Args:
        batch_tokens: Most tokens whose keys and values are kept at once, counted as if every
            completion reached the length limit; a batch that needs more is sampled in parts,
            which changes memory and time, not completions. None samples all at once.
        cuda_graphs: Whether a step of decoding is recorded and launched at once instead of kernel
            by kernel, for models so fast that launching takes longer than computing. Each
            completion has a row of its own then, with room for up to twice the tokens it said.
            "measured" times both ways in the first batch that may have more than 28 tokens, on
            tokens that count, and goes on by the faster; each process for itself, and anew for
            half or twice as many completions. The two round differently, and a resumed run may
            find the other one faster. Does nothing on other devices, nor for models with
            sliding windows. The first recording is checked against the plain step, and where
            recording fails sampling goes on without. "never" all the same unless asked for: no
            card was at hand to try it on, and some errors of CUDA's cannot be recovered from.

    Raises:
        ConfigError: If `batch_tokens` is less than 1, or `cuda_graphs` is none of the three.
    """

    def __init__(self, batch_tokens: int | None = None, cuda_graphs: Graphs = "never") -> None:
        if batch_tokens is not None and batch_tokens < 1:
            raise ConfigError(
                f"batch_tokens must be at least 1, got {batch_tokens}; "
                "leave it out to set no limit."
            )
        if cuda_graphs not in get_args(Graphs):
            raise ConfigError(
                f'cuda_graphs must be "never", "always" or "measured", got {cuda_graphs!r}; '
                "leave it out to decode without them."
            )
        self.batch_tokens = batch_tokens
        self.cuda_graphs = cuda_graphs
        self._graphs, self._choices = CudaGraphs(), Choices()

    def sample(
        self,
        policy: PolicyBackbone,
        prompts: PromptBatch,
        group_size: int,
        sampling: SamplingSettings,
        seed: int,
    ) -> Rollouts:
        """Sample `group_size` completions of each prompt; see `RolloutEngine.sample`."""
        draw = _Draw.start(prompts, group_size, sampling, seed)
        once, limit = policy.keeps_prompts_once, sampling.max_new_tokens
        # What is drawn into was made outside, so that later losses may hold on to it.
        with torch.inference_mode():  # A tenth faster than `no_grad` on small models.
            for part in self.divide(prompts, group_size, limit, once):
                _sample_part(self, policy, prompts, part, group_size, sampling, draw)
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

    def divide(self, prompts: PromptBatch, group: int, limit: int, once: bool) -> Iterator[Part]:
        """Yield what is sampled together; see `rollout.parts.parts`."""
        return parts(prompts, group, limit, self.batch_tokens, once)

    def continuation(self, policy: PolicyBackbone, state: ReadState, limit: int) -> Continuation:
        """Return how completions of at most `limit` tokens go on from what was read."""
        recorder = self.recorder(state.hidden.device)
        if recorder is None or not policy.has_fixed_steps:
            return Branching(policy, state)
        if self.cuda_graphs == "measured":
            return Measured(policy, state, limit, recorder, self._choices)
        return Recorded(policy, state, limit, recorder)

    def recorder(self, device: torch.device) -> Recorder | None:
        """Return how steps of decoding are recorded on a device; None if they are not."""
        if self.cuda_graphs == "never" or device.type != "cuda" or self._graphs.given_up:
            return None
        return self._graphs

    def choose(self, scores: Tensor, row: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        """Draw the next tokens; see `_choose`."""
        return _choose(scores, row, *rest)


@dataclass(frozen=True, slots=True)
class _Draw:
    """The completions being drawn, one row each: N rows, at most C tokens.

    Args:
        uniform: Random numbers in [0, 1), shape (N, C), float64; zeros when none are drawn.
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

    @staticmethod
    def start(
        prompts: PromptBatch, group_size: int, sampling: SamplingSettings, seed: int
    ) -> _Draw:
        """Return empty completions and the numbers they will be drawn with."""
        shape = (len(prompts) * group_size, sampling.max_new_tokens)
        device = prompts.input_ids.device
        uids = [question.uid for question in prompts.questions]
        greedy = sampling.temperature == 0
        return _Draw(
            uniform=torch.zeros(1, dtype=torch.float64, device=device).expand(shape)
            if greedy
            else completion_numbers(seed, uids, group_size, sampling.max_new_tokens).to(device),
            tokens=torch.zeros(shape, dtype=torch.long, device=device),
            mask=torch.zeros(shape, dtype=torch.bool, device=device),
            logprobs=torch.zeros(shape, device=device),
            truncated=torch.zeros(shape[0], dtype=torch.bool, device=device),
        )


def _sample_part(
    engine: InProcess,
    policy: PolicyBackbone,
    prompts: PromptBatch,
    part: Part,
    group_size: int,
    sampling: SamplingSettings,
    draw: _Draw,
) -> None:
    """Draw some completions of some prompts."""
    device, limit = prompts.input_ids.device, sampling.max_new_tokens
    ends = torch.tensor(policy.end_token_ids, dtype=torch.long, device=device)
    stops = StopTexts(policy, sampling.stop)
    alike = prompts.alike(part.questions)
    questions = torch.tensor([row for rows in alike for row in rows], device=device)
    completions = torch.arange(part.first, part.stop, device=device)
    live = (questions.unsqueeze(1) * group_size + completions).flatten()
    row = torch.arange(len(questions), device=device).repeat_interleave(len(completions))
    continuation = engine.continuation(
        policy, policy.for_sampling([_read(policy, prompts, rows) for rows in alike]), limit
    )
    for step in range(limit):
        scores = policy.logits(continuation.hidden)
        chosen, logprobs = engine.choose(
            scores, row, draw.uniform[live, step], sampling, continuation.alone
        )
        draw.tokens[live, step], draw.mask[live, step] = chosen, True
        draw.logprobs[live, step] = logprobs
        going = ~torch.isin(chosen, ends) & ~stops.completed(draw.tokens[live, : step + 1])
        # The one wait for the device of most steps: how many go on.
        going = going.nonzero().squeeze(1)
        live, row, chosen = live[going], row[going], chosen[going]
        if len(live) == 0 or step == limit - 1:
            break
        row = continuation.go_on(row, chosen)
    draw.truncated[live] = True


def _read(policy: PolicyBackbone, prompts: PromptBatch, rows: Sequence[int]) -> ReadState:
    return policy.read(policy.select(prompts, rows) if len(rows) < len(prompts) else prompts)


def _choose(
    scores: Tensor,
    row: Tensor,
    uniform: Tensor,
    sampling: SamplingSettings,
    alone: bool = False,
) -> tuple[Tensor, Tensor]:
    """Draw the next token of each live completion by inverting the cumulative distribution.

    Args:
        scores: Next-token logits of each cache row, shape (R, V), float32.
        row: Cache row of each live completion, shape (L,), int64.
        uniform: One number in [0, 1) per live completion, shape (L,), float64.
        sampling: Temperature and limits; temperature 0 picks the most likely token.
        alone: Whether it is known that no two completions are on one row.

    Returns:
        Tokens, shape (L,), int64, and their log-probabilities, shape (L,), float32.
    """
    if sampling.temperature == 0:
        best = scores.argmax(dim=-1)
        return best[row], torch.zeros(len(row), device=scores.device)
    logprobs = adjusted_logits(scores, sampling).log_softmax(dim=-1)
    cumulative = logprobs.exp().cumsum(dim=-1, dtype=torch.float64)
    # The numbers are brought to the rows, which costs nothing; the rows of a large vocabulary
    # would have to be copied to the numbers.
    place = torch.zeros_like(row) if alone else _rank(row)
    wanted = uniform.new_zeros(len(scores), 1 if alone else int(place.max()) + 1)
    wanted[row, place] = uniform * cumulative[row, -1]
    # right=True finds the first token whose sum exceeds the number: never one of zero mass.
    drawn = torch.searchsorted(cumulative, wanted, right=True)[row, place]
    drawn = drawn.clamp(max=scores.shape[-1] - 1)
    return drawn, logprobs[row, drawn]


def _rank(row: Tensor) -> Tensor:
    """Return how many of the entries before each one have the same row, shape (L,), int64."""
    ordered, order = row.sort(stable=True)
    rank = torch.empty_like(row)
    first = torch.searchsorted(ordered, ordered)  # of those with the same row
    rank[order] = torch.arange(len(row), device=row.device) - first
    return rank
