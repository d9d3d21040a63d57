"""How completions are sampled, and the distribution that comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError


@dataclass(frozen=True)
class SamplingSettings:
    """How completions are sampled.

    The limits on tokens apply one after another, in the order top-k, top-p, min-p, each to the
    distribution after the temperature and the limits before it, as in transformers.

    Args:
        max_new_tokens: Length limit of a completion, in tokens.
        temperature: Divides the logits; 0 picks the most likely token.
        top_p: Keeps the most likely tokens that together reach this probability, in (0, 1];
            1 keeps all.
        top_k: Keeps that many most likely tokens; 0 keeps all.
        min_p: Keeps tokens at least this share as likely as the most likely one, in [0, 1);
            0 keeps all.
        stop: Texts any of which ends a completion, which keeps it.
    """

    max_new_tokens: int = 512
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ConfigError(f"max_new_tokens must be at least 1, got {self.max_new_tokens}.")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be 0 (greedy) or more, got {self.temperature}.")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p must be in (0, 1], got {self.top_p}; 1 keeps all tokens.")
        if self.top_k < 0:
            raise ConfigError(f"top_k must be 0 (all tokens) or more, got {self.top_k}.")
        if not 0 <= self.min_p < 1:
            raise ConfigError(f"min_p must be in [0, 1), got {self.min_p}; 0 keeps all tokens.")
        if any(not text for text in self.stop):
            raise ConfigError("stop holds an empty text, which would end every completion.")

    @property
    def keeps_all_tokens(self) -> bool:
        """Whether every token can be sampled."""
        return self.top_p == 1 and self.top_k == 0 and self.min_p == 0


def adjusted_logits(
    logits: Tensor, sampling: SamplingSettings, spared: Tensor | None = None
) -> Tensor:
    """Return logits whose softmax is what tokens are sampled from.

    Args:
        logits: Next-token logits, shape (..., V), float32; -inf on what is never said.
        sampling: Temperature and limits; temperature 0 counts as 1.
        spared: Tokens kept whatever the limits say, shape (...), int64. A token that was sampled
            from older weights stays possible, so that its probability ratio is finite.

    Returns:
        Shape (..., V): divided by the temperature, -inf where the limits exclude a token.
    """
    logits = logits / (sampling.temperature or 1.0)
    if sampling.keeps_all_tokens:
        return logits
    with torch.no_grad():
        excluded = _excluded(logits, sampling)
        if spared is not None:
            excluded.scatter_(-1, spared.unsqueeze(-1), False)
    return logits.masked_fill(excluded, float("-inf"))


def _excluded(logits: Tensor, sampling: SamplingSettings) -> Tensor:
    """Return which tokens the limits exclude, shape (..., V), bool; never the most likely one."""
    kept = logits
    if 0 < sampling.top_k < logits.shape[-1]:
        least = kept.topk(sampling.top_k, dim=-1).values[..., -1:]
        kept = kept.masked_fill(kept < least, float("-inf"))
    if sampling.top_p < 1:
        ordered, order = kept.sort(dim=-1, descending=True)
        shares = ordered.softmax(dim=-1)
        # A token stays while those before it fall short of the wanted probability.
        beyond = shares.cumsum(dim=-1) - shares >= sampling.top_p
        kept = kept.masked_fill(beyond.scatter(-1, order, beyond), float("-inf"))
    if sampling.min_p > 0:
        most = kept.amax(dim=-1, keepdim=True)
        kept = kept.masked_fill(kept < most + math.log(sampling.min_p), float("-inf"))
    return torch.isneginf(kept)
