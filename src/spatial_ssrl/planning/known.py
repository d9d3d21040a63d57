"""Finding a model's configuration and processor without a network, and without its weights."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from importlib import resources
from typing import Any

from huggingface_hub import constants
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoConfig,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.logs import loggers_at
from spatial_ssrl.planning.source import GhostSource
from spatial_ssrl.policies.hub import ModelSource, completed_processor

_MARKS = {
    "<|endoftext|>": 151643,
    "<|im_start|>": 151644,
    "<|im_end|>": 151645,
    "<|vision_start|>": 151652,
    "<|vision_end|>": 151653,
    "<|vision_pad|>": 151654,
    "<|image_pad|>": 151655,
    "<|video_pad|>": 151656,
}
_CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Words of at most eight letters, digits and marks one by one: about what byte-pair vocabularies
# of 150,000 entries make of English.
_WORDS = r"\s?\p{L}{1,8}|\p{N}|\s?[^\s\p{L}\p{N}]|\s+"

WORDS_ASSUMED = "text: a token for each digit, mark and word of up to 8 letters"


def find_model(asked: ModelSource) -> tuple[GhostSource, tuple[str, ...]]:
    """Return where a model's configuration and processor come from, and what is assumed.

    A folder, or the Hugging Face cache; else facts about well-known models that come with the
    library. Nothing is asked of the network.

    Args:
        asked: The model that a policy names.

    Raises:
        ConfigError: If the configuration is in none of these places.
    """
    # What transformers does not find is told in one line here.
    with loggers_at(logging.CRITICAL, "transformers"):
        config = _loaded(AutoConfig, asked)
        processor = None if config is None else _loaded(AutoProcessor, asked)
    facts = _facts(asked.model)
    assumed = []
    if config is None:
        if facts is None:
            raise ConfigError(
                f"model: {asked.model!r} is not a folder with a config.json here, not in the cache "
                f"({constants.HF_HUB_CACHE}), and not among the models whose sizes come with the "
                f"library ({', '.join(known_models())}); fetch its small files first: hf download "
                f"{asked.model} --include '*.json' '*.jinja' '*.txt'."
            )
        config = _config_of(facts)
        assumed.append(f"model: sizes from {facts['source']}")
    if processor is None:
        if facts is None:
            raise ConfigError(
                f"model: {asked.model!r} has a configuration here but no processor; fetch its "
                f"small files: hf download {asked.model} --include '*.json' '*.jinja' '*.txt'."
            )
        processor = _stand_in(facts)
        assumed.append(WORDS_ASSUMED)
    source = GhostSource(
        asked.model,
        asked.revision,
        asked.trust_remote_code,
        config=config,
        processor=completed_processor(processor, asked.model),
    )
    return source, tuple(assumed)


def known_models() -> list[str]:
    """Return the hub ids of the models whose sizes come with the library."""
    return sorted(name for facts in _all_facts() for name in facts["models"])


def _loaded(auto: Any, asked: ModelSource) -> Any:
    try:
        return auto.from_pretrained(
            asked._location(),
            revision=asked.revision or "main",
            trust_remote_code=asked.trust_remote_code,
            local_files_only=True,
        )
    except (OSError, ValueError, ImportError):
        return None


def _all_facts() -> list[dict[str, Any]]:
    folder = resources.files("spatial_ssrl.planning").joinpath("models")
    files = [file for file in folder.iterdir() if file.name.endswith(".json")]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _facts(model: str) -> dict[str, Any] | None:
    return next((facts for facts in _all_facts() if model in facts["models"]), None)


def _config_of(facts: dict[str, Any]) -> PretrainedConfig:
    settings = dict(facts["config"])
    return AutoConfig.for_model(settings.pop("model_type"), **settings)


class _Words(PreTrainedTokenizerFast):
    """A tokenizer without a vocabulary, which knows how many tokens there are."""

    tokens = 0

    def __len__(self) -> int:
        return self.tokens

    def batch_decode(self, sequences: Any, *args: Any, **kwargs: Any) -> list[str]:
        """Return empty texts: there is no vocabulary."""
        return [""] * len(sequences)


def _stand_in(facts: dict[str, Any]) -> ProcessorMixin:
    """Return the real processor around a tokenizer that only counts."""
    from transformers import (
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    bounds: Sequence[int] = facts["pixels"]
    size = {"shortest_edge": bounds[0], "longest_edge": bounds[1]}
    third = facts["config"]["model_type"] == "qwen3_vl"
    processor = Qwen3VLProcessor if third else Qwen2_5_VLProcessor
    video = Qwen3VLVideoProcessor if third else Qwen2VLVideoProcessor
    made: ProcessorMixin = processor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=facts["patch_size"]),
        tokenizer=_counting_tokenizer(facts["tokens"]),
        video_processor=video(),
        chat_template=_CHAT,
    )
    return made


def _counting_tokenizer(tokens: int) -> _Words:
    tokenizer = Tokenizer(models.WordLevel({"word": 0, **_MARKS}, unk_token="word"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORDS), "isolated")
    fast = _Words(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": list(_MARKS)})
    fast.tokens = tokens
    return fast
