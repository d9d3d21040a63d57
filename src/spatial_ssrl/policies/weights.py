"""What training changes in a model: naming it, swapping it, restoring it, writing it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from spatial_ssrl.core.errors import ConfigError

# A folder that holds one of these was written by a policy and may be replaced.
_MARKS = ("adapter_config.json", "config.json")


def trainable_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return what training changes, by name: parameters, and statistics of trained layers.

    A layer is trained if a parameter of its own is; its persistent buffers (the running
    statistics of batch normalisation) then change too.
    """
    tensors: dict[str, Tensor] = {}
    seen: set[Tensor] = set()  # tied weights have several names and are kept under the first
    for prefix, module in model.named_modules():
        own = {
            name: parameter
            for name, parameter in module.named_parameters(prefix, recurse=False)
            if parameter.requires_grad
        }
        if not own:
            continue
        tensors.update({name: tensor for name, tensor in own.items() if tensor not in seen})
        seen.update(own.values())
        saved = {
            f"{prefix}.{name}" if prefix else name
            for name in set(module._buffers) - module._non_persistent_buffers_set
        }
        buffers = module.named_buffers(prefix, recurse=False)
        tensors.update({name: buffer for name, buffer in buffers if name in saved})
    return tensors


@contextmanager
def swapped(live: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> Iterator[None]:
    """Give tensors the values of `other` inside the context, without copying or gradient.

    Args:
        live: Tensors of a model, by name.
        other: Values to use meanwhile, by the same names.
    """
    kept = {name: tensor.data for name, tensor in live.items()}
    with torch.no_grad():
        try:
            for name, tensor in live.items():
                tensor.data = other[name]
            yield
        finally:
            for name, tensor in live.items():
                tensor.data = kept[name]


def restore(live: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy saved values into the tensors of a model.

    Raises:
        ConfigError: If names or shapes differ.
    """
    for fault, names in (
        ("lacks", live.keys() - saved.keys()),
        ("has, but the policy does not train,", saved.keys() - live.keys()),
        (
            "has in another shape",
            {name for name in live.keys() & saved.keys() if live[name].shape != saved[name].shape},
        ),
    ):
        if names:
            raise ConfigError(
                f"The checkpoint {fault} {len(names)} tensors (the first is {min(names)!r}); "
                "resume with the policy settings it was made with."
            )
    with torch.no_grad():
        for name, tensor in live.items():
            tensor.copy_(saved[name])


def write_folder(folder: Path, write: Callable[[Path], None]) -> None:
    """Write a folder in one go: whoever reads it finds the old or the new one, never a part.

    Args:
        folder: Where to write; a folder that a policy was saved to is replaced.
        write: Writes everything into the folder it is given.

    Raises:
        ConfigError: If the folder holds something else, or cannot be written.
    """
    with fresh_folder(folder) as fresh:
        write(fresh)


@contextmanager
def fresh_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `folder` in one go when the context ends.

    Args:
        folder: Where to write; a folder that a policy was saved to is replaced.

    Raises:
        ConfigError: If the folder holds something else, or cannot be written.
    """
    check_replaceable(folder)
    # One name only, so that what a kill leaves behind is cleared away by the next one.
    fresh, old = (folder.with_name(f".{folder.name}.{age}") for age in ("new", "old"))
    try:
        if old.exists() and not folder.exists():  # Killed between the two renames below.
            old.rename(folder)
        for remains in (fresh, old):
            shutil.rmtree(remains, ignore_errors=True)
        fresh.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be written: {error.strerror or error}.") from error
    try:
        yield fresh
        if folder.exists():
            folder.rename(old)
        fresh.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def check_replaceable(folder: Path) -> None:
    """Refuse to save a policy where something else lies.

    Raises:
        ConfigError: If the path is a file, or a folder with files that are no saved policy.
    """
    if folder.is_dir() and any(folder.iterdir()):
        if not any((folder / mark).is_file() for mark in _MARKS):
            raise ConfigError(
                f"{folder} holds files that are no saved policy; name an empty or a new folder."
            )
    elif folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder to save the policy to.")
