"""LoRA adapters: settings, and putting them on a model through PEFT."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import nn
from transformers import PreTrainedModel

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.adapted import Adapted, AdapterConfig
from spatial_ssrl.policies.freezing import FrozenParts
from spatial_ssrl.policies.lora_targets import check_found, targets_for_peft
from spatial_ssrl.policies.module_names import ending_in
from spatial_ssrl.policies.saved_modules import raise_saved_modules

_log = logging.getLogger(__name__)

_BASE_CLASS = "base_model_class"  # PEFT's own name for the kind of model an adapter is for

_WRAPPED = "base_model.model."  # in front of the names of a model's modules under PEFT


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters that are trained in place of the weights.

    Args:
        rank: Rank of each update, at least 1.
        alpha: Scale; the update is multiplied by alpha / rank.
        rank_stabilized: Multiply it by alpha / sqrt(rank) instead, so that higher ranks do not
            learn more slowly (rsLoRA).
        dora: Train the length of each row of a weight apart from its direction, which the
            low-rank update then changes (DoRA). Slower: each pass multiplies out the update.
        dropout: Probability of dropping an input of the adapter while training, in [0, 1).
        target_modules: "language-model" (every linear layer of the language model but the
            vocabulary head), "all-linear" (those of the vision tower and the projector too), a
            regular expression over full module names, or a list of name endings. None takes what
            policies/families.py says: "language-model" for models from a hub, "all-linear" for
            TinyVLM. Where the language model is frozen, None is "all-linear" in what is not.
        modules_to_save: Names of modules trained in full, in float32, and saved with the adapter.

    Raises:
        ConfigError: If a value is out of range.

    References:
        LoRA, arXiv:2106.09685; rsLoRA, arXiv:2312.03732; DoRA, arXiv:2402.09353.
    """

    rank: int = 16
    alpha: float = 32
    dropout: float = 0.0
    target_modules: str | list[str] | None = None
    modules_to_save: list[str] | None = None
    rank_stabilized: bool = False
    dora: bool = False

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"lora.rank must be at least 1, got {self.rank}.")
        if self.alpha <= 0:
            raise ConfigError(f"lora.alpha must be above 0, got {self.alpha}.")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"lora.dropout must be in [0, 1), got {self.dropout}.")
        if self.target_modules is not None and not self.target_modules:
            raise ConfigError(
                'lora.target_modules is empty; use "language-model", "all-linear", a regular '
                "expression or names."
            )


def add_adapter(
    network: PreTrainedModel,
    settings: LoraSettings,
    frozen: FrozenParts = FrozenParts(),  # noqa: B008
    revision: str | None = None,
) -> Adapted:
    """Put fresh adapters on a model and freeze everything else.

    Args:
        network: The model; its layers are wrapped in place.
        settings: What to adapt and how.
        frozen: Parts in which nothing gets an adapter.
        revision: Of the model on the hub, for the adapter to name.

    Raises:
        ConfigError: If the settings match no module of the model, or frozen ones.
    """
    from peft import LoraConfig, get_peft_model

    from spatial_ssrl.policies.lora_linear import quicken

    targets = targets_for_peft(network, settings.target_modules, frozen)
    _check_saved_modules(network, settings.modules_to_save or (), frozen)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        use_rslora=settings.rank_stabilized,
        use_dora=settings.dora,
        target_modules=targets,
        # A copy, to which PEFT adds names.
        modules_to_save=copy(settings.modules_to_save),
        exclude_modules=frozen.pattern(),
        revision=revision,
        # One trained copy of an embedding and the head tied to it, as merging needs.
        ensure_weight_tying=_saves_tied(network, settings.modules_to_save or ()),
        task_type="CAUSAL_LM",
        # Models of other families may have layers of the same names and shapes.
        auto_mapping={
            _BASE_CLASS: type(network).__name__,
            "parent_library": type(network).__module__,
        },
    )
    try:
        with _quietly():
            model = get_peft_model(network, config)
    except ValueError as error:
        raise ConfigError(
            f"LoRA could not be put on {type(network).__name__} with lora.target_modules = "
            f"{targets!r}: {str(error).splitlines()[0]}"
        ) from error
    raise_saved_modules(model, network.get_output_embeddings())
    quicken(model)
    return model


