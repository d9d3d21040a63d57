"""A policy whose completions and their probabilities can all be written down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.policies import ReadState, TokenCount
from support.tiny_models import random_question

NEVER, END = 3, 4


class MarkovChain:
    """A policy whose next token depends on the question and the last token only.

    Five tokens: three to say, one never said, and the end. It keeps no cache, so all sequences
    and their probabilities can be written down.
    """

    end_token_ids = (END,)
    vocabulary_size = 5
    keeps_prompts_once = False
    tokens = TokenCount()

    def __init__(self, questions: int = 2) -> None:
        generator = torch.Generator().manual_seed(0)
        self.table = torch.randn(questions, 5, 5, generator=generator)
        self.table[..., NEVER] = float("-inf")

    def prompts(self) -> PromptBatch:
        """Return one prompt per question, so unlike in length that they are read apart."""
        count = len(self.table)
        lengths = torch.tensor([10 if row % 2 else 2 for row in range(count)])
        return PromptBatch(
            input_ids=torch.arange(count)[:, None].expand(-1, 10),
            attention_mask=torch.arange(10) >= 10 - lengths[:, None],
            vision={},
            questions=tuple(random_question(1, seed=row) for row in range(count)),
        )

    def select(self, prompts: PromptBatch, rows: Sequence[int]) -> PromptBatch:
        return replace(
            prompts,
            input_ids=prompts.input_ids[list(rows)],
            attention_mask=prompts.attention_mask[list(rows)],
            questions=tuple(prompts.questions[row] for row in rows),
        )

    def read(self, prompts: PromptBatch) -> ReadState:
        question = prompts.input_ids[:, -1]
        hidden = torch.stack([question, torch.zeros_like(question)], dim=1).float()
        return ReadState(DynamicCache(), prompts.attention_mask, question * 0, hidden)

    def for_sampling(self, states: Sequence[ReadState]) -> ReadState:
        (state,) = states
        return state

    def read_on(self, state: ReadState, tokens: Tensor, mask: Tensor) -> tuple[ReadState, Tensor]:
        assert mask.all()
        assert tokens.shape == (len(state.hidden), 1)
        hidden = torch.stack([state.hidden[:, 0], tokens[:, 0].float()], dim=1)
        return replace(state, hidden=hidden), hidden[:, None]

    def logits(self, hidden: Tensor) -> Tensor:
        question, last = hidden.long().unbind(1)
        return self.table[question, last]

    def decode(self, tokens: Tensor, mask: Tensor) -> tuple[str, ...]:
        rows = zip(tokens.tolist(), mask.tolist(), strict=True)
        return tuple("".join("abcd."[t] for t, m in zip(*row, strict=True) if m) for row in rows)

    def sequences(self, question: int, limit: int, temperature: float) -> dict[str, float]:
        """Return every completion of at most `limit` tokens and its probability."""
        steps = (self.table[question] / temperature).double().softmax(-1)
        found: dict[str, float] = {}
        for length in range(1, limit + 1):
            for said in product(range(3), repeat=length - 1):
                for last in (END,) if length < limit else (0, 1, 2, END):
                    probability, before = 1.0, 0
                    for token in (*said, last):
                        probability *= float(steps[before, token])
                        before = token
                    found["".join("abcd."[token] for token in (*said, last))] = probability
        assert sum(found.values()) == pytest.approx(1)
        return found
