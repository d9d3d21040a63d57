"""What flows through the library as tensors: prompts, rollouts and losses.

Shapes: B questions, G completions each, N = B * G, P prompt tokens, C completion tokens.
Each record has a `to(device)`, without which Lightning cannot move a frozen dataclass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from spatial_ssrl.core.questions import Question, Verdict


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """Tokenised prompts of a batch of questions, left padded.

    Args:
        input_ids: Token ids with media placeholders expanded, shape (B, P), int64.
        attention_mask: True on real tokens, shape (B, P), bool.
        vision: Everything else the processor returned, keyed by the model's argument names;
            packed per model, so only the policy may slice it.
        questions: The questions, length B, in row order; stay on the host.
        targets: Token ids of a given completion per question (cold start), right padded,
            shape (B, C), int64; None when completions are to be sampled.
        target_mask: True on the tokens of `targets`, shape (B, C), bool.
    """

    input_ids: Tensor
    attention_mask: Tensor
    vision: Mapping[str, Tensor]
    questions: tuple[Question, ...]
    targets: Tensor | None = None
    target_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.questions)

    def alike(self, rows: Sequence[int] | None = None, size: int | None = None) -> list[list[int]]:
        """Group questions whose prompts are about as long, so that little padding is computed.

        Args:
            rows: The questions to group; all when None.
            size: Most questions in a group; no limit when None.

        Returns:
            Groups of rows, longest prompts first; no prompt is shorter than 3/4 of the longest
            of its group.
        """
        lengths = self.attention_mask.sum(dim=1).tolist()
        groups: list[list[int]] = []
        chosen = range(len(self)) if rows is None else rows
        for row in sorted(chosen, key=lambda row: -lengths[row]):
            full = not groups or (size is not None and len(groups[-1]) >= size)
            if full or 4 * lengths[row] < 3 * lengths[groups[-1][0]]:
                groups.append([])
            groups[-1].append(row)
        return [sorted(group) for group in groups]

    def given_completions(self) -> Rollouts:
        """Return the targets as completions, one a question.

        Raises:
            ValueError: If the batch has no targets.
        """
        if self.targets is None or self.target_mask is None:
            raise ValueError("the batch has no targets; collate it with SFTModule.collator().")
        return Rollouts(
            tokens=self.targets,
            mask=self.target_mask,
            logprobs=None,
            texts=("",) * len(self),
            truncated=torch.zeros(len(self), dtype=torch.bool, device=self.targets.device),
            group_size=1,
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PromptBatch:
        """Return the batch with every tensor on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            input_ids=move(self.input_ids),
            attention_mask=move(self.attention_mask),
            vision={name: move(value) for name, value in self.vision.items()},
            targets=None if self.targets is None else move(self.targets),
            target_mask=None if self.target_mask is None else move(self.target_mask),
        )


@dataclass(frozen=True, slots=True)
class Rollouts:
    """Completions of a prompt batch; row i answers question i // group_size.

    Args:
        tokens: Completion token ids, right padded, shape (N, C), int64.
        mask: True on sampled tokens, the end-of-text token included, shape (N, C), bool.
        logprobs: Log-probability of each token under the distribution it was sampled from,
            shape (N, C), float32, 0 on padding; None for given (not sampled) completions.
        texts: Decoded completions without special tokens, length N.
        truncated: True where the length limit cut the completion, shape (N,), bool.
        group_size: Completions per question, G.
    """

    tokens: Tensor
    mask: Tensor
    logprobs: Tensor | None
    texts: tuple[str, ...]
    truncated: Tensor
    group_size: int

    def __len__(self) -> int:
        return self.tokens.shape[0]


@dataclass(frozen=True, slots=True)
class Feedback:
    """What is known of a batch's completions when their advantages are worked out.

    Args:
        rewards: Reward of each completion, shape (B, G), float32, finite.
        parts: Parts of the reward by name, each of shape (B, G), float32; NaN where a part does
            not apply to a completion.
        weights: Weight of each part in the reward, by the same names; empty when the verifier
            does not add parts up.
        mask: True on completion tokens, shape (N, C), bool.
        old_logprobs: Under the weights that sampled, shape (N, C), float32.
        ref_logprobs: Under the reference policy, shape (N, C), float32; None when the
            algorithm uses no reference.
        greedy_rewards: Reward of each question's most likely completion, shape (B,), float32;
            None when the algorithm does not ask for it.
        truncated: True where the length limit cut the completion, shape (N,), bool; None when
            unknown.
    """

    rewards: Tensor
    parts: Mapping[str, Tensor]
    weights: Mapping[str, float]
    mask: Tensor
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    greedy_rewards: Tensor | None = None
    truncated: Tensor | None = None


@dataclass(frozen=True, slots=True)
class ScoredRollouts:
    """Rollouts with everything an update needs, all without gradient.

    Args:
        rollouts: The completions.
        verdicts: What the verifier said of each, length N.
        rewards: Reward of each completion, shape (B, G), float32.
        advantages: Advantage of each token, shape (N, C), float32, 0 on padding.
        old_logprobs: Under the weights that sampled, shape (N, C), float32; None when these
            are the weights of the only optimiser step, whose own scores they are then.
        ref_logprobs: Under the reference policy, shape (N, C), float32; None when the
            algorithm uses no reference.
    """

    rollouts: Rollouts
    verdicts: tuple[Verdict, ...]
    rewards: Tensor
    advantages: Tensor
    old_logprobs: Tensor | None
    ref_logprobs: Tensor | None


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What the loss of some completions of an update reads: n rows of at most C tokens.

    Args:
        logprobs: Under the weights being trained, shape (n, C), with gradient.
        old_logprobs: Under the weights that sampled, as the policy scores them, shape (n, C).
        ref_logprobs: Under the reference policy, shape (n, C), or None.
        sampling_logprobs: As noted while sampling, shape (n, C), or None; they differ from
            `old_logprobs` where the sampler computes otherwise than the policy.
        advantages: Of each token, shape (n, C).
        mask: True on completion tokens, shape (n, C), bool.
    """

    logprobs: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor | None
    sampling_logprobs: Tensor | None
    advantages: Tensor
    mask: Tensor


@dataclass(frozen=True, slots=True)
class LossOutput:
    """A loss and its statistics, both ready to be summed over micro-batches.

    Args:
        loss: Scalar with gradient, already divided by the normaliser of the whole update.
        stats: Detached sums over tokens or sequences by name; `loss_weight` style counts
            are the caller's, so that micro-batches add up.
    """

    loss: Tensor
    stats: Mapping[str, Tensor]
