"""Models whose widths 4-bit kernels read rightly on a CPU, and every bit of their base weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText

from spatial_ssrl.policies import HFVisionLanguagePolicy
from support.tiny_models import tiny_model, tiny_processor
from support.tiny_models.base import made_loud


def write_wide_qwen(folder: Path) -> Path:
    """Save a tiny Qwen2.5-VL whose decoder has rows of 64 and 128 weights, as if downloaded."""
    processor = tiny_processor()
    config = tiny_model(processor).config
    text = config.text_config
    text.hidden_size, text.intermediate_size, text.head_dim = 64, 128, 16
    text.rope_parameters = {**text.rope_parameters, "mrope_section": [2, 2, 4]}
    config.vision_config.out_hidden_size = 64
    torch.manual_seed(0)
    model = made_loud(AutoModelForImageTextToText.from_config(config), 0.15)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def base_bits(policy: HFVisionLanguagePolicy) -> dict[str, Tensor]:
    """Return copies of what training must not change: weights, buffers and quantisation states."""
    tensors: dict[str, Tensor] = {}
    for name, tensor in [*policy.named_parameters(), *policy.named_buffers()]:
        if tensor.requires_grad:
            continue
        tensors[name] = tensor.detach().clone()
        state: Any = getattr(tensor, "quant_state", None)
        if state is not None:
            parts = state.as_dict(packed=True)
            tensors.update({f"{name}.{key}": value.clone() for key, value in parts.items()})
    return tensors
