from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy
from torch.nn import functional

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings
from spatial_ssrl.training import SFTModule, UpdateSettings
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_trainer


def still(params: list[torch.Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.0)


def test_loss_is_the_cross_entropy_of_the_answer_tokens(tmp_path: Path) -> None:
    policy, log = tiny_policy(), StepLog()
    module = SFTModule(policy, optimizer=still)
    tiny_trainer(tmp_path, 1, [log]).fit(module, tiny_data())

    questions = next(iter(tiny_data().train_dataloader()))
    batch = module.collator()(questions)
    assert batch.targets is not None
    assert batch.target_mask is not None
    tokens = torch.cat([batch.input_ids, batch.targets], dim=1)
    mask = torch.cat([batch.attention_mask, batch.target_mask], dim=1)
    # A plain forward of the whole rows; train mode, because the batch statistics count too.
    with torch.no_grad():
        logits = policy.network.train()(
            input_ids=tokens,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            **batch.vision,
        ).logits
    logits[..., policy.network.config.image_token_id] = float("-inf")  # never to be said
    labels = tokens.masked_fill(~mask, -100)
    labels[:, : batch.input_ids.shape[1]] = -100
    expected = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert log.metrics[0]["train/loss"] == pytest.approx(expected.item(), abs=1e-5)


def test_targets_are_the_answers_and_their_end(tmp_path: Path) -> None:
    policy = tiny_policy()
    questions = next(iter(tiny_data().train_dataloader()))
    worked = SFTModule(policy).collator()(questions)
    policy.load()
    for row, question in enumerate(questions):
        text = policy.decode(worked.targets[row : row + 1], worked.target_mask[row : row + 1])[0]
        assert text == f"<think>{question.explanation}</think>\\boxed{{{question.answer}}}"
        last = worked.targets[row][worked.target_mask[row]][-1]
        assert int(last) in policy.end_token_ids
    mixed = SFTModule(policy, answers=["depth_order"]).collator()(questions)
    lengths = dict(zip((q.task for q in questions), mixed.target_mask.sum(1).tolist(), strict=True))
    full = dict(zip((q.task for q in questions), worked.target_mask.sum(1).tolist(), strict=True))
    assert lengths["depth_order"] == full["depth_order"]
    assert lengths["flipped_patch"] <= full["flipped_patch"]


def test_answers_are_learned(tmp_path: Path) -> None:
    log = StepLog()
    module = SFTModule(tiny_policy(), optimizer=lambda p: torch.optim.AdamW(p, lr=3e-3))
    tiny_trainer(tmp_path, 40, [log]).fit(module, tiny_data())
    losses = [step["train/loss"] for step in log.metrics]
    assert losses[-1] < 0.3 * losses[0]
    assert all(part.training for part in module.policy.modules())


def test_micro_batches_change_nothing_and_only_adapters_move(
    tmp_path: Path, tiny_qwen_folder: Path
) -> None:
    def adapters(size: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
        module = SFTModule(
            policy,
            optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
            update=UpdateSettings(micro_batch_size=size),
        )
        module.configure_model()
        before = {name: value.clone() for name, value in policy.named_parameters()}
        tiny_trainer(tmp_path, 2).fit(module, tiny_data())
        return before, dict(policy.named_parameters())

    before, whole = adapters(4)
    _, parts = adapters(1)
    moved = {name for name, value in whole.items() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    assert all(torch.allclose(whole[name], parts[name], atol=1e-5) for name in whole)


def test_a_batch_without_answers_says_what_to_do() -> None:
    module = SFTModule(tiny_policy())
    batch = module.policy.collator()(next(iter(tiny_data().train_dataloader())))
    with pytest.raises(ValueError, match=r"no targets; collate it with SFTModule.collator"):
        module.training_step(batch, 0)


def test_strategies_that_shard_weights_are_refused_before_weights_are_loaded(
    tmp_path: Path,
) -> None:
    module, trainer = SFTModule(tiny_policy()), tiny_trainer(tmp_path, 1)
    trainer.strategy.__class__ = FSDPStrategy  # One cannot be made without an accelerator.
    module.trainer = trainer
    with pytest.raises(ConfigError, match=r'strategy is FSDPStrategy, which .*; use "ddp"'):
        module.setup("fit")
    assert not list(module.policy.parameters())
