"""Attention of completions to a prompt that was read once, without cache or dense mask."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from spatial_ssrl.policies.attention_parts import attend_to_prompts_and_rows, fused_on
from spatial_ssrl.policies.members import Members
from spatial_ssrl.policies.packing import PackedRows

_NAME = "spatial_ssrl_shared"


@dataclass(frozen=True)
class Masks:
    """What is added to the scores of attention.

    Args:
        prompts: Of prompt tokens, shape (B, 1, P, P); None when `SharedLayout.causal` says it
            all.
        before: Of row tokens to their prompt, shape (R, 1, 1 or W, P).
        own: Of row tokens to their row, shape (R, 1, W, W).
        all_before: Whether row tokens see all of their prompt.
    """

    prompts: Tensor | None
    before: Tensor
    own: Tensor
    all_before: bool

    @cached_property
    def rows(self) -> Tensor:
        """Of row tokens to their prompt and their row, shape (R, 1, W, P + W)."""
        return torch.cat([self.before.expand(-1, -1, self.own.shape[2], -1), self.own], dim=3)


@dataclass(frozen=True, slots=True)
class SharedLayout:
    """How one sequence is made up: B prompts of P tokens, then R rows of W tokens.

    Args:
        mask: True on real prompt tokens, left padded, shape (B, P), bool.
        rows: The completions.
        mutual: Prompt tokens of one number from 0 on see one another both ways, those with -1
            see what is before them, shape (B, P), int64; None when all attention is causal.
        question: Which prompt each row follows, shape (R,), int64; None when row r follows
            prompt r, for every r.
        members: The same, for `attend_to_prompts_and_rows`.
        dtype: Of the masks; that of the activations saves a conversion.
        longest: Tokens of prompt and longest completion, which no window beyond cuts.
        made: Masks made so far, by window.
    """

    mask: Tensor
    rows: PackedRows
    mutual: Tensor | None
    question: Tensor | None
    members: Members
    dtype: torch.dtype
    longest: int
    made: dict[int | None, Masks] = field(default_factory=dict)

    @property
    def causal(self) -> bool:
        """Whether prompt tokens see only what is before them, not all of their prompt."""
        return self.mutual is None

    def masks(self, window: int | None) -> Masks:
        """Return the masks of layers that see `window` tokens, themselves included; None: all."""
        if window is not None and window >= self.longest:
            window = None
        if window not in self.made:
            own, before = self._seen_by_rows(window)
            one_block = self.mutual is None or bool((self.mutual == 0).all())
            plain = window is None and one_block and bool(self.mask.all())
            self.made[window] = Masks(
                None if plain else _additive(self._seen_by_prompts(window), self.dtype),
                _additive(before, self.dtype),
                _additive(own, self.dtype),
                all_before=bool(before.all()),
            )
        return self.made[window]

    def _seen_by_prompts(self, window: int | None) -> Tensor:
        """Return which prompt token sees which, shape (B, P, P), bool."""
        place = torch.arange(self.mask.shape[1], device=self.mask.device)
        visible = (place <= place[:, None]).expand(len(self.mask), -1, -1)
        if self.mutual is not None:
            alike = self.mutual[:, None] == self.mutual[:, :, None]
            visible = visible | (alike & (self.mutual >= 0)[:, None])
        if window is not None:
            visible = visible & (place > place[:, None] - window)
        # A padding query sees itself, so that no softmax is empty; nobody sees it back.
        return (visible & self.mask[:, None]) | (place == place[:, None])

    def _seen_by_rows(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Return what row tokens see of their row, and of their prompt.

        Shapes (R, W, W), and (R, 1, P) or, where windows cut it, (R, W, P), bool.
        """
        owner, width = self.rows.owner, self.rows.shape[1]
        place = torch.arange(width, device=self.mask.device)
        own = (owner[:, None] == owner[:, :, None]) & (place <= place[:, None])
        before = self.mask[self.rows.question, None]
        if window is not None:
            own = own & (place > place[:, None] - window)
            length = self.mask.shape[1]
            there = torch.arange(length, device=self.mask.device)
            before = before & (there > (length + self.rows.offset - window)[:, :, None])
        return own, before


def shared_layout(
    mask: Tensor, rows: PackedRows, mutual: Tensor | None, dtype: torch.dtype
) -> SharedLayout:
    """Return who sees whom; arguments as of `SharedLayout`."""
    in_order = torch.equal(rows.question, torch.arange(len(mask), device=mask.device))
    longest = mask.shape[1] + int(rows.offset.max() + 1 if rows.offset.numel() else 0)
    question = None if in_order else rows.question
    members = Members.of(rows.question, len(mask))
    return SharedLayout(mask, rows, mutual, question, members, dtype, longest)


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
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend within prompts, and from rows to their prompt and to themselves.

    A transformers attention function: states have shape (1, heads, T, d) with T = B P + R W,
    the output has shape (1, T, heads, d). On a CPU prompts' keys and values are read where they
    are; elsewhere they are expanded for one layer at a time, which activation checkpointing then
    forgets. `attention_mask` is not read: what layers see besides is told by `sliding_window`, in
    tokens, as models do for all functions.
    """
    layout, masks = shared_layout, shared_layout.masks(sliding_window)
    (count, length), (rows, width) = layout.mask.shape, layout.rows.shape

    def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        mask = None if mask is None else mask.to(query.dtype)
        out, _ = sdpa_attention_forward(
            module, query, key, value, mask, dropout, scaling, is_causal=layout.causal
        )
        return out

    def split(states: Tensor) -> tuple[Tensor, Tensor]:
        before, after = states[0].split([count * length, rows * width], dim=1)
        return (
            before.unflatten(1, (count, length)).transpose(0, 1),
            after.unflatten(1, (rows, width)).transpose(0, 1),
        )

    (q, row_q), (k, row_k), (v, row_v) = split(query), split(key), split(value)
    out = attend(q, k, v, masks.prompts)
    if rows == 0:
        return out.flatten(0, 1).unsqueeze(0), None
    if fused_on(query.device) and dropout == 0:
        before = None if masks.all_before else masks.before
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        found = attend_to_prompts_and_rows(
            row_q, (k, v), (row_k, row_v), layout.members, (before, masks.own), scale
        ).transpose(1, 2)
    else:
        if layout.question is not None:  # Plain indexing would add up gradients in any order.
            k, v = k.index_select(0, layout.question), v.index_select(0, layout.question)
        row_k, row_v = torch.cat([k, row_k], dim=2), torch.cat([v, row_v], dim=2)
        found = attend(row_q, row_k, row_v, masks.rows)
    return torch.cat([out.flatten(0, 1), found.flatten(0, 1)]).unsqueeze(0), None


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
