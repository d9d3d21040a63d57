"""The self-check against faults put in on purpose, and against models without any."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.errors import SelfCheckFailed
from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies import (
    HFVisionLanguagePolicy,
    LoraSettings,
    PolicyBackbone,
    SamplingSettings,
    families,
)
from spatial_ssrl.policies.base import Collator, ReadState
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.training import PolicyModule, SFTModule, UpdateSettings, self_check
from spatial_ssrl.training.probe import varied
from support.tiny_models import random_question, write_tiny
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer


def adam(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-3)


def fitted(folder: Path, module: PolicyModule, steps: int = 3, **trainer: Any) -> PolicyModule:
    tiny_trainer(folder, steps, **trainer).fit(module, tiny_data())
    return module


def checked(folder: Path, policy: HFVisionLanguagePolicy, **settings: Any) -> PolicyModule:
    return fitted(folder, tiny_rl(policy, optimizer=adam, **settings))


def adapted(folder: Path, cls: type = HFVisionLanguagePolicy, **settings: Any) -> Any:
    """Return a policy whose adapters have an effect, as after a cold start."""
    torch.manual_seed(0)
    everywhere = LoraSettings(rank=2, target_modules="all-linear")
    policy = cls(str(folder), lora=everywhere, **settings)
    policy.load()
    with torch.no_grad():
        for name, parameter in policy.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy


# Without a fault.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "family", ["qwen3_vl", "gemma3", "internvl", "idefics3", "llava_onevision"]
)
def test_sound_models_pass(
    tmp_path: Path, family: str, dtype: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = adapted(write_tiny(tmp_path / family, family), dtype=dtype)
    with caplog.at_level("INFO"):
        checked(tmp_path, policy, sampling=SamplingSettings(max_new_tokens=6, top_p=0.9))
    assert policy.shares_prompts
    (report,) = (text for text in caplog.messages if text.startswith("Training "))
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert report.startswith(f"Training {trained:,} of {sum_of_weights(policy):,} weights (")
    assert "vision tower" in report
    assert any(text.startswith("Self-check: ") for text in caplog.messages)
    assert not any("repeated forwards" in text for text in caplog.messages)


def sum_of_weights(policy: nn.Module) -> int:
    return sum(parameter.numel() for parameter in policy.parameters())


@pytest.mark.parametrize("lora", [None, LoraSettings(rank=2)])
def test_a_cold_start_passes_from_the_first_step(
    tmp_path: Path, lora: LoraSettings | None, caplog: pytest.LogCaptureFixture
) -> None:
    policy = tiny_policy(lora=lora)
    with caplog.at_level("INFO"):
        fitted(tmp_path, SFTModule(policy, optimizer=adam))
    count = len([p for p in policy.parameters() if p.requires_grad])
    assert f"Self-check: {count} of {count} trained tensors had a gradient." in caplog.messages


@dataclass
class Trace:
    weights: dict[str, Tensor]
    steps: list[Any]
    metrics: list[dict[str, float]]
    torch_state: Tensor
    numpy_state: int
    python_state: float
    modes: list[bool]
    tokens: object


# All weights: batch statistics would move. With dropout: its random numbers would.
@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        ("rl", LoraSettings(rank=2, dropout=0.3)),
        ("sft", LoraSettings(rank=2, dropout=0.3)),
        ("sft", None),
    ],
)
def test_nothing_else_depends_on_it(tmp_path: Path, kind: str, lora: LoraSettings | None) -> None:
    def run(check: bool) -> Trace:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        policy = tiny_policy(lora=lora)
        update, log = UpdateSettings(self_check=check), StepLog()
        module: PolicyModule = SFTModule(policy, optimizer=adam, update=update)
        if kind == "rl":
            module = tiny_rl(policy, optimizer=adam, update=update)
        tiny_trainer(tmp_path, 3, [log]).fit(module, tiny_data())
        timed = ("seconds", "per_s", "memory")
        return Trace(
            {name: value.clone() for name, value in policy.state_dict().items()},
            log.steps,
            [{k: v for k, v in m.items() if not any(t in k for t in timed)} for m in log.metrics],
            torch.get_rng_state(),
            int(np.random.randint(2**31)),
            random.random(),
            [module.training for module in policy.modules()],
            policy.tokens,
        )

    found, wanted = run(True), run(False)
    for name, value in wanted.weights.items():
        assert torch.equal(found.weights.pop(name), value), name
    assert not found.weights
    assert torch.equal(found.torch_state, wanted.torch_state)
    for field in ("steps", "metrics", "numpy_state", "python_state", "modes", "tokens"):
        assert getattr(found, field) == getattr(wanted, field), field


def never(*_: object) -> None:
    raise AssertionError


def test_false_skips_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_check, "check_scoring", never)
    module = tiny_rl(update=UpdateSettings(self_check=False))
    trainer = tiny_trainer(tmp_path, 1)
    trainer.fit(module, tiny_data())
    assert not any(isinstance(c, self_check.SelfCheck) for c in trainer.callbacks)


# Scoring and sampling.


@contextmanager
def text_positions() -> Iterator[None]:
    """Count pictures along one axis, as if they were text: what multi-axis models must not do."""

    def plain(inner: nn.Module, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
        mask = prompts.attention_mask
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
        return positions[None].expand(3, -1, -1), mask.long().sum(-1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(families, "prompt_positions", plain)
        yield


class WrongWhenShared(HFVisionLanguagePolicy):
    """Scores with wrong positions when completions share their prompt."""

    def logprobs(
        self,
        prompts: PromptBatch,
        rollouts: Rollouts,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
    ) -> Tensor:
        if not self.shares_prompts:
            return super().logprobs(prompts, rollouts, sampling)
        with text_positions():
            return super().logprobs(prompts, rollouts, sampling)


class WrongWhenSampling(HFVisionLanguagePolicy):
    """Reads prompts with wrong positions."""

    def read(self, prompts: PromptBatch) -> ReadState:
        with text_positions():
            return super().read(prompts)


class WrongEverywhere(HFVisionLanguagePolicy):
    """Scores wrongly whether prompts are shared or not."""

    def logprobs(
        self,
        prompts: PromptBatch,
        rollouts: Rollouts,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
    ) -> Tensor:
        return super().logprobs(prompts, rollouts, sampling) * 1.01


class Unmasked(HFVisionLanguagePolicy):
    """Takes left padding for text."""

    def select(self, prompts: PromptBatch, rows: Sequence[int]) -> PromptBatch:
        chosen = super().select(prompts, rows)
        return replace(chosen, attention_mask=torch.ones_like(chosen.attention_mask))


class Stale(InProcess):
    """Samples from the base model, as an engine that was not sent the adapter."""

    def sample(
        self,
        policy: PolicyBackbone,
        prompts: PromptBatch,
        group_size: int,
        sampling: SamplingSettings,
        seed: int,
    ) -> Rollouts:
        kept = {n: p.detach().clone() for n, p in policy.named_parameters() if "lora_B" in n}
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if name in kept:
                    parameter.zero_()
            rollouts = super().sample(policy, prompts, group_size, sampling, seed)
            for name, parameter in policy.named_parameters():
                if name in kept:
                    parameter.copy_(kept[name])
        return rollouts


class Unlimited(InProcess):
    """Samples from all tokens, whatever the settings say."""

    def sample(
        self,
        policy: PolicyBackbone,
        prompts: PromptBatch,
        group_size: int,
        sampling: SamplingSettings,
        seed: int,
    ) -> Rollouts:
        free = replace(sampling, top_k=0)
        return super().sample(policy, prompts, group_size, free, seed)


def test_a_model_that_sharing_fails_is_scored_by_repeated_forwards(
    tmp_path: Path,
    tiny_qwen_folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = adapted(tiny_qwen_folder, WrongWhenShared)
    saver = ModelCheckpoint(tmp_path, filename="end", save_top_k=-1, every_n_train_steps=3)
    module = tiny_rl(policy, optimizer=adam)
    with caplog.at_level("INFO"):
        tiny_trainer(tmp_path, 3, [saver], enable_checkpointing=True).fit(module, tiny_data())
    assert not policy.shares_prompts
    (line,) = (text for text in caplog.messages if "repeated forwards" in text)
    assert "by up to" in line
    assert "1 picture, " in line or "2 pictures, " in line
    assert "0.0001 (mean 0.0001) are allowed in float32" in line
    # A resumed run is not checked again, and yet knows.
    monkeypatch.setattr(self_check, "check_scoring", never)
    again = adapted(tiny_qwen_folder, WrongWhenShared)
    resumed = tiny_rl(again, optimizer=adam)
    tiny_trainer(tmp_path, 4).fit(resumed, tiny_data(), ckpt_path=tmp_path / "end.ckpt")
    assert not again.shares_prompts


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (Unmasked, r"depend on the size of the batch or on its left padding: by up to .* nats"),
        (WrongEverywhere, r"differ from those of a plain forward.*must be mended"),
        (WrongWhenSampling, r"kept while sampling differ.*on question .* prompt tokens\)"),
    ],
)
def test_a_policy_at_odds_with_itself_stops_the_run(
    tmp_path: Path, tiny_qwen_folder: Path, cls: type, message: str
) -> None:
    with pytest.raises(SelfCheckFailed, match=rf"(?s){message}.*self_check: false skips"):
        checked(tmp_path, adapted(tiny_qwen_folder, cls))


@pytest.mark.parametrize("engine", [Stale, Unlimited])
def test_an_engine_at_odds_with_the_policy_stops_the_run(
    tmp_path: Path, tiny_qwen_folder: Path, engine: type
) -> None:
    sampling = SamplingSettings(max_new_tokens=6, top_k=20)
    with pytest.raises(SelfCheckFailed, match=r"kept while sampling differ .* current adapter"):
        checked(tmp_path, adapted(tiny_qwen_folder), rollout=engine(), sampling=sampling)


def test_all_processes_stop_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As this process would learn what the other one found.
    heard: list[list[str | None]] = [[None, None], [None, "its engine is stale"]]
    monkeypatch.setattr(self_check, "gather", lambda mine, doing: heard.pop(0))
    saver = ModelCheckpoint(tmp_path, save_on_exception=True)
    trainer = tiny_trainer(tmp_path, 1, [saver], enable_checkpointing=True)
    with pytest.raises(SelfCheckFailed, match="its engine is stale"):
        trainer.fit(tiny_rl(), tiny_data())
    assert not list(tmp_path.glob("*.ckpt"))


def test_all_processes_score_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[list[str | None]] = [[None, "by 2 nats."]]
    monkeypatch.setattr(self_check, "gather", lambda mine, _: heard.pop() if heard else [mine])
    module = tiny_rl()
    with caplog.at_level("INFO"):
        fitted(tmp_path, module, 1)
    assert not module.policy.shares_prompts
    assert any("by 2 nats. It is scored by repeated forwards" in line for line in caplog.messages)


# Pictures.


class Sampler(InProcess):
    """Puts a given token into the second completion."""

    def __init__(self, token: int) -> None:
        super().__init__()
        self.token = token

    def sample(self, policy: PolicyBackbone, *rest: Any, **named: Any) -> Rollouts:
        rollouts = super().sample(policy, *rest, **named)
        rollouts.tokens[1, 0] = self.token
        return rollouts


def test_a_sampled_placeholder_stops_the_run(tmp_path: Path, tiny_qwen_folder: Path) -> None:
    policy = adapted(tiny_qwen_folder)
    token = int(policy.tokenizer.convert_tokens_to_ids("<|image_pad|>"))
    message = rf"Completion 1 of question .* holds media placeholder {token} as token 0"
    with pytest.raises(SelfCheckFailed, match=message):
        checked(tmp_path, policy, rollout=Sampler(token))


@dataclass
class Cut:
    """A collator that loses some image tokens of the first prompt."""

    collate: Collator
    token: int
    lost: int

    def __call__(self, questions: Sequence[Question]) -> PromptBatch:
        batch = self.collate(questions)
        places = (batch.input_ids[0] == self.token).nonzero().flatten()[: self.lost]
        batch.input_ids[0, places] = 20
        return batch


@pytest.mark.parametrize(
    ("lost", "message"),
    [
        (1, r"The model cannot read question .*: .*tokens.* from the same checkpoint"),
        (10**6, r"prompt of question .* has 0 media placeholders; the processor must put some"),
    ],
)
def test_placeholders_that_do_not_match_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int, message: str
) -> None:
    policy = adapted(write_tiny(tmp_path / "llava", "llava"))
    token = int(policy.tokenizer.convert_tokens_to_ids("<image>"))
    collate = Cut(policy.collator(), token, lost)
    monkeypatch.setattr(policy, "collator", lambda: collate)
    with pytest.raises(SelfCheckFailed, match=message):
        checked(tmp_path, policy)


def test_an_answer_that_spells_a_placeholder_stops_a_cold_start(
    tmp_path: Path, tiny_qwen_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = adapted(tiny_qwen_folder)
    collate = policy.collator(lambda question: "see <|image_pad|>")
    monkeypatch.setattr(policy, "collator", lambda answer_of: collate)
    with pytest.raises(SelfCheckFailed, match="given answers must not spell one"):
        fitted(tmp_path, SFTModule(policy, optimizer=adam))


# Gradients.


class DeafHead(HFVisionLanguagePolicy):
    """Cuts the gradient of the vocabulary head off."""

    def logits(self, hidden: Tensor) -> Tensor:
        head = self.network.get_output_embeddings()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(head._parameters, "weight", head.weight.detach())
            return super().logits(hidden)


def test_a_frozen_head_stops_the_run(tmp_path: Path, tiny_qwen_folder: Path) -> None:
    policy = DeafHead(str(tiny_qwen_folder))
    message = r"1 of \d+ trained tensors had no gradient in the first 2 steps.* on lm_head.weight\."
    with pytest.raises(SelfCheckFailed, match=message):
        fitted(tmp_path, SFTModule(policy, optimizer=adam))


def test_an_adapter_without_gradient_stops_the_run(tmp_path: Path, tiny_qwen_folder: Path) -> None:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
    policy.load()
    for name, module in policy.named_modules():
        if name.endswith("layers.1.mlp.up_proj.lora_B.default"):
            module.register_forward_hook(lambda module, given, output: output.detach())
    wanted = r"depend on model\.language_model\.layers\.1\.mlp\.up_proj\.lora_B\.default\.weight\."
    with pytest.raises(SelfCheckFailed, match=wanted):
        fitted(tmp_path, SFTModule(policy, optimizer=adam))


def test_parts_that_questions_do_not_use_are_named(
    tmp_path: Path, tiny_qwen_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
    policy.load()
    inner = policy.network.base_model
    inner.spare = nn.Linear(3, 3)  # type: ignore[assignment]
    with caplog.at_level("INFO"):
        fitted(tmp_path, SFTModule(policy, optimizer=adam))
    (line,) = (text for text in caplog.messages if "do not use" in text)
    assert line.endswith("do not use model.spare.weight, model.spare.bias.")


# What it is tried on.


def batch_of(*pictures: int) -> PromptBatch:
    questions = [random_question(count, seed=row) for row, count in enumerate(pictures)]
    policy = tiny_policy()
    return policy.collator()(questions)


def test_questions_unlike_in_pictures_are_chosen() -> None:
    counts = [len(q.images) for q in varied(batch_of(2, 1, 2, 3, 4))]
    assert counts == [1, 2, 3]


@pytest.mark.parametrize(("pictures", "counts"), [((2, 2), [2, 1]), ((1,), [1, 2]), ((0,), [0, 0])])
def test_alike_questions_get_a_companion(pictures: tuple[int, ...], counts: list[int]) -> None:
    first, second = varied(batch_of(*pictures))
    assert [len(first.images), len(second.images)] == counts
    assert second.prompt.count("<image>") == counts[1]
    assert first.prompt != second.prompt
