"""What holds for every family of models, against plain transformers and plain PEFT.

To try a new family, add a builder to tests/support/tiny_models and run

    pytest tests/conformance/test_families.py -k my_family

Each is a tiny random model of its real class with its real processor, and is asked questions of
one to five pictures of mixed size, in prompts of mixed length, left padded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, SamplingSettings, families
from spatial_ssrl.policies.repeated import repeated_logprobs
from spatial_ssrl.rollout import InProcess
from support.oracles import (
    assert_sharing_is_exact,
    plain_logprobs,
    random_completions,
    rollouts_of,
    scores_and_gradients,
)
from support.tiny_models import FAMILIES, REGISTRY, random_question, write_tiny

GROUP = 3
QUESTIONS = (
    random_question(1, "Which one?", seed=0),
    random_question(5, "Order the five pictures from near to far, please.", seed=1),
    random_question(2, "", seed=2),
)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def folder(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("families") / family, family)


@pytest.fixture(scope="module")
def policy(family: str, folder: Path) -> HFVisionLanguagePolicy:
    """A loaded policy whose adapters change its output; tests leave it as it is."""
    return adapted(family, folder)


@pytest.fixture(scope="module")
def prompts(policy: HFVisionLanguagePolicy) -> PromptBatch:
    batch = policy.collator()(QUESTIONS)
    assert not batch.attention_mask.all()
    return batch


def adapted(
    family: str, folder: Path, effect: float = 0.1, **settings: object
) -> HFVisionLanguagePolicy:
    """Return a loaded policy; `effect` is the size of the adapters' outer factors."""
    lora = LoraSettings(rank=2, target_modules=REGISTRY[family].lora_targets)
    policy = HFVisionLanguagePolicy(str(folder), lora=lora, **settings)
    torch.manual_seed(0)
    policy.load()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=effect, generator=generator)
    return policy


def completions(policy: HFVisionLanguagePolicy, group: int = GROUP) -> Rollouts:
    tokens, mask = random_completions(policy, len(QUESTIONS) * group, longest=9)
    if group > 1:
        tokens[1], mask[1] = tokens[0], mask[0]
    return rollouts_of(tokens, mask, group)


def banned(policy: HFVisionLanguagePolicy) -> list[int]:
    silent = torch.tensor([*policy.media_token_ids], dtype=torch.int64)
    without_text = torch.arange(len(policy.tokenizer), policy.vocabulary_size)
    return torch.cat([silent, without_text]).tolist()


