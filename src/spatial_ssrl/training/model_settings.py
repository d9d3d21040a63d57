"""What a model is besides its weights: it comes from its folder, never from a checkpoint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from spatial_ssrl.policies.base import PolicyBackbone

# How a model is stored or run, which says nothing of what it computes.
_INCIDENTAL = frozenset(
    {"architectures", "dtype", "quantization_config", "transformers_version", "use_cache"}
)


def model_settings(policy: PolicyBackbone) -> dict[str, str]:
    """Return the configuration of a policy's model and a hash of its tokenizer, in words by key.

    Two bases of the same shapes may still count positions, normalise or spell otherwise. Where
    every weight is trained, this is all of the base that a resumed run takes from it: weights
    and the reference lie in the checkpoint.

    Args:
        policy: Loaded. What it does not have is left out.
    """
    found: dict[str, str] = {}
    config = getattr(getattr(policy, "network", None), "config", None)
    if config is not None:
        found.update(_flat("policy.model.config", config.to_dict()))
    if (tokenizer := getattr(policy, "tokenizer", None)) is not None:
        found["policy.model.tokenizer"] = _hash_of(tokenizer.get_vocab())
    if (template := getattr(getattr(policy, "processor", None), "chat_template", None)) is not None:
        found["policy.model.chat_template"] = _hash_of(template)
    return found


def _flat(key: str, value: object) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name not in _INCIDENTAL and not str(name).startswith("_"):
                yield from _flat(f"{key}.{name}", inner)
    elif value is not None:  # Releases add settings, without a value at first.
        yield key, repr(value)


def _hash_of(content: Any) -> str:
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
