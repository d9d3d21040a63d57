"""Making a run fit a card, by what changes it least."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.limits import (
    COMPLETION,
    GROUP,
    MICRO_BATCH,
    PIXELS,
    limits,
    predict_with,
)
from spatial_ssrl.planning.plan import Planner

_CHECKPOINTING = "model.policy.gradient_checkpointing"


def fitted(planner: Planner, capacity: int) -> tuple[dict[str, Any], int]:
    """Return settings with which a run fits a card, by their keys, and the bytes it then needs.

    First those that change memory and time only: smaller passes, then recomputed activations.
    Then what changes the run: smaller pictures, shorter completions, smaller groups, the first
    of them that is enough. There are no settings if the run fits as it is. Limits rest on a
    straight line, so what is returned was predicted once more with the settings themselves.

    Args:
        planner: Knows the run.
        capacity: Bytes of the card.

    Raises:
        ConfigError: If none of them is enough.
    """
    changes: dict[str, Any] = {}
    if (needed := planner.needed(planner.predict())) <= capacity:
        return changes, needed
    if planner.step.micro_batch > 1:
        planner = copy.copy(planner)
        planner.step = replace(planner.step, micro_batch=1)
        changes[MICRO_BATCH] = 1
        if (needed := planner.needed(planner.predict())) <= capacity:
            return changes, needed
    if not planner.policy.gradient_checkpointing:
        planner = planner.with_checkpointing()
        changes[_CHECKPOINTING] = True
        if (needed := planner.needed(planner.predict())) <= capacity:
            return changes, needed
    order = (PIXELS, COMPLETION, GROUP)
    possible = {limit.key: limit for limit in limits(planner, capacity)}
    for key in order:
        if key not in possible or possible[key].largest is None:
            continue
        largest, least = int(possible[key].largest or 0), possible[key].least
        for value in _downwards(largest, least, possible[key].grain):
            needed = planner.needed(predict_with(planner, key, value))
            if needed <= capacity:
                return {**changes, key: value}, needed
    raise ConfigError(
        f"no setting alone makes the run fit {capacity / 2**30:.2f} GiB; load weights in 4 bits "
        "(model.policy.quantization with model.policy.lora), or choose a smaller model or a larger "
        "card."
    )


def _downwards(largest: int, least: int, grain: int) -> Iterator[int]:
    """Yield a value, and a few smaller ones should the straight line have been too kind."""
    for share in (16, 15, 13, 10):
        value = max(largest * share // 16 // grain * grain, least)
        yield value
        if value == least:
            return