def oracle(policy: HFVisionLanguagePolicy, model: torch.nn.Module, rollouts: Rollouts) -> Tensor:
    """Return what a plain forward of each row alone gives, unpadded, (N, C); 0 on padding."""
    rows = torch.zeros(rollouts.mask.shape)
    for row, mask in enumerate(rollouts.mask):
        alone = policy.collator()([QUESTIONS[row // rollouts.group_size]])
        scores = plain_logprobs(model, alone, rollouts.tokens[row, mask], banned(policy))
        rows[row, mask] = scores
    return rows


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


# Reading pictures.


@torch.no_grad()
@pytest.mark.parametrize("images", [1, 2, 3, 4, 5])
def test_a_prompt_has_a_placeholder_for_each_feature_of_its_pictures(
    policy: HFVisionLanguagePolicy, images: int
) -> None:
    batch = policy.collator()([random_question(images, seed=images)])
    assert not set(batch.vision) - policy.inputs
    ids = torch.tensor(families.placeholder_ids(policy.network))
    inner = families.inner_model(policy.network)
    known = families.parameters_of(inner.get_image_features)
    vision = {name: value for name, value in batch.vision.items() if name in known}
    features = inner.get_image_features(**vision).pooler_output
    count = sum(part[..., 0].numel() for part in features)
    assert int(torch.isin(batch.input_ids, ids).sum()) == count >= images


@torch.no_grad()
def test_every_picture_and_its_place_reach_the_answer(policy: HFVisionLanguagePolicy) -> None:
    question = QUESTIONS[1]
    swapped = [*question.images[:3], question.images[4], question.images[3]]
    variants = [question, replace(question, images=tuple(swapped))]
    for number in range(5):
        images = list(question.images)
        images[number] = 255 - images[number]
        variants.append(replace(question, images=tuple(images)))
    said = [policy.logits(policy.read(policy.collator()([each])).hidden) for each in variants]
    for number, logits in enumerate(said[1:]):
        assert (logits - said[0]).nan_to_num().abs().max() > 1e-3, number


@torch.no_grad()
def test_other_questions_and_left_padding_change_nothing(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch
) -> None:
    together = policy.read(prompts)
    for row, question in enumerate(QUESTIONS):
        fresh = policy.collator()([question])
        assert fresh.attention_mask.all()
        for alone in (fresh, policy.slice(prompts, row, row + 1)):
            state = policy.read(alone)
            close(policy.logits(state.hidden), policy.logits(together.hidden[row : row + 1]))
            assert state.position[0] == together.position[row]


@torch.no_grad()
def test_selected_questions_are_as_collated_alone(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch
) -> None:
    chosen = policy.select(prompts, [2, 0, 2])
    fresh = policy.collator()([QUESTIONS[2], QUESTIONS[0], QUESTIONS[2]])
    assert chosen.questions == fresh.questions
    assert torch.equal(chosen.input_ids, fresh.input_ids)
    assert torch.equal(chosen.attention_mask, fresh.attention_mask)
    assert chosen.vision.keys() == fresh.vision.keys()
    for name, value in fresh.vision.items():
        mine = chosen.vision[name]
        if mine.shape != value.shape:  # Padded to what the whole batch needed.
            mine = mine[:, : value.shape[1]]
        assert torch.equal(mine, value), name
    close(policy.logits(policy.read(chosen).hidden), policy.logits(policy.read(fresh).hidden))


@torch.no_grad()
def test_reading_token_by_token_is_reading_at_once(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch
) -> None:
    rollouts = completions(policy, group=1)
    tokens, mask = rollouts.tokens, rollouts.mask
    whole, hidden = policy.read_on(policy.read(prompts), tokens, mask)
    state = policy.read(prompts)
    for column in range(tokens.shape[1]):
        one, there = tokens[:, column : column + 1], mask[:, column]
        state, step = policy.read_on(state, one, there[:, None])
        close(policy.logits(step[there, 0]), policy.logits(hidden[there, column]))
    assert torch.equal(state.position, whole.position)


# Sampling.


@torch.no_grad()
def test_tokens_of_pictures_are_never_sampled(family: str, policy: HFVisionLanguagePolicy) -> None:
    media = set(policy.tokenizer.convert_tokens_to_ids([*REGISTRY[family].media]))
    assert media <= set(policy.media_token_ids)
    # Whatever is not text in a prompt without pictures, such as the marks of turns, may be said.
    text = policy.collator()([replace(QUESTIONS[0], images=(), prompt="Hello.")])
    assert not set(text.input_ids.flatten().tolist()) & set(policy.media_token_ids)
    width = families.inner_model(policy.network).get_input_embeddings().weight.shape[1]
    logits = policy.logits(torch.randn(4, width, generator=torch.Generator().manual_seed(0)))
    assert torch.isneginf(logits).nonzero()[:, 1].unique().tolist() == sorted(banned(policy))
    assert torch.isfinite(logits[:, list(policy.end_token_ids)]).all()


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingSettings(max_new_tokens=7),
        SamplingSettings(max_new_tokens=7, temperature=1.3, top_p=0.8, top_k=40),
    ],
    ids=["plain", "limited"],
)
@torch.no_grad()
def test_logprobs_kept_while_sampling_are_those_scored(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch, sampling: SamplingSettings
) -> None:
    rollouts = InProcess().sample(policy, prompts, GROUP, sampling, seed=5)
    assert rollouts.logprobs is not None
    assert not set(rollouts.tokens[rollouts.mask].tolist()) & set(banned(policy))
    close(policy.logprobs(prompts, rollouts, sampling), rollouts.logprobs)


# Scoring and learning.


@torch.no_grad()
def test_scores_are_those_of_a_plain_forward_of_each_row(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch
) -> None:
    rollouts = completions(policy)
    wanted = oracle(policy, policy.model, rollouts)
    close(policy.logprobs(prompts, rollouts), wanted)
    close(repeated_logprobs(policy, prompts, rollouts), wanted)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_shared_scores_and_gradients_are_those_of_the_repeated_forward(
    family: str, folder: Path, prompts: PromptBatch, checkpointing: bool
) -> None:
    policy = adapted(family, folder, gradient_checkpointing=checkpointing)
    assert_sharing_is_exact(policy, prompts, completions(policy))


def test_after_one_update_every_adapter_learns_in_every_part(
    family: str, folder: Path, prompts: PromptBatch
) -> None:
    policy = adapted(family, folder, effect=0.0)
    rollouts = completions(policy)
    for step in range(2):
        _, gradients = scores_and_gradients(policy, prompts, rollouts)
        learning = {name for name, gradient in gradients.items() if gradient.abs().max() > 0}
        # The inner factors have no gradient while the outer ones are zero.
        assert learning == {name for name in gradients if step or "lora_B" in name}
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if parameter.requires_grad:
                    parameter -= 0.01 * gradients[name] / gradients[name].norm().clamp(min=1)
    parts = families.freeze_groups(policy.network)
    reached = {
        group
        for group, prefixes in parts.items()
        if any(f"model.{prefix}." in name for name in learning for prefix in prefixes)
    }
    assert reached == set(REGISTRY[family].adapted_parts)


# Saving.


@torch.no_grad()
def test_a_saved_adapter_loads_here_and_with_plain_peft(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch, folder: Path, tmp_path: Path
) -> None:
    rollouts = completions(policy, group=1)
    ours = policy.logprobs(prompts, rollouts)
    policy.save(tmp_path / "adapter")
    plain = AutoModelForImageTextToText.from_pretrained(folder)
    peft = PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    close(oracle(policy, peft.double(), rollouts), ours)
    assert type(AutoProcessor.from_pretrained(tmp_path / "adapter")) is type(policy.processor)
    again = HFVisionLanguagePolicy(str(folder), adapter=tmp_path / "adapter")
    again.load()
    assert again.trainable_state().keys() == policy.trainable_state().keys()
    assert torch.equal(again.logprobs(prompts, rollouts), ours)


@torch.no_grad()
def test_a_model_trained_in_full_loads_with_plain_transformers(
    policy: HFVisionLanguagePolicy, folder: Path, tmp_path: Path
) -> None:
    full = HFVisionLanguagePolicy(str(folder))
    full.load()
    assert all(parameter.requires_grad for parameter in full.parameters())
    for parameter in full.parameters():
        parameter.mul_(1.01)
    full.save(tmp_path / "model")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "model").eval()
    mine = same_names(full.network.state_dict())
    theirs = same_names(plain.state_dict())
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in mine.items())
    again = HFVisionLanguagePolicy(str(tmp_path / "model"))
    again.load()
    one, two = (each.collator()(QUESTIONS) for each in (full, again))
    assert torch.equal(one.input_ids, two.input_ids)
    assert torch.equal(full.read(one).hidden, again.read(two).hidden)


def same_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if value.is_floating_point()}


@torch.no_grad()
def test_a_checkpoint_is_resumed_from(
    family: str, policy: HFVisionLanguagePolicy, prompts: PromptBatch, folder: Path
) -> None:
    state = {name: value.clone() for name, value in policy.trainable_state().items()}
    resumed = adapted(family, folder, effect=0.3)
    assert not torch.equal(resumed.read(prompts).hidden, policy.read(prompts).hidden)
    resumed.load_trainable_state(state)
    assert torch.equal(resumed.read(prompts).hidden, policy.read(prompts).hidden)
    assert all(torch.equal(value, state[n]) for n, value in resumed.trainable_state().items())
