"""Which completions share one forward and backward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.policies.packing import distinct_completions


@dataclass(frozen=True, slots=True)
class Part:
    """Questions of one pass and which of their completions it holds, equally many of each.

    Args:
        questions: Numbers of the questions, length b.
        completions: Numbers of their completions, question after question, length b * g.
    """

    questions: list[int]
    completions: list[int]


def parts_of(
    policy: PolicyBackbone,
    prompts: PromptBatch,
    rollouts: Rollouts,
    questions: Sequence[int],
    size: int,
    tokens: int | None = None,
) -> Iterator[Part]:
    """Divide completions into passes; each is in one of them.

    Args:
        policy: Says how many tokens a pass reads.
        prompts: B questions.
        rollouts: Their completions, G of each.
        questions: Which questions to take.
        size: Most questions of a pass, all with prompts of about one length.
        tokens: Most tokens of a pass, padding included; None for no limit. Groups beyond it are
            split, equal completions staying together where they can; a pass that holds one
            completion, or copies of one, may exceed it.
    """
    group = rollouts.group_size
    whole = [
        Part(chunk, [row * group + place for row in chunk for place in range(group)])
        for chunk in prompts.alike(questions, size)
    ]
    if tokens is None or not whole:
        yield from whole
        return
    cost = _Cost(policy, prompts, rollouts)
    for part in whole:
        chunk: list[int] = []
        for row in part.questions:
            if chunk and cost(cost.completions_of([*chunk, row])) > tokens:
                yield Part(chunk, cost.completions_of(chunk))
                chunk = []
            chunk.append(row)
            if cost(cost.completions_of(chunk)) > tokens:  # One question, too long a group.
                yield from _split(row, cost, tokens)
                chunk = []
        if chunk:
            yield Part(chunk, cost.completions_of(chunk))


def _split(question: int, cost: _Cost, tokens: int) -> Iterator[Part]:
    """Yield one group in parts, as few as a greedy division finds."""
    part: list[int] = []
    for row in sorted(cost.completions_of([question]), key=lambda row: cost.inverse[row]):
        # Another copy of the only completion costs nothing, however long that is.
        if part and cost([*part, row]) > max(tokens, cost(part)):
            yield Part([question], part)
            part = []
        part.append(row)
    yield Part([question], part)


class _Cost:
    """Tokens read for some completions of a batch and their prompts.

    Args:
        policy: Says how many.
        prompts: B questions.
        rollouts: All their completions.
    """

    def __init__(self, policy: PolicyBackbone, prompts: PromptBatch, rollouts: Rollouts) -> None:
        distinct = distinct_completions(rollouts)
        self.policy = policy
        self.group = rollouts.group_size
        self.prompt_lengths: list[int] = prompts.attention_mask.sum(dim=1).tolist()
        self.lengths: list[int] = distinct.lengths.tolist()
        self.inverse: list[int] = distinct.inverse.tolist()

    def completions_of(self, questions: Sequence[int]) -> list[int]:
        """Return all completions of some questions, in order."""
        return [row * self.group + place for row in questions for place in range(self.group)]

    def __call__(self, completions: Sequence[int]) -> int:
        """Return the tokens read for completions, equal ones of a question once."""
        distinct: dict[int, set[int]] = {}
        for row in completions:
            distinct.setdefault(row // self.group, set()).add(self.inverse[row])
        return self.policy.tokens_read(
            [self.prompt_lengths[question] for question in distinct],
            [[self.lengths[index] for index in sorted(group)] for group in distinct.values()],
        )
