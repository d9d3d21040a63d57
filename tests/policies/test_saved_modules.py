"""Modules trained in full beside adapters, on a model in bfloat16."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, TinyVLM
from spatial_ssrl.policies.adapters import add_adapter
from support.oracles import random_completions, rollouts_of
from support.tiny_models import random_question

SAVED = ["merger", "norm", "lm_head"]


def loaded(folder: Path, **settings: object) -> HFVisionLanguagePolicy:
    policy = HFVisionLanguagePolicy(str(folder), dtype="bfloat16", **settings)  # type: ignore[arg-type]
    policy.load()
    return policy


def copies(policy: HFVisionLanguagePolicy) -> dict[str, nn.Parameter]:
    return {n: p for n, p in policy.named_parameters() if p.requires_grad and "lora_" not in n}


def score(policy: HFVisionLanguagePolicy) -> Tensor:
    prompts = policy.collator()([random_question(2)])
    return policy.logprobs(prompts, rollouts_of(*random_completions(policy, 1), 1))


def test_small_steps_are_not_rounded_away(tiny_qwen_folder: Path) -> None:
    policy = loaded(tiny_qwen_folder, lora=LoraSettings(rank=2, modules_to_save=SAVED))
    found = copies(policy)
    assert {name.split(".modules_to_save")[0].rpartition(".")[2] for name in found} >= set(SAVED)
    assert {parameter.dtype for parameter in found.values()} == {torch.float32}
    before = {name: parameter.detach().clone() for name, parameter in found.items()}
    optimizer = torch.optim.SGD(found.values(), lr=1.0)
    score(policy).sum().backward()
    steps = {}
    for name, parameter in found.items():
        assert parameter.grad is not None
        # Neighbours in bfloat16 are further apart for weights from 0.004 on.
        parameter.grad *= 1e-5 / parameter.grad.abs().max()
        steps[name] = -parameter.grad
    optimizer.step()
    for name, parameter in found.items():
        assert steps[name].any(), name
        torch.testing.assert_close(parameter - before[name], steps[name], atol=1e-7, rtol=0)


def test_copies_begin_as_what_they_stand_for(tiny_qwen_folder: Path) -> None:
    lora = LoraSettings(rank=2, modules_to_save=["merger", "norm"])
    base, policy = loaded(tiny_qwen_folder), loaded(tiny_qwen_folder, lora=lora)
    with torch.no_grad():
        plain, trained = score(base), score(policy)
        with policy.model.disable_adapter():
            apart = score(policy)
    assert torch.equal(apart, plain)
    # Copies compute in float32, which is nearer to the truth than bfloat16, not the same.
    assert trained.dtype == torch.float32
    torch.testing.assert_close(trained, plain, atol=0.1, rtol=0)


def test_bits_come_back_beside_a_model_of_any_precision(
    tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    policy = loaded(tiny_qwen_folder, lora=LoraSettings(rank=2, modules_to_save=SAVED))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in copies(policy).values():
            parameter.add_(torch.randn(parameter.shape) * 1e-5)
    policy.save(tmp_path / "adapter")
    state = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    again = loaded(tiny_qwen_folder, adapter=tmp_path / "adapter")
    for name, parameter in copies(again).items():
        assert torch.equal(parameter, copies(policy)[name]), name
    with torch.no_grad():
        assert torch.equal(score(again), score(policy))


def test_an_embedding_and_the_head_tied_to_it_stay_one() -> None:
    policy = TinyVLM(image_size=32, hidden_size=32, layers=1, heads=2)
    policy.load()
    network = policy.network.bfloat16()
    model = add_adapter(network, LoraSettings(rank=2, modules_to_save=["lm_head"]))
    (trained,) = {p for n, p in model.named_parameters() if p.requires_grad and "lora_" not in n}
    assert trained.dtype == torch.float32
    hidden = network.get_input_embeddings()(torch.tensor([3]))
    assert hidden.dtype == torch.bfloat16
    logits = network.get_output_embeddings()(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden.float() @ trained.T)
    logits[0, 5].backward()
    assert trained.grad is not None
    assert trained.grad.any(dim=1).nonzero().flatten().tolist() == [3, 5]
