"""The decoder of a TinyVLM: any small one of transformers."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, MODEL_MAPPING, PretrainedConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from spatial_ssrl.core.errors import ConfigError

_FULL = "full_attention"


def decoder_config(
    kind: str, settings: Mapping[str, Any], further: Mapping[str, Any]
) -> PretrainedConfig:
    """Return the configuration of a decoder all of whose layers see the whole prompt.

    Args:
        kind: Its `model_type` in transformers, such as "llama", "qwen3" or "gemma3_text".
        settings: Sizes and special tokens, by names that decoders have in common.
        further: Whatever else its configuration takes; wins over `settings`.

    Raises:
        ConfigError: If there is no such decoder, it does not take what is given, or it attends
            in a way that prompts read both ways do not allow.
    """
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or kind not in CONFIG_MAPPING:
        close = difflib.get_close_matches(kind, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, n=3)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise ConfigError(f"decoder: transformers has no text decoder {kind!r}.{hint}")
    cls = CONFIG_MAPPING[kind]
    model = MODEL_MAPPING.get(cls, None)
    needed = ("_supports_sdpa", "_supports_attention_backend")
    if not all(getattr(model, flag, False) for flag in needed):
        raise _unfit(kind, "it brings attention of its own")
    if unknown := [name for name in further if not hasattr(cls(), name)]:
        raise ConfigError(f"decoder_kwargs: the configuration of {kind!r} has no {unknown[0]!r}.")
    given = dict(settings)
    if hasattr(cls, "head_dim"):  # Its default is that of large models.
        given["head_dim"] = settings["hidden_size"] // settings["num_attention_heads"]
    if hasattr(cls, "layer_types"):
        given["layer_types"] = [_FULL] * settings["num_hidden_layers"]
    if hasattr(cls, "sliding_window"):
        given["sliding_window"] = None
    try:
        config: PretrainedConfig = cls(**(given | dict(further)))
    except (AttributeError, TypeError, ValueError, StrictDataclassError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise ConfigError(
            f"decoder: {kind!r} does not take these settings ({reason}); change decoder_kwargs, "
            "or choose another decoder."
        ) from error
    if other := set(getattr(config, "layer_types", None) or ()) - {_FULL}:
        raise _unfit(kind, f"it has {', '.join(sorted(other))} layers")
    if getattr(config, "sliding_window", None) is not None:
        raise _unfit(kind, f"its layers see {config.sliding_window} tokens back only")
    return config


def _unfit(kind: str, reason: str) -> ConfigError:
    return ConfigError(
        f"decoder: {kind!r} cannot read prompts both ways: {reason}; choose another, such as "
        "llama or qwen3."
    )
