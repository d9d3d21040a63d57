"""Processors of well-known models around a tokenizer without a vocabulary, which only counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, ProcessorMixin

from spatial_ssrl.core.errors import ConfigError

# Words of at most eight letters, digits and marks one by one: about what byte-pair vocabularies
# of 150,000 entries make of English.
_WORDS = r"\s?\p{L}{1,8}|\p{N}|\s?[^\s\p{L}\p{N}]|\s+"

WORDS_ASSUMED = "text: a token for each digit, mark and word of up to 8 letters"

# The id of every word: one that no family has given to a mark.
_WORD = 10

_CHAT = (
    "{{% for message in messages %}}{opening}"
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{picture}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}{closing}"
    "{{% endfor %}}{{% if add_generation_prompt %}}{answer}{{% endif %}}"
)


@dataclass(frozen=True, slots=True)
class _Kind:
    """How the processor of a type of model is put together.

    Args:
        processor: Name of its class.
        image_processor: Name of the class of its part for pictures.
        marks: Special tokens and their ids.
        picture: What its chat template writes for a picture.
        opening: What comes before a message.
        closing: What comes after one.
        answer: What the model's answer begins with.
        eos: The token that ends an answer.
        pad: The token that fills prompts up.
        named: Marks that the processor asks its tokenizer for, by the name it uses.
        video_processor: Name of the class of its part for films; None where it has none.
    """

    processor: str
    image_processor: str
    marks: Mapping[str, int]
    picture: str
    opening: str = "<|im_start|>user\n"
    closing: str = "<|im_end|>\n"
    answer: str = "<|im_start|>assistant\n"
    eos: str = "<|im_end|>"
    pad: str = "<|endoftext|>"
    named: Mapping[str, str] = field(default_factory=dict)
    video_processor: str | None = None


_QWEN = {"<|endoftext|>": 151643, "<|im_start|>": 151644, "<|im_end|>": 151645}
_QWEN_VL: Mapping[str, Any] = {
    "image_processor": "Qwen2VLImageProcessor",
    "marks": {
        **_QWEN,
        "<|vision_start|>": 151652,
        "<|vision_end|>": 151653,
        "<|vision_pad|>": 151654,
        "<|image_pad|>": 151655,
        "<|video_pad|>": 151656,
    },
    "picture": "<|vision_start|><|image_pad|><|vision_end|>",
}

_TILES = {
    f"<row_{row}_col_{column}>": 49153 + 6 * (row - 1) + column - 1
    for row in range(1, 7)
    for column in range(1, 7)
}

# By `model_type`. Classes go by their names, so that only those of one family are imported.
_KINDS: Mapping[str, _Kind] = {
    "gemma3": _Kind(
        "Gemma3Processor",
        "Gemma3ImageProcessor",
        {
            "<pad>": 0,
            "<eos>": 1,
            "<bos>": 2,
            "<start_of_turn>": 105,
            "<end_of_turn>": 106,
            "<start_of_image>": 255999,
            "<end_of_image>": 256000,
            "<image_soft_token>": 262144,
        },
        picture="<start_of_image>",
        opening="<bos><start_of_turn>user\n",
        closing="<end_of_turn>\n",
        answer="<start_of_turn>model\n",
        eos="<eos>",
        pad="<pad>",
        named={
            "boi_token": "<start_of_image>",
            "eoi_token": "<end_of_image>",
            "image_token": "<image_soft_token>",
        },
    ),
    "internvl": _Kind(
        "InternVLProcessor",
        "GotOcr2ImageProcessor",
        # The one for films has no row in the embeddings: it is replaced before they are read.
        _QWEN | {"<img>": 151665, "</img>": 151666, "<IMG_CONTEXT>": 151667, "<video>": 151674},
        picture="<IMG_CONTEXT>\n",
        named={
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
        video_processor="InternVLVideoProcessor",
    ),
    "llava_onevision": _Kind(
        "LlavaOnevisionProcessor",
        "LlavaOnevisionImageProcessor",
        _QWEN | {"<image>": 151646, "<video>": 151647},
        picture="<image>\n",
        video_processor="LlavaOnevisionVideoProcessor",
    ),
    "qwen2_vl": _Kind("Qwen2VLProcessor", video_processor="Qwen2VLVideoProcessor", **_QWEN_VL),
    "qwen2_5_vl": _Kind("Qwen2_5_VLProcessor", video_processor="Qwen2VLVideoProcessor", **_QWEN_VL),
    "qwen3_vl": _Kind("Qwen3VLProcessor", video_processor="Qwen3VLVideoProcessor", **_QWEN_VL),
    "smolvlm": _Kind(
        "SmolVLMProcessor",
        "SmolVLMImageProcessor",
        {
            "<|endoftext|>": 0,
            "<|im_start|>": 1,
            "<|im_end|>": 2,
            "<global-img>": 49152,
            **_TILES,
            "<fake_token_around_image>": 49189,
            "<image>": 49190,
            "<end_of_utterance>": 49279,
        },
        picture="<image>",
        opening="<|im_start|>User:",
        closing="<end_of_utterance>\n",
        answer="Assistant:",
        eos="<end_of_utterance>",
        pad="<|im_end|>",
        video_processor="SmolVLMVideoProcessor",
    ),
}


def stand_in(facts: Mapping[str, Any]) -> ProcessorMixin:
    """Return the real processor of a model around a tokenizer that only counts.

    Args:
        facts: What comes with the library about the model: settings of `image_processor` and of
            the `processor` itself, where they are not those of the classes; how many `tokens`
            there are; and its `config`.

    Raises:
        ConfigError: If the processor needs a package that is not installed.
    """
    kind = _KINDS[facts["config"]["model_type"]]
    parts: dict[str, Any] = dict(facts.get("processor", {}))
    parts["image_processor"] = _class(kind.image_processor)(**facts.get("image_processor", {}))
    if kind.video_processor is not None:
        parts["video_processor"] = _class(kind.video_processor)()
    chat = _CHAT.format(
        opening=kind.opening, picture=kind.picture, closing=kind.closing, answer=kind.answer
    )
    try:
        made: ProcessorMixin = _class(kind.processor)(
            tokenizer=_counting_tokenizer(kind, facts["tokens"]), chat_template=chat, **parts
        )
    except ImportError as error:
        raise ConfigError(
            f"model: the processor of {facts['models'][0]!r} needs a package that is not here "
            f"({str(error).strip().splitlines()[0].rstrip('.')}); install it."
        ) from error
    return made


def _class(name: str) -> Any:
    return getattr(transformers, name)


class _Words(PreTrainedTokenizerFast):
    """A tokenizer without a vocabulary, which knows how many tokens there are."""

    tokens = 0

    def __len__(self) -> int:
        return self.tokens

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Return empty texts: there is no vocabulary."""
        return [""] * len(sequences)


def _counting_tokenizer(kind: _Kind, tokens: int) -> _Words:
    tokenizer = Tokenizer(models.WordLevel({"word": _WORD, **kind.marks}, unk_token="word"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    fast = _Words(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=kind.eos,
        pad_token=kind.pad,
        **({"extra_special_tokens": dict(kind.named)} if kind.named else {}),
    )
    fast.add_special_tokens({"additional_special_tokens": list(kind.marks)})
    fast.tokens = tokens
    return fast
