"""Merging an adapter into the weights it was trained beside."""

from __future__ import annotations

import warnings
from typing import cast

import torch
from peft import LoraModel, PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from spatial_ssrl.core.errors import ConfigError

# Parts of names that exist only while an adapter is on a layer.
_WRAPPED = (".base_layer", ".original_module")

Precisions = dict[str, torch.dtype]
"""Precision of each tensor of a model, by the name it has without adapters."""


def check_full_precision(network: PreTrainedModel) -> None:
    """Refuse a base whose weights are rounded to few bits.

    Raises:
        ConfigError: If the weights are stored in few bits.
    """
    if getattr(network, "hf_quantizer", None) is not None:
        raise ConfigError(
            f"run: the base model {network.name_or_path!r} is stored in few bits, and merging into "
            "those loses what was learned; name the full-precision model with --base."
        )


def raise_to_float32(network: nn.Module) -> Precisions:
    """Bring every tensor of a model to float32, in place.

    Returns:
        What they were before. Adapters are left out.
    """
    before: Precisions = {}
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if not tensor.is_floating_point():
            continue
        plain = name
        for part in _WRAPPED:
            plain = plain.replace(part, "")
        before[plain] = tensor.dtype
        tensor.data = tensor.data.float()
    return before


def bring_to(network: nn.Module, precisions: Precisions, default: torch.dtype) -> None:
    """Bring every parameter of a model to the precision it is to be saved in, in place.

    Args:
        network: The model, without adapters.
        precisions: By name.
        default: For names not among them. Buffers not among them stay as they are.
    """
    for name, parameter in network.named_parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(precisions.get(name, default))
    for name, buffer in network.named_buffers():
        if name in precisions:
            buffer.data = buffer.data.to(precisions[name])


def merge(model: PeftModel) -> PreTrainedModel:
    """Add an adapter to its base weights, in place, and return the plain model.

    PEFT does the sums, in the precision of the base. Embeddings that were one tensor with the
    vocabulary head, and no longer are equal to it, become a tensor of their own.

    Raises:
        ConfigError: If a merged weight is NaN or infinite.
    """
    _part_embeddings(cast(PreTrainedModel, model.get_base_model()))
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Input and output embeddings are no longer tied")
            tuner = cast(LoraModel, model.base_model)
            merged = cast(PreTrainedModel, tuner.merge_and_unload(safe_merge=True))
    except ValueError as error:
        raise ConfigError(f"run: the adapter cannot be merged: {error}") from error
    _record_parting(merged)
    return merged


def _part_embeddings(network: PreTrainedModel) -> None:
    """Give the vocabulary head a tensor of its own where one of a tied pair has an adapter.

    Merging would otherwise change both.
    """
    inward, outward = network.get_input_embeddings(), network.get_output_embeddings()
    if not any(isinstance(layer, BaseTunerLayer) for layer in (inward, outward)):
        return
    plain_in, plain_out = _innermost(inward), _innermost(outward)
    shared = cast(Tensor, plain_in.weight)
    if shared is plain_out.weight:
        plain_out.weight = nn.Parameter(shared.detach().clone(), requires_grad=False)


def _innermost(layer: nn.Module) -> nn.Module:
    """Return a layer without what PEFT has put around it."""
    for wrapped in ("base_layer", "original_module"):
        layer = getattr(layer, wrapped, layer)
    return layer


def _record_parting(network: PreTrainedModel) -> None:
    """Make the config say that embeddings and head differ, so that both are saved and loaded."""
    inward, outward = network.get_input_embeddings(), network.get_output_embeddings()
    if outward is None or inward.weight is outward.weight:
        return
    network.config.tie_word_embeddings = False
    network.config.get_text_config().tie_word_embeddings = False
