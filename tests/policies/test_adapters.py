from __future__ import annotations

from pathlib import Path

import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings
from spatial_ssrl.policies.adapters import add_adapter, load_adapter
from support.tiny_models import tiny_model, tiny_processor


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora.rank must be at least 1, got 0"),
        ({"alpha": 0}, "lora.alpha must be above 0, got 0"),
        ({"dropout": 1.0}, r"lora.dropout must be in \[0, 1\), got 1.0"),
        ({"target_modules": []}, "lora.target_modules is empty"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_prjo"]}, "target_modules 'q_prjo' matches no module; .*q_proj"),
        ({"target_modules": r"nothing\d+"}, "target_modules .* matches no module"),
        ({"modules_to_save": ["lm_haed"]}, "modules_to_save 'lm_haed' .*lm_head"),
    ],
)
def test_names_that_match_nothing_get_close_ones(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        add_adapter(tiny_model(tiny_processor()), LoraSettings(rank=2, **settings))


def test_unsupported_layer_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="LoRA could not be put on Qwen2_5_VL") as caught:
        add_adapter(tiny_model(tiny_processor()), LoraSettings(target_modules=["rotary_emb"]))
    assert "\n" not in str(caught.value)


def test_all_linear_adapts_every_linear_layer_but_the_head() -> None:
    import torch

    network = tiny_model(tiny_processor())
    linear = {
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    model = add_adapter(network, LoraSettings(rank=2))
    adapted = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, _ in model.named_parameters()
        if "lora_A" in name
    }
    assert adapted == linear
    assert all(("lora_" in name) == p.requires_grad for name, p in model.named_parameters())


def test_regular_expression_and_frozen_module() -> None:
    settings = LoraSettings(rank=2, target_modules=r".*(qkv|q_proj)")
    model = add_adapter(tiny_model(tiny_processor()), settings, frozen="model.visual")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 4
    assert all("language_model" in name and "q_proj" in name for name in names)


def test_adapter_folder_must_fit(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no adapter_config\.json"):
        load_adapter(tiny_model(tiny_processor()), tmp_path)

    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
    policy.load()
    policy.save(tmp_path / "adapter")
    with pytest.raises(ConfigError, match=r"made with rank 2 and alpha 32.* asks for 4 and 32"):
        load_adapter(tiny_model(tiny_processor()), tmp_path / "adapter", LoraSettings(rank=4))
    with pytest.raises(ConfigError, match="does not fit LlavaForConditionalGeneration"):
        load_adapter(tiny_model(tiny_processor("llava"), "llava"), tmp_path / "adapter")
