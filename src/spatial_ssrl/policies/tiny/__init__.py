"""TinyVLM: a vision-language model small enough to train from scratch on a CPU."""

from spatial_ssrl.policies.tiny.configuration import TinyVLMConfig
from spatial_ssrl.policies.tiny.modeling import TinyVLMForConditionalGeneration
from spatial_ssrl.policies.tiny.policy import TinyVLM
from spatial_ssrl.policies.tiny.processing import TinyVLMImageProcessor, TinyVLMProcessor

__all__ = [
    "TinyVLM",
    "TinyVLMConfig",
    "TinyVLMForConditionalGeneration",
    "TinyVLMImageProcessor",
    "TinyVLMProcessor",
]
