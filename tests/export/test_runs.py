"""Which config and which weights of a run are taken."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
import yaml

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.export import open_run, trained_policy
from spatial_ssrl.export.runs import is_run, unloaded_policy
from spatial_ssrl.policies import TinyVLM
from support.saved_runs import write_run


def saved_policy(folder: Path, when: int) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").touch()
    os.utime(folder / "adapter_config.json", (when, when))
    return folder


def checkpoint(path: Path, when: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.utime(path, (when, when))
    return path


def test_a_saved_policy_comes_before_checkpoints_and_newer_ones_are_told(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"model": "m"})
    policy = saved_policy(folder / "policy", 10_000)
    checkpoint(folder / "checkpoints" / "old.ckpt", 9_000)
    with_last = checkpoint(folder / "checkpoints" / "last.ckpt", 10_030)
    assert open_run(folder).weights == policy
    assert open_run(folder).newer_checkpoint() is None  # Saved as the run ended.
    newer = checkpoint(folder / "checkpoints" / "later.ckpt", 11_000)
    assert open_run(folder).newer_checkpoint() == newer
    assert open_run(folder, with_last).weights == with_last
    assert open_run(folder, with_last).newer_checkpoint() is None


def test_the_newest_config_of_a_run_that_was_gone_on_with(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"model": "first"})
    saved_policy(folder / "policy", 10)
    later = folder / "lightning_logs" / "version_1" / "config.yaml"
    later.parent.mkdir(parents=True)
    later.write_text((folder / "config.yaml").read_text().replace("first", "second"))
    os.utime(folder / "config.yaml", (10, 10))
    assert open_run(folder).policy_settings["init_args"]["model"] == "second"
    assert is_run(folder)
    assert not is_run(folder / "policy")


def test_a_run_that_was_moved_has_its_policy_beside_it(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"model": "m"})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    saver = {"class_path": "AdapterCheckpoint", "init_args": {"directory": str(tmp_path / "a")}}
    config["trainer"]["callbacks"] = [saver]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    beside = saved_policy(folder / "policy", 10)
    assert open_run(folder).weights == beside
    named = saved_policy(tmp_path / "a", 10)
    assert open_run(folder).weights == named


def test_policies_that_cannot_be_built(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", {"model": "m", "ranks": 4})
    saved_policy(folder / "policy", 10)
    with pytest.raises(ConfigError, match=r"run: the policy of the config in .* cannot be built: "):
        unloaded_policy(open_run(folder))


def test_a_checkpoint_of_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_run(tmp_path / "run", {})
    config = yaml.safe_load((folder / "config.yaml").read_text())
    settings = {"class_path": "TinyVLM", "init_args": {"image_size": 32, "hidden_size": 32}}
    config["model"]["init_args"]["policy"] = settings
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    other = folder / "other.ckpt"
    torch.save({"state_dict": {}}, other)
    run = open_run(folder, other)
    assert isinstance(unloaded_policy(run), TinyVLM)
    with pytest.raises(ConfigError, match=r"other\.ckpt' is a checkpoint of another program"):
        trained_policy(run)

    def starved(*args: object, **kwargs: object) -> object:
        raise MemoryError

    monkeypatch.setattr(torch, "load", starved)
    with pytest.raises(MemoryError):  # Says nothing of the file.
        trained_policy(run)
