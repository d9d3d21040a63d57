"""Policies: vision-language models that can be sampled from, scored and adapted."""

from spatial_ssrl.policies.adapters import LoraSettings
from spatial_ssrl.policies.base import (
    POLICIES,
    Collator,
    PolicyBackbone,
    ReadState,
)
from spatial_ssrl.policies.collate import PromptCollator
from spatial_ssrl.policies.counting import TokenCount
from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy
from spatial_ssrl.policies.quantization import QuantSettings
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.policies.tiny import TinyVLM

__all__ = [
    "POLICIES",
    "Collator",
    "HFVisionLanguagePolicy",
    "LoraSettings",
    "PolicyBackbone",
    "PromptCollator",
    "QuantSettings",
    "ReadState",
    "SamplingSettings",
    "TinyVLM",
    "TokenCount",
]
