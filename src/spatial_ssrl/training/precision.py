"""Precisions and devices: which are refused, and the scaled losses of float16."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from spatial_ssrl.core.errors import ConfigError, SpatialSSRLError

# At a loss scale this small float16 cannot overflow: such gradients are not finite at all.
_SMALLEST_SCALE = 2.0**-10


def check_device(device: torch.device) -> None:
    """Refuse a device without the precision that tokens are drawn in.

    Args:
        device: Where the Trainer puts the policy.

    Raises:
        ConfigError: If it is the GPU of a Mac.
    """
    if device.type == "mps":
        raise ConfigError(
            "trainer.accelerator puts the policy on MPS, which has no float64, in which tokens are "
            "drawn; set trainer.accelerator: cpu."
        )


def check_precision(trainer: Trainer, parameters: Sequence[nn.Parameter]) -> None:
    """Refuse precisions in which training would go wrong; warn of one in which it may.

    Args:
        trainer: Its optimisers are set up.
        parameters: What is trained.

    Raises:
        ConfigError: If trained weights would be rounded to half precision by the Trainer, or if
            scaled losses do not go together with the weights or the optimiser.
    """
    plugin = trainer.precision_plugin
    if isinstance(plugin, HalfPrecision):
        short = "bfloat16" if plugin.precision == "bf16-true" else "float16"
        raise ConfigError(
            f'trainer.precision is "{plugin.precision}", which rounds adapters too, so that small '
            f'updates are lost; leave it at "32-true" and set policy.dtype to {short}: the base '
            "weights take it, adapters stay in float32."
        )
    half = {parameter.dtype for parameter in parameters} & {torch.bfloat16, torch.float16}
    if half:
        rank_zero_warn(
            f"Weights in training are {' and '.join(sorted(map(_name, half)))}, which rounds small "
            "updates away: at usual learning rates most weights will not move. Set policy.dtype "
            "to float32, or train adapters, which are in float32 anyway."
        )
    if loss_scaler(trainer) is None:
        return
    if any(parameter.dtype == torch.float16 for parameter in parameters):
        raise ConfigError(
            'trainer.precision is "16-mixed", but weights in training are float16, whose '
            "gradients cannot be unscaled; set policy.dtype to float32."
        )
    if any(getattr(o, "_step_supports_amp_scaling", False) for o in trainer.optimizers):
        raise ConfigError(
            'trainer.precision is "16-mixed", but the optimiser is fused and divides the loss '
            "scale out by itself, after gradients are clipped; set its fused to false."
        )


def loss_scaler(trainer: Trainer) -> torch.amp.GradScaler | None:
    """Return what multiplies losses so that small float16 gradients do not vanish, if anything."""
    plugin = trainer.precision_plugin
    return plugin.scaler if isinstance(plugin, MixedPrecision) else None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@contextmanager
def without_scaler(trainer: Trainer) -> Iterator[None]:
    """Set the loss scaler aside: it fails on a step without any gradient, which has no scale."""
    plugin = trainer.precision_plugin
    if not isinstance(plugin, MixedPrecision):
        yield
        return
    scaler, plugin.scaler = plugin.scaler, None
    try:
        yield
    finally:
        plugin.scaler = scaler


def note_overflow(scale: float, step: int) -> None:
    """Say that a step was left out because a scaled gradient overflowed.

    Args:
        scale: Factor of the losses from now on.
        step: Optimiser steps before this one.

    Raises:
        SpatialSSRLError: If the factor is so small that overflow cannot be the reason.
    """
    if scale < _SMALLEST_SCALE:
        raise SpatialSSRLError(
            f"Gradients are not finite at step {step} even when losses are multiplied by "
            f"{scale:g}; training has diverged. Lower the learning rate, or train in "
            '"bf16-mixed" or "32-true".'
        )
    rank_zero_info(
        f"Step {step} changed no weight: a float16 gradient overflowed. Losses are now scaled by "
        f"{scale:g}."
    )
