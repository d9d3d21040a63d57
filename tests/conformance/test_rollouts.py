"""What every registered rollout engine must do."""

import pytest
import torch

from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.policies import SamplingSettings, TinyVLM
from spatial_ssrl.rollout import ROLLOUTS
from spatial_ssrl.tasks import CroppedInpainting, DepthOrder

GROUP, LIMIT = 4, 6


@pytest.fixture(scope="module")
def policy():
    built = TinyVLM()
    built.load()
    return built


@pytest.fixture(scope="module")
def prompts(policy):
    scenes = SyntheticScenes(count=2, size=64)
    tasks = (CroppedInpainting(wording="terse"), DepthOrder(wording="terse"))
    return policy.collator()(
        [task.make(scenes.scene(i), rng_for(0, i)) for i, task in enumerate(tasks)]
    )


@pytest.fixture(params=[entry.key for entry in ROLLOUTS.entries()])
def engine(request):
    return ROLLOUTS.get(request.param)()


def sample(engine, policy, prompts, seed=0, temperature=1.0):
    settings = SamplingSettings(max_new_tokens=LIMIT, temperature=temperature)
    return engine.sample(policy, prompts, GROUP, settings, seed)


def test_rows_are_groups_in_the_order_of_the_questions(engine, policy, prompts):
    rollouts = sample(engine, policy, prompts)
    assert len(rollouts) == len(rollouts.texts) == GROUP * len(prompts)
    assert rollouts.group_size == GROUP
    assert rollouts.tokens.shape == rollouts.mask.shape == rollouts.logprobs.shape
    assert rollouts.tokens.shape[1] <= LIMIT


def test_masks_end_where_completions_do(engine, policy, prompts):
    rollouts = sample(engine, policy, prompts)
    for tokens, mask, cut in zip(rollouts.tokens, rollouts.mask, rollouts.truncated, strict=True):
        length = int(mask.sum())
        assert mask[:length].all()
        ended = [token in policy.end_token_ids for token in tokens[:length].tolist()]
        assert not any(ended[:-1])
        assert bool(cut) != ended[-1]


def test_texts_are_the_decoded_tokens(engine, policy, prompts):
    rollouts = sample(engine, policy, prompts)
    assert rollouts.texts == policy.decode(rollouts.tokens, rollouts.mask)


def test_a_seed_names_the_completions(engine, policy, prompts):
    first, again = (sample(engine, policy, prompts, seed=3) for _ in range(2))
    assert torch.equal(first.tokens, again.tokens)
    assert sample(engine, policy, prompts, seed=4).texts != first.texts


def test_global_random_state_plays_no_part(engine, policy, prompts):
    torch.manual_seed(1)
    first = sample(engine, policy, prompts)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(sample(engine, policy, prompts).tokens, first.tokens)
    assert torch.equal(torch.get_rng_state(), state)


def test_kept_logprobs_are_those_scored(engine, policy, prompts):
    rollouts = sample(engine, policy, prompts)
    with torch.no_grad():
        scored = policy.logprobs(prompts, rollouts)
    torch.testing.assert_close(rollouts.logprobs, scored, rtol=0, atol=1e-5)


def test_greedy_completions_of_a_group_are_equal(engine, policy, prompts):
    rollouts = sample(engine, policy, prompts, temperature=0.0)
    for question in range(len(prompts)):
        assert len(set(rollouts.texts[question * GROUP : (question + 1) * GROUP])) == 1
