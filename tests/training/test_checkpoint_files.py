from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.training.checkpoint_files import WholeCheckpoints
from support.tiny_training import tiny_data, tiny_rl, tiny_trainer

FILES = WholeCheckpoints()


def test_what_is_written_is_read_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "last.ckpt"
    for number in range(2):
        FILES.save_checkpoint({"weights": torch.full((3,), float(number))}, path)
    assert FILES.load_checkpoint(path)["weights"].tolist() == [1.0, 1.0, 1.0]
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]


def test_the_disk_has_the_whole_file_before_it_takes_the_place_of_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Elsewhere might be another file system, from where a move is a copy.
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "there is no such folder"))
    path, events = tmp_path / "last.ckpt", []
    FILES.save_checkpoint({"step": 1}, path)
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        fresh = tmp_path / "last.ckpt.new"
        # A folder of its own is synced when the rename is done.
        events.append(torch.load(fresh)["step"] if fresh.exists() else "folder")
        sync(descriptor)

    def replaced(source: Path, target: Path) -> Path:
        events.append((source.parent == target.parent, torch.load(target)["step"]))
        return replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    FILES.save_checkpoint({"step": 2}, path)
    assert events == [2, (True, 1), "folder"]


def test_a_full_disk_leaves_the_former_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "last.ckpt"
    FILES.save_checkpoint({"step": 1}, path)

    def full(checkpoint: Any, file: Any) -> None:
        file.write(b"the first half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space left"):
        FILES.save_checkpoint({"step": 2}, path)
    assert FILES.load_checkpoint(path) == {"step": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", "cut"])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes | str) -> None:
    path = tmp_path / "last.ckpt"
    FILES.save_checkpoint({"weights": torch.zeros(1000)}, path)
    path.write_bytes(content if isinstance(content, bytes) else path.read_bytes()[:2000])
    with pytest.raises(ConfigError, match=r"ckpt_path: '.*last.ckpt' cannot be read .* another"):
        FILES.load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        FILES.load_checkpoint(tmp_path / "none.ckpt")


def test_training_writes_them_unless_told_otherwise(tmp_path: Path) -> None:
    class Own(TorchCheckpointIO):
        """Chosen by the user."""

    trainer = tiny_trainer(tmp_path, 0)
    trainer.fit(tiny_rl(), tiny_data())
    assert type(trainer.strategy.checkpoint_io) is WholeCheckpoints
    trainer = tiny_trainer(tmp_path, 0, plugins=[Own()])
    trainer.fit(tiny_rl(), tiny_data())
    assert type(trainer.strategy.checkpoint_io) is Own
