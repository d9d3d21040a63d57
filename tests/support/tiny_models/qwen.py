"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of any number, positions along three axes."""

from __future__ import annotations

from typing import Any

from transformers import (
    PreTrainedModel,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from support.tiny_models.base import (
    REGISTRY,
    TEXT_TOKENS,
    TinyFamily,
    chat,
    text_settings,
    tiny_tokenizer,
    token_ids,
)

_MEDIA = (
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

_SIZE = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}
_CHAT = chat("<|vision_start|><|image_pad|><|vision_end|>")
_ROPE: dict[str, Any] = {
    "rope_type": "default",
    "mrope_section": [1, 1, 2],
    "rope_theta": 10000.0,
}


def _processor(cls: type[ProcessorMixin]) -> ProcessorMixin:
    return cls(
        image_processor=Qwen2VLImageProcessor(size=_SIZE),
        tokenizer=tiny_tokenizer((*TEXT_TOKENS, *_MEDIA)),
        video_processor=Qwen2VLVideoProcessor(size=_SIZE),
        chat_template=_CHAT,
    )


def _qwen3_processor() -> ProcessorMixin:
    return Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=_SIZE, patch_size=16),
        tokenizer=tiny_tokenizer((*TEXT_TOKENS, *_MEDIA)),
        video_processor=Qwen3VLVideoProcessor(size=_SIZE),
        chat_template=_CHAT,
    )


def _ids(processor: ProcessorMixin) -> dict[str, int]:
    ids = token_ids(processor)
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def _qwen2(processor: ProcessorMixin) -> PreTrainedModel:
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(
        Qwen2VLConfig(
            text_config=text_settings(processor) | {"rope_parameters": _ROPE},
            vision_config=vision,
            **_ids(processor),
        )
    )


def _qwen2_5(processor: ProcessorMixin) -> PreTrainedModel:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    window = {"out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 56}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=text_settings(processor) | {"rope_parameters": _ROPE},
            vision_config=vision | window,
            **_ids(processor),
        )
    )


def _qwen3(processor: ProcessorMixin) -> PreTrainedModel:
    vision = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
    deep = {
        "out_hidden_size": 32,
        "deepstack_visual_indexes": [0, 1],
        "num_position_embeddings": 64,
    }
    # What the vision tower adds to the last layer's output reaches no other token.
    layers = {"num_hidden_layers": 3, "rope_parameters": _ROPE | {"mrope_interleaved": True}}
    return Qwen3VLForConditionalGeneration(
        Qwen3VLConfig(
            text_config=text_settings(processor) | layers,
            vision_config=vision | deep,
            **_ids(processor),
        )
    )


REGISTRY["qwen2_vl"] = TinyFamily(lambda: _processor(Qwen2VLProcessor), _qwen2, _MEDIA)
REGISTRY["qwen2_5_vl"] = TinyFamily(lambda: _processor(Qwen2_5_VLProcessor), _qwen2_5, _MEDIA)
REGISTRY["qwen3_vl"] = TinyFamily(_qwen3_processor, _qwen3, _MEDIA)
