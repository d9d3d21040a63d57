"""Random models of three families, of 5 to 30 M weights, with their real processors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import small_qwen
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import (
    CLIPImageProcessor,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from spatial_ssrl.core.questions import Question

FAMILIES = ("qwen2_5_vl", "idefics3", "llava")

_SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<image>",
    "<fake_token_around_image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)
_CHAT = small_qwen.CHAT.replace("<|vision_start|><|image_pad|><|vision_end|>", "<image>")
_TEXT = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 640,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 8192,
}
_VISION = {
    "hidden_size": 192,
    "intermediate_size": 512,
    "num_hidden_layers": 7,
    "num_attention_heads": 6,
}


def write(folder: Path, family: str) -> Path:
    """Save a model and its processor as downloaded ones would lie on disk; return the folder."""
    if family == "qwen2_5_vl":
        small_qwen.write(folder)
        return folder
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    ids = tokenizer.get_added_vocab()
    text = _TEXT | {"eos_token_id": ids["<|im_end|>"], "pad_token_id": ids["<|endoftext|>"]}
    if family == "idefics3":
        # Pictures become tiles of 224 pixels, 49 tokens each, and a small copy of the whole.
        vision = _VISION | {"image_size": 224, "patch_size": 16}
        config = Idefics3Config(
            text_config=text, vision_config=vision, image_token_id=ids["<image>"], scale_factor=2
        )
        processor = Idefics3Processor(
            image_processor=Idefics3ImageProcessor(
                size={"longest_edge": 448}, max_image_size={"longest_edge": 224}
            ),
            tokenizer=tokenizer,
            image_seq_len=49,
            chat_template=_CHAT,
        )
        Idefics3ForConditionalGeneration(config).save_pretrained(folder)
    else:
        vision = _VISION | {"image_size": 224, "patch_size": 16, "projection_dim": 192}
        config = LlavaConfig(
            text_config=text,
            vision_config=vision | {"model_type": "clip_vision_model"},
            image_token_index=ids["<image>"],
            vision_feature_layer=-1,
        )
        processor = LlavaProcessor(
            image_processor=CLIPImageProcessor(
                size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224}
            ),
            tokenizer=tokenizer,
            patch_size=16,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=_CHAT,
        )
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def question(uid: str = "question") -> Question:
    """Return a question with two pictures."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (2, *small_qwen.PICTURE, 3), dtype=np.uint8)
    return Question(
        uid=uid,
        task="depth_order",
        images=tuple(pictures),
        prompt="<image><image>" + small_qwen.TEXT,
        answer="1,2,3",
        answer_kind="order",
    )


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([small_qwen.TEXT], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": list(_SPECIAL)})
    return fast
