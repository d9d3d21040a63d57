"""What every registered policy must do, whatever model is inside it.

Each is built as YAML would build it, shown real questions of mixed length and up to five
pictures, and compared with itself read in other ways; families are compared with plain
transformers in tests/policies.
"""

from __future__ import annotations

import pickle
from functools import lru_cache
from pathlib import Path

import pytest
import torch

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.errors import PolicyNotLoaded
from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.policies import POLICIES, LoraSettings, PolicyBackbone, SamplingSettings
from spatial_ssrl.prompts import worked_answer
from spatial_ssrl.rollout import InProcess
from spatial_ssrl.tasks import CroppedInpainting, FlippedPatch, ShuffledPatches
from support.oracles import rollouts_of

KEYS = [entry.key for entry in POLICIES.entries()]
GROUP = 3


@pytest.fixture(scope="module", params=[(key, lora) for key in KEYS for lora in (True, False)])
def policy(request: pytest.FixtureRequest, tiny_qwen_folder: Path) -> PolicyBackbone:
    """A loaded policy whose adapters, where it has some, change its output."""
    key, lora = request.param
    cls = POLICIES.get(key)
    settings = {"model": str(tiny_qwen_folder)} if key == "hf_vlm" else {}
    built = cls(lora=LoraSettings(rank=4) if lora else None, **settings)
    built.load()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return built


@lru_cache(maxsize=1)
def questions() -> tuple[Question, ...]:
    scenes = SyntheticScenes(count=3, size=64)
    kinds = (FlippedPatch, CroppedInpainting, ShuffledPatches)
    tasks = [kind(wording="terse") for kind in kinds]
    return tuple(
        task.make(scenes.scene(index), rng_for(1, index)) for index, task in enumerate(tasks)
    )


def prompts_of(policy: PolicyBackbone) -> PromptBatch:
    return policy.collator()(questions())


def sampled(policy: PolicyBackbone, temperature: float = 1.0) -> Rollouts:
    sampling = SamplingSettings(max_new_tokens=8, temperature=temperature)
    with torch.no_grad():
        return InProcess().sample(policy, prompts_of(policy), GROUP, sampling, seed=3)


@pytest.mark.parametrize("key", KEYS)
def test_nothing_is_loaded_before_it_is_asked_for(key: str, tiny_qwen_folder: Path) -> None:
    settings = {"model": str(tiny_qwen_folder)} if key == "hf_vlm" else {}
    policy = POLICIES.get(key)(**settings)
    assert not list(policy.parameters())
    with pytest.raises(PolicyNotLoaded, match=r"before load\(\)"):
        policy.trainable_state()


def test_collator_travels_to_data_workers(policy: PolicyBackbone) -> None:
    collator = pickle.loads(pickle.dumps(policy.collator(worked_answer)))
    batch = collator(questions())
    plain = policy.collator()(questions())
    assert torch.equal(batch.input_ids, plain.input_ids)
    assert batch.attention_mask.dtype == torch.bool
    assert batch.attention_mask[:, -1].all()
    assert batch.targets is not None
    assert batch.target_mask is not None
    ends = batch.targets.gather(1, batch.target_mask.sum(1, keepdim=True) - 1)
    assert torch.isin(ends, torch.tensor(policy.end_token_ids)).all()
    texts = policy.decode(batch.targets, batch.target_mask)
    assert texts == tuple(worked_answer(question) for question in questions())


def test_kept_logprobs_are_those_scored(policy: PolicyBackbone) -> None:
    for temperature in (1.0, 0.7):
        rollouts = sampled(policy, temperature)
        with torch.no_grad():
            scored = policy.logprobs(
                prompts_of(policy), rollouts, SamplingSettings(temperature=temperature)
            )
        assert rollouts.logprobs is not None
        torch.testing.assert_close(scored, rollouts.logprobs, atol=1e-5, rtol=0)
        assert (scored[~rollouts.mask] == 0).all()


def test_questions_do_not_influence_each_other(policy: PolicyBackbone) -> None:
    prompts, rollouts = prompts_of(policy), sampled(policy)
    with torch.no_grad():
        together = policy.logprobs(prompts, rollouts)
        for number, question in enumerate(questions()):
            rows = slice(number * GROUP, (number + 1) * GROUP)
            part = rollouts_of(rollouts.tokens[rows], rollouts.mask[rows], GROUP)
            for alone in (policy.slice(prompts, number, number + 1), policy.collator()([question])):
                scored = policy.logprobs(alone, part)
                torch.testing.assert_close(scored, together[rows], atol=1e-5, rtol=0)


