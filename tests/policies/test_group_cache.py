"""Prompts kept once against a cache that repeats them, and against slow loops."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from spatial_ssrl.policies import HFVisionLanguagePolicy, ReadState
from spatial_ssrl.policies.group_cache import GroupCache
from spatial_ssrl.policies.members import Members
from support.tiny_models import random_question, write_tiny
from support.tiny_vlm import loud_policy, mixed_questions


def built(family: str, folder: Path) -> HFVisionLanguagePolicy:
    if family == "tiny_vlm":
        return loud_policy()
    policy = HFVisionLanguagePolicy(str(write_tiny(folder / family, family)))
    policy.load()
    return policy


def said(policy: HFVisionLanguagePolicy, state: ReadState, tokens: list[int]) -> ReadState:
    new = torch.tensor(tokens).unsqueeze(1)
    state, hidden = policy.read_on(state, new, torch.ones_like(new, dtype=torch.bool))
    assert torch.equal(hidden[:, 0], state.hidden)
    return state


@torch.no_grad()
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("family", ["qwen3_vl", "gemma3", "llava", "tiny_vlm"])
def test_rows_continue_as_if_each_had_its_prompt(family: str, apart: bool, tmp_path: Path) -> None:
    policy = built(family, tmp_path)
    assert policy.keeps_prompts_once
    # Prompts of one and of several pictures, left padded.
    questions = (
        mixed_questions()
        if family == "tiny_vlm"
        else [
            random_question(1, "Which?", seed=1),
            random_question(3, "Order them from near to far.", seed=2),
            random_question(2, seed=3),
        ]
    )
    prompts = policy.collator()(questions)
    assert not prompts.attention_mask.all()
    plain = policy.read(prompts)
    states = [replace(plain, cache=copy.deepcopy(plain.cache))]
    if apart:
        states = [policy.read(policy.select(prompts, rows)) for rows in ([0, 2], [1])]
        plain = plain.select(torch.tensor([0, 2, 1]))
    grouped = policy.for_sampling(states)
    assert isinstance(plain.cache, DynamicCache)
    assert isinstance(grouped.cache, GroupCache)
    # Fork unevenly, go on, drop a whole group and change the order, fork again.
    for rows, tokens in (
        ([0, 0, 1, 2, 2, 2], [5, 6, 7, 8, 9, 10]),
        ([0, 1, 2, 3, 4, 5], [11, 5, 5, 7, 20, 6]),
        ([5, 1, 0, 3], [9, 9, 12, 13]),
        ([3, 3, 2], [14, 15, 16]),
    ):
        chosen = torch.tensor(rows)
        plain = said(policy, plain.select(chosen), tokens)
        grouped = said(policy, grouped.select(chosen), tokens)
        scale = float(plain.hidden.abs().max())
        torch.testing.assert_close(grouped.hidden, plain.hidden, atol=1e-5 * scale, rtol=1e-4)
        assert torch.equal(grouped.mask, plain.mask)
        assert torch.equal(grouped.position, plain.position)
    for layer in grouped.cache.layers:
        assert layer.prompt_keys.shape[0] == layer.prompt_values.shape[0] == 2


@torch.no_grad()
@pytest.mark.parametrize("rows", [[0], [0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "tiny_vlm"])
def test_groups_of_one_size_continue_too(family: str, rows: list[int], tmp_path: Path) -> None:
    policy = built(family, tmp_path)
    prompts = policy.collator()([random_question(1, seed=seed) for seed in range(max(rows) + 1)])
    plain = policy.read(prompts)
    grouped = policy.for_sampling([replace(plain, cache=copy.deepcopy(plain.cache))])
    chosen = torch.tensor(rows)
    plain, grouped = plain.select(chosen), grouped.select(chosen)
    for step in range(3):
        tokens = [5 + step + row for row in range(len(rows))]
        plain, grouped = said(policy, plain, tokens), said(policy, grouped, tokens)
    scale = float(plain.hidden.abs().max())
    torch.testing.assert_close(grouped.hidden, plain.hidden, atol=1e-5 * scale, rtol=1e-4)


@torch.no_grad()
def test_many_tokens_outgrow_the_first_buffer() -> None:
    policy = loud_policy()
    prompts = policy.collator()(mixed_questions()[:2])
    plain = policy.read(prompts)
    grouped = policy.for_sampling([replace(plain, cache=copy.deepcopy(plain.cache))])
    for step in range(140):
        token = [5 + step % 60, 9 + step % 50]
        plain, grouped = said(policy, plain, token), said(policy, grouped, token)
    torch.testing.assert_close(grouped.hidden, plain.hidden, atol=1e-4, rtol=1e-4)
    assert grouped.cache.get_seq_length() == prompts.input_ids.shape[1] + 140


def test_the_network_is_left_as_it_was() -> None:
    policy = loud_policy()
    state = policy.for_sampling([policy.read(policy.collator()(mixed_questions()))])
    text = policy.network.config.get_text_config()
    with torch.no_grad():
        said(policy, state, [5, 6, 7])
    assert text._attn_implementation == "sdpa"
    wrong = torch.tensor([[5, 6]])  # as many rows as no state has
    with pytest.raises(RuntimeError):
        policy.read_on(state, wrong, torch.ones(1, 2, dtype=torch.bool))
    assert text._attn_implementation == "sdpa"


def test_other_kinds_of_attention_keep_their_cache() -> None:
    policy = loud_policy()
    policy.network.config.get_text_config()._attn_implementation = "eager"
    assert not policy.keeps_prompts_once
    state = policy.read(policy.collator()(mixed_questions()))
    assert policy.for_sampling([state]) is state


@pytest.mark.parametrize("prompt", [[0, 1, 2], [0, 0, 1, 1], [2, 0, 1, 0, 0], [1, 0, 1]])
def test_gathered_rows_come_back(prompt: list[int]) -> None:
    prompts = max(prompt) + 1
    members = Members.of(torch.tensor(prompt), prompts)
    rows = torch.randn(len(prompt), 3, 2, 4, generator=torch.Generator().manual_seed(0))
    keys = torch.randn(prompts, 3, 7, 4, generator=torch.Generator().manual_seed(1))
    packed = members.gather(rows)
    assert packed.shape == (prompts, 3, 2 * max(prompt.count(p) for p in prompt), 4)
    assert torch.equal(members.scatter(packed, 2), rows)
    wanted: list[Tensor] = [rows[row] @ keys[number].mT for row, number in enumerate(prompt)]
    torch.testing.assert_close(members.scatter(packed @ keys.mT, 2), torch.stack(wanted))
