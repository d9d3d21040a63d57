"""PEFT's LoRA of a linear layer in three products, for layers that are called very often."""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn
from torch.nn import functional


class PlainLoraLinear(Linear):
    """A LoRA layer whose ordinary forward skips PEFT's bookkeeping.

    Sampling calls each layer once a token, and on small batches PEFT's checks, its four nested
    modules and the separate scaling cost more than the products. Whatever is not the ordinary
    case (several adapters, merged ones, dropout, hooks, mixed precision) goes PEFT's own way, so
    that saving, merging and switching adapters are PEFT's.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the base layer's output plus the scaled update, shape (..., out)."""
        plain = None if args or kwargs else self._plain(x)
        if plain is None:
            return self._as_peft(x, *args, **kwargs)
        base, down, up, scaling = plain
        output = functional.linear(x, *base)
        if output.dtype != down.dtype:
            return self._as_peft(x)
        # In place: a linear layer keeps its input for the backward pass, not its output.
        low = functional.linear(x, down).view(-1, down.shape[0])
        output.view(-1, up.shape[0]).addmm_(low, up.t(), alpha=scaling)
        return output

    def _plain(
        self, x: Tensor
    ) -> tuple[tuple[Tensor, Tensor | None], Tensor, Tensor, float] | None:
        """Return weight and bias of the base layer, A, B and the scaling; None out of the ordinary.

        Straight from the dictionaries in which modules keep what they are made of: looking names
        up as attributes takes longer than the products of a small model.
        """
        if self.merged_adapters or self._disable_adapters:
            return None
        name = self._active_adapter
        if isinstance(name, list):
            if len(name) != 1:
                return None
            (name,) = name
        # Of what kind these are is settled when a layer is made: see `quicken`.
        parts: dict[str, Any] = self.__dict__["_modules"]
        lora_a = parts["lora_A"]._modules.get(name)
        if lora_a is None:
            return None
        base, lora_b = parts["base_layer"], parts["lora_B"]._modules[name]
        for layer in (base, lora_a, lora_b):
            if (
                layer._forward_hooks
                or layer._forward_pre_hooks
                or "weight" not in layer._parameters
            ):
                return None
        if self.training and type(parts["lora_dropout"]._modules[name]) is not nn.Identity:
            return None
        down = lora_a._parameters["weight"]
        if x.dtype != down.dtype or torch.is_autocast_enabled(x.device.type):
            return None
        own = base._parameters
        return (own["weight"], own["bias"]), down, lora_b._parameters["weight"], self.scaling[name]

    def _as_peft(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = super().forward(x, *args, **kwargs)
        return result


def quicken(model: nn.Module) -> None:
    """Let plain LoRA layers of a model over full-precision linear layers take the short way."""
    for module in model.modules():
        # Exactly PEFT's class: 4-bit layers and others bring a forward of their own.
        if type(module) is not Linear or type(module.base_layer) is not nn.Linear:
            continue
        if not module.lora_variant and not any(module.lora_bias.values()):
            module.__class__ = PlainLoraLinear
