"""Ending completions at a text rather than at a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spatial_ssrl.policies.base import PolicyBackbone

_BROKEN = "\ufffd"  # stands for bytes that are no letter, or not yet


class StopTexts:
    """Tells which completions have just said a text that ends them.

    Only the last tokens are decoded: every token but a special one stands for a byte or more, so
    a text of n bytes was completed by the last token only if it lies in the last n. One more is
    decoded because some tokenizers drop the blank before the first token. Where the last tokens
    hold a stop text, or begin within a letter, the whole completion is decoded to be sure.

    Args:
        policy: Decodes tokens.
        texts: Texts any of which ends a completion; none of them empty.
    """

    def __init__(self, policy: PolicyBackbone, texts: Sequence[str]) -> None:
        self.policy = policy
        self.texts = tuple(texts)
        self._window = 1 + max((len(text.encode()) for text in texts), default=0)

    def completed(self, tokens: Tensor) -> Tensor:
        """Return whether each completion holds a stop text, given that none did a token ago.

        Args:
            tokens: What was said so far, shape (L, t), int64, without padding.

        Returns:
            Shape (L,), bool.
        """
        said = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        if not self.texts or not len(tokens):
            return said
        ends = self._decoded(tokens[:, -self._window :])
        unsure = [row for row, end in enumerate(ends) if _BROKEN in end or self._holds(end)]
        if unsure:
            whole = self._decoded(tokens[unsure])
            said[unsure] = torch.tensor([self._holds(text) for text in whole], device=said.device)
        return said

    def _decoded(self, tokens: Tensor) -> tuple[str, ...]:
        return self.policy.decode(tokens, torch.ones_like(tokens, dtype=torch.bool))

    def _holds(self, text: str) -> bool:
        return any(stop in text for stop in self.texts)
