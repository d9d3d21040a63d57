"""What models and their outputs call the keys and values of what was read."""

from __future__ import annotations

from dataclasses import fields

from transformers.modeling_outputs import BaseModelOutputWithPast

# transformers 5.24 renamed it everywhere at once and warns at the old name.
CACHE = (
    "cache"
    if any(field.name == "cache" for field in fields(BaseModelOutputWithPast))
    else "past_key_values"
)
"""The name under which a model takes its cache and an output holds it."""
