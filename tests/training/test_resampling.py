"""Groups without signal are replaced by those of further batches, and mini-batches divide them."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from spatial_ssrl.algorithms import GRPO
from spatial_ssrl.core.batches import PromptBatch, ScoredRollouts
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.policies import SamplingSettings
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.training import RLModule, UpdateSettings, buffer, mini_batches
from spatial_ssrl.training.buffer import GroupBuffer
from spatial_ssrl.training.groups import Groups, join_groups
from spatial_ssrl.training.metrics import Metrics
from spatial_ssrl.training.mini_batches import shares_of
from spatial_ssrl.verifiers import Verifier
from support.tiny_training import (
    DigitShare,
    StepLog,
    tiny_data,
    tiny_policy,
    tiny_rl,
    tiny_trainer,
)

RATE = 0.1
TEN, SIX = SamplingSettings(max_new_tokens=10), SamplingSettings(max_new_tokens=6)


class FlatForAll(Verifier):
    def score(self, text: str, question: Question) -> Verdict:
        return Verdict(0.1, {"accuracy": 0.0})


class FlatForFlips(Verifier):
    """Completions of flipped patches earn the same; of other tasks, no two earn the same."""

    def score(self, text: str, question: Question) -> Verdict:
        flat = question.task == "flipped_patch"
        return Verdict(0.3 if flat else zlib.crc32(text.encode()) / 2**32, {})


class FlatForAThird(Verifier):
    """Completions differ in their rewards, but those of a third of the questions do not."""

    def score(self, text: str, question: Question) -> Verdict:
        if zlib.crc32(question.uid.encode()) % 3 == 0:
            return Verdict(0.3, {"accuracy": 0.0})
        share = zlib.crc32(text.encode()) / 2**32
        return Verdict(share, {"accuracy": share})


class Recording(RLModule):
    """Remembers the groups of every update, and the weights before it."""

    def __init__(self, **settings: Any) -> None:
        defaults = tiny_rl()
        super().__init__(
            **{
                "policy": tiny_policy(),
                "algorithm": GRPO(kl_coefficient=0.0),
                "verifier": FlatForAThird(),
                "group_size": 4,
                "sampling": defaults.sampling,
                "optimizer": lambda params: torch.optim.SGD(params, lr=RATE),
                **settings,
            }
        )
        self.updates: list[tuple[Groups, dict[str, Tensor]]] = []

    def weights(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.policy.state_dict().items()}

    def _update(self, prompts: PromptBatch, groups: Groups, scored: ScoredRollouts) -> Metrics:
        self.updates.append((groups, self.weights()))
        return super()._update(prompts, groups, scored)


def fitted(folder: Path, steps: int, log: StepLog | None = None, **settings: Any) -> Recording:
    module = Recording(**settings)
    tiny_trainer(folder, steps, [log or StepLog()]).fit(module, tiny_data())
    return module


def resampling(**settings: Any) -> UpdateSettings:
    return UpdateSettings(**{"flat_groups": "resample", "clip_norm": float("inf"), **settings})


def step_by_hand(module: Recording, groups: Groups, rows: Sequence[int], size: int) -> None:
    """Take one SGD step on some groups, one completion after another."""
    policy, rollouts = module.policy, groups.rollouts
    count = rollouts.group_size
    parameters = [p for p in policy.parameters() if p.requires_grad]
    total = torch.zeros(())
    for row in rows:
        prompts = module.collator()([groups.questions[row]])
        mine = range(row * count, (row + 1) * count)
        rewards = torch.tensor([groups.verdicts[i].reward for i in mine])
        advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        scores = policy.logprobs(prompts, groups.select([row]).rollouts, module.sampling)
        for place, i in enumerate(mine):
            length = int(rollouts.mask[i].sum())
            ratio = (scores[place, :length] - rollouts.logprobs[i, :length]).exp()
            surrogate = torch.minimum(
                ratio * advantages[place], ratio.clamp(0.8, 1.2) * advantages[place]
            )
            total = total - surrogate.mean() / size
    gradients = torch.autograd.grad(total, parameters, allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter -= RATE * gradient


def furthest(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def test_an_update_waits_until_its_batch_is_full_of_signal(tmp_path: Path) -> None:
    log = StepLog()
    module = fitted(tmp_path, 2, log, verifier=FlatForFlips(), update=resampling())
    # Two of four questions a batch are flipped patches.
    assert [step for step, _ in log.steps] == [0, 1, 1, 2]
    asked = [uids for _, uids in log.steps]
    for update, (groups, _) in enumerate(module.updates):
        uids = [question.uid for question in groups.questions]
        assert {question.task for question in groups.questions} == {"depth_order"}
        assert len(uids) == 4
        assert set(uids[:2]) < set(asked[2 * update])
        assert set(uids[2:]) < set(asked[2 * update + 1])
    assert "train/loss" not in log.metrics[0]
    assert log.metrics[0]["train/groups_waiting"] == 2
    assert log.metrics[0]["train/flat_groups"] == 0.5
    assert log.metrics[1]["train/groups_used"] == 4
    assert log.metrics[1]["train/groups_waiting"] == 0


def test_the_taken_groups_are_the_batch_the_loss_divides_by(tmp_path: Path) -> None:
    log = StepLog()
    module = fitted(tmp_path, 3, log, update=resampling(micro_batch_size=3))
    sampled = [uid for _, uids in log.steps for uid in uids if zlib.crc32(uid.encode()) % 3]
    learned = [question.uid for groups, _ in module.updates for question in groups.questions]
    assert learned == sampled[:12]  # First in, first out.
    end = module.weights()
    old_groups = 0
    for number, (groups, before) in enumerate(module.updates):
        module.policy.load_state_dict(before)
        step_by_hand(module, groups, range(4), size=16)
        after = module.updates[number + 1][1] if number < 2 else end
        assert furthest(module.weights(), after) < 1e-6
        assert furthest(before, after) > 1e-4
        # Left over from an earlier update: judged by the weights that sampled them.
        module.policy.load_state_dict(before)
        for row in range(4):
            alone = groups.select([row]).rollouts
            with torch.no_grad():
                scores = module.policy.logprobs(
                    module.collator()([groups.questions[row]]), alone, module.sampling
                )
            old_groups += bool((scores - alone.logprobs).abs().max() > 1e-4)
    assert old_groups > 0


class Forgetful(InProcess):
    def sample(self, *args: Any) -> Any:
        return replace(super().sample(*args), logprobs=None)


def test_groups_wait_with_the_scores_of_the_weights_that_sampled(tmp_path: Path) -> None:
    kept = fitted(tmp_path, 3, update=resampling()).weights()
    scored = fitted(tmp_path, 3, update=resampling(), rollout=Forgetful()).weights()
    assert furthest(kept, scored) < 1e-4


def test_no_more_batches_are_tried_than_allowed(tmp_path: Path) -> None:
    log = StepLog()
    module = fitted(tmp_path, 2, log, verifier=FlatForAll(), update=resampling(resample_batches=2))
    assert [step for step, _ in log.steps] == [0, 0, 1, 1, 1, 2]
    assert furthest(module.updates[0][1], module.weights()) == 0
    assert log.metrics[-1]["train/groups_used"] == 0


@pytest.mark.parametrize("found", [0, 1, 2, 3])
def test_processes_share_what_was_found_and_no_group_is_learned_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int
) -> None:
    module = fitted(tmp_path, 1, verifier=DigitShare())
    batch = module.updates[0][0]
    signal = torch.arange(4) < found
    halves = [
        replace(batch.select(rows), has_signal=signal[rows], takes_part=signal[rows])
        for rows in ([0, 1], [2, 3])
    ]
    worth = [[row for row in range(2) if half.has_signal[row]] for half in halves]
    everywhere = [
        (2, [half.select([row]).to("cpu") for row in rows])
        for half, rows in zip(halves, worth, strict=True)
    ]
    monkeypatch.setattr(buffer, "gather", lambda *_: everywhere)
    monkeypatch.setattr(buffer, "world_size", lambda: 2)
    shares = []
    for process in range(2):
        monkeypatch.setattr(buffer, "rank", lambda process=process: process)
        waiting = GroupBuffer()
        waiting.tries = 3
        share = waiting.exchange(halves[process], resampling(resample_batches=3))
        assert share is not None
        shares.append(share)
    learned = [share.questions[row].uid for share in shares for row in share.rows()]
    assert learned == [question.uid for question in batch.questions[:found]]
    # What the loss divides by: what was found, or, if that is nothing, the batch as it is.
    assert sum(map(len, shares)) == (found or 4)
    for share in shares:
        assert len(share.rollouts) == 4 * len(share) == len(share.verdicts)


class FlatForMost(FlatForAThird):
    def score(self, text: str, question: Question) -> Verdict:
        flat = zlib.crc32(question.uid.encode()) % 4 > 0
        return Verdict(0.3, {}) if flat else super().score(text, question)


def test_what_there_is_makes_an_update_when_tries_run_out(tmp_path: Path) -> None:
    log = StepLog()
    update = resampling(resample_batches=3)
    module = fitted(tmp_path, 1, log, verifier=FlatForMost(), update=update)
    with_signal = sum(4 * (1 - step["train/flat_groups"]) for step in log.metrics)
    assert len(log.steps) == 4
    assert 0 < with_signal < 4
    ((groups, before),) = module.updates
    assert len(groups) == with_signal
    end = module.weights()
    module.policy.load_state_dict(before)
    step_by_hand(module, groups, range(len(groups)), size=4 * len(groups))
    assert furthest(module.weights(), end) < 1e-6


def test_each_task_may_be_treated_its_own_way(tmp_path: Path) -> None:
    log = StepLog()
    ways = {"depth_order": "resample", "flipped_patch": "keep"}
    module = fitted(tmp_path, 1, log, verifier=FlatForFlips(), update=resampling(flat_groups=ways))
    assert len(log.steps) == 1
    assert len(module.updates[0][0]) == 4
    assert log.metrics[0]["train/groups_used"] == 4
    log = StepLog()
    ways = {"depth_order": "resample"}  # Flipped patches are left out, in their places.
    module = fitted(tmp_path, 1, log, verifier=FlatForFlips(), update=resampling(flat_groups=ways))
    assert len(log.steps) == 1
    assert log.metrics[0]["train/groups_used"] == 2
    end, (groups, before) = module.weights(), module.updates[0]
    module.policy.load_state_dict(before)
    step_by_hand(module, groups, groups.rows(), size=16)
    assert furthest(module.weights(), end) < 1e-6


def test_unknown_ways_and_tasks_are_named() -> None:
    with pytest.raises(ConfigError, match=r'update.flat_groups must be "skip".* got \'drop\''):
        UpdateSettings(flat_groups="drop")
    with pytest.raises(ConfigError, match=r"flat_groups.flip_patch: .*Did you mean flipped_patch"):
        UpdateSettings(flat_groups={"flip_patch": "keep"})
    with pytest.raises(ConfigError, match=r"mini_batches must be at least 1, got 0"):
        UpdateSettings(mini_batches=0)


def test_waiting_groups_survive_a_checkpoint_file(tmp_path: Path) -> None:
    module = fitted(tmp_path, 1)
    groups = module.updates[0][0]
    waiting, read = GroupBuffer(), GroupBuffer()
    waiting.add(groups)
    waiting.tries = 2
    torch.save(waiting.state_dict(), tmp_path / "buffer.pt")
    read.load_state_dict(torch.load(tmp_path / "buffer.pt", weights_only=True))
    assert (len(read), read.tries) == (4, 2)
    found = join_groups(read.take(4))
    for name in ("tokens", "mask", "logprobs", "truncated"):
        assert torch.equal(getattr(found.rollouts, name), getattr(groups.rollouts, name))
    assert torch.equal(found.old_logprobs, groups.old_logprobs)
    assert torch.equal(found.takes_part, groups.takes_part)
    assert found.rollouts.texts == groups.rollouts.texts
    assert found.verdicts == groups.verdicts
    for one, other in zip(found.questions, groups.questions, strict=True):
        assert (one.uid, one.answer, one.choices) == (other.uid, other.answer, other.choices)
        assert all((a == b).all() for a, b in zip(one.images, other.images, strict=True))
    prompts, again = module.collator()(groups.questions), module.collator()(found.questions)
    assert torch.equal(prompts.input_ids, again.input_ids)


def test_a_resumed_run_goes_on_with_the_groups_that_waited(tmp_path: Path) -> None:
    def run(folder: Path, steps: int, checkpoint: Path | None = None) -> Recording:
        torch.manual_seed(0)
        module = Recording(update=resampling(), optimizer=lambda p: torch.optim.AdamW(p, 1e-2))
        saver = ModelCheckpoint(folder, save_last=True, save_top_k=0, every_n_train_steps=1)
        trainer = tiny_trainer(folder, steps, [saver], enable_checkpointing=True)
        trainer.fit(module, tiny_data(), ckpt_path=checkpoint, weights_only=True)
        return module

    whole = run(tmp_path / "whole", 4)
    part = run(tmp_path / "part", 2)
    assert len(part.buffer) > 0
    resumed = run(tmp_path / "part", 4, tmp_path / "part" / "last.ckpt")
    assert resumed.sampled_batches == whole.sampled_batches
    assert furthest(whole.weights(), resumed.weights()) == 0
    seen = [q.uid for module in (part, resumed) for g, _ in module.updates for q in g.questions]
    assert seen == [q.uid for g, _ in whole.updates for q in g.questions]


def test_waiting_groups_of_another_size_are_dropped_with_a_word(tmp_path: Path) -> None:
    def run(steps: int, size: int, folder: str, resume: bool = False) -> Recording:
        torch.manual_seed(0)
        module = Recording(update=resampling(), group_size=size, sampling=SIX if resume else TEN)
        path = tmp_path / folder
        saver = ModelCheckpoint(path, save_last=True, save_top_k=0, every_n_train_steps=1)
        trainer = tiny_trainer(path, steps, [saver], enable_checkpointing=True)
        checkpoint = path / "last.ckpt" if resume else None
        trainer.fit(module, tiny_data(), ckpt_path=checkpoint, weights_only=True)
        return module

    before = run(2, 4, "three")
    waiting = [question.uid for group in before.buffer.take(9) for question in group.questions]
    assert waiting
    message = rf"group_size is 3, .*: {len(waiting)} groups of 4 that waited .*are dropped"
    with pytest.warns(UserWarning, match=message):
        resumed = run(4, 3, "three", resume=True)
    for groups, _ in resumed.updates:
        assert groups.rollouts.group_size == 3
        assert not {question.uid for question in groups.questions} & set(waiting)
    # Of the same size they are kept, though they may be longer than completions are now.
    run(2, 4, "four")
    with warnings.catch_warnings(record=True) as caught:
        resumed = run(4, 4, "four", resume=True)
    assert not [warning for warning in caught if "are dropped" in str(warning.message)]
    learned = [question.uid for groups, _ in resumed.updates for question in groups.questions]
    assert learned[: len(waiting)] == waiting


def test_mini_batches_are_steps_on_shares_of_the_questions(tmp_path: Path) -> None:
    log = StepLog()
    update = UpdateSettings(clip_norm=float("inf"), mini_batches=2)
    module = fitted(tmp_path, 4, log, verifier=DigitShare(), update=update)
    assert [step for step, _ in log.steps] == [2, 4]
    (groups, before), (_, after) = module.updates
    shares = shares_of(groups.questions, 2, module.seed, "order", 1, 0)
    assert sorted(len(share) for share in shares) == [2, 2]
    module.policy.load_state_dict(before)
    for share in shares:
        step_by_hand(module, groups, [row for row in share if row in groups.rows()], size=8)
    assert furthest(module.weights(), after) < 1e-6
    assert furthest(before, after) > 1e-4


def test_more_mini_batches_than_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mini_batches is 5, .*data.batch_size is 4\); lower it"):
        fitted(tmp_path, 1, update=UpdateSettings(mini_batches=5))


@pytest.mark.parametrize("every", [1, 3, 6, 12])
def test_checkpoints_come_as_often_as_they_read(tmp_path: Path, every: int) -> None:
    update = UpdateSettings(inner_epochs=3, mini_batches=2)
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=every, save_top_k=-1)
    trainer = tiny_trainer(tmp_path, 12, [saver], enable_checkpointing=True)
    trainer.fit(tiny_rl(update=update), tiny_data())
    steps = sorted(int(path.stem.rpartition("=")[2]) for path in tmp_path.glob("*.ckpt"))
    assert steps == ([12] if every == 12 else [6, 12])


def test_an_interval_that_would_be_longer_is_refused(tmp_path: Path) -> None:
    saver = ModelCheckpoint(tmp_path, every_n_train_steps=4)
    trainer = tiny_trainer(tmp_path, 12, [saver], enable_checkpointing=True)
    message = r"every_n_train_steps is 4, but a batch takes 6 .* every 12 steps; .* such as 6"
    with pytest.raises(ConfigError, match=message):
        trainer.fit(tiny_rl(update=UpdateSettings(inner_epochs=3, mini_batches=2)), tiny_data())


def questions(count: int) -> list[Question]:
    return [Question(str(n), "depth_order", (), "", "", "text") for n in range(count)]


def test_shares_are_even_and_in_another_order_each_time() -> None:
    found = {tuple(map(tuple, shares_of(questions(10), 3, 0, "order", n))) for n in range(8)}
    assert len(found) == 8
    for shares in found:
        assert sorted(row for share in shares for row in share) == list(range(10))
        assert sorted(len(share) for share in shares) == [3, 3, 4]
    assert shares_of(questions(3), 1, 0, "order", 5) == [[0, 1, 2]]


def test_shares_do_not_depend_on_which_process_holds_a_question(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    every = questions(9)
    alone = [{every[row].uid for row in share} for share in shares_of(every, 3, 0, "order")]
    together: list[set[str]] = [set(), set(), set()]
    held = [every[1::2], every[::2]]
    seeds = []
    monkeypatch.setattr(mini_batches, "gather", lambda keys, _: [keys])
    monkeypatch.setattr(
        mini_batches, "seed_for", lambda *parts: seeds.append(_SEED(*parts)) or seeds[-1]
    )
    for part in held:
        shares_of(part, 3, 0, "order")
    keys = [seeds[: len(held[0])], seeds[len(held[0]) :]]
    for process, part in enumerate(held):
        monkeypatch.setattr(mini_batches, "gather", lambda *_: keys)
        monkeypatch.setattr(mini_batches, "rank", lambda process=process: process)
        for place, share in enumerate(shares_of(part, 3, 0, "order")):
            together[place] |= {part[row].uid for row in share}
    assert together == alone


_SEED = mini_batches.seed_for
