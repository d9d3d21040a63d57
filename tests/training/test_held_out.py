from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import PolicyBackbone, SamplingSettings
from spatial_ssrl.rollout import RolloutEngine
from spatial_ssrl.training import SFTModule
from spatial_ssrl.training.callbacks import QuestionRecords
from spatial_ssrl.training.callbacks.question_records import read_records
from spatial_ssrl.training.held_out import AccuracyTally, AnswerRecord
from spatial_ssrl.verifiers import WeightedSum
from support.tiny_training import tiny_data, tiny_policy, tiny_rl, tiny_trainer


class KnowsDepth(RolloutEngine):
    """Answers depth questions rightly and boxes nonsense for the others."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, float]] = []

    def sample(
        self,
        policy: PolicyBackbone,
        prompts: PromptBatch,
        group_size: int,
        sampling: SamplingSettings,
        seed: int,
    ) -> Rollouts:
        self.asked.append((group_size, sampling.temperature))
        texts = tuple(
            f"<think></think>\\boxed{{{q.answer if q.task == 'depth_order' else 'no'}}}"
            for q in prompts.questions
        )
        return Rollouts(
            tokens=torch.zeros(len(prompts), 1, dtype=torch.long),
            mask=torch.ones(len(prompts), 1, dtype=torch.bool),
            logprobs=None,
            texts=texts,
            truncated=torch.tensor([q.task != "depth_order" for q in prompts.questions]),
            group_size=group_size,
        )


@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_accuracy_is_logged_by_task_and_in_the_mean(tmp_path: Path, kind: str) -> None:
    engine = KnowsDepth()
    module = (
        SFTModule(tiny_policy(), rollout=engine)
        if kind == "sft"
        else tiny_rl(rollout=engine, verifier=WeightedSum())
    )
    trainer = tiny_trainer(tmp_path, 1, limit_val_batches=1.0)
    for stage, run in (("val", trainer.validate), ("test", trainer.test)):
        (found,) = run(module, tiny_data(), verbose=False)
        assert found == {
            f"{stage}/accuracy/depth_order": 1.0,
            f"{stage}/accuracy/flipped_patch": 0.0,
            f"{stage}/accuracy/mean": 0.5,
        }
    assert set(engine.asked) == {(1, 0.0)}


def test_records_of_a_test_are_written_and_read_back(tmp_path: Path) -> None:
    records = QuestionRecords()
    trainer = tiny_trainer(tmp_path, 1, [records])
    module = SFTModule(tiny_policy(), rollout=KnowsDepth())
    for _ in range(2):
        trainer.test(module, tiny_data(), verbose=False)
    found = read_records(tmp_path / "records.jsonl")
    questions = [q for batch in tiny_data().test_dataloader() for q in batch]
    assert [r.uid for r in found] == [q.uid for q in questions]
    for record, question in zip(found, questions, strict=True):
        right = question.task == "depth_order"
        assert record.correct is right
        assert record.truncated is not right
        assert record.reward == pytest.approx(1.0 if right else 0.1)
        assert record.parsed == (question.answer if right else "no")
        assert (record.answer, record.chance) == (question.answer, question.chance)


def test_predict_returns_and_writes_the_records(tmp_path: Path) -> None:
    module = SFTModule(tiny_policy(), rollout=KnowsDepth())
    batches = tiny_trainer(tmp_path, 1, [QuestionRecords()]).predict(module, tiny_data())
    assert [len(batch) for batch in batches] == [4, 2]
    returned = [AnswerRecord(**record) for batch in batches for record in batch]
    assert read_records(tmp_path / "records.jsonl") == returned


def test_validation_leaves_training_as_it_was(tmp_path: Path) -> None:
    def weights(validate: bool) -> torch.Tensor:
        module = SFTModule(tiny_policy())
        settings = {"val_check_interval": 1, "check_val_every_n_epoch": None}
        trainer = tiny_trainer(tmp_path, 3, limit_val_batches=int(validate), **settings)
        trainer.fit(module, tiny_data())
        assert all(part.training for part in module.policy.modules())
        return torch.cat([p.detach().flatten() for p in module.policy.parameters()])

    assert torch.equal(weights(validate=True), weights(validate=False))


def test_the_mean_weighs_tasks_alike() -> None:
    tally = AccuracyTally()
    for task, right in (("a", True), ("a", True), ("a", False), ("a", True), ("b", False)):
        tally.add([AnswerRecord("", task, "", "", None, right, 0.0, 0.0, False)])
    assert tally.accuracies() == {"a": 0.75, "b": 0.0, "mean": 0.375}
    assert AccuracyTally().accuracies() == {}
