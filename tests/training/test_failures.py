"""A NaN in a reward, a loss or a gradient stops the run and leaves what was good as it was."""

from __future__ import annotations

import math
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.core.batches import LossInputs, LossOutput, PromptBatch, Rollouts
from spatial_ssrl.core.errors import NotFinite, OutOfMemory, ran_out_of_memory
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.policies import SamplingSettings
from spatial_ssrl.policies.tiny import TinyVLM
from spatial_ssrl.training import PolicyModule, SFTModule, UpdateSettings, failures
from support.failing import HungryPolicy, HungryRollout, run_out
from support.tiny_training import DigitShare, StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer

BATCH = 4
SMALL = {"image_size": 32, "hidden_size": 32, "layers": 1, "heads": 2}


def uid_of(step: int, place: int) -> str:
    return tiny_data().training_questions()[step * BATCH + place].uid


class Snapshots(StepLog):
    """Keeps weights and optimiser as they are after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.after: list[tuple[dict[str, Tensor], str]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        super().on_train_batch_end(trainer, pl_module, *rest)
        self.after.append(state_of(pl_module))


def state_of(module: PolicyModule) -> tuple[dict[str, Tensor], str]:
    weights = {name: value.detach().clone() for name, value in module.policy.named_parameters()}
    return weights, repr(module.trainer.optimizers[0].state_dict())


def failed(
    folder: Path,
    module: PolicyModule,
    steps_before: int = 3,
    kind: type[Exception] = NotFinite,
) -> str:
    """Fit until the failure; check that nothing of it was kept, and return its message."""
    log = Snapshots()
    saver = ModelCheckpoint(
        folder, save_last=True, save_top_k=0, every_n_train_steps=2, save_on_exception=True
    )
    trainer = tiny_trainer(folder, 5, [log, saver], enable_checkpointing=True)
    with pytest.raises(kind) as caught:
        trainer.fit(module, tiny_data())
    assert [step for step, _ in log.steps] == list(range(1, steps_before + 1))
    (good, optimizer), (weights, optimizer_now) = log.after[-1], state_of(module)
    assert all(torch.equal(weights[name], good[name]) for name in good)
    assert optimizer_now == optimizer
    assert [path.name for path in sorted(folder.iterdir())] == ["last.ckpt"]
    assert torch.load(folder / "last.ckpt", weights_only=True)["global_step"] == 2
    return str(caught.value)


class BadReward(DigitShare):
    """Gives the second completion of one question a reward that is not a number."""

    def __init__(self, uid: str, value: float) -> None:
        self.uid, self.value, self.seen = uid, value, 0

    def score(self, text: str, question: Question) -> Verdict:
        self.seen += question.uid == self.uid
        if question.uid == self.uid and self.seen == 2:
            return Verdict(self.value, {"accuracy": 0.0})
        return super().score(text, question)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_reward_names_the_completion_and_the_verifier(tmp_path: Path, value: float) -> None:
    uid = uid_of(3, 3)
    text = failed(tmp_path, tiny_rl(verifier=BadReward(uid, value)))
    assert text.startswith("Stopped at optimiser step 4: ")
    assert f"the reward of completion 1 of question {uid} (" in text
    assert f"is {value}. Let BadReward return finite numbers" in text


class PartlyBad(BadReward):
    def score(self, text: str, question: Question) -> Verdict:
        verdict = super().score(text, question)
        return Verdict(0.0, {"format": verdict.reward})


def test_a_bad_part_of_a_reward_is_named(tmp_path: Path) -> None:
    text = failed(tmp_path, tiny_rl(verifier=PartlyBad(uid_of(3, 0), math.nan)))
    assert "the part 'format' of the reward of completion 1 of question" in text


class BadScores(TinyVLM):
    """Answers one question with log-probabilities whose value or gradient is not finite."""

    def __init__(self, uid: str, bad: str, **settings: Any) -> None:
        super().__init__(**settings)
        self.uid, self.bad = uid, bad

    def logprobs(
        self,
        prompts: PromptBatch,
        rollouts: Rollouts,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
    ) -> Tensor:
        scores = super().logprobs(prompts, rollouts, sampling)
        rows = [row for row, q in enumerate(prompts.questions) if q.uid == self.uid]
        if not rows or not torch.is_grad_enabled():
            return scores
        factor = torch.ones_like(scores)
        first = rows[0] * rollouts.group_size
        if self.bad == "value":
            factor[first] = math.nan
            return scores * factor
        scores.register_hook(
            lambda gradient: gradient.index_fill(0, torch.tensor([first]), math.inf)
        )
        return scores * factor


@pytest.mark.parametrize("micro_batch_size", [2, 4])
@pytest.mark.parametrize(("bad", "text"), [("value", "the loss of"), ("hook", "the gradient of")])
def test_a_bad_loss_or_gradient_names_its_question(
    tmp_path: Path, bad: str, text: str, micro_batch_size: int
) -> None:
    uid = uid_of(3, 1)
    module = tiny_rl(
        BadScores(uid, bad, **SMALL),
        verifier=DigitShare(),
        update=UpdateSettings(micro_batch_size=micro_batch_size, flat_groups="keep"),
    )
    message = failed(tmp_path, module)
    assert message.startswith(f"Stopped at optimiser step 4: {text} question {uid} (")
    assert "lower learning rate" in message


@pytest.mark.parametrize(("bad", "text"), [("value", "the loss of"), ("hook", "the gradient of")])
def test_the_cold_start_stops_too(tmp_path: Path, bad: str, text: str) -> None:
    uid = uid_of(3, 1)
    message = failed(tmp_path, SFTModule(BadScores(uid, bad, **SMALL)))
    assert f"{text} question {uid} (" in message


class TogetherTooMuch(GRPO):
    """Each question's loss is finite; their sum is not."""

    def loss(self, inputs: LossInputs, normaliser: float) -> LossOutput:
        output = super().loss(inputs, normaliser)
        return LossOutput(output.loss + len(inputs.mask) / 4 * 1e38, output.stats)


