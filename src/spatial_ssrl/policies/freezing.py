"""Freezing parts of a model: which modules they are, and that nothing in them changes."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import get_args

from torch import nn
from transformers import PreTrainedModel

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import families

GROUPS: tuple[str, ...] = get_args(families.FreezeGroup)


def check_groups(freeze: Collection[str]) -> None:
    """Refuse names of groups that do not exist, and freezing all there is.

    Raises:
        ConfigError: Naming what was meant, or what to leave out.
    """
    for name in freeze:
        if name not in GROUPS:
            close = difflib.get_close_matches(name, GROUPS, n=1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise ConfigError(f"freeze: there is no group {name!r}, only {_listed(GROUPS)}.{hint}")
    if set(freeze) == set(GROUPS):
        raise ConfigError(
            f"freeze names {_listed(GROUPS)}, which leaves nothing to train; leave one out."
        )


@dataclass(frozen=True, slots=True)
class FrozenParts:
    """The parts of one model that must not change.

    Args:
        groups: Names of the frozen groups.
        prefixes: What the names of their modules and parameters begin with.
    """

    groups: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()

    def __contains__(self, name: str) -> bool:
        return any(name == part or name.startswith(f"{part}.") for part in self.prefixes)

    def touches(self, name: str) -> bool:
        """Whether a module is frozen or holds something that is."""
        return name in self or any(part.startswith(f"{name}.") for part in self.prefixes)

    def pattern(self) -> str | None:
        """Return a regular expression that matches the names of all frozen modules in full."""
        return "|".join(rf"{re.escape(part)}(?:\..*)?" for part in self.prefixes) or None


def freeze_parts(network: PreTrainedModel, freeze: Sequence[str]) -> FrozenParts:
    """Take the frozen groups of a model out of training.

    A weight that a frozen and a trained module share, such as the token embedding and a
    vocabulary head tied to it, is frozen.

    Raises:
        ConfigError: If the model has no such group, or parts that belong to none.
    """
    if not freeze:
        return FrozenParts()
    groups = families.freeze_groups(network)
    for group, prefixes in groups.items():
        if group in freeze and not prefixes:
            present = [name for name, found in groups.items() if found]
            raise ConfigError(
                f"freeze: {type(network).__name__} has no {group}, only {_listed(present)}; leave "
                "it out."
            )
    named = [prefix for group, found in groups.items() if group in freeze for prefix in found]
    parts = FrozenParts(tuple(freeze), tuple(named))
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if name in parts:
            parameter.requires_grad_(False)
    return parts


def keep_statistics(policy: nn.Module) -> None:
    """Keep the running statistics of batch normalisation that is not trained as they are."""
    for module in policy.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
            parameter.requires_grad for parameter in module.parameters()
        ):
            module.eval()


def _listed(names: Collection[str]) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
