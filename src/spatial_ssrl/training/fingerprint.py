"""What a checkpoint says of the run that wrote it, so that one that differs is noticed."""

from __future__ import annotations

import dataclasses
import inspect
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.base import PolicyBackbone
from spatial_ssrl.training.model_settings import model_settings

_TENSORS, _VALUES = 64, 16  # Tensors of the base that are looked at, and numbers of each.
_PACKAGES = ("spatial-ssrl", "torch", "transformers", "peft", "lightning", "bitsandbytes")
_OF_MODULE = ("group_size", "seed", "sampling", "algorithm", "verifier", "update")
_OF_POLICY = ("dtype", "quantization", "min_pixels", "max_pixels", "max_prompt_tokens")
_OF_DATA = ("tasks", "task_weights", "batch_size", "seed")
# They change memory and time only.
_NEUTRAL = ("update.micro_batch_size", "update.micro_batch_tokens", "update.self_check")


class Run(Protocol):
    """A module in training, as far as it is described."""

    policy: PolicyBackbone

    @property
    def trainer(self) -> Trainer:
        """What trains it."""


def fingerprint_of(run: Run) -> dict[str, Any]:
    """Return what a run is, as plain values and small tensors, which load with `weights_only=True`.

    The base model is told again by a few numbers of weights that training leaves alone, wherever
    they come from, and by its configuration and tokenizer; nothing is read from files. Where all
    weights are trained, those of the base matter no more: the checkpoint holds every one, and the
    reference of RL as it began.

    Args:
        run: A module with a loaded policy, and a Trainer.
    """
    return {
        "module": type(run).__name__,
        "base": _named(run.policy),
        "weights": _samples(run.policy),
        "settings": _settings(run),
        "model": model_settings(run.policy),
        "versions": _versions(),
    }


def check_fingerprint(before: Mapping[str, Any], run: Run, fitting: bool) -> None:
    """Refuse another base model than that of a checkpoint; warn of other settings.

    Args:
        before: Of `fingerprint_of` the run that wrote the checkpoint.
        run: What loads it. Its policy still is as it was loaded, or as it was trained.
        fitting: Whether the run goes on; else settings do not matter.

    Raises:
        ConfigError: If weights that training leaves alone are not those of the checkpoint's run.
    """
    now = fingerprint_of(run)
    if other := _first_difference(before["weights"], now["weights"]):
        raise ConfigError(
            f"ckpt_path: the checkpoint was trained on {before['base']}, but policy.model is "
            f"{now['base']}, whose weights are others (the first is {other!r}); resume with the "
            "model it was trained on, or begin a new run from this one."
        )
    # The cold start and RL differ on purpose.
    if not fitting or before["module"] != now["module"]:
        return
    old = before["settings"] | before.get("model", {})  # Older ones do not have it.
    new = now["settings"] | now["model"]
    if not before["weights"]:  # All weights come from the checkpoint; its card names this base.
        old["policy.model"], new["policy.model"] = before["base"], now["base"]
    if changes := _changes(old, new):
        rank_zero_warn(
            "The run goes on with other settings than those of the checkpoint: "
            f"{'; '.join(changes)}. Set them back to go on with the same run."
        )
    if updated := _changes(before["versions"], now["versions"]):
        rank_zero_info(f"The checkpoint was written with other versions: {'; '.join(updated)}.")


def _named(policy: PolicyBackbone) -> str:
    """Return the name of the base model, with the commit of the hub where that is known."""
    name = getattr(policy, "source", "") or f"{type(policy).__name__} from scratch"
    config = getattr(getattr(policy, "_model", None), "config", None)
    commit = getattr(config, "_commit_hash", None) or getattr(policy, "revision", None)
    return f"{name!r} (revision {commit})" if commit else repr(name)


