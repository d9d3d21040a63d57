"""A random Qwen2.5-VL of 4 M parameters with its real processor, for timings without downloads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from tokenizers.decoders import ByteLevel
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from spatial_ssrl.core.questions import Question

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXT = "Order the markers from near to far."
PICTURE = (364, 392)  # 13 by 14 patches of 28 pixels: 182 tokens


def write(folder: Path) -> None:
    """Save model and processor as a downloaded one would lie on disk."""
    made = processor(_tokenizer())
    _model(made).save_pretrained(folder)
    made.save_pretrained(folder)


def questions(count: int, images: int, picture: tuple[int, int] = PICTURE) -> list[Question]:
    """Return questions over noise pictures, all of one length: about 190 tokens a picture."""
    rng = np.random.default_rng(0)
    pictures = rng.integers(0, 256, (count, images, *picture, 3), dtype=np.uint8)
    return [
        Question(
            uid=f"noise-{number}",
            task="depth_order",
            images=tuple(pictures[number]),
            prompt="<image>" * images + TEXT,
            answer="1,2,3",
            answer_kind="order",
        )
        for number in range(count)
    ]


def _tokenizer() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [TEXT, "First think inside <think> </think>, then give the final answer in \\boxed{}."]
    tokenizer.train_from_iterator(corpus, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return fast


def processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2_5_VLProcessor:
    """Return the real processor around a tokenizer that knows the marks."""
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 256}
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size),
        chat_template=CHAT,
    )


def _model(processor: Qwen2_5_VLProcessor) -> Qwen2_5_VLForConditionalGeneration:
    ids = {token: int(id_) for token, id_ in processor.tokenizer.get_added_vocab().items()}
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config={
                "vocab_size": len(processor.tokenizer),
                "hidden_size": 192,
                "intermediate_size": 512,
                "num_hidden_layers": 6,
                "num_attention_heads": 6,
                "num_key_value_heads": 2,
                "rope_parameters": {
                    "rope_type": "default",
                    "mrope_section": [4, 6, 6],
                    "rope_theta": 1000000.0,
                },
                "eos_token_id": ids["<|im_end|>"],
                "pad_token_id": ids["<|endoftext|>"],
            },
            vision_config={
                "depth": 4,
                "hidden_size": 160,
                "intermediate_size": 320,
                "num_heads": 4,
                "out_hidden_size": 192,
                "fullatt_block_indexes": [3],
                "window_size": 112,
            },
            image_token_id=ids["<|image_pad|>"],
            video_token_id=ids["<|video_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
        )
    )
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    return model.eval()
