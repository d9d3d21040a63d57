"""Models as ghosts, made from their configuration: no weights are looked for or loaded."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import (
    AutoModelForImageTextToText,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from spatial_ssrl.policies.hub import ModelSource

# Names that configurations give to the number of their layers.
_DEPTHS = ("num_hidden_layers", "depth", "num_layers")

# Settings that list one entry for each layer, or numbers of layers.
_BY_LAYER = ("layer_types", "mlp_layer_types", "no_rope_layers")
_NUMBERS = ("deepstack_visual_indexes",)

# Layers of vision towers that attend to whole pictures, the others to windows. Fused attention
# keeps as much either way, and windows, which are read one by one, are slow to rehearse.
_WHOLE_PICTURES = "fullatt_block_indexes"


@dataclass(frozen=True)
class GhostSource(ModelSource):
    """Where a model comes from when all that is wanted of it is its memory.

    Args:
        config: Of the model.
        processor: Its processor, or what stands in for it.
    """

    config: PretrainedConfig | None = None
    processor: ProcessorMixin | None = None

    def build_model(self, **extra: Any) -> PreTrainedModel:
        """Return the model without weights; call it where tensors are ghosts.

        Args:
            extra: `dtype`, and `quantization_config` for weights in 4 bits.
        """
        from transformers.initialization import no_init_weights

        config, dtype = self._image_text_config(), extra.get("dtype", "auto")
        with no_init_weights():
            model: PreTrainedModel = AutoModelForImageTextToText.from_config(
                config, **({} if dtype == "auto" else {"dtype": dtype})
            )
        model.tie_weights()
        quantization = extra.get("quantization_config")
        if quantization is not None:
            _quantise(model, quantization)
        model.eval()
        return model

    def build_processor(self) -> ProcessorMixin:
        """Return a copy of the processor, which policies may set up as they like."""
        assert self.processor is not None
        return copy.deepcopy(self.processor)

    def _image_text_config(self) -> PretrainedConfig:
        assert self.config is not None
        return copy.deepcopy(self.config)


def ready_bitsandbytes() -> None:
    """Let bitsandbytes make what it keeps for good, which must not be ghosts."""
    from bitsandbytes import functional

    functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())  # type: ignore[no-untyped-call]


def _quantise(model: PreTrainedModel, settings: BitsAndBytesConfig) -> None:
    """Turn the linear layers of a model of ghosts into 4-bit ones, as loading would."""
    from bitsandbytes.nn import modules
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    skipped = HfQuantizer.get_modules_to_not_convert(
        model, settings.llm_int8_skip_modules, getattr(model, "_keep_in_fp32_modules", None)
    )
    for name, module in list(model.named_modules()):
        if type(module) is not nn.Linear or not should_convert_module(name, skipped):
            continue
        layer = modules.Linear4bit(  # type: ignore[no-untyped-call]
            module.in_features,
            module.out_features,
            module.bias is not None,
            settings.bnb_4bit_compute_dtype,
            compress_statistics=settings.bnb_4bit_use_double_quant,
            quant_type=settings.bnb_4bit_quant_type,
        )
        layer.weight = modules.Params4bit(  # type: ignore[no-untyped-call]
            module.weight.data,
            requires_grad=False,
            compress_statistics=settings.bnb_4bit_use_double_quant,
            quant_type=settings.bnb_4bit_quant_type,
            module=layer,
        )._quantize(module.weight.device)
        if module.bias is not None:
            layer.bias = nn.Parameter(module.bias.data)
        layer.requires_grad_(False)
        model.set_submodule(name, layer)
    model.is_loaded_in_4bit = True  # type: ignore[assignment]
    model.is_quantized = True  # type: ignore[assignment]
    model.config.quantization_config = settings


@dataclass(frozen=True, slots=True)
class Depth:
    """Layers of a model.

    Args:
        text: Of the language model.
        vision: Of the vision tower; 0 where the configuration does not say.
    """

    text: int
    vision: int


def depth_of(config: PretrainedConfig) -> Depth:
    """Return how many layers a model has."""
    vision = getattr(config, "vision_config", None)
    name = None if vision is None else _depth_name(vision)
    text = config.get_text_config()
    return Depth(
        text=int(getattr(text, _depth_name(text) or _DEPTHS[0])),
        vision=0 if name is None else int(getattr(vision, name)),
    )


def with_depth(config: PretrainedConfig, depth: Depth) -> PretrainedConfig:
    """Return a configuration with other numbers of layers, each like one of those it has."""
    config = copy.deepcopy(config)
    parts = [(config.get_text_config(), depth.text)]
    if depth.vision:
        parts.append((config.vision_config, depth.vision))
    for part, layers in parts:
        name = _depth_name(part)
        assert name is not None
        before = int(getattr(part, name))
        setattr(part, name, layers)
        listed = {
            setting: entries
            for setting in _BY_LAYER
            if isinstance(entries := getattr(part, setting, None), list)
        }
        first = _first_kept(list(zip(*listed.values(), strict=True)), before - layers, layers)
        for setting, entries in listed.items():
            setattr(part, setting, entries[first : first + layers])
        for setting in _NUMBERS:
            if numbers := getattr(part, setting, None):
                setattr(part, setting, _moved(list(numbers), before, layers))
        if getattr(part, _WHOLE_PICTURES, None) is not None:
            setattr(part, _WHOLE_PICTURES, list(range(layers)))
    return config


def _first_kept(kinds: Sequence[tuple[Any, ...]], last: int, layers: int) -> int:
    """Return where the last row of so many layers starts that has the most kinds among them.

    Layers of a rare kind need not be at the end: Gemma 3 4B ends in four of its common one.
    """
    return max(range(last, -1, -1), key=lambda start: len({*kinds[start : start + layers]}))


def _moved(numbers: list[int], before: int, layers: int) -> list[int]:
    """Return numbers of layers that mark as large a share of fewer layers."""
    if before == layers:
        return numbers
    return list(range(min(len(numbers), layers)))


def _depth_name(config: PretrainedConfig) -> str | None:
    return next((name for name in _DEPTHS if isinstance(getattr(config, name, None), int)), None)
