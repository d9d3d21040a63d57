"""Loading the base weights in 4 bits (QLoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.families import freeze_groups
from spatial_ssrl.policies.hub import ModelSource
from spatial_ssrl.policies.module_names import ending_in, nothing_matches

_BLOCK = 64  # weights that share a scale, side by side, wherever rows end


@dataclass(frozen=True)
class QuantSettings:
    """How base weights are stored; adapters stay in full precision.

    Args:
        bits: Bits per weight; 4 is the only choice.
        quant_type: "nf4" (quantiles of a normal distribution) or "fp4".
        double: Quantise the scales too, which saves about 0.4 bits per weight.
        compute_dtype: Precision of the products; "auto" is bfloat16 on a GPU that has it and
            float32 elsewhere.
        skip: Modules left in the precision of `policy.dtype`, by name or its ending; None for
            the vision tower and the projector, small parts that suffer most, and the vocabulary
            head. A head that is also the token embedding is always left out.

    Raises:
        ConfigError: If `bits` is not 4.

    References:
        QLoRA, arXiv:2305.14314.
    """

    bits: int = 4
    quant_type: Literal["nf4", "fp4"] = "nf4"
    double: bool = True
    compute_dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    skip: list[str] | None = None

    def __post_init__(self) -> None:
        if self.bits != 4:
            raise ConfigError(f"quantization.bits must be 4, got {self.bits}.")


def load_in_four_bits(source: ModelSource, settings: QuantSettings, dtype: str) -> PreTrainedModel:
    """Load a model whose linear layers are stored as `settings` say.

    Args:
        source: Where its full-precision weights are.
        settings: How they are stored.
        dtype: Precision of all other weights, as `from_pretrained` takes it.

    Raises:
        ConfigError: If this machine cannot do it, `settings.skip` names no module or leaves
            nothing, or the model cannot be had.
    """
    compute = _compute_dtype(settings.compute_dtype)
    require_four_bits(settings, compute)
    skipped = modules_skipped(source.build_skeleton(), settings.skip)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=settings.quant_type,
        bnb_4bit_use_double_quant=settings.double,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=[name.replace(".", r"\.") for name in skipped],
    )
    network = source.build_model(dtype=dtype, quantization_config=config)
    _keep_as_loaded(network)
    _check_rows(network, settings)
    return network


def require_four_bits(settings: QuantSettings, compute: torch.dtype) -> None:
    """Multiply once with 4-bit weights, forwards and backwards, where the model will lie.

    Raises:
        ConfigError: If that fails; says why and what to do.
    """
    otherwise = "or do without 4 bits (quantization: null in a config)"
    try:
        import bitsandbytes
    except Exception as error:  # A broken installation fails in any way.
        raise ConfigError(
            f"quantization: bitsandbytes cannot be imported ({_said(error)}); install it with "
            f"`pip install bitsandbytes`, {otherwise}."
        ) from error
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        weight = torch.linspace(-1, 1, _BLOCK * _BLOCK, device=device).view(_BLOCK, _BLOCK)
        packed, state = bitsandbytes.functional.quantize_4bit(
            weight.to(compute), quant_type=settings.quant_type, compress_statistics=settings.double
        )
        row = torch.ones(1, _BLOCK, device=device, dtype=compute, requires_grad=True)
        multiply = bitsandbytes.matmul_4bit  # type: ignore[attr-defined]  # re-exported silently
        multiply(row, packed.t(), quant_state=state).sum().backward()
    except Exception as error:  # Kernels that are missing or do not run fail in any way.
        raise ConfigError(
            f"quantization: bitsandbytes {bitsandbytes.__version__} cannot multiply with 4-bit "
            f"weights in {str(compute).removeprefix('torch.')} on this machine's {device.type} "
            f"({_said(error)}); set quantization.compute_dtype to float32, install a version "
            f"made for it, {otherwise}."
        ) from error


def _check_rows(network: nn.Module, settings: QuantSettings) -> None:
    """Refuse layers whose 4-bit weights are read back wrongly.

    Some CPU kernels of bitsandbytes, 0.50 among them, let scales begin anew in each row, which
    is wrong where rows are not made of whole blocks.
    """
    from bitsandbytes import functional
    from bitsandbytes.nn.modules import Linear4bit

    def read_back(weight: Tensor) -> Tensor:
        packed, state = functional.quantize_4bit(weight, quant_type=settings.quant_type)
        return functional.dequantize_4bit(packed, state).flatten()

    layers = {n: m for n, m in network.named_modules() if isinstance(m, Linear4bit)}
    for width in sorted({layer.in_features for layer in layers.values()}):
        device = next(iter(layers.values())).weight.device
        weight = torch.linspace(-1, 1, _BLOCK * width, device=device).sin()
        if not torch.equal(read_back(weight.view(_BLOCK, width)), read_back(weight.view(1, -1))):
            wrong = [name for name, layer in layers.items() if layer.in_features == width]
            raise ConfigError(
                f"quantization: bitsandbytes on this machine's {device.type} misreads 4-bit rows "
                f"of {width} weights ({wrong[0]} and {len(wrong) - 1} more); name them in "
                f"quantization.skip, or take a model whose widths are multiples of {_BLOCK}."
            )


def modules_skipped(skeleton: PreTrainedModel, skip: Sequence[str] | None) -> list[str]:
    """Return the names of the modules of a model that stay as they are.

    Args:
        skeleton: The model; its weights are not looked at.
        skip: As in `QuantSettings`.

    Raises:
        ConfigError: If a name matches no module, or no linear layer is left to quantise.
    """
    modules = dict(skeleton.named_modules())
    head = skeleton.get_output_embeddings()
    heads = [name for name, module in modules.items() if module is head]
    if skip is None:
        try:
            groups = freeze_groups(skeleton)
        except ConfigError as error:
            raise ConfigError(
                f"name in quantization.skip what is to stay as it is: {error}"
            ) from error
        found = [*groups["vision_tower"], *groups["projector"], *heads]
    else:
        found = []
        for ending in skip:
            matching = ending_in(ending, list(modules))
            if not matching:
                raise ConfigError(nothing_matches("quantization.skip", ending, list(modules)))
            found += matching
        if head is not None and head.weight is skeleton.get_input_embeddings().weight:
            found += heads
    if not any(
        isinstance(module, nn.Linear)
        and not any(name == outer or name.startswith(f"{outer}.") for outer in found)
        for name, module in modules.items()
    ):
        raise ConfigError(
            f"quantization.skip leaves no linear layer of {type(skeleton).__name__} to quantise; "
            "name fewer modules, or set quantization to null."
        )
    return found


def _compute_dtype(name: str) -> torch.dtype:
    if name != "auto":
        dtype: torch.dtype = getattr(torch, name)
        return dtype
    if torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    return torch.float32


def _keep_as_loaded(network: nn.Module) -> None:
    """Keep 4-bit layers from changing at their first use, and differentiable on a CPU.

    On processors with AVX-512 bfloat16, bitsandbytes repacks a layer at its first use without
    gradient, and no gradient passes the repacked layer afterwards, without a word. Everywhere
    it rounds the bias to the compute precision then.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
            if isinstance(module.bias, nn.Parameter):
                compute = cast(torch.dtype, module.compute_dtype)
                module.bias.data = module.bias.data.to(compute)


def _said(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0].rstrip(".") if text else type(error).__name__
