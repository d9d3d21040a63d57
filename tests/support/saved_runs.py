"""Run folders as `fit` leaves them, with adapters of any kind made by plain PEFT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import yaml
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, PreTrainedModel

from support.tiny_models import tiny_model, tiny_processor


def write_run(folder: Path, policy: dict[str, Any], **more: Any) -> Path:
    """Write the config that a run leaves; `more` are further sections of it."""
    folder.mkdir(parents=True)
    settings = {"class_path": "spatial_ssrl.policies.HFVisionLanguagePolicy", "init_args": policy}
    config = {
        "seed_everything": 0,
        "model": {
            "class_path": "spatial_ssrl.training.RLModule",
            "init_args": {"policy": settings, "group_size": 4},
        },
        "trainer": {"max_steps": 5, "default_root_dir": str(folder)},
        **more,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def write_adapter(base: Path, folder: Path, **settings: Any) -> PeftModel:
    """Put an adapter with noise in all that it trains on a saved model, and save it."""
    network = AutoModelForImageTextToText.from_pretrained(base)
    defaults = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    model = get_peft_model(network, LoraConfig(**(defaults | settings)))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(str(folder), save_embedding_layers=False)
    return model.eval()


def write_tied(folder: Path) -> Path:
    """Save a tiny model whose vocabulary head is its token embedding, with its processor."""
    processor = tiny_processor()
    model: PreTrainedModel = tiny_model(processor)
    model.config.tie_word_embeddings = True
    model.config.get_text_config().tie_word_embeddings = True
    model.set_output_embeddings(
        torch.nn.Linear(*reversed(model.get_input_embeddings().weight.shape), bias=False)
    )
    model.get_output_embeddings().weight = model.get_input_embeddings().weight
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
