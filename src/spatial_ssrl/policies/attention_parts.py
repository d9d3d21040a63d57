"""Attention over keys that lie in two places: each part alone, then put together exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from spatial_ssrl.policies.members import Members
from spatial_ssrl.policies.wide_products import wide_on, wide_product

_fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_fused_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward

# Added to scores of what may not be seen. Finite, so that a query that sees nothing of a part has
# a defined, if useless, share there, which weighs exactly zero beside any other part.
_HIDDEN = torch.finfo(torch.float32).min / 2

_fused_devices = {"cpu"}


def fused_on(device: torch.device) -> bool:
    """Return whether parts are attended to by a fused kernel on a device: on CPUs."""
    return device.type in _fused_devices


@contextmanager
def as_on_other_devices() -> Iterator[None]:
    """Let CPUs do as CUDA devices do, to foresee their memory and to test their way."""
    before = set(_fused_devices)
    _fused_devices.clear()
    try:
        with wide_on("cpu"):
            yield
    finally:
        _fused_devices.update(before)


def hidden_where(unseen: Tensor) -> Tensor:
    """Return what is added to scores so that nothing is seen where `unseen` is True, float32."""
    return torch.zeros_like(unseen, dtype=torch.float32).masked_fill_(unseen, _HIDDEN)


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Attend to one part of the keys.

    On a CPU by PyTorch's fused kernel, which never writes the scores down; elsewhere plainly,
    in float32. Values are converted for that, since shares must not be rounded to their type;
    of keys, CUDA multiplies halves as they are.

    Args:
        query: Shape (B, A, n, d); A may be a multiple of H on a CPU.
        key: Shape (B, H, S, d).
        value: Shape (B, H, S, d).
        mask: Added to the scores, which broadcast with it; see `hidden_where`. None adds nothing.
        scale: Factor of the scores.

    Returns:
        What queries find, a mean of values, shape (B, A, n, d), and the logarithm of the sum of
        exponentiated scores, shape (B, A, n), float32.
    """
    if fused_on(query.device):
        out, sums = _fused(*_of_one_type(query, key, value), attn_mask=mask, scale=scale)
        return out, sums
    scores = wide_product(query, key.transpose(2, 3)).mul_(scale)
    if mask is not None:
        scores += mask
    sums = scores.logsumexp(dim=-1)
    return scores.sub_(sums.unsqueeze(-1)).exp_() @ value.float(), sums


def merged(one: Tensor, one_sums: Tensor, other: Tensor, other_sums: Tensor) -> Tensor:
    """Return what queries find in two parts together, given what `attend` returns of each.

    The softmax over both parts gives the first one a share of s1 / (s1 + s2), s being the sums of
    exponentiated scores: the logistic function of the difference of their logarithms.

    Args:
        one: What they find in one part, shape (..., d).
        one_sums: Shape (...), float32, or float64 with states of it.
        other: What they find in the other part, shape (..., d).
        other_sums: Shape (...), of the same type.

    Returns:
        Shape (..., d), of the type of the sums.
    """
    share = torch.sigmoid(one_sums - other_sums).unsqueeze(-1)
    return torch.lerp(other.to(share.dtype), one.to(share.dtype), share)


def attend_to_prompts_and_rows(
    query: Tensor,
    prompt: tuple[Tensor, Tensor],
    row: tuple[Tensor, Tensor],
    members: Members,
    masks: tuple[Tensor | None, Tensor | None],
    scale: float,
) -> Tensor:
    """Attend from rows to the prompt each continues and to themselves, with gradients; CPU only.

    Prompts' keys and values are neither repeated for each row nor joined to those of rows, and
    no scores are kept for the backward pass.

    Args:
        query: Of rows, shape (R, A, W, d), A a multiple of the H key heads.
        prompt: Keys and values of Q prompts, each of shape (Q, H, P, d).
        row: Keys and values of rows, each of shape (R, H, W, d).
        members: Which prompt each row continues.
        masks: Added to scores of the prompt, shape (R, 1, 1 or W, P), and of the row itself,
            shape (R, 1, W, W); None adds nothing.
        scale: Factor of the scores.

    Returns:
        Shape (R, A, W, d), of the type of the states.
    """
    states = _of_one_type(query, *prompt, *row)
    before, own = (None if mask is None else mask.to(states[0].dtype) for mask in masks)
    if before is not None:
        before = members.gather(before.expand(-1, -1, query.shape[2], -1))
    out: Tensor = _TwoParts.apply(*states, members, before, own, scale)
    return out.to(query.dtype)


class _TwoParts(torch.autograd.Function):
    """See `attend_to_prompts_and_rows`.

    The gradient of scores needs of the softmax only its output and its sum. Given those of both
    parts together, the backward pass of each part alone is exact.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        prompt_key: Tensor,
        prompt_value: Tensor,
        row_key: Tensor,
        row_value: Tensor,
        members: Members,
        before: Tensor | None,
        own: Tensor | None,
        scale: float,
    ) -> Tensor:
        width = query.shape[2]
        of_prompt, prompt_sums = _fused(
            members.gather(query), prompt_key, prompt_value, attn_mask=before, scale=scale
        )
        of_row, row_sums = _fused(query, row_key, row_value, attn_mask=own, scale=scale)
        of_prompt = members.scatter(of_prompt, width)
        prompt_sums = members.scatter(prompt_sums.unsqueeze(-1), width).squeeze(-1)
        out = merged(of_prompt, prompt_sums, of_row, row_sums).to(query.dtype)
        sums = torch.logaddexp(prompt_sums, row_sums)
        ctx.save_for_backward(
            query, prompt_key, prompt_value, row_key, row_value, before, own, out, sums
        )
        ctx.members, ctx.scale = members, scale
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, prompt_key, prompt_value, row_key, row_value, before, own, out, sums = (
            ctx.saved_tensors
        )
        members, settings = ctx.members, (0.0, False)
        to_prompt, prompt_key_grad, prompt_value_grad = _fused_backward(
            members.gather(grad),
            members.gather(query),
            prompt_key,
            prompt_value,
            members.gather(out),
            members.gather(sums.unsqueeze(-1)).squeeze(-1),
            *settings,
            attn_mask=before,
            scale=ctx.scale,
        )
        to_row, row_key_grad, row_value_grad = _fused_backward(
            grad, query, row_key, row_value, out, sums, *settings, attn_mask=own, scale=ctx.scale
        )
        query_grad = to_row.add_(members.scatter(to_prompt, query.shape[2]))
        return (
            query_grad,
            prompt_key_grad,
            prompt_value_grad,
            row_key_grad,
            row_value_grad,
            *[None] * 4,
        )


def _of_one_type(*states: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of one type, float32 if theirs differ, as autocast may leave them."""
    if len({state.dtype for state in states}) == 1:
        return states
    return tuple(state.float() for state in states)
