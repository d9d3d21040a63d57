"""Predicted against measured peaks, and models with few layers against whole ones."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spatial_ssrl.algorithms import GRPO, GSPO, Algorithm
from spatial_ssrl.planning import GhostSource, Predictor, Step, prediction, rehearsal
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.planning.rehearsal import Rehearsal
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings
from spatial_ssrl.training import RLModule
from spatial_ssrl.training.parts import Part
from spatial_ssrl.training.updates import score_in_micro_batches
from support.tiny_models import random_question, tiny_model, tiny_processor, write_tiny

# What the benchmark does: its oracle is the allocator, which knows nothing of the planner.
sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
import small_qwen
from compared_memory import ADAPTATIONS, predicted_and_measured


@pytest.mark.parametrize(
    ("family", "adaptation"),
    [
        pytest.param("qwen2_5_vl", "qlora", marks=pytest.mark.slow),
        ("idefics3", "lora"),
        ("llava", "full"),
    ],
)
def test_predictions_are_within_15_per_cent_of_measured_peaks(
    family: str, adaptation: str, tmp_path: Path
) -> None:
    folder, step = tmp_path / "model", Step(2, 4, 48, 1)
    if adaptation == "qlora":  # Needs layers that are multiples of 64 wide.
        small_qwen.write(folder)
        (question,) = small_qwen.questions(1, images=1)
    else:
        write_tiny(folder, family)
        question = random_question(3)
    predicted, measured = predicted_and_measured(
        folder, ADAPTATIONS[adaptation], step, [question] * 2, tmp_path
    )
    assert predicted.sampling is not None
    assert predicted.update.total == pytest.approx(measured["update"], rel=0.15)
    assert predicted.sampling.total == pytest.approx(measured["sampling"], rel=0.15)


def test_pictures_of_a_batch_are_counted_once(tmp_path: Path) -> None:
    """They are most of what this small a model needs."""
    folder = write_tiny(tmp_path / "model", "qwen2_5_vl")
    questions = [random_question(3)] * 4
    lora, step = ADAPTATIONS["lora"], Step(4, 4, 48, 1)
    predicted, measured = predicted_and_measured(folder, lora, step, questions, tmp_path)
    assert predicted.sampling is not None
    assert predicted.sampling.total == pytest.approx(measured["sampling"], rel=0.05)


@pytest.mark.parametrize("algorithm", [GSPO(), GRPO(kl_coefficient=0.01)])
def test_scores_of_larger_passes_than_those_that_learn(
    algorithm: Algorithm, tmp_path: Path
) -> None:
    """Old or reference scores of four questions at once need more than learning from one."""
    folder = write_tiny(tmp_path / "model", "idefics3")
    step, questions = Step(4, 4, 48, 4), [random_question(3)] * 4
    policy = ADAPTATIONS["lora"] | {"gradient_checkpointing": True}
    predicted, measured = predicted_and_measured(
        folder, policy, step, questions, tmp_path, algorithm, mini_batches=4
    )
    assert predicted.update.total == pytest.approx(measured["update"], rel=0.15)


@pytest.mark.parametrize("recompute", [False, True])
def test_scores_that_are_not_rehearsed_need_no_more_than_learning(
    recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = tiny_processor()
    source = GhostSource("model", config=tiny_model(processor).config, processor=processor)
    policy = HFVisionLanguagePolicy(
        "model", lora=LoraSettings(rank=4), gradient_checkpointing=recompute
    )
    policy._processor = processor
    module = RLModule(policy, GRPO(kl_coefficient=0.01), group_size=4)
    prompt, step = policy.collator()([random_question(2)]), Step(3, 4, 60, 2)
    passes = []
    monkeypatch.setattr(
        rehearsal,
        "score_in_micro_batches",
        lambda *args: passes.append(score_in_micro_batches(*args)),
    )
    without = Predictor(module, source).update(prompt, step).total
    assert not passes
    score = Rehearsal._score
    monkeypatch.setattr(
        Rehearsal,
        "_score",
        lambda self, prompts, rollouts, updated, limits: score(
            self, prompts, rollouts, Part([], []), limits
        ),
    )
    rehearsed = Predictor(module, source).update(prompt, step).total
    assert passes
    assert rehearsed == pytest.approx(without, rel=1e-3)


def test_scores_are_rehearsed_where_the_reference_comes_besides(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    processor = tiny_processor()
    source = GhostSource("model", config=tiny_model(processor).config, processor=processor)
    passes = []
    monkeypatch.setattr(
        rehearsal,
        "score_in_micro_batches",
        lambda *args: passes.append(score_in_micro_batches(*args)),
    )
    for on_host in (False, True):
        policy = HFVisionLanguagePolicy("model", reference_on_host=on_host)
        policy._processor = processor
        module = RLModule(policy, GRPO(kl_coefficient=0.01), group_size=2)
        prompt = policy.collator()([random_question(1)])
        Predictor(module, source).update(prompt, Step(1, 2, 16, 1))
        assert bool(passes) == on_host


def _deep(family: str) -> GhostSource:
    """Return a model with more layers than are rehearsed."""
    processor = tiny_processor(family)
    config = tiny_model(processor, family).config
    config.text_config.num_hidden_layers = 9
    if family == "gemma3":  # As Gemma 3 4B: no layer of the rare kind among the last.
        usual, rare = "sliding_attention", "full_attention"
        config.text_config.layer_types = [usual, usual, rare, *[usual] * 6]
        config.vision_config.num_hidden_layers = 7
    else:
        config.vision_config.depth = 7
        if family == "qwen3_vl":  # Three layers of the tower reach into the language model.
            config.vision_config.deepstack_visual_indexes = [1, 3, 5]
        else:
            config.text_config.layer_types = ["full_attention"] * 9
    return GhostSource("model", config=config, processor=processor)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "gemma3"])
def test_few_layers_tell_of_many(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _deep(family)
    policy = HFVisionLanguagePolicy("model", lora=LoraSettings(rank=4))
    policy._processor = source.processor
    module = RLModule(policy, GRPO(), group_size=4)
    prompt, step = policy.collator()([random_question(2)]), Step(3, 4, 100, 2)
    extended = Predictor(module, source).predict(prompt, step)
    monkeypatch.setattr(prediction, "_WHOLE", 100)
    whole = Predictor(module, source).predict(prompt, step)
    assert extended.sampling is not None
    assert whole.sampling is not None
    assert extended.update.total == pytest.approx(whole.update.total, rel=0.02)
    assert extended.sampling.total == pytest.approx(whole.sampling.total, rel=0.02)


def test_planning_leaves_the_run_as_it_was() -> None:
    processor = tiny_processor()
    source = GhostSource("model", config=tiny_model(processor).config, processor=processor)
    policy = HFVisionLanguagePolicy("model", lora=LoraSettings(rank=4))
    policy._processor = processor
    module = RLModule(policy, GRPO(), group_size=2)
    Predictor(module, source).predict(policy.collator()([random_question(1)]), Step(1, 2, 9, 1))
    assert not list(policy.parameters())
    assert policy._model is None
    assert torch.zeros(1).device.type == "cpu"
    assert not torch.zeros(1).is_meta


def test_a_reference_on_the_host_takes_no_memory_between_scores() -> None:
    """A copy of all that is trained is away while completions are sampled and learned from."""
    processor = tiny_processor()
    source = GhostSource("model", config=tiny_model(processor).config, processor=processor)
    found, trained = [], 0
    for on_host in (False, True):
        policy = HFVisionLanguagePolicy("model", reference_on_host=on_host)
        policy._processor = processor
        module = RLModule(policy, GRPO(kl_coefficient=0.01), group_size=2)
        predictor = Predictor(module, source)
        prompt = policy.collator()([random_question(1)])
        found.append(predictor.predict(prompt, Step(1, 2, 64, 1)))
        trained = sum(p.nbytes for p in predictor.base.module.trainable_parameters())
    beside, on_host_ = found
    assert beside.sampling is not None
    assert on_host_.sampling is not None
    assert beside.sampling.total - on_host_.sampling.total == trained
    assert beside.update.total - on_host_.update.total == trained


def test_completions_may_outnumber_the_vocabulary(planner: Planner) -> None:
    """Some begin alike then; each still needs as much as any other."""
    sizes = 240, 300, 360  # 360 of them cannot all begin with another of some 310 tokens.
    assert sizes[1] < len(planner.policy.tokenizer) < 330
    peaks = []
    for size in sizes:
        step = replace(planner.step, questions=1, group_size=size, micro_batch=1)
        sampling = planner.predict(step).sampling
        assert sampling is not None
        peaks.append(sampling.total)
    assert peaks[2] - peaks[1] == pytest.approx(peaks[1] - peaks[0], rel=0.02)