def test_a_sum_that_overflows_is_said_to_be_one(tmp_path: Path) -> None:
    module = tiny_rl(
        algorithm=TogetherTooMuch(), update=UpdateSettings(flat_groups="keep", inner_epochs=1)
    )
    with pytest.raises(NotFinite, match=r"step 1: the sum of its questions' losses is inf"):
        tiny_trainer(tmp_path, 1).fit(module, tiny_data())


def test_every_process_stops_with_the_message_of_the_one_that_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = tiny_trainer(tmp_path, 1)
    monkeypatch.setattr(failures, "gather", lambda value, _: [None, "the other one failed.", value])
    with pytest.raises(NotFinite, match=r"step 8: the other one failed\."):
        failures.stop_if_any(trainer, 7, None)
    monkeypatch.setattr(failures, "gather", lambda value, _: [None, value])
    failures.stop_if_any(trainer, 7, None)


@pytest.mark.parametrize("of", ["device", "torch", "host"])
def test_sampling_that_runs_out_of_memory_keeps_the_last_checkpoint(
    tmp_path: Path, of: str
) -> None:
    module = tiny_rl(rollout=HungryRollout(3, of), update=UpdateSettings(self_check=False))
    check_out_of_memory(failed(tmp_path, module, kind=OutOfMemory), of)


@pytest.mark.parametrize("of", ["device", "torch", "host"])
def test_scoring_that_runs_out_of_memory_keeps_the_last_checkpoint(tmp_path: Path, of: str) -> None:
    # Two micro-batches a step: half of the fourth step's gradients are there already.
    update = UpdateSettings(micro_batch_size=2, flat_groups="keep", self_check=False)
    module = tiny_rl(HungryPolicy(7, of, **SMALL), update=update)
    check_out_of_memory(failed(tmp_path, module, kind=OutOfMemory), of)


def test_the_cold_start_keeps_the_last_checkpoint_too(tmp_path: Path) -> None:
    module = SFTModule(HungryPolicy(3, **SMALL), update=UpdateSettings(self_check=False))
    check_out_of_memory(failed(tmp_path, module, kind=OutOfMemory), "torch")


def check_out_of_memory(text: str, of: str) -> None:
    assert "\n" not in text
    assert text.startswith(
        "At optimiser step 4, of which no checkpoint was written, memory ran out ("
    )
    detail = {
        "device": "(CUDA out of memory. Tried to allocate 2.00 GiB)",
        "torch": "you tried to allocate 4000000000000000 bytes",
        "host": "Unable to allocate 7.11 PiB",
    }
    assert detail[of] in text
    for remedy in ("update.micro_batch_tokens", "rollout.batch_tokens", "max_pixels", "plan"):
        assert remedy in text


def test_what_counts_as_running_out_of_memory() -> None:
    for of in ("device", "torch", "host"):
        with pytest.raises(Exception, match=r"allocate") as caught:
            run_out(of)
        assert ran_out_of_memory(caught.value)
    assert ran_out_of_memory(torch.AcceleratorError("CUDA error: out of memory"))
    assert not ran_out_of_memory(RuntimeError("shapes do not match"))
    assert not ran_out_of_memory(ValueError("out of memory, says a file"))


def test_ctrl_c_still_leaves_a_checkpoint(tmp_path: Path) -> None:
    class Stop(StepLog):
        def on_train_batch_end(self, *args: Any) -> None:
            super().on_train_batch_end(*args)
            if len(self.steps) == 1:
                raise KeyboardInterrupt

    saver = ModelCheckpoint(
        tmp_path, save_last=True, save_top_k=0, every_n_train_steps=50, save_on_exception=True
    )
    with pytest.raises(SystemExit):
        tiny_trainer(tmp_path, 5, [Stop(), saver], enable_checkpointing=True).fit(
            tiny_rl(tiny_policy()), tiny_data()
        )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (tmp_path / "last.ckpt").exists()