def _samples(policy: PolicyBackbone) -> dict[str, Tensor]:
    """Return some numbers of some weights that are not trained, by name, on the CPU."""
    frozen = {
        name: parameter.data
        for name, parameter in policy.named_parameters()
        if not parameter.requires_grad and parameter.dim() and parameter.numel()
    }
    # Matrices first: models tuned from one another often have equal norms.
    names = [name for name, tensor in frozen.items() if tensor.dim() > 1] or list(frozen)
    count = min(len(names), _TENSORS)
    chosen = [names[place * len(names) // count] for place in range(count)]
    return {name: _numbers(frozen[name]) for name in chosen}


def _numbers(tensor: Tensor) -> Tensor:
    places = [place * tensor.numel() // _VALUES for place in range(_VALUES)]
    # Flattening a weight that is not contiguous would copy the whole of it.
    rows = torch.unravel_index(torch.tensor(places, device=tensor.device), tensor.shape)
    return tensor[rows].cpu()


def _first_difference(before: Mapping[str, Tensor], now: Mapping[str, Tensor]) -> str | None:
    """Return the first tensor that is another, or None."""
    for name, old in before.items():
        if name in now and not _alike(old, now[name]):
            return name
    return None


def _alike(old: Tensor, new: Tensor) -> bool:
    """Whether numbers are those of one weight, in whatever precision each is stored."""
    if not (old.is_floating_point() and new.is_floating_point()):
        # Packed in 4 bits: devices round a few numbers otherwise. Or only one of them is.
        return old.dtype != new.dtype or bool((old != new).float().mean() <= 0.125)
    rounding = 0.0 if old.dtype == new.dtype else 2.0**-7
    smallest = 0.0 if old.dtype == new.dtype else 1e-6
    return torch.allclose(old.float(), new.float(), rounding, smallest, equal_nan=True)


def _settings(run: Run) -> dict[str, str]:
    """Return the settings that change what a run learns, in words, by their keys."""
    trainer, data = run.trainer, getattr(run.trainer, "datamodule", None)
    found = {
        "trainer.precision": str(trainer.precision),
        "trainer.devices": f"{trainer.world_size} in all",
    }
    for prefix, owner, names in (
        ("model", run, _OF_MODULE),
        ("policy", run.policy, _OF_POLICY),
        ("data", data, _OF_DATA),
    ):
        for name in names:
            if hasattr(owner, name):
                found.update(_described(f"{prefix}.{name}", getattr(owner, name)))
    ignored = tuple(f"model.{name}" for name in _NEUTRAL)
    return {key: words for key, words in found.items() if not key.startswith(ignored)}


def _described(key: str, value: object) -> Iterator[tuple[str, str]]:
    """Yield a value in words by its key, then those of its parts by theirs."""
    if _is_plain(value):
        yield key, repr(list(value) if isinstance(value, tuple) else value)
    elif isinstance(value, Path):
        yield key, repr(value.as_posix())
    elif isinstance(value, list | tuple):
        yield key, f"[{', '.join(type(item).__name__ for item in value)}]"
        for place, item in enumerate(value):
            yield from _described(f"{key}[{place}]", item)
    elif isinstance(value, Mapping):
        yield key, f"{{{', '.join(map(str, value))}}}"
        for name, item in value.items():
            yield from _described(f"{key}.{name}", item)
    else:
        yield key, type(value).__name__
        for name in _arguments(value):
            if hasattr(value, name):
                yield from _described(f"{key}.{name}", getattr(value, name))


def _is_plain(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _arguments(value: object) -> list[str]:
    """Return the names of the constructor's arguments, which components keep as attributes."""
    if dataclasses.is_dataclass(value):
        return [field.name for field in dataclasses.fields(value)]
    try:
        return list(inspect.signature(type(value)).parameters)
    except (TypeError, ValueError):  # Some classes written in C have no signature.
        return []


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """Return what is another, in words; parts of something that is another as a whole left out.

    A key that only one has is of another release, or part of such a thing.
    """
    changed = [key for key in new if key in old and old[key] != new[key]]
    wholes = tuple(f"{key}{mark}" for key in changed for mark in ".[")
    return [
        f"{key} was {old[key]} and is {new[key]}" for key in changed if not key.startswith(wholes)
    ]


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
