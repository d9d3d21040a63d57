"""InternVL3 in the layout of transformers: as many tiles as the shape of a picture asks for."""

from __future__ import annotations

from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
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
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}


def _processor() -> ProcessorMixin:
    size = {"height": 16, "width": 16}
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4),
        tokenizer=tiny_tokenizer(TEXT_TOKENS, _NAMED),
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=chat("<IMG_CONTEXT>"),
    )


def _model(processor: ProcessorMixin) -> PreTrainedModel:
    return InternVLForConditionalGeneration(
        InternVLConfig(
            text_config=text_settings(processor) | {"model_type": "qwen2"},
            vision_config=vision_settings() | {"model_type": "internvl_vision"},
            image_token_id=token_ids(processor)["<IMG_CONTEXT>"],
            image_seq_length=4,
            tie_word_embeddings=False,
        )
    )


REGISTRY["internvl"] = TinyFamily(_processor, _model, ("<img>", "</img>", "<IMG_CONTEXT>"))
