"""Settings that make a run fit, against predictions with them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.fitting import fitted
from spatial_ssrl.planning.limits import MICRO_BATCH, predict_with
from spatial_ssrl.planning.plan import Planner


def test_a_run_that_fits_stays_as_it_is(planner: Planner) -> None:
    needed = planner.needed(planner.predict())
    assert fitted(planner, needed) == ({}, needed)


def test_smaller_passes_come_first_and_what_they_need_is_told(planner: Planner) -> None:
    one = planner.needed(planner.predict(replace(planner.step, micro_batch=1)))
    assert one < planner.needed(planner.predict())
    assert fitted(planner, one) == ({MICRO_BATCH: 1}, one)


def test_a_value_that_changes_the_run_was_predicted_with_itself(planner: Planner) -> None:
    """One byte less than checkpointing alone needs: something of the run must go."""
    small = planner.with_checkpointing()
    small.step = replace(small.step, micro_batch=1)
    capacity = small.needed(small.predict()) - 1
    changes, needed = fitted(planner, capacity)
    (key,) = [
        key for key in changes if key not in (MICRO_BATCH, "model.policy.gradient_checkpointing")
    ]
    assert needed <= capacity
    # What Python's own search for garbage has not freed yet may differ.
    again = small.needed(predict_with(small, key, changes[key]))
    assert needed == pytest.approx(again, rel=0.005)


def test_where_nothing_is_enough_one_line_says_so(planner: Planner) -> None:
    with pytest.raises(ConfigError, match="no setting alone makes the run fit") as error:
        fitted(planner, 1000)
    assert "\n" not in str(error.value)
