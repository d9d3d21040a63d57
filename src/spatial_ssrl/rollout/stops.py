"""Ending completions at a text rather than at a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from spatial_ssrl.policies.base import PolicyBackbone


class StopTexts:
    """Tells which completions have just said a text that ends them.

    Only the end of a completion is decoded: every token but a special one stands for a byte or
    more, so a text of n bytes was completed by the last token only if it lies in the last n
    tokens. One more is decoded because some tokenizers drop the blank before the first token.

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
        if not self.texts or not len(tokens):
            return torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        tail = tokens[:, -self._window :]
        ends = self.policy.decode(tail, torch.ones_like(tail, dtype=torch.bool))
        said = [any(text in end for text in self.texts) for end in ends]
        return torch.tensor(said, dtype=torch.bool, device=tokens.device)
