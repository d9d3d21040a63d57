"""A policy that prefers media placeholders to everything else never says one."""

from __future__ import annotations

import pytest
import torch

from spatial_ssrl.policies import HFVisionLanguagePolicy, SamplingSettings
from spatial_ssrl.policies.tiny.tokenizer import IMAGE
from spatial_ssrl.rollout import InProcess
from support.tiny_models import write_tiny
from support.tiny_vlm import loud_policy, mixed_questions

MEDIA = {
    "tiny_vlm": [IMAGE],
    "llava": ["<image>"],
    "qwen2_5_vl": [
        "<|vision_start|>",
        "<|vision_end|>",
        "<|vision_pad|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ],
}


@pytest.fixture(scope="module", params=MEDIA)
def rigged(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[HFVisionLanguagePolicy, list[int], torch.nn.Parameter]:
    """Return a policy, its media tokens, and the bias that can make it prefer them."""
    family = request.param
    if family == "tiny_vlm":
        policy: HFVisionLanguagePolicy = loud_policy()
    else:
        folder = write_tiny(tmp_path_factory.mktemp("models") / family, family)
        policy = HFVisionLanguagePolicy(str(folder))
        policy.load()
    tokens = policy.tokenizer.convert_tokens_to_ids(MEDIA[family])
    assert all(isinstance(token, int) for token in tokens)
    head = policy.network.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    return policy, tokens, head.bias


@pytest.mark.parametrize(
    "sampling",
    [
        SamplingSettings(8, temperature=0.0),
        SamplingSettings(8, temperature=1.0),
        SamplingSettings(8, temperature=1.0, top_k=1),
        SamplingSettings(8, temperature=2.0, top_p=0.5, min_p=0.1),
    ],
    ids=["greedy", "plain", "top-k 1", "limits"],
)
def test_media_tokens_are_never_said_however_likely(
    rigged: tuple[HFVisionLanguagePolicy, list[int], torch.nn.Parameter],
    sampling: SamplingSettings,
) -> None:
    policy, media, bias = rigged
    prompts = policy.collator()(mixed_questions())
    with torch.no_grad():
        bias.zero_()
        wanted = InProcess().sample(policy, prompts, 12, sampling, seed=2)
        bias[media] = 1000.0
        preferred = policy.network.get_output_embeddings()(policy.read(prompts).hidden)
        for token in media:
            assert (preferred[:, token] > 500).all()
    rollouts = InProcess().sample(policy, prompts, 12, sampling, seed=2)
    said = rollouts.tokens[rollouts.mask]
    assert not torch.isin(said, torch.tensor(media)).any()
    # The other tokens share the probability as if the placeholders did not exist.
    assert torch.equal(rollouts.tokens, wanted.tokens)
    if rollouts.logprobs is not None:
        assert torch.isfinite(rollouts.logprobs).all()
        torch.testing.assert_close(rollouts.logprobs, wanted.logprobs)
