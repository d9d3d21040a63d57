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

# SigLIP so400m with pictures of 896 pixels, as in the published Gemma 3 4B (all but the language
# model has 419,816,304 weights there, 2,950,272 of them in the projector). LLaVA-OneVision leaves
# out one of its layers, 15,239,504 weights, and has 27 x 27 positions for 64 x 64.
_SIGLIP = 416_866_032 - 15_239_504 - (64**2 - 27**2) * 1152


def _llava_onevision(language_model: int, rows: int, width: int) -> int:
    """Return the weights of a language model as published, what was added to it, and a tower.

    Added were 64 tokens, a projector of two layers and a vector for the end of a line.
    """
    projector = 1152 * width + width + width * width + width
    return language_model + 64 * rows * width + _SIGLIP + projector + width


# Weights of the published files, as the hub counts them in their headers or by their index. For
# LLaVA-OneVision, whose total was not to be had, the sum of published parts.
WEIGHTS = {
    "HuggingFaceTB/SmolVLM2-2.2B-Instruct": 2_246_784_880,
    "HuggingFaceTB/SmolVLM2-500M-Video-Instruct": 507_482_304,
    "OpenGVLab/InternVL3-1B-hf": 938_193_024,
    "OpenGVLab/InternVL3-2B-hf": 2_088_957_440,
    # Counted in files of two models trained from it, Lingshu-I-8B and SenseNova-SI.
    "OpenGVLab/InternVL3-8B-hf": 7_944_373_760,
    "Qwen/Qwen2-VL-2B-Instruct": 2_208_985_600,
    "Qwen/Qwen2-VL-7B-Instruct": 8_291_375_616,
    "Qwen/Qwen2.5-VL-3B-Instruct": 3_754_622_976,
    "Qwen/Qwen2.5-VL-7B-Instruct": 8_292_166_656,
    "Qwen/Qwen3-VL-2B-Instruct": 2_127_532_032,
    "Qwen/Qwen3-VL-4B-Instruct": 4_437_815_808,
    "Qwen/Qwen3-VL-8B-Instruct": 8_767_123_696,
    "google/gemma-3-4b-it": 4_300_079_472,
    "google/gemma-3-12b-it": 12_187_325_040,
    # Qwen2 0.5B has one table for tokens read and written, 7B has two.
    "llava-hf/llava-onevision-qwen2-0.5b-ov-hf": _llava_onevision(494_032_768, 1, 896),
    "llava-hf/llava-onevision-qwen2-7b-ov-hf": _llava_onevision(7_615_616_512, 2, 3584),
}

# Models with the files of another, but for the numbers in them.
SAME_SIZES = {"Qwen/Qwen3-VL-4B-Thinking", "Qwen/Qwen3-VL-8B-Thinking"}


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
    assert any(name in line for line in assumed), "where its sizes are from"


def test_the_weights_of_every_known_model_are_compared() -> None:
    assert set(known_models()) == WEIGHTS.keys() | SAME_SIZES


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
