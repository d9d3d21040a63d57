from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from transformers import Qwen2Config, Qwen2ForCausalLM

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy


def message_of(model: str) -> str:
    with pytest.raises(ConfigError) as caught:
        HFVisionLanguagePolicy(model).load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere", ""])
def test_folder_that_is_not_there(model: str) -> None:
    assert f"there is no folder {model!r}" in message_of(model)


def test_hub_id_without_network(tmp_path: Path) -> None:
    message = message_of("nobody/nothing-3B")
    assert message.startswith("model: 'nobody/nothing-3B' is not a folder here, not in the cache (")
    assert "HF_HUB_OFFLINE is set" in message


def test_folder_without_a_model(tmp_path: Path) -> None:
    assert "holds no config.json" in message_of(str(tmp_path))


def test_text_only_model(tmp_path: Path) -> None:
    config = Qwen2Config(
        vocab_size=32,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    assert "is a 'qwen2' model, which does not turn pictures and text into text" in message_of(
        str(tmp_path)
    )


def copy_without(source: Path, target: Path, *names: str) -> str:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*names))
    return str(target)


def test_missing_processor(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m", "*processor*")
    assert "has no processor for pictures" in message_of(folder) or "processor of" in message_of(
        folder
    )


def test_missing_chat_template(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m", "chat_template*")
    assert "has no chat template" in message_of(folder)


def test_missing_weights(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m", "*.safetensors")
    assert message_of(folder).startswith(f"model: the weights of {folder!r} could not be loaded: ")


def test_unknown_architecture(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = copy_without(tiny_qwen_folder, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    settings = json.loads(config.read_text()) | {"model_type": "not_invented_yet"}
    config.write_text(json.dumps(settings))
    assert "not_invented_yet" in message_of(folder)
