"""Idefics3 and SmolVLM2: pictures cut into tiles, those of a question in a row of their own."""

from __future__ import annotations

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    PreTrainedModel,
    ProcessorMixin,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
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

_MEDIA = (
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
# Tiles of 16 pixels, four tokens each, and a small copy of the whole picture.
_SIZES = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}


def _idefics3_processor() -> ProcessorMixin:
    return Idefics3Processor(
        image_processor=Idefics3ImageProcessor(**_SIZES),
        tokenizer=tiny_tokenizer((*TEXT_TOKENS, "<end_of_utterance>", *_MEDIA)),
        image_seq_len=4,
        chat_template=chat("<image>"),
    )


def _smolvlm_processor() -> ProcessorMixin:
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(**_SIZES),
        tokenizer=tiny_tokenizer((*TEXT_TOKENS, "<end_of_utterance>", *_MEDIA)),
        video_processor=SmolVLMVideoProcessor(**_SIZES),
        image_seq_len=4,
        chat_template=chat("<image>"),
    )


def _idefics3(processor: ProcessorMixin) -> PreTrainedModel:
    return Idefics3ForConditionalGeneration(
        Idefics3Config(
            text_config=text_settings(processor) | {"model_type": "llama"},
            vision_config=vision_settings(),
            image_token_id=token_ids(processor)["<image>"],
        )
    )


def _smolvlm(processor: ProcessorMixin) -> PreTrainedModel:
    return SmolVLMForConditionalGeneration(
        SmolVLMConfig(
            text_config=text_settings(processor) | {"model_type": "llama"},
            vision_config=vision_settings(),
            image_token_id=token_ids(processor)["<image>"],
        )
    )


REGISTRY["idefics3"] = TinyFamily(_idefics3_processor, _idefics3, _MEDIA)
REGISTRY["smolvlm"] = TinyFamily(_smolvlm_processor, _smolvlm, _MEDIA)
