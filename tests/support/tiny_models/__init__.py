"""Random models of real classes with real processors, small enough for any test.

One file a family, or a group of kin; each adds a builder to `REGISTRY`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, ProcessorMixin

from spatial_ssrl.core.questions import Question
from support.tiny_models import gemma, idefics, internvl, llava, qwen, tiny_vlm  # noqa: F401
from support.tiny_models.base import REGISTRY, TinyFamily, made_loud, tiny_tokenizer

__all__ = [
    "FAMILIES",
    "REGISTRY",
    "TinyFamily",
    "random_question",
    "tiny_model",
    "tiny_processor",
    "tiny_tokenizer",
    "write_tiny",
]

FAMILIES = tuple(REGISTRY)


def tiny_processor(family: str = "qwen2_5_vl") -> ProcessorMixin:
    """Return a real processor of a family, with a tokenizer trained on the spot."""
    return REGISTRY[family].processor()


def tiny_model(processor: ProcessorMixin, family: str = "qwen2_5_vl") -> PreTrainedModel:
    """Return a model of a family with a few layers and random weights."""
    torch.manual_seed(0)
    model = REGISTRY[family].model(processor)
    if REGISTRY[family].loud:
        made_loud(model)
    tokenizer = processor.tokenizer
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    return model.eval()


def write_tiny(folder: Path, family: str = "qwen2_5_vl") -> Path:
    """Save a tiny model with its processor, as a downloaded one would lie on disk."""
    processor = tiny_processor(family)
    tiny_model(processor, family).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def random_question(images: int, text: str = "Which patch was flipped?", seed: int = 0) -> Question:
    """Return a question over noise pictures of mixed size, a placeholder before each."""
    rng = np.random.default_rng(seed)
    pictures = tuple(
        rng.integers(0, 256, (*rng.integers(30, 120, 2), 3), dtype=np.uint8) for _ in range(images)
    )
    shown = " ".join(f"<image> picture {number}" for number in range(images))
    return Question(
        uid=f"noise-{seed}",
        task="flipped_patch",
        images=pictures,
        prompt=f"{shown} {text}",
        answer="2,horizontal",
        answer_kind="text",
        explanation="Patch 2 is mirrored left to right.",
    )
