from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import TorchCheckpointIO
from peft import PeftModel
from safetensors.torch import load_file

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import LoraSettings
from spatial_ssrl.training import UpdateSettings
from spatial_ssrl.training.checkpoint_files import WholeCheckpoints
from support.tiny_training import tiny_data, tiny_policy, tiny_rl, tiny_trainer

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


def test_a_whole_file_that_memory_does_not_hold_is_not_called_broken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"policy": {}}, path)

    def starved(*args: Any, **kwargs: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(torch, "load", starved)
    with pytest.raises(MemoryError):
        WholeCheckpoints().load_checkpoint(path)


def test_training_writes_them_unless_told_otherwise(tmp_path: Path) -> None:
    class Own(TorchCheckpointIO):
        """Chosen by the user."""

    trainer = tiny_trainer(tmp_path, 0)
    trainer.fit(tiny_rl(), tiny_data())
    assert type(trainer.strategy.checkpoint_io) is WholeCheckpoints
    trainer = tiny_trainer(tmp_path, 0, plugins=[Own()])
    trainer.fit(tiny_rl(), tiny_data())
    assert type(trainer.strategy.checkpoint_io) is Own


def fitted(folder: Path, steps: int, lora: LoraSettings | None, **saver: Any) -> Trainer:
    """Train to a step with a checkpoint at each, from the last one if there is one."""
    torch.manual_seed(0)
    settings = {"every_n_train_steps": 1, "save_last": True, "filename": "{step}"} | saver
    trainer = tiny_trainer(
        folder, steps, [ModelCheckpoint(folder, **settings)], enable_checkpointing=True
    )
    module = tiny_rl(
        tiny_policy(lora=lora),
        group_size=2,
        optimizer=lambda params: torch.optim.AdamW(params, lr=1e-2),
        update=UpdateSettings(self_check=False),
    )
    last = folder / "last.ckpt"
    trainer.fit(module, tiny_data(), ckpt_path=last if last.exists() else None)
    return trainer


def in_peft(name: str) -> str:
    """Return the name that PEFT's file has for a tensor of an adapted model."""
    name = name.replace(".default", "").replace(".modules_to_save", "")
    return name.replace("magnitude_vector.weight", "magnitude_vector")


def step_of_both(checkpoint: Path) -> int | None:
    """Return the step of a checkpoint if the adapter beside it has its very weights."""
    content = torch.load(checkpoint)
    adapter = load_file(checkpoint.with_suffix(".adapter") / "adapter_model.safetensors")
    kept = {in_peft(n): t for n, t in content["policy"].items() if not n.startswith("reference::")}
    assert kept.keys() == adapter.keys()
    same = all(torch.equal(tensor, adapter[name]) for name, tensor in kept.items())
    return int(content["global_step"]) if same else None


def test_beside_each_checkpoint_lies_its_adapter(tmp_path: Path) -> None:
    lora = LoraSettings(rank=2, dora=True, modules_to_save=["norm"])
    trainer = fitted(tmp_path, 3, lora, save_top_k=-1)
    for name, step in (("step=1", 1), ("step=2", 2), ("step=3", 3), ("last", 3)):
        assert step_of_both(tmp_path / f"{name}.ckpt") == step
    plain = tiny_policy()
    plain.load()
    model = PeftModel.from_pretrained(plain.network, tmp_path / "step=3.adapter")
    trained = dict(trainer.lightning_module.policy.model.named_parameters())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, trained[name]), name


def test_an_adapter_goes_with_its_checkpoint(tmp_path: Path) -> None:
    fitted(tmp_path, 3, LoraSettings(rank=2), save_top_k=1)
    names = {"last.ckpt", "last.adapter", "step=3.ckpt", "step=3.adapter"}
    assert {path.name for path in tmp_path.iterdir()} == names


def test_without_adapters_none_is_written(tmp_path: Path) -> None:
    fitted(tmp_path, 1, None, save_top_k=0)
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_kill_between_the_two_is_mended_as_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lora, last = LoraSettings(rank=2), tmp_path / "last.ckpt"
    fitted(tmp_path, 1, lora, save_top_k=0)
    replace = Path.replace

    def killed(source: Path, target: Path) -> Path:
        if Path(target) == last:
            raise KeyboardInterrupt  # The adapter of step 2 is in its place, the checkpoint not.
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fitted(tmp_path, 2, lora, save_top_k=0)
    monkeypatch.undo()
    assert step_of_both(last) is None
    fitted(tmp_path, 1, lora, save_top_k=0)  # Goes on, and has nothing left to do.
    assert step_of_both(last) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt", "last.adapter"}


def test_a_failure_while_an_adapter_is_written_leaves_both(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("whole")

    def fail(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("part")
        raise OSError("No space left on device")

    path = tmp_path / "last.ckpt"
    WholeCheckpoints(write).save_checkpoint({"step": 1}, path)
    with pytest.raises(OSError, match="No space left"):
        WholeCheckpoints(fail).save_checkpoint({"step": 2}, path)
    assert FILES.load_checkpoint(path) == {"step": 1}
    assert (tmp_path / "last.adapter" / "adapter_config.json").read_text() == "whole"
    assert {file.name for file in tmp_path.iterdir()} == {"last.ckpt", "last.adapter"}
