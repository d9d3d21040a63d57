"""Learning rates where a config names no optimiser."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.cli.fit import SpatialCLI
from spatial_ssrl.cli.main import main
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, TinyVLM
from spatial_ssrl.training import PolicyModule, RLModule, SFTModule, UpdateSettings
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer

LORA = LoraSettings(rank=2)


@pytest.mark.parametrize(
    ("policy", "rl", "sft"),
    [
        (HFVisionLanguagePolicy("x", lora=LORA), 1e-5, 1e-4),
        (HFVisionLanguagePolicy("x", adapter=Path("y")), 1e-5, 1e-4),
        (HFVisionLanguagePolicy("x"), 1e-6, 1e-5),
        (TinyVLM(Path("x")), 1e-6, 1e-5),
        (TinyVLM(Path("x"), lora=LORA), 1e-5, 1e-4),
        (TinyVLM(lora=LORA), 1e-5, 1e-4),
        (TinyVLM(), 1e-3, 1e-3),
    ],
)
def test_rates_go_by_what_is_trained(policy: Any, rl: float, sft: float) -> None:
    modules: list[PolicyModule] = [RLModule(policy, GRPO()), SFTModule(policy)]
    assert [module.rates[module.policy.trained] for module in modules] == [rl, sft]


def fitted(folder: Path, steps: int, **settings: Any) -> list[float]:
    """Train to a step, from the last checkpoint if there is one; return the rates."""
    torch.manual_seed(0)
    log = StepLog()
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)
    trainer = tiny_trainer(folder, steps, [log, saver], enable_checkpointing=True)
    last = folder / "last.ckpt"
    module = tiny_rl(
        tiny_policy(lora=LORA), update=UpdateSettings(self_check=False), group_size=2, **settings
    )
    trainer.fit(module, tiny_data(), ckpt_path=last if last.exists() else None)
    return [step["train/lr"] for step in log.metrics]


def test_the_rate_is_said_used_and_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "lightning.pytorch")
    told = "model.optimizer names none: AdamW with a learning rate of 1e-05 for adapters."
    assert fitted(tmp_path, 2) == pytest.approx([1e-5, 1e-5])
    assert caplog.messages.count(told) == 1
    assert fitted(tmp_path, 3) == pytest.approx([1e-5])  # resumed
    caplog.clear()
    # Named, it keeps a rate of its own; the checkpoint's moments are those of the same optimiser.
    named = partial(torch.optim.AdamW, lr=3e-4)
    assert fitted(tmp_path, 4, optimizer=named) == pytest.approx([3e-4])
    assert told not in caplog.messages


def config(folder: Path, optimizer: object = "absent") -> str:
    model: dict[str, Any] = {
        "class_path": "SFTModule",
        "init_args": {
            "policy": {"class_path": "TinyVLM", "init_args": {"lora": {"rank": 2}}},
        },
    }
    if optimizer != "absent":
        model["init_args"]["optimizer"] = optimizer
    data = {"class_path": "PretextDataModule", "init_args": {"images": ["SyntheticScenes"]}}
    data["init_args"]["tasks"] = ["FlippedPatch"]
    path = folder / f"{len(list(folder.iterdir()))}.yaml"
    trainer = {"default_root_dir": str(folder / "run"), "accelerator": "cpu", "logger": False}
    path.write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    return str(path)


def test_configs_name_an_optimiser_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["spatial-ssrl"])
    for none in ("absent", None):
        assert SpatialCLI(["-c", config(tmp_path, none)], run=False).model.optimizer is None
    assert main(["fit", "-c", config(tmp_path), "--print_config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]
    assert shown["optimizer"] is None

    adam = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 3e-5}}
    for arguments, rate in (
        (["-c", config(tmp_path, adam)], 3e-5),
        (["-c", config(tmp_path, adam), "--model.optimizer.lr=1e-4"], 1e-4),
        (
            [
                "-c",
                config(tmp_path),
                "--model.optimizer=torch.optim.AdamW",
                "--model.optimizer.lr=2e-4",
            ],
            2e-4,
        ),
    ):
        make = SpatialCLI(arguments, run=False).model.optimizer
        assert make([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]["lr"] == rate


def test_half_precision_weights_in_full_training_are_warned_of(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.load()
    policy.network.bfloat16()
    module = tiny_rl(policy, update=UpdateSettings(self_check=False))
    with pytest.warns(UserWarning, match=r"training are bfloat16, .* Set policy\.dtype to float32"):
        tiny_trainer(tmp_path, 0).fit(module, tiny_data())
