"""Making a run fit a card, by what changes it least."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.limits import limits
from spatial_ssrl.planning.plan import Planner

_CHECKPOINTING = "model.policy.gradient_checkpointing"
_MICRO_BATCH = "model.update.micro_batch_size"


def fitted(planner: Planner, capacity: int) -> dict[str, Any]:
    """Return settings with which a run fits a card, by their keys; empty if it fits as it is.

    First those that change memory and time only: smaller passes, then recomputed activations.
    Then what changes the run: smaller pictures, shorter completions, smaller groups, the first
    of them that is enough.

    Args:
        planner: Knows the run.
        capacity: Bytes of the card.

    Raises:
        ConfigError: If none of them is enough.
    """
    changes: dict[str, Any] = {}
    if planner.needed(planner.predict()) <= capacity:
        return changes
    if planner.step.micro_batch > 1:
        planner.step = replace(planner.step, micro_batch=1)
        changes[_MICRO_BATCH] = 1
        if planner.needed(planner.predict()) <= capacity:
            return changes
    if not planner.policy.gradient_checkpointing:
        planner = planner.with_checkpointing()
        changes[_CHECKPOINTING] = True
        if planner.needed(planner.predict()) <= capacity:
            return changes
    order = ("model.policy.max_pixels", "model.sampling.max_new_tokens", "model.group_size")
    possible = {limit.key: limit.largest for limit in limits(planner, capacity)}
    for key in order:
        if possible.get(key) is not None:
            return {**changes, key: possible[key]}
    raise ConfigError(
        "no setting alone makes the run fit; load the weights in 4 bits (model.policy."
        "quantization with model.policy.lora), or choose a smaller model or a larger card."
    )
