"""Splitting a batch so that no more is kept of it at once than memory holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spatial_ssrl.core.batches import PromptBatch


@dataclass(frozen=True, slots=True)
class Part:
    """Completions sampled together.

    Args:
        questions: Rows of the prompts.
        first: Number of the first completion of each question's group.
        stop: Number after the last one.
    """

    questions: tuple[int, ...]
    first: int
    stop: int


def parts(
    prompts: PromptBatch,
    group_size: int,
    new_tokens: int,
    budget: int | None,
    prompt_once: bool,
) -> Iterator[Part]:
    """Yield parts that keep at most `budget` tokens.

    Questions of like length go together; where prompts are kept once any go together, since
    padding then costs little. A group too large is sampled a few completions at a time; a single
    completion is sampled however long it is.

    Args:
        prompts: B prompts.
        group_size: Completions of each, G.
        new_tokens: Most tokens of a completion, C.
        budget: Most tokens whose keys and values are kept at once, padding included; None
            sets no limit.
        prompt_once: Whether a prompt is kept once per question, not once per completion.
    """
    lengths = prompts.attention_mask.sum(dim=1).tolist()

    def kept(row: int, completions: int) -> int:
        copies = 1 if prompt_once else completions
        return int(copies * lengths[row] + completions * new_tokens)

    for together in [list(range(len(prompts)))] if prompt_once else prompts.alike():
        left = sorted(together, key=lambda row: -lengths[row])
        while left:
            longest = left[0]
            count = len(left) if budget is None else budget // kept(longest, group_size)
            if count > 0:
                yield Part(tuple(sorted(left[:count])), 0, group_size)
                left = left[count:]
                continue
            assert budget is not None
            size = group_size
            while size > 1 and kept(longest, size) > budget:
                size -= 1
            for first in range(0, group_size, size):
                yield Part((longest,), first, min(first + size, group_size))
            left = left[1:]
