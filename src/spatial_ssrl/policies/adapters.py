"""LoRA adapters: settings, and putting them on a model through PEFT."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from peft import (
    LoraConfig,
    PeftModel,
    get_peft_model,
    get_peft_model_state_dict,
    load_peft_weights,
)
from torch import nn
from transformers import PreTrainedModel

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.lora_linear import quicken


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters that are trained in place of the weights.

    Args:
        rank: Rank of each update, at least 1.
        alpha: Scale; the update is multiplied by alpha / rank.
        dropout: Probability of dropping an input of the adapter while training, in [0, 1).
        target_modules: "all-linear" (every linear layer but the vocabulary head), a regular
            expression over full module names, or a list of name endings.
        modules_to_save: Names of modules trained in full and saved with the adapter.

    Raises:
        ConfigError: If a value is out of range.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: str | list[str] = "all-linear"
    modules_to_save: list[str] | None = None

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank must be at least 1, got {self.rank}.")
        if self.alpha <= 0:
            raise ConfigError(f"lora.alpha must be above 0, got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout must be in [0, 1), got {self.dropout}.")
        if not self.target_modules:
            raise ConfigError(
                'lora.target_modules is empty; use "all-linear", a regular expression or names.'
            )


def add_adapter(
    network: PreTrainedModel, settings: LoraSettings, frozen: str | None = None
) -> PeftModel:
    """Put fresh adapters on a model and freeze everything else.

    Args:
        network: The model; its layers are wrapped in place.
        settings: What to adapt and how.
        frozen: Name of a module inside which nothing gets an adapter.

    Raises:
        ConfigError: If the settings match no module of the model.
    """
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=settings.target_modules,
        modules_to_save=settings.modules_to_save,
        exclude_modules=None if frozen is None else rf"{re.escape(frozen)}\..*",
        task_type="CAUSAL_LM",
    )
    _check_modules_exist(network, settings)
    try:
        with _quietly():
            model = get_peft_model(network, config)
    except ValueError as error:
        raise ConfigError(
            f"LoRA could not be put on {type(network).__name__} with lora.target_modules = "
            f"{settings.target_modules!r}: {str(error).splitlines()[0]}"
        ) from error
    quicken(model)
    return model


def load_adapter(
    network: PreTrainedModel, folder: Path, settings: LoraSettings | None = None
) -> PeftModel:
    """Put a saved PEFT adapter on a model, ready to be trained further.

    Args:
        network: The model; its layers are wrapped in place.
        folder: Where the adapter was saved.
        settings: What the adapter is expected to be; None takes it as it is.

    Raises:
        ConfigError: If the folder holds no adapter, or one made for another model or with
            another rank or scale.
    """
    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"adapter: {folder} holds no adapter_config.json; name a folder a policy was saved to."
        )
    try:
        with _quietly():
            model = PeftModel.from_pretrained(network, str(folder), is_trainable=True)
        names = load_peft_weights(str(folder), device="cpu").keys()
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"adapter: {folder} does not fit {type(network).__name__}: {str(error).splitlines()[0]}"
        ) from error
    if odd := names ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys():
        raise ConfigError(
            f"adapter: {folder} does not fit {type(network).__name__}: {len(odd)} tensors are on "
            f"one side only, the first {min(odd)!r}; name the model it was trained on."
        )
    saved = cast(LoraConfig, model.peft_config["default"])
    if settings is not None and (saved.r, saved.lora_alpha) != (settings.rank, settings.alpha):
        raise ConfigError(
            f"adapter: {folder} was made with rank {saved.r} and alpha {saved.lora_alpha}, but "
            f"lora asks for {settings.rank} and {settings.alpha}; give lora the same values or "
            "leave it out."
        )
    quicken(model)
    return model


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write an adapter so that plain PEFT loads it on the plain base model."""
    # False: whole embeddings are saved only where modules_to_save asks for them; finding out
    # by itself would make PEFT look the base model up on the hub.
    model.save_pretrained(str(folder), save_embedding_layers=False)
    # PEFT's own card is a form to fill in, which says nothing about this adapter.
    (folder / "README.md").unlink(missing_ok=True)


@contextmanager
def _quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        # PEFT asks transformers by a former name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        # Here it is an error when names differ.
        warnings.filterwarnings("ignore", "Found missing adapter keys")
        yield


def _check_modules_exist(network: nn.Module, settings: LoraSettings) -> None:
    names = [name for name, _ in network.named_modules() if name]
    targets = settings.target_modules
    if isinstance(targets, str):
        if targets != "all-linear" and not any(re.fullmatch(targets, name) for name in names):
            raise ConfigError(_nothing_matches("target_modules", targets, names))
    else:
        _check_endings("target_modules", targets, names)
    _check_endings("modules_to_save", settings.modules_to_save or (), names)


def _check_endings(key: str, endings: Sequence[str], names: Sequence[str]) -> None:
    for ending in endings:
        if not any(name == ending or name.endswith(f".{ending}") for name in names):
            raise ConfigError(_nothing_matches(key, ending, names))


def _nothing_matches(key: str, wanted: str, names: Sequence[str]) -> str:
    endings = sorted({name.rpartition(".")[2] for name in names} - {str(i) for i in range(1000)})
    close = difflib.get_close_matches(wanted, endings, n=3, cutoff=0.5) or endings[:8]
    return f"lora.{key} {wanted!r} matches no module; there are {', '.join(close)}."
