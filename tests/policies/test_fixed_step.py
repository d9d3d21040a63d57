"""Steps that can be recorded, against plain steps; replayed as a CUDA graph would be."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, QuantSettings, families
from spatial_ssrl.policies.base import ReadState
from support.fake_cuda import fake_cuda, move_to_cuda, state_on_cuda
from support.four_bits import write_wide_qwen
from support.recording import recorded
from support.tiny_models import random_question, write_tiny
from support.tiny_vlm import loud_policy, mixed_questions

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "qwen2_vl", "internvl", "idefics3", "llava", "tiny_vlm")


def ready(folder: Path, **settings: Any) -> HFVisionLanguagePolicy:
    """Return a policy whose adapters, if it has any, have an effect."""
    policy = HFVisionLanguagePolicy(str(folder), **settings)
    policy.load()
    torch.manual_seed(1)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy


def read(policy: HFVisionLanguagePolicy) -> ReadState:
    """Return what a policy read: prompts of unlike length and number of pictures."""
    prompts = policy.collator()(
        mixed_questions()
        if policy.network.config.model_type == "tiny_vlm"
        else [random_question(1, "Which?", seed=1), random_question(2, "Order.", seed=2)]
    )
    assert not prompts.attention_mask.all()
    with torch.inference_mode():
        return policy.read(prompts)


@torch.inference_mode()
def check(policy: HFVisionLanguagePolicy, plain: ReadState, replays: bool) -> None:
    """Let rows say six tokens both ways; the first two of them before a step is made."""
    grouped = policy.for_sampling([replace(plain, cache=copy.deepcopy(plain.cache))])
    rows = torch.tensor([1, 0, 0, 1, 0])
    plain, grouped = plain.select(rows), grouped.select(rows)
    step = run = None
    for said in range(6):
        new = torch.tensor([[5 + said], [6], [7 + said], [8], [9]])
        plain, _ = policy.read_on(plain, new, torch.ones_like(new, dtype=torch.bool))
        if said < 2:
            grouped, _ = policy.read_on(grouped, new, torch.ones_like(new, dtype=torch.bool))
            continue
        if step is None:
            step = policy.fixed_step(grouped, room=9)
            run = recorded(step) if replays else step
        step.tokens.copy_(new)
        assert run is not None
        run()
        scale = float(plain.hidden.abs().max())
        torch.testing.assert_close(step.hidden, plain.hidden, atol=1e-5 * scale, rtol=1e-4)
    assert step is not None
    # Goes on plainly from what was said in the fixed memory.
    after = step.state(6)
    assert torch.equal(after.mask, plain.mask)
    assert torch.equal(after.position, plain.position)
    left, new = torch.tensor([4, 1]), torch.tensor([[11], [12]])
    plain, after = plain.select(left), after.select(left)
    wanted, _ = policy.read_on(plain, new, torch.ones_like(new, dtype=torch.bool))
    found, _ = policy.read_on(after, new, torch.ones_like(new, dtype=torch.bool))
    torch.testing.assert_close(found.hidden, wanted.hidden, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("replays", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_fixed_steps_find_what_plain_ones_find(family: str, replays: bool, tmp_path: Path) -> None:
    policy = loud_policy() if family == "tiny_vlm" else ready(write_tiny(tmp_path, family))
    assert policy.has_fixed_steps
    check(policy, read(policy), replays)


@pytest.mark.parametrize("quantization", [None, QuantSettings()])
def test_so_do_those_of_adapters(quantization: QuantSettings | None, tmp_path: Path) -> None:
    lora = LoraSettings(rank=4)
    policy = ready(write_wide_qwen(tmp_path), lora=lora, quantization=quantization)
    check(policy, read(policy), replays=True)


def test_models_with_windows_have_none(tmp_path: Path) -> None:
    policy = ready(write_tiny(tmp_path, "gemma3"))
    assert policy.keeps_prompts_once
    assert not policy.has_fixed_steps


@torch.inference_mode()
def test_undoing_a_step() -> None:
    policy = loud_policy()
    step = policy.fixed_step(policy.for_sampling([read(policy)]), room=4)
    step.tokens.fill_(7)
    step()
    before, wanted = step.kept(), step.hidden.clone()
    step.tokens.fill_(9)
    step()
    assert not torch.equal(step.hidden, wanted)
    step.restore(before)
    assert torch.equal(step.hidden, wanted)
    step.tokens.fill_(11)
    step()
    # As in a step that never said anything else.
    other = policy.fixed_step(policy.for_sampling([read(policy)]), room=4)
    for token in (7, 11):
        other.tokens.fill_(token)
        other()
    assert torch.equal(step.hidden, other.hidden)


@torch.inference_mode()
def test_what_reads_numbers_on_the_host_cannot_be_recorded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = loud_policy()
    step = policy.fixed_step(policy.for_sampling([read(policy)]), room=4)
    along_axes = families.along_axes

    def looks(inner: nn.Module, positions: Tensor) -> Tensor:
        assert int(positions.max()) > 0
        return along_axes(inner, positions)

    monkeypatch.setattr(families, "along_axes", looks)
    with pytest.raises(RuntimeError, match="capturing"):
        recorded(step)


@pytest.mark.parametrize(
    ("family", "settings", "dtype"),
    [
        ("qwen2_5_vl", {}, torch.float32),
        ("qwen2_5_vl", {"lora": LoraSettings(rank=4)}, torch.bfloat16),
        ("qwen3_vl", {}, torch.bfloat16),
        ("internvl", {"lora": LoraSettings(rank=4)}, torch.float32),
        ("tiny_vlm", {}, torch.float32),
    ],
)
def test_on_cuda_the_host_takes_no_part(
    family: str, settings: dict[str, Any], dtype: torch.dtype, tmp_path: Path
) -> None:
    loud = family == "tiny_vlm"
    policy = loud_policy() if loud else ready(write_tiny(tmp_path, family), **settings)
    with torch.inference_mode():
        state = policy.for_sampling([read(policy)]).select(torch.tensor([1, 0, 0, 1]))
    with fake_cuda() as calls:
        move_to_cuda(policy, dtype)
        step = policy.fixed_step(state_on_cuda(state, dtype), room=9)
        calls.noted.clear()
        # What needs numbers on the host, or has a shape that depends on them, raises.
        step()
        assert (step.hidden.shape, step.hidden.dtype) == (state.hidden.shape, dtype)
        assert len(calls.noted) > 50
        assert calls.off_cuda() == []
        assert ("bmm.dtype" in calls.names()) == (dtype == torch.bfloat16)
