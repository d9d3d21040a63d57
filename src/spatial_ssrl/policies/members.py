"""Rows that belong to prompts, laid side by side by prompt and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Members:
    """Which prompt each row continues.

    Args:
        prompt: Prompt of each row, shape (R,), int64, in [0, prompts).
        prompts: How many prompts there are, Q.
        slot: Place of each row when every prompt has `width` places, shape (R,), int64; None
            when every row stands at its place already.
        width: Most rows of a prompt, W.
        full: Whether every prompt has `width` rows, so that places are rows in some order.
    """

    prompt: Tensor
    prompts: int
    slot: Tensor | None
    width: int
    full: bool

    @staticmethod
    def of(prompt: Tensor, prompts: int) -> Members:
        """Return the members of `prompts` prompts, given the prompt of each row, shape (R,)."""
        order = prompt.argsort(stable=True)
        counts = torch.bincount(prompt, minlength=prompts)
        width = int(counts.max())
        rank = (
            torch.arange(len(prompt), device=prompt.device)
            - (counts.cumsum(0) - counts)[prompt[order]]
        )
        slot = torch.empty_like(prompt)
        slot[order] = prompt[order] * width + rank
        full = len(prompt) == prompts * width
        in_place = full and bool((slot == torch.arange(len(slot), device=slot.device)).all())
        return Members(prompt, prompts, None if in_place else slot, width, full)

    def gather(self, rows: Tensor) -> Tensor:
        """Return rows (R, H, n, d) side by side by prompt, (Q, H, W * n, d); zeros between."""
        _, heads, count, size = rows.shape
        packed = rows
        if self.slot is not None:
            places = rows.new_empty if self.full else rows.new_zeros
            packed = places(self.prompts * self.width, heads, count, size)
            packed[self.slot] = rows
        packed = packed.view(self.prompts, self.width, heads, count, size).transpose(1, 2)
        return packed.reshape(self.prompts, heads, self.width * count, size)

    def scatter(self, packed: Tensor, count: int) -> Tensor:
        """Return what `gather` put side by side as rows again, (R, H, n, m)."""
        prompts, heads, _, size = packed.shape
        split = packed.view(prompts, heads, self.width, count, size).transpose(1, 2)
        rows = split.reshape(prompts * self.width, heads, count, size)
        return rows if self.slot is None else rows[self.slot]
