"""Groups of judged completions: what sampling hands to an update, at once or later."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from spatial_ssrl.core.batches import Feedback, Rollouts
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.training.distributed import gather, rank
from spatial_ssrl.training.updates import select_rollouts


@dataclass(frozen=True, slots=True)
class Groups:
    """Completions of B questions, G each, with the verdicts on them; N = B * G.

    Args:
        questions: The questions, length B.
        rollouts: Their completions.
        verdicts: One of each completion, length N.
        greedy_rewards: Reward of each question's most likely completion, shape (B,), float32;
            None when the algorithm does not read it.
        has_signal: Which groups have something to learn from, shape (B,), bool.
        takes_part: Which groups an update learns from, shape (B,), bool.
        old_logprobs: Log-probabilities under the weights that sampled, shape (N, C), float32;
            None until they are known.
    """

    questions: tuple[Question, ...]
    rollouts: Rollouts
    verdicts: tuple[Verdict, ...]
    greedy_rewards: Tensor | None
    has_signal: Tensor
    takes_part: Tensor
    old_logprobs: Tensor | None = None

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self) -> list[int]:
        """Return the groups an update learns from, by number."""
        return [int(row) for row in self.takes_part.nonzero()]

    def select(self, rows: Sequence[int]) -> Groups:
        """Return some groups or none; completions are cut to the longest of them."""
        rollouts, completions = select_rollouts(self.rollouts, rows)
        index = torch.tensor(rows, dtype=torch.long, device=completions.device)
        width = rollouts.tokens.shape[1]
        greedy, old = self.greedy_rewards, self.old_logprobs
        return Groups(
            questions=tuple(self.questions[row] for row in rows),
            rollouts=rollouts,
            verdicts=tuple(self.verdicts[row] for row in completions.tolist()),
            greedy_rewards=None if greedy is None else greedy[index],
            has_signal=self.has_signal[index],
            takes_part=self.takes_part[index],
            old_logprobs=None if old is None else old[completions, :width],
        )

    def to(self, device: torch.device | str) -> Groups:
        """Return the same with every tensor on `device`."""
        rollouts, greedy, old = self.rollouts, self.greedy_rewards, self.old_logprobs
        kept = rollouts.logprobs
        return replace(
            self,
            rollouts=replace(
                rollouts,
                tokens=rollouts.tokens.to(device),
                mask=rollouts.mask.to(device),
                logprobs=None if kept is None else kept.to(device),
                truncated=rollouts.truncated.to(device),
            ),
            greedy_rewards=None if greedy is None else greedy.to(device),
            has_signal=self.has_signal.to(device),
            takes_part=self.takes_part.to(device),
            old_logprobs=None if old is None else old.to(device),
        )


def join_groups(parts: Sequence[Groups]) -> Groups:
    """Return groups of the same size G one after another, completions padded to the longest."""
    width = max(part.rollouts.tokens.shape[1] for part in parts)

    def joined(tensors: Sequence[Tensor | None]) -> Tensor | None:
        """Return one tensor (N, C) of all parts; None if a part has none."""
        there = [tensor for tensor in tensors if tensor is not None]
        if len(there) < len(parts):
            return None
        return torch.cat([pad(tensor, (0, width - tensor.shape[1])) for tensor in there])

    tokens, mask = (joined([getattr(p.rollouts, n) for p in parts]) for n in ("tokens", "mask"))
    greedy = [part.greedy_rewards for part in parts if part.greedy_rewards is not None]
    assert tokens is not None
    assert mask is not None
    return Groups(
        questions=tuple(question for part in parts for question in part.questions),
        rollouts=Rollouts(
            tokens=tokens,
            mask=mask,
            logprobs=joined([part.rollouts.logprobs for part in parts]),
            texts=tuple(text for part in parts for text in part.rollouts.texts),
            truncated=torch.cat([part.rollouts.truncated for part in parts]),
            group_size=parts[0].rollouts.group_size,
        ),
        verdicts=tuple(verdict for part in parts for verdict in part.verdicts),
        greedy_rewards=torch.cat(greedy) if len(greedy) == len(parts) else None,
        has_signal=torch.cat([part.has_signal for part in parts]),
        takes_part=torch.cat([part.takes_part for part in parts]),
        old_logprobs=joined([part.old_logprobs for part in parts]),
    )


def feedback_of(
    rollouts: Rollouts,
    verdicts: Sequence[Verdict],
    weights: Mapping[str, float],
    greedy_rewards: Tensor | None = None,
) -> Feedback:
    """Return verdicts as the tensors that advantages read.

    Args:
        rollouts: N completions in groups of G.
        verdicts: One of each completion.
        weights: Weight of each part of the reward, by name.
        greedy_rewards: See `Groups`.
    """
    device = rollouts.mask.device

    def tensor(values: list[float]) -> Tensor:
        """Return a number of each completion by question, (B, G)."""
        flat = torch.tensor(values, dtype=torch.float32, device=device)
        return flat.view(len(values) // rollouts.group_size, rollouts.group_size)

    names = sorted({name for verdict in verdicts for name in verdict.parts})
    return Feedback(
        rewards=tensor([verdict.reward for verdict in verdicts]),
        parts={name: tensor([v.parts.get(name, math.nan) for v in verdicts]) for name in names},
        weights=weights,
        mask=rollouts.mask,
        greedy_rewards=greedy_rewards,
        truncated=rollouts.truncated,
    )


def of_all_processes(feedback: Feedback) -> tuple[Feedback, slice]:
    """Return the feedback on the whole batch, and which of its questions are this process's.

    Args:
        feedback: On this process's questions.
    """
    pieces = gather(_moved(feedback, "cpu"), "comparing rewards")
    if len(pieces) == 1:
        return feedback, slice(0, len(feedback.rewards))
    width = max(piece.mask.shape[1] for piece in pieces)
    names = sorted({name for piece in pieces for name in piece.parts})

    def rows(name: str) -> Tensor | None:
        """Return a field of all processes, one after another; None if one has none."""
        found = [getattr(piece, name) for piece in pieces]
        return None if any(value is None for value in found) else torch.cat(found)

    def tokens(name: str) -> Tensor | None:
        """Return the same of a field (N, C), padded to the longest completion of all."""
        found = [getattr(piece, name) for piece in pieces]
        if any(value is None for value in found):
            return None
        return torch.cat([pad(value, (0, width - value.shape[1])) for value in found])

    def part(name: str) -> Tensor:
        """Return a part of the reward, (B, G), NaN where a process does not know it."""
        # No completion of a process may have the part.
        absent = [torch.full_like(piece.rewards, math.nan) for piece in pieces]
        return torch.cat([p.parts.get(name, nan) for p, nan in zip(pieces, absent, strict=True)])

    rewards, mask = rows("rewards"), tokens("mask")
    assert rewards is not None
    assert mask is not None
    whole = Feedback(
        rewards=rewards,
        parts={name: part(name) for name in names},
        weights=feedback.weights,
        mask=mask,
        old_logprobs=tokens("old_logprobs"),
        ref_logprobs=tokens("ref_logprobs"),
        greedy_rewards=rows("greedy_rewards"),
        truncated=rows("truncated"),
    )
    start = sum(len(piece.rewards) for piece in pieces[: rank()])
    return _moved(whole, feedback.rewards.device), slice(start, start + len(feedback.rewards))


def _moved(feedback: Feedback, device: torch.device | str) -> Feedback:
    old, reference = feedback.old_logprobs, feedback.ref_logprobs
    greedy, truncated = feedback.greedy_rewards, feedback.truncated
    return Feedback(
        rewards=feedback.rewards.to(device),
        parts={name: value.to(device) for name, value in feedback.parts.items()},
        weights=feedback.weights,
        mask=feedback.mask.to(device),
        old_logprobs=None if old is None else old.to(device),
        ref_logprobs=None if reference is None else reference.to(device),
        greedy_rewards=None if greedy is None else greedy.to(device),
        truncated=None if truncated is None else truncated.to(device),
    )
