"""Checkpoint files that are whole at every moment, whenever a run is killed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from spatial_ssrl.core.errors import ConfigError

_FRESH = ".new"


def _on_cpu(storage: Any, device: str) -> Any:
    """Leave a tensor on the CPU, from where Lightning moves it."""
    return storage


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it when it is on the disk.

    Lightning's own goes through the folder for temporary files, from where a file that moves to
    another file system is copied: killed meanwhile, it leaves half a checkpoint in place of the
    former one. Paths of other protocols than local files go its way.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None
    ) -> None:
        """Write a checkpoint; a file of the same name is replaced in one go."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        # One name only, so that what a kill leaves behind is overwritten by the next one.
        fresh = target.with_name(target.name + _FRESH)
        try:
            with fresh.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
        except BaseException:  # Ctrl-C too.
            fresh.unlink(missing_ok=True)  # A full disk needs the space.
            raise
        _sync_folder(target.parent)

    def load_checkpoint(
        self,
        path: str | Path,
        map_location: Callable[..., Any] | None = _on_cpu,
        weights_only: bool | None = None,
    ) -> dict[str, Any]:
        """Read a checkpoint.

        Raises:
            ConfigError: If the file is no checkpoint, or not a whole one.
        """
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except FileNotFoundError:
            raise
        except Exception as error:  # Broken files fail in as many ways as they are broken.
            raise ConfigError(
                f"ckpt_path: {str(path)!r} cannot be read as a checkpoint "
                f"({str(error).splitlines()[0] if str(error) else type(error).__name__}); take "
                "another one of the run."
            ) from error


def _sync_folder(folder: Path) -> None:
    """Let a rename reach the disk, where folders can be opened."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
