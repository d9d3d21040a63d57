"""Loading the base weights in 4 bits (QLoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn
from transformers import BitsAndBytesConfig

from spatial_ssrl.core.errors import ConfigError


@dataclass(frozen=True)
class QuantSettings:
    """How base weights are stored; adapters stay in full precision.

    Args:
        bits: Bits per weight; 4 is the only choice.
        quant_type: "nf4" (quantiles of a normal distribution) or "fp4".
        double: Quantise the scales too, which saves about 0.4 bits per weight.
        compute_dtype: Precision of the products; "auto" is bfloat16 on a GPU that has it and
            float32 elsewhere.

    Raises:
        ConfigError: If `bits` is not 4.
    """

    bits: int = 4
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double: bool = True
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def __post_init__(self) -> None:
        if self.bits != 4:
            raise ConfigError(f"quantization.bits must be 4, got {self.bits}.")


def quantization_config(settings: QuantSettings, skipped: Sequence[str]) -> BitsAndBytesConfig:
    """Return the transformers configuration that loads weights as `settings` say.

    Args:
        settings: How weights are stored.
        skipped: Names, at any depth, of modules kept in full precision: the vision tower,
            whose small layers suffer most, and the vocabulary head.
    """
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quant_type,
        bnb_4bit_use_double_quant=settings.double,
        bnb_4bit_compute_dtype=_compute_dtype(settings.compute_dtype),
        llm_int8_skip_modules=[rf"(.*\.)?{name}" for name in skipped],
    )


def _compute_dtype(name: str) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def keep_differentiable(network: nn.Module) -> None:
    """Keep 4-bit layers differentiable on a CPU.

    On processors with AVX-512 bfloat16, bitsandbytes repacks a layer at its first use without
    gradient, and no gradient passes the repacked layer afterwards, without a word.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
