"""The conventions of other libraries' GRPO, set together."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from spatial_ssrl.algorithms.grpo import GRPO
from spatial_ssrl.algorithms.settings import (
    AdvantageSettings,
    AggregationSettings,
    ClipSettings,
    KLSettings,
    RatioSettings,
)
from spatial_ssrl.core.errors import ConfigError

_TOKEN_MEAN = AggregationSettings(over="token_mean")
_VERL_RATIO = RatioSettings(log_min=-20.0, log_max=20.0)
_VERL_KL = KLSettings(clamp_input=20.0, clamp_output=10.0)
_EASYR1: dict[str, Any] = {
    "kl_coefficient": 0.01,
    "clip": ClipSettings(low=0.2, high=0.3, dual=3.0),
    "ratio": _VERL_RATIO,
    "kl": _VERL_KL,
    "advantage": AdvantageSettings(eps=1e-6, singleton="reward"),
    "aggregation": _TOKEN_MEAN,
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        # GRPOConfig of TRL 1.16.0. Its correction for vLLM belongs to vLLM, so it is left out.
        "trl": {
            "kl_coefficient": 0.0,
            "clip": ClipSettings(low=0.2),
            "kl": KLSettings(ratio_weighted=True),
            "advantage": AdvantageSettings(eps=1e-4),
            "aggregation": _TOKEN_MEAN,
        },
        # Defaults of verl 0.10.0.dev with adv_estimator=grpo.
        "verl": {
            "kl_coefficient": 0.0,
            "clip": ClipSettings(low=0.2, high=0.2, dual=3.0),
            "ratio": _VERL_RATIO,
            "kl": _VERL_KL,
            "advantage": AdvantageSettings(eps=1e-6, singleton="reward"),
            "aggregation": _TOKEN_MEAN,
        },
        # Defaults of EasyR1 with its examples/config.yaml.
        "easyr1": _EASYR1,
        # The authors train with a fork of EasyR1 and state no change of its loss.
        "spatial_ssrl": _EASYR1,
    }
)
"""Arguments of `GRPO` by the name of whose conventions they are."""


def grpo_preset(name: str, **changes: Any) -> GRPO:
    """Build GRPO with the conventions of another library.

    The same presets are files under `configs/algorithm`.

    Args:
        name: "trl", "verl", "easyr1" or "spatial_ssrl".
        changes: Arguments of `GRPO` that differ from the preset, such as `kl_coefficient`.

    Raises:
        ConfigError: If nothing has that name.
    """
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}; known: {', '.join(PRESETS)}.")
    return GRPO(**{**PRESETS[name], **changes})
