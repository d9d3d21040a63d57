"""Limits against predictions of the very values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spatial_ssrl.planning.limits import COMPLETION, GROUP, limits, predict_with
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.planning.rehearsal import Rehearsal


@pytest.mark.parametrize(("key", "grain", "aim"), [(GROUP, 1, 7), (COMPLETION, 16, 112)])
def test_the_limit_is_the_largest_that_fits(
    planner: Planner, key: str, grain: int, aim: int
) -> None:
    capacity = planner.needed(predict_with(planner, key, aim))
    (limit,) = [limit for limit in limits(planner, capacity) if limit.key == key]
    assert limit.largest is not None
    assert abs(limit.largest - aim) <= grain, "a straight line is exact to one step"
    assert planner.needed(predict_with(planner, key, limit.largest - grain)) <= capacity
    assert planner.needed(predict_with(planner, key, limit.largest + 2 * grain)) > capacity


def test_where_nothing_fits_there_is_no_limit(planner: Planner) -> None:
    assert {limit.largest for limit in limits(planner, 1)} == {None}


def test_a_search_takes_few_rehearsals(planner: Planner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run itself and one other value of each of four quantities; sampling takes two each."""
    taken = {"sample": 0, "update": 0}
    for name in taken:
        real = getattr(Rehearsal, name)

        def counted(*args: object, name: str = name, real: object = real) -> object:
            taken[name] += 1
            return real(*args)  # type: ignore[operator]

        monkeypatch.setattr(Rehearsal, name, counted)
    limits(planner, 2**40)
    assert taken["update"] <= 5 * 3
    assert taken["sample"] <= 4 * 2 * 3


def test_the_same_passes_are_rehearsed_once(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where tokens bound a pass to one question, more questions a pass change nothing."""
    prompt = planner.question.tokens
    planner.step = replace(planner.step, micro_batch_tokens=prompt + 4 * 64 + 8)
    one = planner.predict(replace(planner.step, micro_batch=1))
    monkeypatch.setattr(Rehearsal, "update", lambda *args: pytest.fail("rehearsed again"))
    assert planner.predict(replace(planner.step, micro_batch=3)) == one
