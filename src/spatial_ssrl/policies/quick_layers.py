"""Layers of transformers models computed by fewer, faster operations, to the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

# Root mean square layers that multiply by their weight what they have normalised in float32.
_RMS_NORMS = frozenset(
    {
        "LlamaRMSNorm",
        "MistralRMSNorm",
        "Qwen2RMSNorm",
        "Qwen2VLRMSNorm",
        "Qwen2_5_VLRMSNorm",
        "Qwen3RMSNorm",
        "Qwen3VLTextRMSNorm",
    }
)


class QuickRMSNorm(nn.Module):
    """A layer of transformers that normalises in one operation instead of five.

    Exactly equal: what is normalised in float32 is rounded to the type of the input and then
    multiplied by the weight, in this order.
    """

    weight: Tensor
    variance_epsilon: float

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the normalised states, of the same shape."""
        shape, epsilon = hidden_states.shape[-1:], self.variance_epsilon
        if hidden_states.dtype == self.weight.dtype == torch.float32:  # Nothing is rounded.
            return functional.rms_norm(hidden_states, shape, self.weight, epsilon)
        return self.weight * functional.rms_norm(hidden_states, shape, None, epsilon)


class _PatchProduct:
    """A convolution that reads each pixel once is a product, when its input is one patch a row.

    Models that cut pictures into patches themselves call it so; convolutions take several times
    as long for it.
    """

    kernel_size: tuple[int, ...]
    weight: Tensor
    bias: Tensor | None

    def forward(self, input: Tensor) -> Tensor:
        """Return the convolution of patches, shape (N, out, 1, ...)."""
        if input.shape[2:] != self.kernel_size:
            return super().forward(input)  # type: ignore[misc,no-any-return]
        out = functional.linear(input.flatten(1), self.weight.flatten(1), self.bias)
        return out.view(*out.shape, *[1] * len(self.kernel_size))


class PatchConv2d(_PatchProduct, nn.Conv2d):
    """See `_PatchProduct`."""


class PatchConv3d(_PatchProduct, nn.Conv3d):
    """See `_PatchProduct`."""


def quicken_layers(network: nn.Module) -> None:
    """Let layers of a model take the short way where it leads to the same numbers.

    Classes are exchanged, nothing else: names, weights and what is saved stay as they are.
    """
    quick: dict[type, type] = {}
    for module in network.modules():
        kind = type(module)
        if kind in (nn.Conv2d, nn.Conv3d):
            if _is_patch_product(module):
                module.__class__ = PatchConv2d if kind is nn.Conv2d else PatchConv3d
        elif kind.__name__ in _RMS_NORMS and kind.__module__.startswith("transformers."):
            # A subclass of the layer's own class, which initialisation and PEFT may ask for.
            if kind not in quick:
                quick[kind] = type(kind.__name__, (QuickRMSNorm, kind), {})
            module.__class__ = quick[kind]


def _is_patch_product(module: nn.Module) -> bool:
    assert isinstance(module, nn.Conv2d | nn.Conv3d)
    return (
        module.kernel_size == module.stride
        and module.groups == 1
        and set(module.dilation) == {1}
        and module.padding in ((0,) * len(module.kernel_size), "valid")
    )
