"""Completions that end at a text, against the same completions without such an end."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.policies import HFVisionLanguagePolicy, SamplingSettings
from spatial_ssrl.rollout import InProcess
from support.markov import END, MarkovChain
from support.tiny_models import tiny_model, tiny_processor
from support.tiny_vlm import loud_policy, mixed_questions


def sample(
    policy: object, prompts: PromptBatch, group: int, limit: int, stop: tuple[str, ...] = ()
) -> Rollouts:
    settings = SamplingSettings(max_new_tokens=limit, stop=stop)
    return InProcess().sample(policy, prompts, group, settings, seed=5)  # type: ignore[arg-type]


def spoken(rollouts: Rollouts) -> list[list[int]]:
    return [row[kept].tolist() for row, kept in zip(rollouts.tokens, rollouts.mask, strict=True)]


@pytest.mark.parametrize("stop", [("ab",), ("a",), ("bca", "cc"), ("b.",), ("dd",)])
def test_completions_end_with_the_first_stop_text(stop: tuple[str, ...]) -> None:
    chain, limit = MarkovChain(), 6
    free = sample(chain, chain.prompts(), 300, limit)
    stopped = sample(chain, chain.prompts(), 300, limit, stop)
    cut = 0
    for row, (whole, found) in enumerate(zip(spoken(free), spoken(stopped), strict=True)):
        text = "".join("abcd."[token] for token in whole)
        ends = [text.find(one) + len(one) for one in stop if one in text]
        length = min([*ends, len(whole)])
        cut += length < len(whole)
        assert found == whole[:length]
        assert stopped.texts[row] == text[:length]
        ended = bool(ends) or whole[-1] == END
        assert bool(stopped.truncated[row]) is not ended
        torch.testing.assert_close(
            stopped.logprobs[row, :length], free.logprobs[row, :length], atol=1e-6, rtol=0
        )
    # "d" is never said, "b." ends where the end does, the others cut some short.
    assert (cut > 5) is (stop not in [("dd",), ("b.",)])


def first_end(policy: HFVisionLanguagePolicy, tokens: list[int], stop: str) -> int:
    """Return how many tokens are said when the text first holds `stop`, decoding all each time."""
    for length in range(1, len(tokens) + 1):
        if stop in policy.tokenizer.decode(tokens[:length], skip_special_tokens=True):
            return length
    return len(tokens)


def byte_policy() -> HFVisionLanguagePolicy:
    """Return a tiny Qwen2.5-VL, half of whose tokens are single bytes, as a loaded policy."""

    class Tiny(HFVisionLanguagePolicy):
        def _build_processor(self):  # type: ignore[no-untyped-def]
            return tiny_processor()

        def _build_model(self):  # type: ignore[no-untyped-def]
            return tiny_model(self.processor)

    policy = Tiny("tiny")
    policy.load()
    return policy


@pytest.mark.parametrize("family", ["tiny_vlm", "qwen2_5_vl"])
def test_stop_texts_may_span_tokens_and_parts_of_tokens(family: str) -> None:
    policy = loud_policy() if family == "tiny_vlm" else byte_policy()
    prompts = policy.collator()(mixed_questions())
    limit = 12
    free = sample(policy, prompts, 8, limit)
    tried = 0
    for row, whole in enumerate(spoken(free)):
        pieces = [policy.tokenizer.decode([token], skip_special_tokens=True) for token in whole]
        # From inside one token over a whole one into the next.
        for first in range(len(whole) - 2):
            before, between, after = pieces[first : first + 3]
            stop = before[-1:] + between + after[:1]
            whole_text = policy.tokenizer.decode(whole, skip_special_tokens=True)
            if stop not in whole_text or not (before and between and after) or tried >= 12:
                continue  # broken bytes change what is beside them
            tried += 1
            stopped = sample(policy, prompts, 8, limit, (stop,))
            for other, (found, said) in enumerate(zip(spoken(stopped), spoken(free), strict=True)):
                assert found == said[: first_end(policy, said, stop)]
                assert (stop in stopped.texts[other]) <= (not stopped.truncated[other])
            assert stop in stopped.texts[row]
    assert tried == 12


def test_a_letter_of_several_bytes_stops_once_it_is_whole() -> None:
    policy = byte_policy()
    ids = policy.tokenizer("é", add_special_tokens=False)["input_ids"]
    assert len(ids) == 2
    head = policy.network.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.weight.shape[0]))
    with torch.no_grad():
        head.bias[ids] = 100.0
    prompts = policy.collator()(mixed_questions()[:1])
    stopped = sample(policy, prompts, 20, 10, ("é",))
    for row, said in enumerate(spoken(stopped)):
        pairs = list(pairwise(said))
        assert (tuple(ids) in pairs) is not bool(stopped.truncated[row])
        assert tuple(ids) not in pairs[:-1]
    assert not stopped.truncated.all()
