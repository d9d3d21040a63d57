"""A checkpoint is told from one of another base, and the settings that differ are named."""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD

from spatial_ssrl.algorithms import GRPO, RLOO
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import LoraSettings, QuantSettings, SamplingSettings
from spatial_ssrl.policies.tiny import TinyVLM
from spatial_ssrl.tasks import DepthOrder, FlippedPatch
from spatial_ssrl.training import PolicyModule, SFTModule, UpdateSettings
from spatial_ssrl.training.fingerprint import check_fingerprint, fingerprint_of
from spatial_ssrl.verifiers import BoxedAnswer, ThinkThenBoxed, WeightedSum
from support.tiny_training import StepLog, tiny_data, tiny_policy, tiny_rl, tiny_trainer

LORA = LoraSettings(rank=2)


def write_base(folder: Path, seed: int) -> Path:
    """Save a whole TinyVLM; equal shapes for all seeds."""
    policy = tiny_policy(seed=seed)
    policy.load()
    policy.save(folder)
    return folder


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases")
    write_base(folder / "one", 0)
    write_base(folder / "other", 1)
    shutil.copytree(folder / "one", folder / "moved")
    return folder


def fitted(folder: Path, steps: int, policy: TinyVLM, resume: bool = False) -> StepLog:
    torch.manual_seed(0)
    log = StepLog()
    saver = ModelCheckpoint(folder, every_n_train_steps=1, save_last=True, save_top_k=0)
    trainer = tiny_trainer(folder, steps, [log, saver], enable_checkpointing=True)
    module = tiny_rl(policy, optimizer=lambda params: SGD(params, lr=0.1))
    checkpoint = folder / "last.ckpt" if resume else None
    trainer.fit(module, tiny_data(), ckpt_path=checkpoint, weights_only=True)
    return log


def ready(module: PolicyModule, data: Any = None, **trainer: Any) -> PolicyModule:
    """Return a module as a Trainer has it before the first step."""
    module.trainer = tiny_trainer(Path(), 1, **trainer)
    module.trainer.datamodule = data or tiny_data()  # type: ignore[attr-defined]
    module.policy.load()
    return module


