"""TinyVLM: a timm encoder and a small decoder, saved and loaded as any transformers model."""

from __future__ import annotations

from transformers import PreTrainedModel, ProcessorMixin

from spatial_ssrl.policies.tiny.configuration import TinyVLMConfig
from spatial_ssrl.policies.tiny.modeling import TinyVLMForConditionalGeneration
from spatial_ssrl.policies.tiny.processing import TinyVLMImageProcessor, TinyVLMProcessor
from spatial_ssrl.policies.tiny.tokenizer import ASSISTANT, IMAGE, build_tokenizer
from support.tiny_models.base import CORPUS, REGISTRY, TinyFamily


def _processor() -> ProcessorMixin:
    return TinyVLMProcessor(TinyVLMImageProcessor(32), build_tokenizer(CORPUS), tokens_per_image=16)


def _model(processor: ProcessorMixin) -> PreTrainedModel:
    tokenizer = processor.tokenizer
    vocabulary = tokenizer.get_vocab()
    return TinyVLMForConditionalGeneration(
        TinyVLMConfig(
            image_size=32,
            text_config={
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "pad_token_id": tokenizer.pad_token_id,
                "eos_token_id": tokenizer.eos_token_id,
                "initializer_range": 0.1,
                "tie_word_embeddings": True,
            },
            image_token_id=vocabulary[IMAGE],
            prompt_end_token_id=vocabulary[ASSISTANT],
        )
    )


REGISTRY["tiny_vlm"] = TinyFamily(
    _processor,
    _model,
    (IMAGE,),
    loud=False,
    lora_targets=r".*(_proj|inward|outward|squeeze|conv\d?)",
)
