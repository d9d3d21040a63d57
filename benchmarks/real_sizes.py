"""A Qwen2.5-VL of real size with random weights, written as a downloaded one would lie on disk."""

from __future__ import annotations

from pathlib import Path

import small_qwen
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from spatial_ssrl.planning.known import find_model
from spatial_ssrl.policies.hub import ModelSource

# Ids of the marks in the vocabulary of Qwen2.5-VL.
_IDS = (151643, 151644, 151645, 151652, 151653, 151654, 151655, 151656)


def write(folder: Path, model: str, device: str) -> None:
    """Save a model's configuration, random weights in bfloat16, and a processor.

    Every token but the marks is a word of its own, so that all of the vocabulary can be said.

    Args:
        folder: Where to; left alone if it holds a model.
        model: Hub id of a Qwen2.5-VL among those whose sizes come with the library.
        device: Where the weights are drawn.
    """
    if (folder / "config.json").is_file():
        return
    source, _ = find_model(ModelSource(model))
    torch.manual_seed(0)
    with torch.device(device):
        network = AutoModelForImageTextToText.from_config(source.config, dtype=torch.bfloat16)
    ends = ("<|im_end|>", "<|endoftext|>")
    network.generation_config.eos_token_id = [_IDS[small_qwen.SPECIAL.index(end)] for end in ends]
    network.save_pretrained(folder)
    small_qwen.processor(_tokenizer(source.config.text_config.vocab_size)).save_pretrained(folder)


def _tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    marks = dict(zip(small_qwen.SPECIAL, _IDS, strict=True))
    named = {number: mark for mark, number in marks.items()}
    words = {named.get(number, f"w{number}"): number for number in range(vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": list(small_qwen.SPECIAL)})
    return fast
