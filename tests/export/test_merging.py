"""Adapters of every kind PEFT knows, merged: the model says what it said with the adapter on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForImageTextToText, BitsAndBytesConfig

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.export import export_run, verify_checksums
from spatial_ssrl.policies import HFVisionLanguagePolicy
from support.oracles import plain_logprobs, random_completions
from support.saved_runs import write_adapter, write_run, write_tied
from support.tiny_models import random_question

LANGUAGE = r".*language_model.*\.(q_proj|v_proj|down_proj)"


def said(model: torch.nn.Module, base: Path) -> Tensor:
    """Return the log-probabilities of some tokens after one prompt, by a plain forward."""
    policy = HFVisionLanguagePolicy(str(base))
    tokens, _ = random_completions(policy, 1)
    with torch.no_grad():
        return plain_logprobs(model.eval(), policy.collator()([random_question(2)]), tokens[0], [])


@pytest.mark.parametrize(
    ("settings", "tied"),
    [
        ({"use_rslora": True}, False),
        ({"use_dora": True, "target_modules": LANGUAGE}, True),
        ({"target_modules": ["qkv", "proj"]}, False),
        ({"modules_to_save": ["lm_head"]}, True),
        ({"target_modules": ["q_proj", "embed_tokens"]}, False),
        ({"target_modules": ["q_proj", "embed_tokens"]}, True),
        ({"target_modules": ["q_proj", "lm_head"]}, True),
        ({"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 16}}, False),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Model with `tie_word_embeddings=True`")
def test_reloaded_models_say_what_the_adapter_said(
    settings: dict[str, Any], tied: bool, tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    base = write_tied(tmp_path / "base") if tied else tiny_qwen_folder
    run = write_run(tmp_path / "run", {"model": str(base), "lora": {"rank": 4}})
    expected = said(write_adapter(base, run / "policy", **settings), base)
    plain = AutoModelForImageTextToText.from_pretrained(base)
    assert (said(plain, base) - expected).abs().max() > 0.03

    done = export_run(run, tmp_path / "merged", "merged")
    assert done.difference < 1e-4
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(said(merged, base), expected, atol=2e-5, rtol=0)

    export_run(run, tmp_path / "adapter", "adapter")
    adapted = PeftModel.from_pretrained(plain, str(tmp_path / "adapter"))
    torch.testing.assert_close(said(adapted, base), expected, atol=1e-6, rtol=0)


def test_merging_rounds_once(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    """A base in bfloat16 stays in it; sums are taken in float32 and rounded at the end."""
    base = tmp_path / "base"
    whole = AutoModelForImageTextToText.from_pretrained(tiny_qwen_folder, dtype=torch.bfloat16)
    whole.save_pretrained(base)
    HFVisionLanguagePolicy(str(tiny_qwen_folder)).processor.save_pretrained(base)
    run = write_run(tmp_path / "run", {"model": str(base), "lora": {"rank": 4}})
    write_adapter(base, run / "policy")
    done = export_run(run, tmp_path / "out", "merged")
    assert done.precision == "bfloat16"
    assert 1e-4 < done.difference < 1  # What rounding costs is told, not hidden.

    adapter = load_file(run / "policy" / "adapter_model.safetensors")
    after = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").state_dict()
    assert len(adapter) > 40
    for name, weight in whole.state_dict().items():
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (adapter.pop(f"{layer}.lora_{side}.weight", None) for side in "AB")
        update = 0.0 if a is None or b is None else (b @ a) * (8 / 4)
        expected = (weight.float() + update).bfloat16()
        # The product may be summed in another order: one step of bfloat16, in a few places.
        assert (after[name] != expected).float().mean() < 1e-3, name
        torch.testing.assert_close(after[name].float(), expected.float(), rtol=2**-7, atol=1e-6)
    assert not adapter

    done = export_run(run, tmp_path / "out", "merged", dtype="float32")
    assert done.precision == "float32"
    assert done.difference < 1e-4
    stored = load_file(tmp_path / "out" / "model.safetensors").values()
    assert {tensor.dtype for tensor in stored} == {torch.float32}


def test_a_base_in_few_bits_is_refused(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    base = tmp_path / "base"
    AutoModelForImageTextToText.from_pretrained(
        tiny_qwen_folder, quantization_config=BitsAndBytesConfig(load_in_4bit=True)
    ).save_pretrained(base)
    HFVisionLanguagePolicy(str(tiny_qwen_folder)).processor.save_pretrained(base)
    run = write_run(tmp_path / "run", {"model": str(base), "lora": {"rank": 4}})
    write_adapter(tiny_qwen_folder, run / "policy")
    with pytest.raises(
        ConfigError, match=r"stored in few bits.* name the full-precision model wit"
    ):
        export_run(run, tmp_path / "out", "merged")
    export_run(run, tmp_path / "out", "merged", base=str(tiny_qwen_folder))
    verify_checksums(tmp_path / "out")


def test_an_adapter_that_is_not_a_number(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"model": str(tiny_qwen_folder), "lora": {"rank": 4}})
    model = write_adapter(tiny_qwen_folder, run / "policy")
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad)[0] = float("nan")
    model.save_pretrained(str(run / "policy"))
    with pytest.raises(ConfigError, match="the adapter cannot be merged: NaNs detected"):
        export_run(run, tmp_path / "out", "merged")
    assert not (tmp_path / "out").exists()
