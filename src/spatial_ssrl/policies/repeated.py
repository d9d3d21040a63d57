"""Scoring by a plain forward of prompt and completion: the reference for shared reading."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import families
from spatial_ssrl.policies.counting import TokenCount
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.policies.scoring import token_logprobs

if TYPE_CHECKING:
    from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy


def repeated_logprobs(
    policy: HFVisionLanguagePolicy,
    prompts: PromptBatch,
    rollouts: Rollouts,
    sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
) -> Tensor:
    """Return the log-probability of each completion token, the prompt read once per row.

    Slower than shared reading by about the group size, but keeps no cache, so that
    activations can be recomputed layer by layer in the backward pass.

    Args:
        policy: The policy, loaded.
        prompts: B prompts of P tokens.
        rollouts: Their completions, N = B * G rows of C tokens.
        sampling: The distribution asked about; temperature 0 counts as 1.

    Returns:
        Shape (N, C), float32, 0 on padding; with gradient when gradients are enabled.
    """
    inner = families.inner_model(policy.network)
    known = families.accepted_inputs(policy.network)
    rows = [row // rollouts.group_size for row in range(len(rollouts))]
    repeated = policy.select(prompts, rows)
    positions, following = families.prompt_positions(inner, repeated)
    later = families.next_positions(inner, following, rollouts.mask)
    length = repeated.input_ids.shape[1]
    computed = repeated.input_ids.numel() + rollouts.tokens.numel()
    policy.tokens += TokenCount(computed=computed)
    with _recomputed(policy.network):
        output = inner(
            input_ids=torch.cat([repeated.input_ids, rollouts.tokens], dim=1),
            attention_mask=torch.cat([repeated.attention_mask, rollouts.mask], dim=1).long(),
            position_ids=torch.cat([positions, later], dim=-1),
            use_cache=False,
            **_extended(repeated.vision, known, length, rollouts.tokens.shape[1]),
        )
    hidden: Tensor = output.last_hidden_state[:, length - 1 : -1]
    scored = hidden.new_zeros(rollouts.mask.shape, dtype=torch.float32)
    scored[rollouts.mask] = token_logprobs(
        policy, hidden[rollouts.mask], rollouts.tokens[rollouts.mask], sampling
    )
    return scored


def _extended(
    vision: Mapping[str, Tensor], known: frozenset[str], length: int, added: int
) -> dict[str, Tensor]:
    """Return the model's inputs, those given per prompt token extended with zeros (text)."""
    inputs = {}
    for name, value in vision.items():
        if name not in known:
            continue
        per_token = name in families.PER_TOKEN and value.shape[1] == length
        inputs[name] = functional.pad(value, (0, added)) if per_token else value
    return inputs


def prepare_recomputation(network: PreTrainedModel) -> None:
    """Make the layers of a model ready to recompute activations, without doing so yet.

    Raises:
        ConfigError: If the model does not support it.
    """
    if not network.supports_gradient_checkpointing:
        raise ConfigError(
            f"gradient_checkpointing: {type(network).__name__} does not support it; set it to "
            "false."
        )
    # Newer transformers have another name for it and warn at the old one.
    enable = getattr(network, "activation_checkpointing_enable", None)
    (enable or network.gradient_checkpointing_enable)({"use_reentrant": False})
    for layer in _checkpointed(network):
        layer.gradient_checkpointing = False  # type: ignore[assignment]


@contextmanager
def _recomputed(network: nn.Module) -> Iterator[None]:
    """Let prepared layers recompute activations inside the context, in eval mode too.

    transformers does so only in training mode and drops the cache then. Marking the layers
    themselves, not what is inside them, leaves dropout as it is; unmarking them afterwards
    keeps the cache for everyone else.
    """
    layers = [(layer, layer.training) for layer in _checkpointed(network)]
    try:
        for layer, _ in layers:
            layer.gradient_checkpointing = True  # type: ignore[assignment]
            layer.training = True
        yield
    finally:
        for layer, training in layers:
            layer.gradient_checkpointing = False  # type: ignore[assignment]
            layer.training = training


def _checkpointed(network: nn.Module) -> list[nn.Module]:
    # The function is set only on layers that checkpoint, by transformers' own switch.
    return [
        module for module in network.modules() if "_gradient_checkpointing_func" in vars(module)
    ]
