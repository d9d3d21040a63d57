"""Which modules of a model get adapters: those of its family, all linear ones, or by name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.families import LoraTargets, family_of
from spatial_ssrl.policies.freezing import FrozenParts
from spatial_ssrl.policies.module_names import ending_in, nothing_matches

ALL_LINEAR: LoraTargets = "all-linear"
LANGUAGE_MODEL: LoraTargets = "language-model"


def targets_for_peft(
    network: PreTrainedModel, wanted: str | Sequence[str] | None, frozen: FrozenParts
) -> str | list[str]:
    """Return what PEFT is to put adapters on, outside of what is frozen.

    Args:
        network: The model, without adapters.
        wanted: As `LoraSettings.target_modules`; None takes what the family of the model says
            or, where all of that is frozen, every linear layer that is not.
        frozen: Parts in which nothing gets an adapter.

    Returns:
        Names, "all-linear", or a regular expression. The layers of the language model are named
        by one, since vision towers have layers of the same names.

    Raises:
        ConfigError: If this names no module of the model, or frozen ones only, or is no regular
            expression.
    """
    names = [name for name, _ in network.named_modules() if name]
    if wanted is not None and not isinstance(wanted, str):
        for ending in wanted:
            check_found("target_modules", ending, ending_in(ending, names), names, frozen)
        return list(wanted)
    if wanted is None:
        wanted = _default(network, frozen)
    if wanted == ALL_LINEAR:
        found = _linear_layers(network)
    elif wanted == LANGUAGE_MODEL:
        found = _linear_layers_of_decoder(network)
    else:
        found = _matching(wanted, names)
    check_found("target_modules", wanted, found, names, frozen)
    return _named_by_one(network, found) if wanted == LANGUAGE_MODEL else wanted


def as_expression(targets: str | Sequence[str]) -> str:
    """Return the `target_modules` of a saved adapter as one setting of `LoraSettings`.

    Args:
        targets: What PEFT saved: a regular expression, or name endings.
    """
    if isinstance(targets, str):
        return targets
    return rf"(.*\.)?({'|'.join(map(re.escape, sorted(targets)))})"


def check_found(
    key: str,
    wanted: str,
    found: Sequence[str],
    names: Sequence[str],
    frozen: FrozenParts,
) -> None:
    """Refuse a setting of `LoraSettings` that names nothing, or only what is frozen.

    Args:
        key: The setting.
        wanted: What it names.
        found: The modules that are so named.
        names: All modules there are.
        frozen: Parts that must not change.

    Raises:
        ConfigError: Naming close ones, or what to leave out.
    """
    if not found:
        raise ConfigError(nothing_matches(f"lora.{key}", wanted, names))
    if all(name in frozen for name in found):
        raise ConfigError(
            f"lora.{key} {wanted!r} matches frozen modules only, such as {found[0]!r} (freeze: "
            f"{', '.join(frozen.groups)}); leave it out of one of them."
        )


def _matching(expression: str, names: Sequence[str]) -> list[str]:
    try:
        pattern = re.compile(expression)
    except re.error as error:
        raise ConfigError(
            f"lora.target_modules {expression!r} is no regular expression ({error}); put names in "
            "a list, such as [q_proj, v_proj]."
        ) from error
    return [name for name in names if pattern.fullmatch(name)]


def _default(network: PreTrainedModel, frozen: FrozenParts) -> LoraTargets:
    targets = family_of(network).lora_targets
    if targets == LANGUAGE_MODEL and all(n in frozen for n in _linear_layers_of_decoder(network)):
        return ALL_LINEAR
    return targets


def _linear_layers(network: PreTrainedModel) -> list[str]:
    head = network.get_output_embeddings()
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and module is not head
    ]


def _linear_layers_of_decoder(network: PreTrainedModel) -> list[str]:
    inside = f"{_decoder_name(network)}."
    return [name for name in _linear_layers(network) if name.startswith(inside)]


def _decoder_name(network: PreTrainedModel) -> str:
    decoder = network.get_decoder()
    modules = network.named_modules()
    name: str = next(name for name, module in modules if module is decoder)
    return name


def _named_by_one(network: PreTrainedModel, layers: Sequence[str]) -> str:
    """Return a regular expression that matches layers of the decoder and no others."""
    kinds = sorted({name.rpartition(".")[2] for name in layers})
    return rf"{re.escape(_decoder_name(network))}\.(.*\.)?({'|'.join(map(re.escape, kinds))})"
