"""Real processors of families whose tiny models other tests do not need."""

from __future__ import annotations

from transformers import (
    Gemma3ImageProcessor,
    Gemma3Processor,
    GotOcr2ImageProcessor,
    InternVLProcessor,
    InternVLVideoProcessor,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from support.tiny_models import _CHAT, FAMILIES, IDEFICS_TOKENS, tiny_processor, tiny_tokenizer

PROCESSORS = (*FAMILIES, "smolvlm2", "internvl", "llava_onevision", "gemma3")

_SIDE = {"height": 28, "width": 28}


def processor_of(family: str) -> ProcessorMixin:
    """Return the real processor of a family, with a tiny tokenizer and small pictures."""
    build = {
        "smolvlm2": _smolvlm2,
        "internvl": _internvl,
        "llava_onevision": _llava_onevision,
        "gemma3": _gemma3,
    }
    return build[family]() if family in build else tiny_processor(family)


def _tokenizer(*special: str, **named: str) -> PreTrainedTokenizerFast:
    """Return the tiny tokenizer with the tokens a processor asks it for by name."""
    tokenizer = tiny_tokenizer((*special, *named.values()))
    for name, token in named.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def _smolvlm2() -> ProcessorMixin:
    return SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 16}
        ),
        tokenizer=_tokenizer(
            *IDEFICS_TOKENS,
            fake_image_token="<fake_token_around_image>",
            image_token="<image>",
            end_of_utterance_token="<end_of_utterance>",
            global_image_token="<global-img>",
            video_token="<video>",
        ),
        video_processor=SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=_CHAT.format(image="<image>"),
    )


def _internvl() -> ProcessorMixin:
    return InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=_SIDE, crop_to_patches=True),
        tokenizer=_tokenizer(
            "<|im_start|>",
            start_image_token="<img>",
            end_image_token="</img>",
            context_image_token="<IMG_CONTEXT>",
            video_token="<video>",
        ),
        video_processor=InternVLVideoProcessor(),
        image_seq_length=4,
        chat_template=_CHAT.format(image="<IMG_CONTEXT>"),
    )


def _llava_onevision() -> ProcessorMixin:
    return LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(
            size=_SIDE,
            image_grid_pinpoints=[[28 * a, 28 * b] for a in (1, 2, 3) for b in (1, 2, 3)],
        ),
        tokenizer=_tokenizer("<|im_start|>", image_token="<image>", video_token="<video>"),
        video_processor=LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_CHAT.format(image="<image>"),
    )


def _gemma3() -> ProcessorMixin:
    return Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size=_SIDE),
        tokenizer=_tokenizer(
            "<|im_start|>",
            boi_token="<start_of_image>",
            eoi_token="<end_of_image>",
            image_token="<image_soft_token>",
        ),
        image_seq_length=4,
        chat_template=_CHAT.format(image="<start_of_image>"),
    )