def said(before: PolicyModule, now: PolicyModule, fitting: bool = True) -> list[str]:
    """Return the warnings on going from one to the other."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_fingerprint(fingerprint_of(before), now, fitting)
    return [str(warning.message) for warning in caught]


def test_another_base_of_the_same_shapes_is_refused(tmp_path: Path, bases: Path) -> None:
    one, other = bases / "one", bases / "other"
    fitted(tmp_path, 1, tiny_policy(model=one, lora=LORA))
    message = rf"trained on '{one}', but policy.model is '{other}', .* resume with the model it was"
    with pytest.raises(ConfigError, match=message):
        fitted(tmp_path, 2, tiny_policy(model=other, lora=LORA), resume=True)


def test_the_same_base_elsewhere_goes_on_without_a_word(tmp_path: Path, bases: Path) -> None:
    fitted(tmp_path, 1, tiny_policy(model=bases / "one", lora=LORA))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log = fitted(tmp_path, 2, tiny_policy(model=bases / "moved", lora=LORA), resume=True)
    assert [step for step, _ in log.steps] == [2]
    assert not [str(w.message) for w in caught if "checkpoint" in str(w.message)]


def test_a_checkpoint_of_an_older_release_goes_on(tmp_path: Path, bases: Path) -> None:
    fitted(tmp_path, 1, tiny_policy(model=bases / "one", lora=LORA))
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    del checkpoint["fingerprint"]
    torch.save(checkpoint, tmp_path / "last.ckpt")
    log = fitted(tmp_path, 2, tiny_policy(model=bases / "other", lora=LORA), resume=True)
    assert [step for step, _ in log.steps] == [2]


def test_a_base_is_told_again_in_another_precision_but_not_when_it_was_tuned() -> None:
    before, now = (ready(tiny_rl(tiny_policy(lora=LORA))) for _ in range(2))
    frozen = [p for p in now.policy.parameters() if not p.requires_grad]
    for parameter in frozen:
        parameter.data = parameter.data.bfloat16()
    assert said(before, now) == []
    for parameter in frozen:
        parameter.data = parameter.data.float()  # Rounded: no longer what it was.
    with pytest.raises(ConfigError, match="whose weights are others"):
        said(before, now)


def test_adapters_and_their_progress_are_not_the_base() -> None:
    before, now = (ready(tiny_rl(tiny_policy(lora=LORA))) for _ in range(2))
    for parameter in now.trainable_parameters():
        parameter.data += 1
    assert said(before, now) == []


def test_weights_in_four_bits_are_told_apart(bases: Path) -> None:
    pytest.importorskip("bitsandbytes")

    def module(seed: int, quantization: QuantSettings | None) -> PolicyModule:
        policy = TinyVLM(
            image_size=32,
            hidden_size=64,
            layers=2,
            heads=2,
            lora=LORA,
            quantization=quantization,
            seed=seed,
        )
        return ready(tiny_rl(policy))

    packed = module(0, QuantSettings())
    kept = fingerprint_of(packed)["weights"]
    assert any(numbers.dtype == torch.uint8 for numbers in kept.values())
    assert said(packed, module(0, QuantSettings())) == []
    # What differs in rounding on another device is a few numbers.
    for parameter in packed.policy.parameters():
        if parameter.dtype == torch.uint8:
            parameter.data[0] ^= 1
    assert said(packed, module(0, QuantSettings())) == []
    with pytest.raises(ConfigError, match="whose weights are others"):
        said(packed, module(1, QuantSettings()))
    (warning,) = said(packed, module(0, None))
    assert "policy.quantization was QuantSettings and is None" in warning
    with pytest.raises(ConfigError, match="whose weights are others"):
        said(packed, module(1, None))


def test_a_model_that_is_trained_as_a_whole_is_in_the_checkpoint(bases: Path) -> None:
    before = ready(tiny_rl(tiny_policy(model=bases / "one")))
    now = ready(tiny_rl(tiny_policy(model=bases / "other")))
    (warning,) = said(before, now)
    assert f"policy.model was '{bases / 'one'}' and is '{bases / 'other'}'" in warning
    assert said(before, before) == []


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_base_that_computes_or_spells_otherwise_is_told_apart(
    lora: LoraSettings | None, bases: Path, tmp_path: Path
) -> None:
    """Same shapes, same weights, same name: only its small files differ."""
    base = shutil.copytree(bases / "one", tmp_path / "base")
    before = fingerprint_of(ready(tiny_rl(tiny_policy(model=base, lora=lora))))

    def changed(file: str, old: str, new: str) -> list[str]:
        text = (base / file).read_text()
        assert old in text
        (base / file).write_text(text.replace(old, new))
        now = ready(tiny_rl(tiny_policy(model=base, lora=lora)))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_fingerprint(before, now, fitting=True)
        (base / file).write_text(text)
        return [str(warning.message) for warning in caught]

    assert changed("config.json", "1e-06", "1e-06") == []
    (warning,) = changed("config.json", "1e-06", "1e-03")
    assert re.search(r"policy\.model\.config\.\S+eps was 1e-06 and is 0.001", warning)
    (warning,) = changed("tokenizer.json", '"content": "<image>"', '"content": "<photo>"')
    assert "policy.model.tokenizer was " in warning


def test_the_reference_of_a_model_that_is_trained_as_a_whole_is_not_of_the_base(
    tmp_path: Path, bases: Path
) -> None:
    """Resumed on another base, a run ends with the same weights and the same reference."""
    straight = tiny_policy(model=bases / "one")
    fitted(tmp_path / "straight", 3, straight)
    fitted(tmp_path / "resumed", 1, tiny_policy(model=bases / "one"))
    resumed = tiny_policy(model=bases / "other")
    with pytest.warns(UserWarning, match="policy.model was"):
        fitted(tmp_path / "resumed", 3, resumed, resume=True)
    expected, found = straight.trainable_state(), resumed.trainable_state()
    assert any(name.startswith("reference::") for name in expected)
    assert found.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in found.items())


def weighed(*weights: float) -> WeightedSum:
    return WeightedSum([BoxedAnswer(), ThinkThenBoxed()], list(weights))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"group_size": 3}, "model.group_size was 4 and is 3"),
        ({"seed": 7}, "model.seed was 0 and is 7"),
        (
            {"sampling": SamplingSettings(max_new_tokens=6, temperature=0.7)},
            "model.sampling.temperature was 1.0 and is 0.7",
        ),
        ({"algorithm": RLOO()}, "model.algorithm was GRPO and is RLOO"),
        (
            {"algorithm": GRPO(kl_coefficient=0.5)},
            "model.algorithm.kl_coefficient was 0.01 and is 0.5",
        ),
        (
            {"verifier": weighed(0.5, 0.5)},
            "model.verifier.weights was [0.9, 0.1] and is [0.5, 0.5]",
        ),
        ({"update": UpdateSettings(inner_epochs=2)}, "model.update.inner_epochs was 1 and is 2"),
    ],
)
def test_settings_that_change_a_run_are_named(settings: dict[str, Any], words: str) -> None:
    policy = tiny_policy()
    before = ready(tiny_rl(policy, verifier=weighed(0.9, 0.1)))
    now = ready(tiny_rl(policy, **({"verifier": weighed(0.9, 0.1)} | settings)))
    (warning,) = said(before, now)
    assert f"of the checkpoint: {words}. Set them back" in warning
    assert said(before, now, fitting=False) == []


def test_all_that_differs_is_one_warning_and_what_only_saves_memory_is_none() -> None:
    policy = tiny_policy()
    other = UpdateSettings(micro_batch_size=2, micro_batch_tokens=99, self_check=False)
    assert said(ready(tiny_rl(policy)), ready(tiny_rl(policy, update=other))) == []
    data = tiny_data(batch_size=2, seed=3)
    data.tasks = [FlippedPatch(wording="terse"), DepthOrder(wording="varied")]
    now = ready(tiny_rl(policy), data, precision="bf16-mixed")
    (warning,) = said(ready(tiny_rl(policy)), now)
    for words in (
        "trainer.precision was 32-true and is bf16-mixed; ",
        "data.tasks[1].wording was 'terse' and is 'varied'; ",
        "data.batch_size was 4 and is 2; ",
        "data.seed was 0 and is 3.",
    ):
        assert words in warning
    data.tasks = data.tasks[:1]
    (warning,) = said(ready(tiny_rl(policy), tiny_data(batch_size=2, seed=3)), now)
    assert "data.tasks was [FlippedPatch, DepthOrder] and is [FlippedPatch]." in warning


def test_the_number_of_processes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    before, now = ready(tiny_rl(policy)), ready(tiny_rl(policy))
    monkeypatch.setattr(Trainer, "world_size", 2)
    kept = fingerprint_of(now)
    monkeypatch.undo()
    with pytest.warns(UserWarning, match="trainer.devices was 2 in all and is 1 in all"):
        check_fingerprint(kept, before, fitting=True)


def test_the_cold_start_may_be_otherwise_than_rl() -> None:
    policy = tiny_policy(lora=LORA)
    start = ready(SFTModule(policy, seed=5))
    assert said(start, ready(tiny_rl(policy))) == []
    with pytest.raises(ConfigError, match="whose weights are others"):
        said(start, ready(tiny_rl(tiny_policy(lora=LORA, seed=1))))


def test_other_versions_are_only_mentioned(caplog: pytest.LogCaptureFixture) -> None:
    module = ready(tiny_rl())
    before = fingerprint_of(module)
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        check_fingerprint(before, module, fitting=True)
        assert "versions" not in caplog.text
        before["versions"] |= {"torch": "1.0"}
        check_fingerprint(before, module, fitting=True)
    assert f"torch was 1.0 and is {version('torch')}" in caplog.text
