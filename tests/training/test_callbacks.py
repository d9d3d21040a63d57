from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.policies import LoraSettings
from spatial_ssrl.training import UpdateSettings
from spatial_ssrl.training.callbacks import AdapterCheckpoint, TrainingProgress
from spatial_ssrl.training.callbacks.progress import left
from spatial_ssrl.verifiers import Verifier
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer


def test_adapters_are_saved_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    module = tiny_rl(tiny_policy(lora=LoraSettings(rank=2)))
    saved: list[int] = []
    callback = AdapterCheckpoint(every_n_steps=2)
    save = callback.save

    def watch(trainer: object, pl_module: object) -> None:
        saved.append(trainer.global_step)
        save(trainer, pl_module)

    callback.save = watch
    tiny_trainer(tmp_path, 3, [callback]).fit(module, tiny_data())
    assert saved == [2, 3]
    folder = tmp_path / "policy"
    assert (folder / "adapter_config.json").is_file()
    assert (folder / "adapter_model.safetensors").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]

    def fail(directory: Path) -> None:
        raise OSError("disk full")

    before = (folder / "adapter_model.safetensors").read_bytes()
    with torch.no_grad():
        next(iter(module.trainable_parameters())).add_(1.0)
    module.policy.processor.save_pretrained = fail  # Called when the adapter has been written.
    with pytest.raises(OSError, match="disk full"):
        save(module.trainer, module)
    assert (folder / "adapter_model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]


def test_adapters_are_saved_once_an_interval_whatever_steps_a_batch_takes(tmp_path: Path) -> None:
    def saved_at(every: int, **update: object) -> list[int]:
        saved: list[int] = []
        callback = AdapterCheckpoint(every_n_steps=every)
        callback.save = lambda trainer, _: saved.append(trainer.global_step)
        module = tiny_rl(update=UpdateSettings(**update), verifier=Constant())
        tiny_trainer(tmp_path, 6, [callback]).fit(module, tiny_data())
        return saved[:-1]  # The last is that of the end.

    assert saved_at(2, inner_epochs=3) == [3, 6]
    assert saved_at(4, inner_epochs=3) == [6]
    assert saved_at(3, flat_groups="resample", resample_batches=2) == [3, 6]


class Constant(Verifier):
    def score(self, text: str, question: Question) -> Verdict:
        return Verdict(0.1, {})


def test_a_folder_of_other_files_is_refused_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "important.txt").write_text("keep me")
    steps = StepLog()
    callbacks = [AdapterCheckpoint(directory=tmp_path / "notes"), steps]
    with pytest.raises(ConfigError, match=r"notes holds files that are no saved policy"):
        tiny_trainer(tmp_path, 1, callbacks).fit(tiny_rl(), tiny_data())
    assert steps.steps == []
    assert (tmp_path / "notes" / "important.txt").read_text() == "keep me"


def test_a_bad_interval_is_named() -> None:
    with pytest.raises(ConfigError, match=r"every_n_steps must be 0 .* got -1"):
        AdapterCheckpoint(every_n_steps=-1)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((5, 20, 10, 50.0), "1:40 left"),
        ((5, 1000, 500, 50.0), "1:23:20 left"),
        ((0, 20, 10, 50.0), ""),
        ((5, None, 5, 50.0), ""),
    ],
)
def test_time_left(arguments: tuple[int, float | None, int, float], expected: str) -> None:
    assert left(*arguments) == expected


def test_progress_without_a_terminal_is_lines(tmp_path: Path) -> None:
    progress = TrainingProgress("GRPO", line_every_s=0.0)
    output = io.StringIO()
    progress._console = Console(file=output, force_terminal=False, width=300)
    settings = {"enable_progress_bar": True, "limit_val_batches": 1}
    settings |= {"val_check_interval": 2, "check_val_every_n_epoch": None}
    trainer = tiny_trainer(tmp_path, 4, [progress], **settings)
    trainer.fit(tiny_rl(), tiny_data())
    lines = [line for line in output.getvalue().splitlines() if line.startswith("GRPO")]
    assert [line.split()[1] for line in lines] == ["1/4", "2/4", "3/4", "4/4"]
    assert " left " in lines[0]
    assert "reward 0." in lines[0]
    assert "depth_order 0." in lines[0]
    assert "held-out" not in lines[1]
    assert "held-out 0." in lines[3]


def test_progress_on_a_terminal_is_a_bar_that_goes_away(tmp_path: Path) -> None:
    progress = TrainingProgress()
    output = io.StringIO()
    progress._console = Console(file=output, force_terminal=True, width=200)
    trainer = tiny_trainer(tmp_path, 2, [progress], enable_progress_bar=True)
    trainer.fit(tiny_rl(), tiny_data())
    trainer.test(tiny_rl(), tiny_data(), verbose=False)
    text = output.getvalue()
    assert "training" in text
    assert "2/2" in text
    assert "test" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor came back
