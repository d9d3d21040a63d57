"""PEFT's LoRA of a linear layer in three products, for layers that are called very often."""

from __future__ import annotations

from typing import Any, cast

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
        adapters = self.active_adapters
        if args or kwargs or self.merged or self.disable_adapters or len(adapters) != 1:
            return self._as_peft(x, *args, **kwargs)
        (name,) = adapters
        if name not in self.lora_A:
            return self._as_peft(x)
        lora_a, lora_b = self.lora_A[name], self.lora_B[name]
        down, up = cast(Tensor, lora_a.weight), cast(Tensor, lora_b.weight)
        base = cast(nn.Linear, self.base_layer)
        special = _has_hooks(base) or _has_hooks(lora_a) or _has_hooks(lora_b)
        special |= self.training and type(self.lora_dropout[name]) is not nn.Identity
        if special or x.dtype != down.dtype or torch.is_autocast_enabled(x.device.type):
            return self._as_peft(x)
        rows = x.reshape(-1, x.shape[-1])
        output = functional.linear(rows, base.weight, base.bias)
        if output.dtype != down.dtype:
            return self._as_peft(x)
        # In place: a linear layer keeps its input for the backward pass, not its output.
        output.addmm_(torch.mm(rows, down.t()), up.t(), alpha=self.scaling[name])
        return output.view(*x.shape[:-1], -1)

    def _as_peft(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result: Tensor = super().forward(x, *args, **kwargs)
        return result


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def quicken(model: nn.Module) -> None:
    """Let plain LoRA layers of a model over full-precision linear layers take the short way."""
    for module in model.modules():
        # Exactly PEFT's class: 4-bit layers and others bring a forward of their own.
        if type(module) is not Linear or type(module.base_layer) is not nn.Linear:
            continue
        if not module.lora_variant and not any(module.lora_bias.values()):
            module.__class__ = PlainLoraLinear
