"""Going on from a checkpoint with settings of the optimiser that the user has changed since."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.optim import Optimizer

from spatial_ssrl.core.errors import ConfigError

_SETTINGS = "optimizer_settings"


def settings_of(optimizer: Optimizer) -> dict[str, Any]:
    """Return the class of an optimiser and the settings of its groups, as constructed."""
    groups = [
        {name: value for name, value in group.items() if name != "params"}
        for group in optimizer.param_groups
    ]
    return {"class": type(optimizer).__name__, "groups": groups}


def keep_settings(checkpoint: dict[str, Any], settings: dict[str, Any]) -> None:
    """Note in a checkpoint what its optimiser was constructed with.

    Args:
        checkpoint: What is about to be written.
        settings: Of `settings_of`, before the first step.
    """
    checkpoint[_SETTINGS] = settings


def honour_changes(checkpoint: dict[str, Any], settings: dict[str, Any]) -> None:
    """Let settings that differ from those of the checkpoint's run prevail over its state.

    An optimiser's state holds its settings, so that loading it would silently undo what the
    user has changed, the learning rate among it. What has not been changed is left alone, since
    some optimisers keep running values there.

    Args:
        checkpoint: A loaded checkpoint; changed in place.
        settings: Of `settings_of` the optimiser of this run, newly constructed.

    Raises:
        ConfigError: If the checkpoint holds the state of another kind of optimiser.
    """
    before, states = checkpoint.get(_SETTINGS), checkpoint.get("optimizer_states")
    if not before or not states:
        return
    if before["class"] != settings["class"] or len(before["groups"]) != len(settings["groups"]):
        raise ConfigError(
            f"ckpt_path: the checkpoint holds the state of {before['class']} over "
            f"{len(before['groups'])} groups of weights, but model.optimizer is "
            f"{settings['class']} over {len(settings['groups'])}; resume with the optimiser it "
            "was made with, or begin a new run from the policy it saved."
        )
    groups = states[0]["param_groups"]
    for number, (old, new) in enumerate(zip(before["groups"], settings["groups"], strict=True)):
        changed = {name: value for name, value in new.items() if old.get(name) != value}
        if "lr" in changed:
            _change_rate(checkpoint, groups, number, old["lr"], changed.pop("lr"))
        groups[number].update(changed)


def _change_rate(
    checkpoint: dict[str, Any],
    groups: Sequence[dict[str, Any]],
    number: int,
    old: float,
    new: float,
) -> None:
    """Scale the present rate of a group, and that from which its schedule computes the next."""
    group = groups[number]
    group["lr"] = group["lr"] * new / old if old else new
    group["initial_lr"] = new
    for schedule in checkpoint.get("lr_schedulers", []):
        schedule["base_lrs"][number] = new
        schedule["_last_lr"][number] = group["lr"]
