"""Runs that are killed: `python killed_run.py FOLDER SEED STEPS` trains there twice.

Once without a stop in FOLDER/whole, and once in FOLDER/killed by processes that are killed with
SIGKILL one after another at moments that the seed names, each going on from the last checkpoint.
Every life is a fork of this process, which computes nothing itself: importing costs most.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch.optim import AdamW

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.policies import LoraSettings
from spatial_ssrl.policies.tiny.policy import default_tokenizer
from spatial_ssrl.training import RLModule, ScheduleSettings, UpdateSettings, checkpoint_files
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer

# Of one training step, in the order in which they come.
MOMENTS = ("drawn", "sampled", "backward", "between inner epochs", "stepped", "half written", "end")
BETWEEN = "between renames"  # the adapter is in its place, the checkpoint not yet
KILLS = 5


class Death:
    """Kills this process at one moment of a training step.

    Args:
        step: Training steps of the whole run before it, or more where a step has no such moment;
            None to live on.
        moment: One of `MOMENTS`, or `BETWEEN`.
    """

    def __init__(self, step: int | None, moment: str) -> None:
        self.step, self.moment = step, moment
        self.at = -1
        self.metrics: dict[str, float] = {}

    def come(self, moment: str) -> None:
        """Kill the process if this is the time."""
        if self.step is not None and self.at >= self.step and moment == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, module: RLModule, data: Any) -> None:
        """Look at the parts of a training step as they pass."""
        step_optimizer, sample = module.step_optimizer, module.rollout.sample
        backward, training_step = module.manual_backward, module.training_step
        calls: list[int] = []

        def begin(*arguments: Any, **named: Any) -> None:
            self.at = data.state_dict()["position"] // data.batch_size - 1
            calls.clear()
            self.come("drawn")
            training_step(*arguments, **named)

        def sampled(*arguments: Any, **named: Any) -> Any:
            rollouts = sample(*arguments, **named)
            self.come("sampled")
            return rollouts

        def back(*arguments: Any, **named: Any) -> None:
            backward(*arguments, **named)
            self.come("backward")

        def step(*arguments: Any, **named: Any) -> Any:
            result = step_optimizer(*arguments, **named)
            calls.append(1)
            self.come("between inner epochs" if len(calls) == 1 else "stepped")
            return result

        def note(metrics: dict[str, float]) -> None:
            self.metrics = dict(metrics)
            log_training(metrics)

        log_training = module.log_training
        changes = {
            "step_optimizer": step,
            "manual_backward": back,
            "training_step": begin,
            "log_training": note,
        }
        for name, value in changes.items():
            setattr(module, name, value)
        module.rollout.sample = sampled  # type: ignore[method-assign]

    def interrupt_writing(self) -> None:
        """Let the process die with half of a checkpoint on the disk."""
        whole = torch.save

        def half(checkpoint: Any, file: Any) -> None:
            if isinstance(file, Path):
                whole(checkpoint, file)
                return
            buffer = io.BytesIO()
            whole(checkpoint, buffer)
            text = buffer.getvalue()
            file.write(text[: len(text) // 2])
            file.flush()
            self.come("half written")
            file.write(text[len(text) // 2 :])

        def replace(source: Path, target: Path) -> Path:
            self.come(BETWEEN)
            return in_one_go(source, target)

        in_one_go = Path.replace
        checkpoint_files.torch.save = half  # type: ignore[attr-defined]
        Path.replace = replace  # type: ignore[method-assign]


class Log(StepLog):
    """Writes the questions and metrics of every step as a line of JSON."""

    def __init__(self, path: Path, death: Death) -> None:
        super().__init__()
        self.lines, self.death = path, death

    def on_train_batch_end(self, trainer: Any, *arguments: Any) -> None:
        """Note one step."""
        super().on_train_batch_end(trainer, *arguments)
        step, questions = self.steps[-1]
        line = {"step": step, "at": self.death.at, "uids": questions}
        with self.lines.open("a") as file:
            file.write(json.dumps(line | {"metrics": self.death.metrics}) + "\n")
        self.death.come("end")


def live(folder: Path, steps: int, update: dict[str, Any], death: Death) -> None:
    """Train from the last checkpoint, if there is one, until death or `steps` are done."""
    torch.manual_seed(0)  # As seed_everything does in a real run; fresh adapters are random.
    module = tiny_rl(
        tiny_policy(lora=LoraSettings(rank=4)),
        algorithm=GRPO(kl_coefficient=0.1),
        optimizer=lambda params: AdamW(params, lr=1e-3),
        schedule=ScheduleSettings("linear", warmup_steps=2),
        update=UpdateSettings(micro_batch_size=2, inner_epochs=2, **update),
        group_size=2,
    )
    data = tiny_data()
    death.watch(module, data)
    death.interrupt_writing()
    saver = ModelCheckpoint(folder, every_n_train_steps=4, save_last=True, save_top_k=0)
    callbacks = [Log(folder / "steps.jsonl", death), saver]
    trainer = tiny_trainer(folder, 2 * steps, callbacks, enable_checkpointing=True)
    last = folder / "last.ckpt"
    trainer.fit(module, data, ckpt_path=last if last.exists() else None, weights_only=True)
    torch.save(dict(module.policy.trainable_state()), folder / "weights.pt")


def fork(folder: Path, *arguments: Any) -> int:
    """Let a child live in a folder; return the signal that ended it, or 0."""
    folder.mkdir(parents=True, exist_ok=True)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            live(folder, *arguments)
            status = 0
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFEXITED(ended) and os.WEXITSTATUS(ended):
        raise SystemExit(f"{folder} failed")
    return os.WTERMSIG(ended) if os.WIFSIGNALED(ended) else 0


def deaths(seed: int, steps: int) -> list[Death]:
    """Return five deaths spread over a run, among them the three that hurt most."""
    rng = rng_for(seed, "deaths")
    moments = ["between inner epochs", "half written", BETWEEN, *rng.choice(MOMENTS, KILLS - 3)]
    found = []
    for number, moment in enumerate(rng.permutation(moments)):
        step = int(rng.integers(number * steps // KILLS, (number + 1) * steps // KILLS))
        # Not every step writes a checkpoint, so that the last ones may come too late.
        found.append(Death(min(step, steps - 4), str(moment)))
    return found


def is_consistent(folder: Path) -> bool:
    """Whether the adapter beside the last checkpoint, if there is one, has its very weights."""
    if not (folder / "last.ckpt").exists():
        return True
    kept = torch.load(folder / "last.ckpt")["policy"]
    adapter = load_file(folder / "last.adapter" / "adapter_model.safetensors")
    return len(adapter) > 0 and all(
        torch.equal(tensor, adapter[name.replace(".default", "")])
        for name, tensor in kept.items()
        if not name.startswith("reference::")
    )


def main(folder: Path, seed: int, steps: int, update: dict[str, Any]) -> None:
    """Run both, and write at which moments the second was killed."""
    default_tokenizer()  # Kept for all lives.
    assert fork(folder / "whole", steps, update, Death(None, "")) == 0
    killed = []
    for death in deaths(seed, steps):
        ended = fork(folder / "killed", steps, update, death)
        killed.append([death.step, death.moment, is_consistent(folder / "killed"), ended])
    ended = fork(folder / "killed", steps, update, Death(None, ""))
    killed.append([None, "", is_consistent(folder / "killed"), ended])
    (folder / "killed.json").write_text(json.dumps(killed))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
