"""Finding a model's configuration and processor without a network, and without its weights."""

from __future__ import annotations

import json
import logging
from importlib import resources
from typing import Any

from huggingface_hub import constants
from transformers import AutoConfig, AutoProcessor, PretrainedConfig

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.logs import loggers_at
from spatial_ssrl.planning.source import GhostSource
from spatial_ssrl.planning.stand_ins import WORDS_ASSUMED, stand_in
from spatial_ssrl.policies.hub import ModelSource, completed_processor


def find_model(asked: ModelSource) -> tuple[GhostSource, tuple[str, ...]]:
    """Return where a model's configuration and processor come from, and what is assumed.

    A folder, or the Hugging Face cache; else facts about well-known models that come with the
    library. Nothing is asked of the network.

    Args:
        asked: The model that a policy names.

    Raises:
        ConfigError: If the configuration is in none of these places.
    """
    # What transformers does not find is told in one line here.
    with loggers_at(logging.CRITICAL, "transformers"):
        config = _loaded(AutoConfig, asked)
        processor = None if config is None else _loaded(AutoProcessor, asked)
    facts = _facts(asked.model)
    assumed = []
    if config is None:
        if facts is None:
            raise ConfigError(
                f"model: {asked.model!r} is not a folder with a config.json here, not in the cache "
                f"({constants.HF_HUB_CACHE}), and not among the models whose sizes come with the "
                f"library ({', '.join(known_models())}); fetch its small files first: hf download "
                f"{asked.model} --include '*.json' '*.jinja' '*.txt'."
            )
        config = _config_of(facts)
        assumed.append(f"model: sizes from {facts['source']}")
    if processor is None:
        if facts is None:
            raise ConfigError(
                f"model: {asked.model!r} has a configuration here but no processor; fetch its "
                f"small files: hf download {asked.model} --include '*.json' '*.jinja' '*.txt'."
            )
        processor = stand_in(facts)
        assumed.append(WORDS_ASSUMED)
    source = GhostSource(
        asked.model,
        asked.revision,
        asked.trust_remote_code,
        config=config,
        processor=completed_processor(processor, asked.model),
    )
    return source, tuple(assumed)


def known_models() -> list[str]:
    """Return the hub ids of the models whose sizes come with the library."""
    return sorted(name for facts in _all_facts() for name in facts["models"])


def _loaded(auto: Any, asked: ModelSource) -> Any:
    try:
        return auto.from_pretrained(
            asked._location(),
            revision=asked.revision or "main",
            trust_remote_code=asked.trust_remote_code,
            local_files_only=True,
        )
    except (OSError, ValueError, ImportError):
        return None


def _all_facts() -> list[dict[str, Any]]:
    folder = resources.files("spatial_ssrl.planning").joinpath("models")
    files = [file for file in folder.iterdir() if file.name.endswith(".json")]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def _facts(model: str) -> dict[str, Any] | None:
    return next((facts for facts in _all_facts() if model in facts["models"]), None)


def _config_of(facts: dict[str, Any]) -> PretrainedConfig:
    settings = dict(facts["config"])
    return AutoConfig.for_model(settings.pop("model_type"), **settings)
