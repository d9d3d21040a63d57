"""Settings that make a run fit, against predictions with them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.fitting import (
    BATCH_TOKENS,
    CHECKPOINTING,
    MICRO_BATCH_TOKENS,
    MIN_PIXELS,
    ON_HOST,
    Fit,
    fitted,
)
from spatial_ssrl.planning.limits import COMPLETION, MICRO_BATCH, PIXELS
from spatial_ssrl.planning.plan import Planner

PlanOf: TypeAlias = Callable[..., Planner]


def needs(planner: Planner, pixels: int | None = None, **step: int) -> tuple[int, int]:
    """Return the bytes that sampling and an update need with another step."""
    found = planner.predict(replace(planner.step, **step), pixels)
    assert found.sampling is not None
    return planner.needed_at(found.sampling), planner.needed_at(found.update)


def needs_least(planner: Planner, pixels: int | None = None, **step: int) -> int:
    """Return what a run needs with all that changes no result."""
    least = planner.switched_on("gradient_checkpointing").switched_on("reference_on_host")
    divided = {"batch_tokens": 1, "micro_batch": 1, "micro_batch_tokens": 1}
    return max(needs(least, pixels, **divided, **step))


def changes_of(fit: Fit) -> list[tuple[str, Any, Any]]:
    return [(change.key, change.before, change.after) for change in fit.changes]


def results_of(fit: Fit) -> list[str]:
    return [change.key for change in fit.changes if change.results]


def check(plan_of: PlanOf, fit: Fit, capacity: int, **run: Any) -> None:
    """Plan the run that a fit describes from the start: it must fit, and need what was said."""
    changed = {change.key.rpartition(".")[2]: change.after for change in fit.changes}
    planner = plan_of(**{**run, **changed})
    needed = planner.needed(planner.predict())
    assert fit.needed <= capacity
    # What Python's own search for garbage has not freed yet may differ.
    assert needed == pytest.approx(fit.needed, rel=0.01)


def test_a_run_that_fits_stays_as_it_is(planner: Planner) -> None:
    needed = planner.needed(planner.predict())
    assert fitted(planner, needed) == Fit((), needed)


@pytest.mark.parametrize("at_once", [(2, 128), (1, 100)])
def test_a_run_bound_by_sampling_samples_less_at_once(
    plan_of: PlanOf, at_once: tuple[int, int]
) -> None:
    """Pictures, completions and groups stay, and no smaller part is taken than it takes."""
    run = {"group_size": 128, "micro_batch_size": 1, "micro_batch_tokens": 1}
    planner, (questions, completions) = plan_of(**run), at_once
    tokens = questions * (planner.question.tokens + completions * 64)
    capacity = needs(planner, batch_tokens=tokens)[0]
    assert needs(planner)[1] < capacity < needs(planner)[0]
    fit = fitted(planner, capacity)
    assert changes_of(fit) == [(BATCH_TOKENS, None, tokens)]
    assert not results_of(fit)
    check(plan_of, fit, capacity, **run)


def test_smaller_passes_are_as_large_as_fits(plan_of: PlanOf) -> None:
    planner = plan_of()
    capacity = needs(planner, micro_batch=3)[1]
    assert needs(planner)[0] < capacity < needs(planner)[1]
    fit = fitted(planner, capacity)
    assert changes_of(fit) == [(MICRO_BATCH, 4, 3)]
    check(plan_of, fit, capacity)


def test_a_pass_may_hold_part_of_a_group(plan_of: PlanOf) -> None:
    planner = plan_of()
    capacity = needs(planner, micro_batch=1)[1] - 1
    fit = fitted(planner, capacity)
    assert [change.key for change in fit.changes] == [MICRO_BATCH, MICRO_BATCH_TOKENS]
    divided = replace(planner.step, micro_batch=1, micro_batch_tokens=fit.changes[1].after)
    questions, completions = planner.rehearsal.passes(planner.prompt(), divided)[0]
    assert (questions, completions < planner.step.group_size) == (1, True)
    check(plan_of, fit, capacity)


def test_what_changes_no_result_comes_before_what_does(plan_of: PlanOf) -> None:
    """With all of it the whole run has room, its activations and reference included."""
    planner = plan_of()
    capacity = needs_least(planner)
    fit = fitted(planner, capacity)
    assert not results_of(fit)
    assert (CHECKPOINTING, False, True) in changes_of(fit)
    assert (ON_HOST, False, True) in changes_of(fit)
    check(plan_of, fit, capacity)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bounds", "given_way"),
    [({"min_pixels": 6000}, [MIN_PIXELS, PIXELS]), ({"max_pixels": 1024}, [COMPLETION])],
)
def test_one_quantity_gives_way_where_that_is_enough(
    plan_of: PlanOf, bounds: dict[str, int], given_way: list[str]
) -> None:
    """That of which most is left: where pictures are small already, completions."""
    run = {"max_new_tokens": 256, **bounds}
    planner = plan_of(**run)
    pixels = 5120 if MIN_PIXELS in given_way else None
    capacity = needs_least(planner, pixels, completion=256 if pixels else 192)
    fit = fitted(planner, capacity)
    assert results_of(fit) == given_way
    check(plan_of, fit, capacity, **run)


def test_two_give_way_where_one_is_not_enough(plan_of: PlanOf) -> None:
    run = {"max_new_tokens": 256}
    planner = plan_of(**run)
    alone = min(needs_least(planner, 1024), needs_least(planner, completion=64))
    both = needs_least(planner, 1024, completion=64)
    assert both < alone
    fit = fitted(planner, (alone + both) // 2)
    assert results_of(fit) == [PIXELS, COMPLETION]
    check(plan_of, fit, (alone + both) // 2, **run)


def test_where_nothing_is_enough_one_line_says_so(planner: Planner) -> None:
    with pytest.raises(ConfigError, match=r"no settings make the run fit the 0\.00 GiB") as error:
        fitted(planner, 1000)
    assert "\n" not in str(error.value)
