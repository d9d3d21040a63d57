"""Activation checkpointing that leaves the model as it is outside of scoring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from spatial_ssrl.core.errors import ConfigError


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
    # It also makes embeddings ask for gradients, which only another way of checkpointing needs
    # and which would send the backward pass through a frozen vision tower.
    network.disable_input_require_grads()
    for layer in _checkpointed(network):
        layer.gradient_checkpointing = False  # type: ignore[assignment]


@contextmanager
def recomputed(
    network: nn.Module, within: AbstractContextManager[None] | None = None
) -> Iterator[None]:
    """Let prepared layers recompute activations inside the context, in eval mode too.

    transformers does so only in training mode and drops the cache then. Marking the layers
    themselves, not what is inside them, leaves dropout as it is; unmarking them afterwards
    keeps the cache for everyone else. Does nothing to a model that was not prepared.

    Args:
        network: The model.
        within: Context that layers are computed again in, during the backward pass; it must
            allow being entered more than once. None when they need none.
    """
    again = within or nullcontext()
    function = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), again))
    layers = [
        (layer, layer.training, layer._gradient_checkpointing_func)
        for layer in _checkpointed(network)
    ]
    try:
        for layer, _, _ in layers:
            layer.gradient_checkpointing = True  # type: ignore[assignment]
            layer.training = True
            layer._gradient_checkpointing_func = function  # type: ignore[assignment]
        yield
    finally:
        for layer, training, before in layers:
            layer.gradient_checkpointing = False  # type: ignore[assignment]
            layer.training = training
            layer._gradient_checkpointing_func = before


def _checkpointed(network: nn.Module) -> list[nn.Module]:
    # The function is set only on layers that checkpoint, by transformers' own switch.
    return [
        module for module in network.modules() if "_gradient_checkpointing_func" in vars(module)
    ]
