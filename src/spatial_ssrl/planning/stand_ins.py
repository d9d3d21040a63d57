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

# By `model_type`. Classes go by their names, so that only those of one family are imported.
_KINDS: Mapping[str, _Kind] = {
    "qwen2_5_vl": _Kind("Qwen2_5_VLProcessor", video_processor="Qwen2VLVideoProcessor", **_QWEN_VL),
    "qwen3_vl": _Kind("Qwen3VLProcessor", video_processor="Qwen3VLVideoProcessor", **_QWEN_VL),
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
