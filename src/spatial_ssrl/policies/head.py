"""The vocabulary head in float32, without a float32 copy of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from spatial_ssrl.policies.wide_products import is_wide, wide_product

_WEIGHTS_PER_BLOCK = 2**24  # 64 MiB in float32


def float32_logits(head: nn.Linear, hidden: Tensor) -> Tensor:
    """Return the logits of a plain head in float32, whatever the weights' precision.

    On CUDA weights of lower precision are multiplied as they are with hidden states of the same
    type; see `wide_product`. In the backward pass, elsewhere, and with hidden states of another
    type, which are never rounded, they are converted a block of the vocabulary at a time: those
    of a 7B model would take 2.2 GB at once, and a backward pass would keep them.

    Args:
        head: The vocabulary head, V outputs.
        hidden: Last hidden states, shape (..., d), any floating-point type.

    Returns:
        Shape (..., V), float32; new memory, which the caller may change in place.
    """
    bias = None if head.bias is None else head.bias.float()
    if head.weight.dtype == torch.float32:
        return functional.linear(hidden.float(), head.weight, bias)
    if hidden.dtype != head.weight.dtype:
        hidden = hidden.float()
    rows = hidden.reshape(-1, hidden.shape[-1])
    logits: Tensor = _WideLinear.apply(rows, head.weight)
    logits = logits.view(*hidden.shape[:-1], -1)
    return logits if bias is None else logits + bias


def other_logits(head: nn.Module, hidden: Tensor) -> Tensor:
    """Return the logits of a head that brings a forward of its own, in its precision.

    Args:
        head: An adapted head, or one in 4 bits, which has no floating-point weights.
        hidden: Last hidden states, shape (..., d).

    Returns:
        Shape (..., V), float32.
    """
    kinds = (p.dtype for p in head.parameters() if p.is_floating_point())
    logits: Tensor = head(hidden.to(next(kinds, hidden.dtype))).float()
    return logits


def head_width(head: nn.Module) -> int:
    """Return the outputs of a vocabulary head, whose weight may be packed in 4 bits."""
    return int(getattr(head, "out_features", None) or cast(Tensor, head.weight).shape[0])


def _blocks(weight: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield the rows of a matrix (V, d) in float32, some at a time, with their place.

    Of a matrix without numbers, whose memory alone is asked about, the blocks between the second
    and the last are left out: they take as much as the second.
    """
    size = max(1, _WEIGHTS_PER_BLOCK // weight.shape[1])
    starts = range(0, weight.shape[0], size)
    for start in [*starts[:2], *starts[2:][-1:]] if weight.is_meta else starts:
        place = slice(start, start + size)
        yield place, weight[place].float()


class _WideLinear(torch.autograd.Function):
    """`hidden @ weight.T` in float32; keeps hidden (M, d) and weight (V, d) as they are."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        if is_wide(hidden, weight):
            return wide_product(hidden, weight.t())
        hidden = hidden.float()
        logits = hidden.new_empty(len(hidden), len(weight))
        for place, block in _blocks(weight):
            logits[:, place] = hidden @ block.t()
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        hidden, weight = ctx.saved_tensors
        wants_hidden, wants_weight = ctx.needs_input_grad
        of_hidden = torch.zeros_like(hidden, dtype=torch.float32) if wants_hidden else None
        of_weight = torch.empty_like(weight) if wants_weight else None
        states = hidden.float() if wants_weight else hidden
        for place, block in _blocks(weight):
            if of_hidden is not None:
                of_hidden.addmm_(grad[:, place], block)
            if of_weight is not None:
                of_weight[place] = (grad[:, place].t() @ states).to(weight.dtype)
        return None if of_hidden is None else of_hidden.to(hidden.dtype), of_weight
