"""Parts of a batch against the limit they are made for."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.rollout.parts import Part, parts
from support.tiny_models import random_question

LENGTHS = (40, 10, 38, 11, 200, 39)


def prompts() -> PromptBatch:
    width = max(LENGTHS)
    mask = torch.arange(width) >= width - torch.tensor(LENGTHS)[:, None]
    questions = tuple(random_question(1, seed=row) for row in range(len(LENGTHS)))
    return PromptBatch(mask.long(), mask, {}, questions)


def kept(part: Part, new: int, once: bool) -> int:
    rows = len(part.questions) * (part.stop - part.first)
    longest = max(LENGTHS[row] for row in part.questions)
    return (len(part.questions) if once else rows) * longest + rows * new


@pytest.mark.parametrize("once", [True, False])
@pytest.mark.parametrize("budget", [None, 1, 60, 100, 333, 500, 1000, 100_000])
def test_parts_hold_every_completion_once_and_stay_in_the_limit(
    budget: int | None, once: bool
) -> None:
    group, new = 6, 20
    found = list(parts(prompts(), group, new, budget, once))
    said = Counter(
        (question, number)
        for part in found
        for question in part.questions
        for number in range(part.first, part.stop)
    )
    assert set(said) == {(row, number) for row in range(len(LENGTHS)) for number in range(group)}
    assert set(said.values()) == {1}
    for part in found:
        single = len(part.questions) == part.stop - part.first == 1
        assert budget is None or kept(part, new, once) <= budget or single


@pytest.mark.parametrize("budget", [None, 100_000])
def test_what_fits_is_not_split_but_by_length(budget: int | None) -> None:
    found = [part.questions for part in parts(prompts(), 6, 20, budget, False)]
    assert found == [(4,), (0, 2, 5), (1, 3)]
    found = [part.questions for part in parts(prompts(), 6, 20, budget, True)]
    assert found == [(0, 1, 2, 3, 4, 5)]


def test_a_prompt_kept_once_leaves_room_for_more_completions() -> None:
    # The longest takes 200 and 6 * 20 tokens kept once; twice 200 and 2 * 20 when repeated.
    for once, sizes in ((True, [6]), (False, [2, 2, 2])):
        found = [part for part in parts(prompts(), 6, 20, 440, once) if part.questions == (4,)]
        assert [part.stop - part.first for part in found] == sizes
