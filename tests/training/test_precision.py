"""Half precision: scaled losses against unscaled ones, skipped steps, float32 adapters."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.plugins import HalfPrecision, MixedPrecision
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError, SpatialSSRLError
from spatial_ssrl.core.questions import Question, Verdict
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings
from spatial_ssrl.training import PolicyModule, ScheduleSettings, SFTModule, UpdateSettings
from spatial_ssrl.verifiers import Verifier
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer


class Constant(Verifier):
    """Leaves every group without signal."""

    def score(self, text: str, question: Question) -> Verdict:
        return Verdict(reward=0.1, parts={"accuracy": 0.0})


def float16(scale: float = 2.0**10, **settings: Any) -> MixedPrecision:
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, **settings)
    return MixedPrecision("16-mixed", "cpu", scaler)


def sgd(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.5)


def fitted(
    folder: Path, plugin: Any = None, steps: int = 1, log: StepLog | None = None, **settings: Any
) -> SFTModule:
    module = SFTModule(tiny_policy(), **({"optimizer": sgd} | settings))
    plugins = {} if plugin is None else {"plugins": [plugin]}
    tiny_trainer(folder, steps, [log or StepLog()], **plugins).fit(module, tiny_data())
    return module


def weights_of(module: PolicyModule) -> Tensor:
    return torch.cat([p.detach().float().flatten() for p in module.trainable_parameters()])


def distance(update: Tensor, other: Tensor) -> float:
    return float((update - other).norm() / other.norm())


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    return weights_of(fitted(tmp_path_factory.mktemp("start"), steps=0))


@pytest.mark.parametrize("clip_norm", [0.1, math.inf])
@pytest.mark.parametrize("micro_batch_size", [4, 3])
def test_a_scaled_step_is_the_unscaled_step(
    tmp_path: Path, start: Tensor, clip_norm: float, micro_batch_size: int
) -> None:
    update = UpdateSettings(micro_batch_size=micro_batch_size, clip_norm=clip_norm)
    logs = StepLog(), StepLog()
    unscaled = MixedPrecision("16-mixed", "cpu")
    unscaled.scaler = None
    whole = weights_of(fitted(tmp_path, update=update)) - start
    plain = weights_of(fitted(tmp_path, unscaled, log=logs[0], update=update)) - start
    scaled = weights_of(fitted(tmp_path, float16(), log=logs[1], update=update)) - start
    assert distance(scaled, plain) < 0.01
    assert 1e-4 < distance(scaled, whole) < 0.1  # batch statistics enlarge the rounding
    if math.isfinite(clip_norm):
        assert float(scaled.norm()) == pytest.approx(0.5 * clip_norm, rel=1e-3)
    norms = [log.metrics[0]["train/grad_norm"] for log in logs]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert norms[0] > 0.2, "clipping must have something to do"
    assert logs[1].metrics[0]["train/loss_scale"] == 2**10
    assert logs[1].metrics[0]["train/overflow"] == 0


def test_an_overflow_skips_the_step_and_holds_the_schedule(
    tmp_path: Path, start: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    log, steps = StepLog(), []

    def optimizer(params: list[Tensor]) -> torch.optim.Optimizer:
        made = torch.optim.AdamW(params, lr=1e-3)
        made.register_step_post_hook(lambda *_: steps.append(1))
        return made

    settings = {"optimizer": optimizer, "schedule": ScheduleSettings(warmup_steps=9)}
    huge = float16(2.0**40, backoff_factor=2.0**-30)
    with caplog.at_level(logging.INFO):
        one = fitted(tmp_path, float16(2.0**40, backoff_factor=2.0**-30), **settings)
        assert torch.equal(weights_of(one), start)
        assert not steps
        fitted(tmp_path, huge, 3, log, **settings)
    assert [step for step, _ in log.steps] == [1, 2, 3]
    assert [step["train/overflow"] for step in log.metrics] == [1, 0, 0]
    assert [step["train/loss_scale"] for step in log.metrics] == [2.0**40, 2.0**10, 2.0**10]
    # Ten steps to the peak: the skipped one does not count.
    rates = [step["train/lr"] for step in log.metrics]
    assert rates == pytest.approx([1e-4, 1e-4, 2e-4])
    assert len(steps) == 2
    assert "Step 0 changed no weight" in caplog.text
    assert "grad_norm" not in " ".join(log.metrics[0])


def test_gradients_that_are_never_finite_stop_the_run(tmp_path: Path) -> None:
    def spoilt(params: list[dict[str, Any]]) -> torch.optim.Optimizer:
        for parameter in params[0]["params"]:
            parameter.register_hook(lambda gradient: gradient * math.nan)
        return sgd(params)

    plugin = float16(2.0**16, backoff_factor=2.0**-10)
    with pytest.raises(SpatialSSRLError, match=r"not finite at step 2 .*Lower the learning rate"):
        fitted(tmp_path, plugin, 5, optimizer=spoilt)


def test_a_step_without_gradient_is_counted_under_a_scaler(tmp_path: Path) -> None:
    log, module = StepLog(), tiny_rl(verifier=Constant(), optimizer=sgd)
    before = weights_of(tiny_rl_started())
    tiny_trainer(tmp_path, 2, [log], plugins=[float16()]).fit(module, tiny_data())
    assert [step for step, _ in log.steps] == [1, 2]
    assert torch.equal(weights_of(module), before)
    assert [step["train/overflow"] for step in log.metrics] == [0, 0]


def tiny_rl_started() -> PolicyModule:
    module = tiny_rl()
    module.configure_model()
    return module


def test_bfloat16_products_give_nearly_the_same_step(tmp_path: Path, start: Tensor) -> None:
    plain = weights_of(fitted(tmp_path)) - start
    module = fitted(tmp_path, MixedPrecision("bf16-mixed", "cpu"))
    rounded = weights_of(module) - start
    assert 1e-4 < distance(rounded, plain) < 0.3
    assert {p.dtype for p in module.trainable_parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_adapters_learn_in_float32_over_half_precision_weights(
    tmp_path: Path, tiny_qwen_folder: Path, dtype: str
) -> None:
    def adapters(dtype: str) -> tuple[HFVisionLanguagePolicy, Tensor]:
        torch.manual_seed(0)
        policy = HFVisionLanguagePolicy(
            str(tiny_qwen_folder), lora=LoraSettings(rank=2), dtype=dtype
        )
        module = SFTModule(policy, optimizer=sgd)
        module.configure_model()
        before = weights_of(module)
        tiny_trainer(tmp_path, 1).fit(module, tiny_data())
        return policy, weights_of(module) - before

    policy, rounded = adapters(dtype)
    _, exact = adapters("float32")
    assert distance(rounded, exact) < 0.1
    for name, parameter in policy.model.named_parameters():
        wanted = torch.float32 if "lora_" in name else getattr(torch, dtype)
        assert parameter.dtype == wanted, name


def fused(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=1e-3, fused=True)


@pytest.mark.parametrize(
    ("plugin", "settings", "message"),
    [
        (lambda: HalfPrecision("bf16-true"), {}, r'"bf16-true".*policy.dtype to bfloat16'),
        (lambda: HalfPrecision("16-true"), {}, r'"16-true".*policy.dtype to float16'),
        (float16, {"optimizer": fused}, r'"16-mixed", but the optimiser is fused.*to false'),
    ],
)
def test_precisions_that_go_wrong_are_refused(
    tmp_path: Path, plugin: Callable[[], Any], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        fitted(tmp_path, plugin(), **settings)


def test_float16_weights_cannot_be_unscaled(tmp_path: Path, tiny_qwen_folder: Path) -> None:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), dtype="float16")
    trainer = tiny_trainer(tmp_path, 1, plugins=[float16()])
    with pytest.raises(ConfigError, match=r"weights in training are float16.*policy.dtype"):
        trainer.fit(SFTModule(policy, optimizer=sgd), tiny_data())


def test_an_optimiser_that_ignores_the_closure_is_refused(tmp_path: Path) -> None:
    class Deaf(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            super().step()

    with pytest.raises(TypeError, match=r"Deaf.step\(\) does not call the closure"):
        fitted(tmp_path, optimizer=lambda params: Deaf(params, lr=0.1))


@pytest.mark.parametrize("make", [tiny_rl, lambda policy: SFTModule(policy)], ids=["rl", "sft"])
def test_the_gpu_of_a_mac_is_refused_before_weights_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Any], PolicyModule]
) -> None:
    trainer, policy = tiny_trainer(tmp_path, 1), tiny_policy()
    monkeypatch.setattr(type(trainer.strategy), "root_device", torch.device("mps"))
    monkeypatch.setattr(trainer.accelerator, "setup_device", lambda device: None)
    monkeypatch.setattr(policy, "load", lambda: pytest.fail("weights were loaded"))
    with pytest.raises(ConfigError, match=r"on MPS, .*no float64.*; set trainer.accelerator: cpu"):
        trainer.fit(make(policy), tiny_data())
