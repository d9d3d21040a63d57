"""How many tokens the language model read, and how many a repeated forward would have read."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch


@dataclass(frozen=True, slots=True)
class TokenCount:
    """Tokens of forward passes, to be added up; recomputed activations are not counted.

    Args:
        computed: Tokens the language model read, padding included.
        repeated: Tokens it would have read, padding left out, had each completion's prompt
            been read with it: P + C for each completion and pass.
        replayed: Those of `computed` that recorded steps of decoding read, such as CUDA graphs.
    """

    computed: int = 0
    repeated: int = 0
    replayed: int = 0

    def __add__(self, other: TokenCount) -> TokenCount:
        return TokenCount(
            self.computed + other.computed,
            self.repeated + other.repeated,
            self.replayed + other.replayed,
        )

    def __sub__(self, other: TokenCount) -> TokenCount:
        return TokenCount(
            self.computed - other.computed,
            self.repeated - other.repeated,
            self.replayed - other.replayed,
        )


def repeated_tokens(prompts: PromptBatch, mask: Tensor) -> int:
    """Return the tokens a pass reads that repeats each prompt for each of its completions.

    Args:
        prompts: B prompts.
        mask: True on completion tokens, shape (B * G, C), bool.
    """
    group = len(mask) // len(prompts)
    return int(prompts.attention_mask.sum()) * group + int(mask.sum())
