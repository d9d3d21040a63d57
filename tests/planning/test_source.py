"""Models of other depth, and models whose sizes come with the library."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, Gemma3Config

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.planning.ghosts import Ghosts
from spatial_ssrl.planning.known import find_model, known_models
from spatial_ssrl.planning.ledger import Ledger
from spatial_ssrl.planning.source import Depth, depth_of, with_depth
from spatial_ssrl.policies.hub import ModelSource
from support.tiny_models import write_tiny

# Weights of the published files, by their index.
WEIGHTS = {
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
}


@pytest.fixture(autouse=True)
def _no_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", WEIGHTS)
def test_known_models_have_as_many_weights_as_the_published_ones(name: str) -> None:
    source, assumed = find_model(ModelSource(name))
    ledger = Ledger()
    with Ghosts(ledger):
        model = source.build_model()
        assert sum(parameter.numel() for parameter in model.parameters()) == WEIGHTS[name]
        assert all(parameter.is_meta for parameter in model.parameters())
    assert any("huggingface.co" in line for line in assumed)


def test_a_folder_is_read_as_it_is(tmp_path: Path) -> None:
    write_tiny(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    source, assumed = find_model(ModelSource(str(tmp_path)))
    assert assumed == ()
    assert source.config is not None
    assert source.config.to_dict() == AutoConfig.from_pretrained(tmp_path).to_dict()
    assert source.build_processor().tokenizer.eos_token == "<|im_end|>"


def test_a_model_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="hf download someone/model") as refusal:
        find_model(ModelSource("someone/model"))
    assert all(name in str(refusal.value) for name in known_models())


def test_depth_changes_everything_that_lists_layers() -> None:
    known, _ = find_model(ModelSource("Qwen/Qwen3-VL-4B-Instruct"))
    assert known.config is not None
    assert depth_of(known.config) == Depth(text=36, vision=24)
    shallow = with_depth(known.config, Depth(3, 4))
    assert depth_of(shallow) == Depth(3, 4)
    assert shallow.vision_config.deepstack_visual_indexes == [0, 1, 2]
    assert depth_of(known.config) == Depth(36, 24), "the given configuration was changed"
    gemma = Gemma3Config()
    layers = with_depth(gemma, Depth(4, 3)).get_text_config().layer_types
    assert layers == gemma.get_text_config().layer_types[-4:]
