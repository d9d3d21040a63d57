"""Attention of completions to a prompt that was read once, without cache or dense mask."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from spatial_ssrl.policies.packing import PackedRows

_NAME = "spatial_ssrl_shared"


@dataclass(frozen=True, slots=True)
class SharedLayout:
    """How one sequence is made up: B prompts of P tokens, then R rows of W tokens.

    Args:
        prompts: B and P.
        rows: R and W.
        question: Which prompt each row follows, shape (R,), int64; None when row r follows
            prompt r, for every r.
        prompt_mask: Added to the scores of prompt tokens, shape (B, 1, P, P); None when
            `causal` says it all.
        row_mask: Added to the scores of row tokens, shape (R, 1, W, P + W).
        causal: Whether prompt tokens see only what is before them, not all of their prompt;
            read where `prompt_mask` is None.
    """

    prompts: tuple[int, int]
    rows: tuple[int, int]
    question: Tensor | None
    prompt_mask: Tensor | None
    row_mask: Tensor
    causal: bool


def shared_layout(
    mask: Tensor, rows: PackedRows, both_ways: Tensor | None, dtype: torch.dtype
) -> SharedLayout:
    """Return who sees whom.

    Args:
        mask: True on real prompt tokens, left padded, shape (B, P), bool.
        rows: The completions.
        both_ways: True on prompt tokens that see one another both ways, shape (B, P), bool;
            None when all attention is causal.
        dtype: Of the masks; that of the activations saves a conversion.
    """
    count, length = mask.shape
    causal = both_ways is None
    uniform = bool(mask.all()) and (both_ways is None or bool(both_ways.all()))
    in_order = torch.equal(rows.question, torch.arange(count, device=mask.device))
    return SharedLayout(
        prompts=(count, length),
        rows=rows.shape,
        question=None if in_order else rows.question,
        prompt_mask=None if uniform else _additive(_seen_by_prompts(mask, both_ways), dtype),
        row_mask=_additive(_seen_by_rows(mask, rows), dtype),
        causal=causal,
    )


def _seen_by_prompts(mask: Tensor, both_ways: Tensor | None) -> Tensor:
    """Return which prompt token sees which, shape (B, P, P), bool."""
    place = torch.arange(mask.shape[1], device=mask.device)
    visible = (place <= place[:, None]).expand(len(mask), -1, -1)
    if both_ways is not None:
        visible = visible | (both_ways[:, None] & both_ways[:, :, None])
    # A padding query sees itself, so that no softmax is empty; nobody sees it back.
    return (visible & mask[:, None]) | (place == place[:, None])


def _seen_by_rows(mask: Tensor, rows: PackedRows) -> Tensor:
    """Return what row tokens see of their prompt and of their row, shape (R, W, P + W), bool."""
    owner, width = rows.owner, rows.shape[1]
    place = torch.arange(width, device=mask.device)
    own = (owner[:, None] == owner[:, :, None]) & (place <= place[:, None])
    before = mask[rows.question, None].expand(-1, width, -1)
    return torch.cat([before, own], dim=2)


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    hidden = torch.full((), torch.finfo(dtype).min, dtype=dtype, device=visible.device)
    return torch.zeros_like(hidden).where(visible, hidden).unsqueeze(1)


def shared_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    shared_layout: SharedLayout,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within prompts, and from rows to their prompt and to themselves.

    A transformers attention function: states have shape (1, heads, T, d) with T = B P + R W,
    the output has shape (1, T, heads, d). Prompts' keys and values are expanded for one layer
    at a time, which activation checkpointing then forgets. `attention_mask` is not read.
    """
    layout = shared_layout
    (count, length), (rows, width) = layout.prompts, layout.rows

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        mask = None if mask is None else mask.to(query.dtype)
        out, _ = sdpa_attention_forward(
            module, query, key, value, mask, dropout, scaling, is_causal=layout.causal
        )
        return out.flatten(0, 1)

    def split(states: Tensor) -> tuple[Tensor, Tensor]:
        before, after = states[0].split([count * length, rows * width], dim=1)
        return (
            before.unflatten(1, (count, length)).transpose(0, 1),
            after.unflatten(1, (rows, width)).transpose(0, 1),
        )

    (q, row_q), (k, row_k), (v, row_v) = split(query), split(key), split(value)
    out = attend(q, k, v, layout.prompt_mask)
    if rows == 0:
        return out.unsqueeze(0), None
    if layout.question is not None:  # Plain indexing would add up gradients in any order.
        k, v = k.index_select(0, layout.question), v.index_select(0, layout.question)
    row_k, row_v = torch.cat([k, row_k], dim=2), torch.cat([v, row_v], dim=2)
    return torch.cat([out, attend(row_q, row_k, row_v, layout.row_mask)]).unsqueeze(0), None


AttentionInterface.register(_NAME, shared_attention)


class Sharing(AbstractContextManager[None]):
    """Context in which the language model of a network attends by `shared_attention`.

    It may be entered again: recomputed layers do so in the backward pass.

    Args:
        network: The model; its vision tower attends as ever.
    """

    def __init__(self, network: PreTrainedModel) -> None:
        configs = (getattr(module, "config", None) for module in network.get_decoder().modules())
        self._configs = {id(c): c for c in configs if isinstance(c, PreTrainedConfig)}.values()
        self._before: list[list[Any]] = []

    def __enter__(self) -> None:
        """Switch over."""
        self._before.append([config._attn_implementation for config in self._configs])
        for config in self._configs:
            config._attn_implementation = _NAME

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Switch back."""
        for config, name in zip(self._configs, self._before.pop(), strict=True):
            config._attn_implementation = name
