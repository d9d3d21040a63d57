"""Random models of real classes with real processors, small enough for any test.

Weights are wide enough that a misplaced token, picture or position shows in the output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
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
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from spatial_ssrl.core.questions import Question

QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

IDEFICS_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<fake_token_around_image>",
    "<image>",
    "<end_of_utterance>",
    "<global-img>",
    *(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)),
)

_CHAT = (
    "{{% for message in messages %}}<|im_start|>{{{{ message['role'] }}}}\n"
    "{{% for part in message['content'] %}}{{% if part['type'] == 'image' %}}{image}"
    "{{% else %}}{{{{ part['text'] }}}}{{% endif %}}{{% endfor %}}<|im_end|>\n"
    "{{% endfor %}}{{% if add_generation_prompt %}}<|im_start|>assistant\n{{% endif %}}"
)

_CORPUS = (
    "First reason inside <think> </think>, then give the final answer in \\boxed{}.",
    "Which patch was flipped, and in which direction? horizontal vertical 1, 2, 3, 4",
    "Order the markers from near to far: 1,2,3. Options: A. Left B. Right C. Front D. Back",
)

FAMILIES = ("qwen2_5_vl", "qwen3_vl", "llava", "idefics3", "smolvlm")


def tiny_tokenizer(special: tuple[str, ...] = QWEN_TOKENS) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer trained on a few sentences."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    fast.add_special_tokens({"additional_special_tokens": list(special)})
    return fast


def tiny_processor(family: str = "qwen2_5_vl") -> ProcessorMixin:
    """Return a real processor of a family, with the tiny tokenizer."""
    size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 16}
    qwen_chat = _CHAT.format(image="<|vision_start|><|image_pad|><|vision_end|>")
    if family == "qwen2_5_vl":
        return Qwen2_5_VLProcessor(
            image_processor=Qwen2VLImageProcessor(size=size),
            tokenizer=tiny_tokenizer(),
            video_processor=Qwen2VLVideoProcessor(size=size),
            chat_template=qwen_chat,
        )
    if family == "qwen3_vl":
        return Qwen3VLProcessor(
            image_processor=Qwen2VLImageProcessor(size=size, patch_size=16),
            tokenizer=tiny_tokenizer(),
            video_processor=Qwen3VLVideoProcessor(size=size),
            chat_template=qwen_chat,
        )
    if family in ("idefics3", "smolvlm"):
        # Pictures become tiles of 16 pixels, four tokens each, and a small copy of the whole.
        # SmolVLM's first checkpoints come with this processor too.
        return Idefics3Processor(
            image_processor=Idefics3ImageProcessor(
                size={"longest_edge": 32}, max_image_size={"longest_edge": 16}
            ),
            tokenizer=tiny_tokenizer(IDEFICS_TOKENS),
            image_seq_len=4,
            chat_template=_CHAT.format(image="<image>"),
        )
    return LlavaProcessor(
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        ),
        tokenizer=tiny_tokenizer(("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<image>")),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_CHAT.format(image="<image>"),
    )


def tiny_model(processor: ProcessorMixin, family: str = "qwen2_5_vl") -> PreTrainedModel:
    """Return a model of a family with a few layers and random weights."""
    ids = {token: int(id_) for token, id_ in processor.tokenizer.get_added_vocab().items()}
    text: dict[str, Any] = {
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
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    vision: dict[str, Any] = {"depth": 2, "hidden_size": 32, "intermediate_size": 48}
    qwen_ids = {
        "image_token_id": ids.get("<|image_pad|>"),
        "video_token_id": ids.get("<|video_pad|>"),
        "vision_start_token_id": ids.get("<|vision_start|>"),
        "vision_end_token_id": ids.get("<|vision_end|>"),
    }
    torch.manual_seed(0)
    model: PreTrainedModel
    if family == "qwen2_5_vl":
        window = {"out_hidden_size": 32, "fullatt_block_indexes": [1], "window_size": 56}
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(
                text_config=text | {"rope_parameters": rope},
                vision_config=vision | window | {"num_heads": 2},
                **qwen_ids,
            )
        )
    elif family == "qwen3_vl":
        deep = {"out_hidden_size": 32, "deepstack_visual_indexes": [0, 1]}
        model = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(
                # What the vision tower adds to the last layer's output reaches no other token.
                text_config=text
                | {"num_hidden_layers": 3, "rope_parameters": rope | {"mrope_interleaved": True}},
                vision_config=vision | deep | {"num_heads": 2, "num_position_embeddings": 64},
                **qwen_ids,
            )
        )
    elif family in ("idefics3", "smolvlm"):
        smol = family == "smolvlm"
        config = SmolVLMConfig if smol else Idefics3Config
        cls = SmolVLMForConditionalGeneration if smol else Idefics3ForConditionalGeneration
        model = cls(
            config(
                text_config=text | {"model_type": "llama"},
                vision_config={
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 16,
                    "patch_size": 4,
                },
                image_token_id=ids["<image>"],
            )
        )
    else:
        model = LlavaForConditionalGeneration(
            LlavaConfig(
                text_config=text | {"model_type": "llama"},
                vision_config={
                    "model_type": "clip_vision_model",
                    "hidden_size": 32,
                    "intermediate_size": 48,
                    "num_hidden_layers": 2,
                    "num_attention_heads": 2,
                    "image_size": 32,
                    "patch_size": 8,
                    "projection_dim": 32,
                },
                image_token_index=ids["<image>"],
                vision_feature_layer=-1,
            )
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.1 if "lm_head" in name else 0.25)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    return model.eval()


def write_tiny(folder: Path, family: str = "qwen2_5_vl") -> Path:
    """Save a tiny model with its processor, as a downloaded one would lie on disk."""
    processor = tiny_processor(family)
    tiny_model(processor, family).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def random_question(images: int, text: str = "Which patch was flipped?", seed: int = 0) -> Question:
    """Return a question over noise pictures of mixed size, a placeholder before each."""
    rng = np.random.default_rng(seed)
    pictures = tuple(
        rng.integers(0, 256, (*rng.integers(30, 120, 2), 3), dtype=np.uint8) for _ in range(images)
    )
    shown = " ".join(f"<image> picture {number}" for number in range(images))
    return Question(
        uid=f"noise-{seed}",
        task="flipped_patch",
        images=pictures,
        prompt=f"{shown} {text}",
        answer="2,horizontal",
        answer_kind="text",
        explanation="Patch 2 is mirrored left to right.",
    )