def test_selected_questions_keep_their_pictures(policy: PolicyBackbone) -> None:
    prompts, rollouts = prompts_of(policy), sampled(policy)
    order = [2, 0]
    rows = torch.cat([torch.arange(GROUP) + number * GROUP for number in order])
    part = rollouts_of(rollouts.tokens[rows], rollouts.mask[rows], GROUP)
    chosen = policy.select(prompts, order)
    assert chosen.questions == tuple(questions()[number] for number in order)
    with torch.no_grad():
        expected = policy.logprobs(prompts, rollouts)[rows]
        scored = policy.logprobs(chosen, part)
    torch.testing.assert_close(scored, expected, atol=1e-5, rtol=0)


def test_micro_batches_add_up_to_the_gradient_of_the_whole(policy: PolicyBackbone) -> None:
    prompts, rollouts = prompts_of(policy), sampled(policy)
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    assert trained
    loss = policy.logprobs(prompts, rollouts).sum()
    whole = torch.autograd.grad(loss, trained, allow_unused=True)
    summed = [torch.zeros_like(parameter) for parameter in trained]
    for number in range(len(prompts)):
        rows = slice(number * GROUP, (number + 1) * GROUP)
        part = rollouts_of(rollouts.tokens[rows], rollouts.mask[rows], GROUP)
        loss = policy.logprobs(policy.slice(prompts, number, number + 1), part).sum()
        for total, gradient in zip(
            summed, torch.autograd.grad(loss, trained, allow_unused=True), strict=True
        ):
            total += 0 if gradient is None else gradient
    used = [gradient for gradient in whole if gradient is not None]
    scale = max(float(gradient.abs().max()) for gradient in used)
    assert scale > 0
    for gradient, total in zip(whole, summed, strict=True):
        wanted = torch.zeros_like(total) if gradient is None else gradient
        torch.testing.assert_close(total, wanted, atol=1e-4 * scale, rtol=1e-3)


def test_everything_sampled_has_text(policy: PolicyBackbone) -> None:
    state = policy.read(prompts_of(policy))
    logits = policy.logits(state.hidden)
    assert logits.shape == (len(questions()), policy.vocabulary_size)
    assert logits.dtype == torch.float32
    assert not torch.isnan(logits).any()
    prompts = prompts_of(policy)
    # Of the tokens without text, the one a prompt holds most is what pictures are read into.
    tokens, counts = prompts.input_ids[1][prompts.attention_mask[1]].unique(return_counts=True)
    texts = policy.decode(tokens[:, None], torch.ones(len(tokens), 1, dtype=torch.bool))
    silent = torch.tensor([not text for text in texts])
    assert silent.any()
    placeholder = tokens[silent][counts[silent].argmax()]
    assert torch.isneginf(logits[:, placeholder]).all()
    assert torch.isfinite(logits[:, list(policy.end_token_ids)]).all()


def test_reference_stays_and_everything_is_restored(policy: PolicyBackbone) -> None:
    prompts, rollouts = prompts_of(policy), sampled(policy)
    before = {name: value.clone() for name, value in policy.trainable_state().items()}
    flags = [parameter.requires_grad for parameter in policy.parameters()]
    with torch.no_grad():
        start = policy.logprobs(prompts, rollouts)
        with policy.reference():
            torch.testing.assert_close(policy.logprobs(prompts, rollouts), start)
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.2)
        moved = policy.logprobs(prompts, rollouts)
        assert (moved - start).abs().max() > 1e-3
        with policy.reference():
            assert torch.equal(policy.logprobs(prompts, rollouts), start)
        assert torch.equal(policy.logprobs(prompts, rollouts), moved)
    assert [parameter.requires_grad for parameter in policy.parameters()] == flags
    policy.load_trainable_state(before)
    with torch.no_grad():
        assert torch.equal(policy.logprobs(prompts, rollouts), start)


def test_saved_policy_is_written_whole(policy: PolicyBackbone, tmp_path: Path) -> None:
    policy.save(tmp_path / "policy")
    names = {file.name for file in (tmp_path / "policy").iterdir()}
    assert names & {"adapter_model.safetensors", "model.safetensors"}
    assert names & {"adapter_config.json", "config.json"}
    assert any("processor" in name for name in names)
    assert [folder.name for folder in tmp_path.iterdir()] == ["policy"]
