"""The reference is the policy as RL began: after casting, mixed precision and resuming."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor, nn

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings
from spatial_ssrl.policies.reference import Reference
from support.fake_cuda import fake_cuda
from support.oracles import random_completions, rollouts_of
from support.tiny_models import random_question
from support.tiny_training import StepLog, tiny_data, tiny_rl, tiny_trainer


def scores(policy: HFVisionLanguagePolicy) -> Tensor:
    prompts = policy.collator()([random_question(2), random_question(1, seed=1)])
    tokens, mask = random_completions(policy, 4)
    with torch.no_grad():
        return policy.logprobs(prompts, rollouts_of(tokens, mask, 2)).float()


def shaken(policy: HFVisionLanguagePolicy, part: str = "lora_B") -> HFVisionLanguagePolicy:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if part in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return policy


@pytest.fixture(scope="module")
def cold_start(tiny_qwen_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that has learned something."""
    torch.manual_seed(0)
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
    policy.load()
    folder = tmp_path_factory.mktemp("cold-start") / "policy"
    shaken(policy).save(folder)
    return folder


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("lora", [LoraSettings(rank=2), None])
def test_it_follows_the_policy_into_another_precision(
    tiny_qwen_folder: Path, dtype: torch.dtype, lora: LoraSettings | None
) -> None:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=lora)
    policy.load()
    with policy.reference():
        wanted = scores(policy)
    moved = scores(shaken(policy, "lora_B" if lora else "q_proj"))
    policy.to(dtype)
    with policy.reference():
        assert {p.dtype for p in policy.parameters()} == {dtype}
        found = scores(policy)
    assert {p.dtype for p in policy.parameters()} == {dtype}
    rounding, change = (found - wanted).abs().mean(), (moved - wanted).abs().mean()
    assert rounding < 0.2 * change
    torch.testing.assert_close(scores(policy), moved, atol=5 * float(rounding) + 1e-3, rtol=0.02)


@pytest.mark.parametrize("plugins", [[], [MixedPrecision("bf16-mixed", "cpu")]])
def test_it_is_the_cold_start_however_often_the_run_is_resumed(
    tiny_qwen_folder: Path, cold_start: Path, tmp_path: Path, plugins: list[Any]
) -> None:
    def policy() -> HFVisionLanguagePolicy:
        return HFVisionLanguagePolicy(str(tiny_qwen_folder), adapter=cold_start)

    start = policy()
    start.load()
    wanted = scores(start)
    saver = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    checkpoint = None
    for steps in (1, 2, 3):
        trained = policy()
        module = tiny_rl(
            trained,
            algorithm=GRPO(kl_coefficient=0.1),
            optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2),
        )
        trainer = tiny_trainer(tmp_path, steps, [saver], enable_checkpointing=True, plugins=plugins)
        trainer.fit(module, tiny_data(), ckpt_path=checkpoint)
        checkpoint = tmp_path / f"step={steps}.ckpt"
        with trained.reference():
            assert torch.equal(scores(trained), wanted)
        assert float((scores(trained) - wanted).abs().max()) > 1e-3


@pytest.mark.parametrize("lora", [LoraSettings(rank=2), None])
def test_kept_on_the_host_it_changes_nothing(
    tiny_qwen_folder: Path, tmp_path: Path, lora: LoraSettings | None
) -> None:
    """Three steps, their divergence and what they lead to are the same to the last bit."""
    found = []
    for on_host in (False, True):
        policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora, reference_on_host=on_host)
        torch.manual_seed(0)
        log = StepLog()
        module = tiny_rl(
            policy,
            algorithm=GRPO(kl_coefficient=0.1),
            optimizer=lambda params: torch.optim.AdamW(params, lr=1e-3),
        )
        tiny_trainer(tmp_path / str(on_host), 3, [log]).fit(module, tiny_data())
        kept = policy._reference.kept
        assert {tensor.device.type for tensor in kept.values()} == {"cpu"}
        assert not any(tensor.requires_grad for tensor in kept.values())
        live = dict(policy.model.named_parameters())
        assert not any(
            tensor.data_ptr() == live[name].data_ptr() for name, tensor in kept.items()
        ), "what training changes must not be what is kept"
        found.append(([step["train/kl"] for step in log.metrics], policy.trainable_state()))
    (divergence, state), (on_host_divergence, on_host_state) = found
    assert divergence[-1] > 0
    assert divergence == on_host_divergence
    assert state.keys() == on_host_state.keys()
    assert all(torch.equal(state[name], on_host_state[name]) for name in state)


def test_kept_on_the_host_it_outlives_casts_and_checkpoints(tiny_qwen_folder: Path) -> None:
    def policy() -> HFVisionLanguagePolicy:
        policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), reference_on_host=True)
        policy.load()
        return policy

    first = policy()
    with first.reference():
        wanted = scores(first)
    state = {n: t.clone() for n, t in shaken(first, "q_proj").trainable_state().items()}
    resumed = policy()
    resumed.load_trainable_state(state)
    assert not torch.equal(scores(resumed), wanted)
    with resumed.reference():
        assert torch.equal(scores(resumed), wanted)
    first.to(torch.bfloat16)
    with first.reference():
        assert {p.dtype for p in first.parameters()} == {torch.bfloat16}
    assert {tensor.dtype for tensor in first._reference.kept.values()} == {torch.float32}


def test_a_copy_on_the_host_of_what_lies_on_a_card() -> None:
    with fake_cuda():
        model = nn.Linear(3, 2, device="cuda")
        reference = Reference(on_host=True)
        with reference.in_place(model):
            assert model.weight.device.type == "cuda"
        assert {value.device.type for value in reference.kept.values()} == {"cpu"}
