"""TinyVLM with decoders other than its own, and decoders it cannot have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import TinyVLM
from support.oracles import (
    assert_sharing_is_exact,
    plain_logprobs,
    random_completions,
    rollouts_of,
)
from support.tiny_vlm import mixed_questions

SLIDING = {"layer_types": ["sliding_attention"] * 2}
SMALL: dict[str, Any] = {"image_size": 32, "hidden_size": 32, "layers": 2, "heads": 2}


def loaded(**settings: Any) -> TinyVLM:
    policy = TinyVLM(**(SMALL | settings))
    policy.load()
    return policy


@pytest.mark.parametrize(
    ("decoder", "name"),
    [
        ("qwen2", "Qwen2Model"),
        ("qwen3", "Qwen3Model"),
        ("gemma3_text", "Gemma3TextModel"),
        ("mistral", "MistralModel"),
    ],
)
def test_other_decoders_score_share_and_are_saved(decoder: str, name: str, tmp_path: Path) -> None:
    policy = loaded(decoder=decoder)
    assert type(policy.network.model.language_model).__name__ == name
    prompts = policy.collator()(mixed_questions())
    tokens, mask = random_completions(policy, 6)
    rollouts = rollouts_of(tokens, mask, 2)
    with torch.no_grad():
        scored = policy.logprobs(prompts, rollouts)
        for row in range(6):
            alone = policy.collator()([mixed_questions()[row // 2]])
            banned = [*policy.media_token_ids]
            wanted = plain_logprobs(policy.network, alone, tokens[row, mask[row]], banned)
            torch.testing.assert_close(scored[row, mask[row]], wanted, atol=1e-5, rtol=0)
    policy.save(tmp_path / "saved")
    again = TinyVLM(tmp_path / "saved")
    again.load()
    with torch.no_grad():
        assert torch.equal(again.logprobs(prompts, rollouts), scored)
    gradients = assert_sharing_is_exact(policy, prompts, rollouts)
    assert any("visual" in part for part in gradients)


def test_further_settings_reach_the_decoder() -> None:
    policy = loaded(decoder="qwen3", decoder_kwargs={"num_key_value_heads": 1, "head_dim": 8})
    keys = policy.network.model.language_model.layers[0].self_attn.k_proj
    assert keys.weight.shape == (8, 32)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"decoder": "lama"}, "decoder: transformers has no text decoder 'lama'. Did you mean"),
        ({"decoder": "qwen2_vl"}, "has no text decoder 'qwen2_vl'"),
        ({"decoder": "gemma2"}, "'gemma2' cannot read prompts both ways: it brings attention"),
        ({"decoder": "mamba"}, "'mamba' cannot read prompts both ways"),
        (
            {
                "decoder": "gemma3_text",
                "decoder_kwargs": {"layer_types": ["sliding_attention"] * 2},
            },
            "it has sliding_attention layers",
        ),
        (
            {"decoder": "mistral", "decoder_kwargs": {"sliding_window": 8}},
            "its layers see 8 tokens back only",
        ),
        ({"decoder_kwargs": {"rope_tetha": 1.0}}, "'llama' has no 'rope_tetha'"),
        ({"decoder_kwargs": {"hidden_size": "wide"}}, "decoder: 'llama' does not take these"),
    ],
)
def test_decoders_that_do_not_fit(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        loaded(**settings)
