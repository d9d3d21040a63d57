"""What the builders of tiny families share: a registry, a tokenizer, a chat, decoder settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

TEXT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

_CHAT = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n"
    "{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)

CORPUS = (
    "First reason inside <think> </think>, then give the final answer in \\boxed{}.",
    "Which patch was flipped, and in which direction? horizontal vertical 1, 2, 3, 4",
    "Order the markers from near to far: 1,2,3. Options: A. Left B. Right C. Front D. Back",
)


@dataclass(frozen=True, slots=True)
class TinyFamily:
    """How a family is built small, with its real classes.

    Args:
        processor: Builds its processor, tokenizer included.
        model: Builds its model for that processor, weights as the library draws them.
        media: What a picture becomes in its prompts: placeholders, their begin and end.
        loud: Whether every matrix is drawn anew, so large that a misplaced token, picture or
            position shows in the output; False for models whose own weights do.
        lora_targets: Where adapters go.
        adapted_parts: The freeze groups in which there are layers for adapters.
    """

    processor: Callable[[], ProcessorMixin]
    model: Callable[[ProcessorMixin], PreTrainedModel]
    media: tuple[str, ...]
    loud: bool = True
    lora_targets: str = "all-linear"
    adapted_parts: tuple[str, ...] = ("vision_tower", "projector", "language_model")


REGISTRY: dict[str, TinyFamily] = {}


def tiny_tokenizer(
    special: tuple[str, ...], named: dict[str, str] | None = None
) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer trained on a few sentences.

    Args:
        special: Tokens that are never split.
        named: Those of them that a processor asks for by attribute, such as `image_token`.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        **({"extra_special_tokens": named} if named else {}),
    )
    fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast


def chat(image: str) -> str:
    """Return a chat template that writes `image` for a picture."""
    return _CHAT.format(image=image)


def token_ids(processor: ProcessorMixin) -> dict[str, int]:
    """Return the ids of special tokens by their text."""
    return {token: int(id_) for token, id_ in processor.tokenizer.get_added_vocab().items()}


def text_settings(processor: ProcessorMixin) -> dict[str, Any]:
    """Return the settings of a decoder of two layers that most text configurations take."""
    ids = token_ids(processor)
    return {
        "vocab_size": len(processor.tokenizer) + 8,  # real heads too have rows no token uses
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
    }


def vision_settings(image_size: int = 16, patch_size: int = 4) -> dict[str, Any]:
    """Return the settings of a vision transformer of two layers."""
    return {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
    }


def made_loud(model: PreTrainedModel, std: float = 0.25) -> PreTrainedModel:
    """Draw large weights for every matrix of a model, those of its head smaller than `std`."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.1 if "lm_head" in name else std)
    return model
