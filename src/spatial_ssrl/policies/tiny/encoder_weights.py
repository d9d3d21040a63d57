"""Weights of a timm model, saved in a file, for the encoder of a TinyVLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.tiny.timm_library import timm_library

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


def load_encoder_weights(body: nn.Module, encoder: str, kwargs: dict[str, Any], path: Path) -> None:
    """Fill an encoder that also takes coordinates with the weights of a plain timm model.

    timm's own loader fits them to this size of picture. Filters of channels that the plain
    model does not have start at zero, so that features are at first those of the plain model.

    Args:
        body: Built by `timm.create_model(encoder, features_only=True, in_chans=..., **kwargs)`.
        encoder: timm model name.
        kwargs: Further arguments of that model.
        path: State dictionary of `timm.create_model(encoder, ...)`, with or without its
            classifier.

    Raises:
        ConfigError: If there is no such file, it cannot be read or is of another model.
    """
    _check_whole(encoder, kwargs, path)
    try:
        plain = timm_library().create_model(
            encoder,
            pretrained=True,
            pretrained_cfg_overlay={"file": str(path)},
            features_only=True,
            **kwargs,
        )
    except RuntimeError as error:
        detail = next((line for line in str(error).splitlines()[1:]), str(error)).strip()
        raise ConfigError(
            f"encoder_weights: {path} does not fit {encoder!r}: {detail.rstrip('.')}."
        ) from error
    held = plain.state_dict()
    body.load_state_dict(
        {name: _widened(held[name], value) for name, value in body.state_dict().items()}
    )


def _check_whole(encoder: str, kwargs: dict[str, Any], path: Path) -> None:
    """Make sure that a file holds every tensor of the model: timm's loader takes what it finds."""
    if not path.is_file() or path.suffix not in _SUFFIXES:
        raise ConfigError(
            f"encoder_weights: {path} is no file of weights; name one that ends in "
            f"{', '.join(_SUFFIXES)}, such as `timm.create_model(...).state_dict()` saved."
        )
    try:
        held = timm_library().models.load_state_dict(str(path))
    except Exception as error:  # What broken files raise differs with their kind.
        raise ConfigError(
            f"encoder_weights: {path} cannot be read: {str(error).splitlines()[0]}"
        ) from error
    arguments = {name: value for name, value in kwargs.items() if name != "out_indices"}
    with torch.device("meta"):
        wanted = timm_library().create_model(encoder, num_classes=0, **arguments).state_dict()
    if lacking := [name for name in wanted if name not in held]:
        raise ConfigError(
            f"encoder_weights: {path} lacks {len(lacking)} of {len(wanted)} tensors of "
            f"{encoder!r}, the first {lacking[0]!r}; name weights saved from that timm model."
        )


def _widened(value: Tensor, like: Tensor) -> Tensor:
    """Return filters of the plain model, (out, 3, ...), with zeros for further channels."""
    if value.shape == like.shape:
        return value
    wide = torch.zeros_like(like)
    wide[:, : value.shape[1]] = value
    return wide
