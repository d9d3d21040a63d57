from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.batches import Rollouts
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.training import groups as module
from spatial_ssrl.training.groups import Groups, feedback_of, join_groups, of_all_processes


def some_groups(
    lengths: list[int], first: int = 0, parts: Mapping[str, float] | None = None
) -> Groups:
    """Return groups of two completions whose every number tells which completion it is of."""
    rows = torch.arange(first, first + len(lengths)).unsqueeze(1)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    tokens = (10 * rows + torch.arange(max(lengths))) * mask
    count = len(lengths) // 2
    return Groups(
        questions=tuple(
            Question(f"q{first // 2 + n}", "a_task", (), "", "", "text") for n in range(count)
        ),
        rollouts=Rollouts(
            tokens,
            mask,
            -0.1 * tokens,
            tuple(f"text {int(n)}" for n in rows),
            rows[:, 0] % 3 == 0,
            2,
        ),
        verdicts=tuple(Verdict(float(n), parts or {}) for n in rows),
        greedy_rewards=rows[::2, 0].float(),
        has_signal=rows[::2, 0] % 4 == 0,
        takes_part=rows[::2, 0] % 4 == 2,
        old_logprobs=-0.2 * tokens,
    )


def same(one: object, other: object) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Rollouts | Groups):
        return all(same(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    return one == other


def test_joining_what_was_taken_apart_gives_the_whole() -> None:
    whole = some_groups([3, 1, 5, 2, 4, 4])
    parts = [whole.select([row]) for row in range(3)]
    assert [part.rollouts.tokens.shape[1] for part in parts] == [3, 5, 4]
    assert same(join_groups(parts), whole)
    assert not same(join_groups(parts[::-1]), whole)
    assert same(whole.select([2, 0]), join_groups([parts[2], parts[0]]))


def test_what_one_part_does_not_know_the_whole_does_not() -> None:
    whole = some_groups([3, 1])
    unknown = Groups(
        **{f.name: getattr(whole, f.name) for f in fields(whole)} | {"old_logprobs": None}
    )
    assert join_groups([whole, unknown]).old_logprobs is None


def test_feedback_has_one_row_a_question_and_nan_where_a_part_is_missing() -> None:
    rollouts = some_groups([1, 1, 1, 1]).rollouts
    verdicts = [
        Verdict(1.0, {"a": 0.5}),
        Verdict(0.0, {}),
        Verdict(0.25, {"a": 1.0}),
        Verdict(2.0, {}),
    ]
    feedback = feedback_of(rollouts, verdicts, {"a": 1.0})
    assert feedback.rewards.tolist() == [[1.0, 0.0], [0.25, 2.0]]
    assert feedback.parts["a"].nan_to_num(-1).tolist() == [[0.5, -1], [1.0, -1]]
    assert feedback.truncated is rollouts.truncated


@pytest.mark.parametrize("process", [0, 1])
def test_feedback_of_all_processes_is_that_of_the_whole_batch(
    monkeypatch: pytest.MonkeyPatch, process: int
) -> None:
    parts = [some_groups([3, 1], parts={"a": 0.5}), some_groups([2, 5, 4, 1], first=2)]
    weights = {"a": 1.0}
    feedbacks = [
        feedback_of(part.rollouts, part.verdicts, weights, part.greedy_rewards) for part in parts
    ]
    monkeypatch.setattr(module, "gather", lambda *_: feedbacks)
    monkeypatch.setattr(module, "rank", lambda: process)
    found, mine = of_all_processes(feedbacks[process])
    whole = join_groups(parts)
    expected = feedback_of(whole.rollouts, whole.verdicts, weights, whole.greedy_rewards)
    for name in ("rewards", "mask", "greedy_rewards", "truncated"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name
    assert found.parts["a"].nan_to_num(math.inf).equal(expected.parts["a"].nan_to_num(math.inf))
    assert (mine.start, mine.stop) == [(0, 1), (1, 3)][process]
    assert found.old_logprobs is None
