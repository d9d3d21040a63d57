"""LLaVA and LLaVA-OneVision: one square a picture, or a grid of them for a picture alone."""

from __future__ import annotations

from transformers import (
    CLIPImageProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    LlavaProcessor,
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

_GRID = [[16, 16], [16, 32], [32, 16], [32, 32], [16, 48]]


def _llava_processor() -> ProcessorMixin:
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tiny_tokenizer((*TEXT_TOKENS, "<image>")),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=chat("<image>"),
    )


def _llava(processor: ProcessorMixin) -> PreTrainedModel:
    return LlavaForConditionalGeneration(
        LlavaConfig(
            text_config=text_settings(processor) | {"model_type": "llama"},
            vision_config=vision_settings(image_size=32, patch_size=8)
            | {"model_type": "clip_vision_model", "projection_dim": 32},
            image_token_index=token_ids(processor)["<image>"],
            vision_feature_layer=-1,
        )
    )


def _onevision_processor() -> ProcessorMixin:
    size = {"height": 16, "width": 16}
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=_GRID),
        tokenizer=tiny_tokenizer((*TEXT_TOKENS, "<image>", "<video>")),
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=chat("<image>"),
        # Grids of more than two squares are scaled down, as large pictures are in real use.
        vision_aspect_ratio="anyres_max_2",
    )


def _onevision(processor: ProcessorMixin) -> PreTrainedModel:
    ids = token_ids(processor)
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(
            text_config=text_settings(processor) | {"model_type": "qwen2"},
            vision_config=vision_settings()
            | {"model_type": "siglip_vision_model", "vision_use_head": False},
            image_token_index=ids["<image>"],
            video_token_index=ids["<video>"],
            image_grid_pinpoints=_GRID,
            vision_aspect_ratio="anyres_max_2",
        )
    )


REGISTRY["llava"] = TinyFamily(_llava_processor, _llava, ("<image>",))
REGISTRY["llava_onevision"] = TinyFamily(_onevision_processor, _onevision, ("<image>",))
