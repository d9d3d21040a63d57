"""Checkpoint files, and adapters beside them, that are whole whenever a run is killed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from spatial_ssrl.core.errors import ConfigError, ran_out_of_memory
from spatial_ssrl.policies.weights import fresh_folder

_FRESH = ".new"


def adapter_of(checkpoint: Path) -> Path:
    """Return the folder of the adapter of a checkpoint: `last.adapter` of `last.ckpt`."""
    return checkpoint.with_name(checkpoint.name.removesuffix(".ckpt") + ".adapter")


def _on_cpu(storage: Any, device: str) -> Any:
    """Leave a tensor on the CPU, from where Lightning moves it."""
    return storage


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its target and renames it when it is on the disk.

    Lightning's own goes through the folder for temporary files, from where a file that moves to
    another file system is copied: killed meanwhile, it leaves half a checkpoint in place of the
    former one. Paths of other protocols than local files go its way.

    Beside `last.ckpt` lies `last.adapter`, a folder that plain PEFT loads, of the same step. It
    is written first and both are renamed when both are on the disk; a run that is killed in
    between has it replaced when it goes on.

    Args:
        save_adapter: Writes the adapter into the folder it is given; None where there is none.
    """

    def __init__(self, save_adapter: Callable[[Path], None] | None = None) -> None:
        self.save_adapter = save_adapter
        self.loaded: Path | None = None  # the checkpoint read last

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
            with self._adapter_beside(target), fresh.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(target)
        except BaseException:  # Ctrl-C too.
            fresh.unlink(missing_ok=True)  # A full disk needs the space.
            raise
        _sync_folder(target.parent)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint and the adapter beside it."""
        super().remove_checkpoint(path)
        if "://" not in str(path):
            shutil.rmtree(adapter_of(Path(path)), ignore_errors=True)

    def renew_adapter(self) -> None:
        """Write the adapter beside the checkpoint that was loaded anew, if one is there."""
        if self.loaded is not None and adapter_of(self.loaded).is_dir():
            with self._adapter_beside(self.loaded):
                pass

    @contextmanager
    def _adapter_beside(self, checkpoint: Path) -> Iterator[None]:
        """Write the adapter; let it take its place when the context ends."""
        if self.save_adapter is None:
            yield
            return
        with fresh_folder(adapter_of(checkpoint)) as folder:
            self.save_adapter(folder)
            for file in folder.iterdir():
                with file.open("rb") as written:
                    os.fsync(written.fileno())
            yield

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
        self.loaded = None if "://" in str(path) else Path(path)
        try:
            return super().load_checkpoint(path, map_location, weights_only)
        except FileNotFoundError:
            raise
        except Exception as error:  # Broken files fail in as many ways as they are broken.
            if ran_out_of_memory(error):
                raise
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
