"""Gemma 3: pictures whose tokens see one another both ways, layers that see a short way back."""

from __future__ import annotations

from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    PreTrainedModel,
    ProcessorMixin,
)

from support.tiny_models.base import (
    REGISTRY,
    TEXT_TOKENS,
    TinyFamily,
    chat,
    text_settings,
    tiny_tokenizer,
    token_ids,
    vision_settings,
)

_NAMED = {
    "boi_token": "<start_of_image>",
    "eoi_token": "<end_of_image>",
    "image_token": "<image_soft_token>",
}


def _processor() -> ProcessorMixin:
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 16, "width": 16}),
        tokenizer=tiny_tokenizer(TEXT_TOKENS, _NAMED),
        image_seq_length=4,
        chat_template=chat("<start_of_image>"),
    )


def _model(processor: ProcessorMixin) -> PreTrainedModel:
    ids = token_ids(processor)
    # Shorter than prompts of several pictures, as the 1,024 of real models are.
    windows = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 24}
    return Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text_settings(processor) | windows | {"query_pre_attn_scalar": 8},
            vision_config=vision_settings() | {"vision_use_head": False},
            mm_tokens_per_image=4,
            boi_token_index=ids["<start_of_image>"],
            eoi_token_index=ids["<end_of_image>"],
            image_token_index=ids["<image_soft_token>"],
        )
    )


REGISTRY["gemma3"] = TinyFamily(
    _processor,
    _model,
    tuple(_NAMED.values()),
    adapted_parts=("vision_tower", "language_model"),  # its projector has no linear layer
)