def load_adapter(
    network: PreTrainedModel,
    folder: Path,
    settings: LoraSettings | None = None,
    frozen: FrozenParts = FrozenParts(),  # noqa: B008
    revision: str | None = None,
) -> Adapted:
    """Put a saved PEFT adapter on a model, ready to be trained further.

    Args:
        network: The model; its layers are wrapped in place.
        folder: Where the adapter was saved.
        settings: What the adapter is expected to be; None takes it as it is.
        frozen: Parts in which the adapter stays as it is.
        revision: Of the model on the hub, for the adapter to name.

    Raises:
        ConfigError: If the folder holds no adapter, or one made for another model, with other
            settings, or for frozen parts only.
    """
    from peft import (
        PeftModel,
        get_peft_model_state_dict,
        load_peft_weights,
        set_peft_model_state_dict,
    )

    from spatial_ssrl.policies.lora_linear import quicken

    if not (folder / "adapter_config.json").is_file():
        raise ConfigError(
            f"adapter: {folder} holds no adapter_config.json; name a folder a policy was saved to."
        )
    try:
        with _quietly():
            model = PeftModel.from_pretrained(network, str(folder), is_trainable=True)
        state = load_peft_weights(str(folder), device="cpu")
    except (ValueError, RuntimeError, OSError) as error:
        raise ConfigError(
            f"adapter: {folder} does not fit {type(network).__name__}: {_reason(error)}"
        ) from error
    if odd := state.keys() ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys():
        raise ConfigError(
            f"adapter: {folder} does not fit {type(network).__name__}: {len(odd)} tensors are on "
            f"one side only, the first {min(odd)!r}; name the model it was trained on."
        )
    saved = cast(AdapterConfig, model.peft_config["default"])
    _check_kind(folder, saved, network)
    if settings is not None:
        _check_settings(folder, saved, settings)
    _adopt(folder, saved, network, revision)
    for name, parameter in model.named_parameters():
        if name.removeprefix(_WRAPPED) in frozen:
            parameter.requires_grad_(False)
    if raise_saved_modules(model, network.get_output_embeddings()):
        set_peft_model_state_dict(model, state)  # What PEFT has rounded.
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ConfigError(
            f"adapter: {folder} adapts frozen groups only, so nothing would be trained; change "
            "freeze, or take another adapter."
        )
    quicken(model)
    return model


def _check_kind(folder: Path, saved: AdapterConfig, network: PreTrainedModel) -> None:
    kind = (saved.auto_mapping or {}).get(_BASE_CLASS)  # Only what we save always has it.
    if kind not in (None, type(network).__name__):
        raise ConfigError(
            f"adapter: {folder} does not fit {type(network).__name__}: it was trained on a {kind}; "
            "name the model it was trained on."
        )


def _check_settings(folder: Path, saved: AdapterConfig, settings: LoraSettings) -> None:
    there = (saved.r, saved.lora_alpha, saved.use_rslora, saved.use_dora)
    wanted = (settings.rank, settings.alpha, settings.rank_stabilized, settings.dora)
    if there != wanted:
        named = [
            f"rank {rank}, alpha {alpha:g}, rank_stabilized {str(stable).lower()} and dora "
            f"{str(dora).lower()}"
            for rank, alpha, stable, dora in (there, wanted)
        ]
        raise ConfigError(
            f"adapter: {folder} was made with {named[0]}, but lora asks for {named[1]}; give lora "
            "the same values or leave it out."
        )


def _adopt(
    folder: Path, saved: AdapterConfig, network: PreTrainedModel, revision: str | None
) -> None:
    """Let a loaded adapter name the model it is on; say so when it names another.

    Only a warning: a name is no identity. Folders move, hubs have mirrors, and a model with
    merged weights fits another's adapter; whether it is right, only the user knows.
    """
    then, now = saved.base_model_name_or_path, network.name_or_path or None
    if then and now and not _same_place(then, now):
        _log.warning(
            "adapter: %s was trained on %r and is put on %r, which fits by shape; unless both "
            "are the same weights, the policy is not the one that was trained.",
            folder,
            then,
            now,
        )
    saved.base_model_name_or_path, saved.revision = now, revision


def _same_place(one: str, other: str) -> bool:
    return one == other or Path(one).expanduser().resolve() == Path(other).expanduser().resolve()


def save_adapter(model: Adapted, folder: Path) -> None:
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


def _check_saved_modules(
    network: PreTrainedModel, endings: Sequence[str], frozen: FrozenParts
) -> None:
    names = [name for name, _ in network.named_modules() if name]
    for ending in endings:
        found = ending_in(ending, names)
        check_found("modules_to_save", ending, found, names, frozen)
        if any(_holds_four_bits(network.get_submodule(name)) for name in found):
            raise ConfigError(
                f"lora.modules_to_save {ending!r} names modules whose weights are in 4 bits and "
                f"cannot be trained; add it to quantization.skip."
            )
        if inside := [name for name in found if frozen.touches(name)]:
            raise ConfigError(
                f"lora.modules_to_save {ending!r} would train {inside[0]!r}, which freeze "
                f"({', '.join(frozen.groups)}) keeps as it is; leave it out of one of them."
            )


def _holds_four_bits(module: nn.Module) -> bool:
    return any(not parameter.is_floating_point() for parameter in module.parameters())


def _saves_tied(network: PreTrainedModel, endings: Sequence[str]) -> bool:
    """Whether a token embedding that is also the vocabulary head is among some modules."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if head is None or embedding.weight is not head.weight:
        return False
    names = {id(module): name for name, module in network.named_modules()}
    return any(ending_in(end, [names[id(m)]]) for end in endings for m in (embedding, head))


def _reason(error: BaseException) -> str:
    """Return the first line of a message that says something by itself."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return next((line for line in lines if not line.endswith(":")), str(error))
