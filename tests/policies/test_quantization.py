from __future__ import annotations

import sys
from pathlib import Path

import bitsandbytes
import pytest
import torch

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, QuantSettings, TinyVLM
from spatial_ssrl.policies.quantization import modules_skipped
from support.four_bits import base_bits, write_wide_qwen
from support.oracles import random_completions, rollouts_of
from support.tiny_models import FAMILIES, random_question, tiny_model, tiny_processor


@pytest.fixture(scope="session")
def qwen_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL in a folder, rows of its decoder made of whole blocks."""
    return write_wide_qwen(tmp_path_factory.mktemp("wide") / "qwen")


def test_only_four_bits() -> None:
    with pytest.raises(ConfigError, match=r"quantization\.bits must be 4, got 8"):
        QuantSettings(bits=8)


def test_adapters_learn_over_four_bit_weights(qwen_folder: Path, tmp_path: Path) -> None:
    whole = HFVisionLanguagePolicy(str(qwen_folder), lora=LoraSettings(rank=2))
    policy = HFVisionLanguagePolicy(
        str(qwen_folder), lora=LoraSettings(rank=2), quantization=QuantSettings()
    )
    whole.load()
    policy.load()
    kinds = {
        name: isinstance(module, bitsandbytes.nn.Linear4bit)
        for name, module in policy.network.named_modules()
        if isinstance(module, torch.nn.Linear) and "lora_" not in name
    }
    assert kinds
    for name, quantised in kinds.items():
        assert quantised == ("language_model" in name), name

    prompts = policy.collator()([random_question(2)])
    tokens, mask = random_completions(policy, 1)
    exact = whole.logprobs(prompts, rollouts_of(tokens, mask, 1))
    logprobs = policy.logprobs(prompts, rollouts_of(tokens, mask, 1))
    difference = (logprobs - exact).abs().max()
    assert 1e-4 < difference < 1.0  # rounded to 4 bits, but the same model

    with torch.no_grad():
        policy.logprobs(prompts, rollouts_of(tokens, mask, 1))
    policy.logprobs(prompts, rollouts_of(tokens, mask, 1)).sum().backward()
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:  # lora_A has no gradient yet: its partner starts at zero
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    policy.save(tmp_path / "adapter")
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()


def four_bit(folder: Path, **settings: object) -> HFVisionLanguagePolicy:
    policy = HFVisionLanguagePolicy(
        str(folder), lora=LoraSettings(rank=2), quantization=QuantSettings(**settings)
    )
    policy.load()
    return policy


def quantised(policy: HFVisionLanguagePolicy) -> dict[str, bitsandbytes.nn.Linear4bit]:
    return {
        name.removesuffix(".base_layer"): module
        for name, module in policy.network.named_modules()
        if isinstance(module, bitsandbytes.nn.Linear4bit)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_by_default_only_the_language_model_is_quantised(family: str) -> None:
    network = tiny_model(tiny_processor(family), family)
    skipped = modules_skipped(network, None)
    linear = [n for n, m in network.named_modules() if isinstance(m, torch.nn.Linear)]
    left = [n for n in linear if not any(f"{n}.".startswith(f"{outer}.") for outer in skipped)]
    decoder = next(n for n, m in network.named_modules() if m is network.get_decoder())
    assert left == [name for name in linear if name.startswith(f"{decoder}.")]
    assert left


@pytest.mark.parametrize(("kind", "double"), [("nf4", True), ("fp4", False)])
def test_weights_are_stored_as_asked(qwen_folder: Path, kind: str, double: bool) -> None:
    policy = four_bit(qwen_folder, quant_type=kind, double=double, compute_dtype="bfloat16")
    layers = quantised(policy)
    for layer in layers.values():
        state = layer.weight.quant_state
        assert (state.quant_type, state.nested) == (kind, double)
        assert layer.weight.dtype == torch.uint8
        assert layer.compute_dtype == torch.bfloat16
        assert not layer.weight.requires_grad
    assert {p.dtype for p in policy.parameters() if p.requires_grad} == {torch.float32}
    # Of 4 bits a weight: half a byte, and the scales on top of it.
    whole = HFVisionLanguagePolicy(str(qwen_folder))
    whole.load()
    weights = {name: whole.network.get_submodule(name).weight for name in layers}
    for name, layer in layers.items():
        assert layer.weight.numel() == weights[name].numel() // 2
        back = bitsandbytes.functional.dequantize_4bit(layer.weight, layer.weight.quant_state)
        error = (back - weights[name]).float().norm() / weights[name].norm()
        assert 0.05 < error < (0.11 if kind == "nf4" else 0.16)


def test_modules_can_be_left_out_and_the_head_put_in(qwen_folder: Path) -> None:
    policy = four_bit(qwen_folder, skip=["visual", "layers.0", "down_proj"])
    names = set(quantised(policy))
    assert "lm_head" in names
    assert any("layers.1" in name and "up_proj" in name for name in names)
    assert not any("layers.0" in name or "visual" in name or "down_proj" in name for name in names)
    exact = HFVisionLanguagePolicy(str(qwen_folder))
    exact.load()
    assert policy.vocabulary_size == exact.vocabulary_size
    hidden = torch.randn(3, 64)
    ours, theirs = policy.logits(hidden), exact.logits(hidden)
    assert torch.equal(torch.isinf(ours), torch.isinf(theirs))
    finite = torch.isfinite(theirs)
    error = (ours[finite] - theirs[finite]).norm() / theirs[finite].norm()
    assert 0.05 < error < 0.12


def test_a_head_that_is_the_embedding_is_left_out() -> None:
    policy = TinyVLM(
        image_size=32,
        hidden_size=64,
        lora=LoraSettings(rank=2),
        quantization=QuantSettings(skip=["visual", "connector"]),
    )
    policy.load()
    assert quantised(policy)
    assert all("language_model" in name for name in quantised(policy))
    assert policy.network.lm_head.weight is policy.network.get_input_embeddings().weight


@pytest.mark.parametrize(
    ("skip", "message"),
    [
        (["lm_haed"], r"quantization\.skip 'lm_haed' matches no module; .*lm_head"),
        (["model", "lm_head"], r"skip leaves no linear layer of Qwen2_5_VL"),
    ],
)
def test_names_to_skip_are_looked_up(skip: list[str], message: str, qwen_folder: Path) -> None:
    with pytest.raises(ConfigError, match=message):
        four_bit(qwen_folder, skip=skip)


def test_quantised_modules_cannot_be_trained_in_full(qwen_folder: Path) -> None:
    policy = HFVisionLanguagePolicy(
        str(qwen_folder),
        lora=LoraSettings(modules_to_save=["down_proj"]),
        quantization=QuantSettings(),
    )
    with pytest.raises(ConfigError, match=r"'down_proj' .* in 4 bits .* to quantization\.skip"):
        policy.load()


def test_without_bitsandbytes_one_line_says_so(
    qwen_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ConfigError, match=r"cannot be imported \(.+\); install it with `pip ins"):
        four_bit(qwen_folder)


def test_kernels_that_do_not_run_are_named(
    qwen_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **named: object) -> None:
        raise RuntimeError("no kernel image is available\nfor execution on the device")

    monkeypatch.setattr(bitsandbytes.functional, "quantize_4bit", fail)
    told = (
        rf"bitsandbytes {bitsandbytes.__version__} cannot multiply with 4-bit weights in bfloat16 "
        r"on this machine's \w+ \(no kernel image is available\); set .*compute_dtype to float32"
    )
    with pytest.raises(ConfigError, match=told) as caught:
        four_bit(qwen_folder, compute_dtype="bfloat16")
    assert "\n" not in str(caught.value)


def test_rows_that_kernels_misread_are_refused(
    qwen_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Stands for the CPU kernels: rows of 128 come back upside down.
    whole = bitsandbytes.functional.dequantize_4bit

    def misread(packed: torch.Tensor, state: object) -> torch.Tensor:
        back = whole(packed, state)
        return -back if back.dim() == 2 and back.shape[1] == 128 else back

    monkeypatch.setattr(bitsandbytes.functional, "dequantize_4bit", misread)
    told = r"misreads 4-bit rows of 128 weights \(.*layers\.0\.mlp\.down_proj and 1 more\); name"
    with pytest.raises(ConfigError, match=told):
        four_bit(qwen_folder)
    four_bit(qwen_folder, skip=["down_proj", "visual"])


def test_use_changes_no_bit(qwen_folder: Path) -> None:
    policy = four_bit(qwen_folder, compute_dtype="bfloat16")
    before = base_bits(policy)
    biases = [n for n, t in before.items() if n.endswith("q_proj.base_layer.bias")]
    assert biases
    prompts = policy.collator()([random_question(1)])
    tokens, mask = random_completions(policy, 1)
    with torch.no_grad():
        policy.logprobs(prompts, rollouts_of(tokens, mask, 1))
    after = base_bits(policy)
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype, name
        assert torch.equal(tensor, after[name]), name
