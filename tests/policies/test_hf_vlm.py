from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError, PolicyNotLoaded
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, QuantSettings
from support.fake_cuda import fake_cuda, move_to_cuda, on_cuda
from support.oracles import plain_logprobs, random_completions, rollouts_of
from support.tiny_models import random_question

QUESTIONS = (
    random_question(1, "Which one?", seed=0),
    random_question(3, "Order the three pictures from near to far, please.", seed=1),
    random_question(2, "Left or right?", seed=2),
)
GROUP = 2


def scored_by_the_oracle(
    policy: HFVisionLanguagePolicy, prompts: PromptBatch, tokens: Tensor, mask: Tensor
) -> Tensor:
    banned = [int(i) for i in torch.isinf(policy.logits(torch.zeros(1, 32)))[0].nonzero()]
    rows = []
    for row in range(len(tokens)):
        alone = policy.collator()([prompts.questions[row // GROUP]])
        scores = plain_logprobs(policy.model, alone, tokens[row, mask[row]], banned)
        rows.append(torch.nn.functional.pad(scores, (0, int((~mask[row]).sum()))))
    return torch.stack(rows)


def policy_of(folder: Path, **settings: object) -> HFVisionLanguagePolicy:
    policy = HFVisionLanguagePolicy(str(folder), lora=LoraSettings(rank=4), **settings)
    policy.load()
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return policy


def test_sequences_beyond_a_window_are_read_repeatedly(
    lora_policy: HFVisionLanguagePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = lora_policy.collator()(QUESTIONS[:1])
    length = prompts.input_ids.shape[1]
    tokens = torch.arange(20).view(4, 5)
    rollouts = rollouts_of(tokens, torch.ones_like(tokens, dtype=torch.bool), 4)
    for limit, repeated in ((length + 5, 1), (length + 4, 4)):
        traits = replace(lora_policy._traits, sharing_limit=limit)
        monkeypatch.setattr(lora_policy, "_traits", traits)
        before = lora_policy.tokens
        with torch.no_grad():
            lora_policy.logprobs(prompts, rollouts)
        assert (lora_policy.tokens - before).computed // length == repeated


def test_padding_on_the_right_leaves_the_continuation_alone(
    lora_policy: HFVisionLanguagePolicy,
) -> None:
    prompts = lora_policy.collator()(QUESTIONS[:2])
    tokens = torch.tensor([[5, 6, 7], [8, 9, 10]])
    more = torch.tensor([[11], [12]])
    there = torch.ones(2, 1, dtype=torch.bool)
    with torch.no_grad():
        short = torch.tensor([[True, False, False], [True, True, True]])
        state, _ = lora_policy.read_on(lora_policy.read(prompts), tokens, short)
        _, padded = lora_policy.read_on(state, more, there)
        alone = lora_policy.read(lora_policy.select(prompts, [0]))
        state, _ = lora_policy.read_on(alone, tokens[:1, :1], there[:1])
        _, plain = lora_policy.read_on(state, more[:1], there[:1])
    torch.testing.assert_close(
        lora_policy.logits(padded[0]), lora_policy.logits(plain[0]), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_a_plain_forward(
    tiny_qwen_folder: Path, checkpointing: bool
) -> None:
    policy = policy_of(tiny_qwen_folder, gradient_checkpointing=checkpointing)
    prompts = policy.collator()(QUESTIONS)
    tokens, mask = random_completions(policy, len(QUESTIONS) * GROUP)
    weight = torch.randn(tokens.shape, generator=torch.Generator().manual_seed(2)) * mask
    trained = [p for p in policy.parameters() if p.requires_grad]

    expected = (scored_by_the_oracle(policy, prompts, tokens, mask) * weight).sum()
    wanted = torch.autograd.grad(expected, trained)
    loss = (policy.logprobs(prompts, rollouts_of(tokens, mask, GROUP)) * weight).sum()
    got = torch.autograd.grad(loss, trained)

    assert all(gradient.abs().max() > 0 for gradient in wanted)
    for ours, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-3)


def test_checkpointing_recomputes_layers_and_keeps_dropout_off(tiny_qwen_folder: Path) -> None:
    policy = HFVisionLanguagePolicy(
        str(tiny_qwen_folder), lora=LoraSettings(rank=4, dropout=0.5), gradient_checkpointing=True
    )
    policy.load()
    calls = []
    layer = policy.network.model.language_model.layers[0].mlp
    layer.register_forward_pre_hook(lambda *_: calls.append(1))
    prompts = policy.collator()(QUESTIONS[:1])
    tokens, mask = random_completions(policy, GROUP)
    first = policy.logprobs(prompts, rollouts_of(tokens, mask, GROUP))
    assert len(calls) == 1
    first.sum().backward()
    assert len(calls) == 2
    second = policy.logprobs(prompts, rollouts_of(tokens, mask, GROUP))
    assert torch.equal(first, second)
    assert not any(module.training for module in policy.modules())
    assert policy.read(prompts).cache.get_seq_length() == prompts.input_ids.shape[1]
    policy.train()
    assert policy.read(prompts).cache.get_seq_length() == prompts.input_ids.shape[1]


def test_placeholders_and_tokens_without_text_are_never_sampled(
    lora_policy: HFVisionLanguagePolicy,
) -> None:
    tokenizer = lora_policy.tokenizer
    logits = lora_policy.logits(torch.randn(2, 3, 32))
    assert logits.shape == (2, 3, lora_policy.vocabulary_size)
    assert logits.dtype == torch.float32
    banned = tokenizer.convert_tokens_to_ids(
        ["<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
    )
    without_text = range(len(tokenizer), lora_policy.vocabulary_size)
    expected = torch.zeros(lora_policy.vocabulary_size, dtype=torch.bool)
    expected[[*banned, *without_text]] = True
    assert len(without_text) == 8
    assert torch.equal(torch.isneginf(logits), expected.expand_as(logits))
    assert torch.isfinite(logits[..., ~expected]).all()


def test_what_is_never_sampled_is_known_wherever_the_policy_is(
    lora_policy: HFVisionLanguagePolicy,
) -> None:
    hidden = torch.randn(2, 32)
    with torch.inference_mode():  # As sampling does, before there are gradients.
        wanted = torch.isneginf(lora_policy.logits(hidden))
    assert wanted.any()
    lora_policy.logits(hidden.requires_grad_()).logsumexp(-1).sum().backward()
    assert hidden.grad is not None
    twin = copy.deepcopy(lora_policy)
    assert torch.equal(torch.isneginf(twin.logits(hidden)), wanted)
    assert not any("unsayable" in name for name in lora_policy.state_dict())
    with fake_cuda() as calls:
        move_to_cuda(twin)
        states = on_cuda(hidden)
        calls.noted.clear()
        assert twin.logits(states).device.type == "cuda"
        assert "index_fill_.int_Scalar" in calls.names()
        assert calls.off_cuda() == []  # Nothing is brought from the host for each token.


def test_selected_questions_keep_their_answers(lora_policy: HFVisionLanguagePolicy) -> None:
    collator = lora_policy.collator(lambda question: question.answer)
    questions = [replace(QUESTIONS[0], answer="A"), *QUESTIONS[1:]]
    prompts = collator(questions)
    chosen = lora_policy.select(prompts, [2, 0])
    fresh = collator([questions[2], questions[0]])
    assert torch.equal(chosen.targets, fresh.targets)
    assert torch.equal(chosen.target_mask, fresh.target_mask)
    assert torch.equal(lora_policy.slice(prompts, 1, 3).input_ids, prompts.input_ids[1:])


@pytest.mark.parametrize("lora", [LoraSettings(rank=4), None])
def test_reference_is_the_policy_of_the_start(
    tiny_qwen_folder: Path, lora: LoraSettings | None
) -> None:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=lora)
    policy.load()
    prompts = policy.collator()(QUESTIONS[:1])
    flags = [parameter.requires_grad for parameter in policy.parameters()]
    start = policy.read(prompts).hidden
    with policy.reference():
        assert torch.equal(policy.read(prompts).hidden, start)

    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    moved = policy.read(prompts).hidden
    assert (moved - start).abs().max() > 0.01

    def read_and_fail() -> None:
        with policy.reference():
            then = policy.read(prompts).hidden
            assert torch.equal(then, start)
            assert not then.requires_grad
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        read_and_fail()
    assert torch.equal(policy.read(prompts).hidden, moved)
    assert [parameter.requires_grad for parameter in policy.parameters()] == flags


def test_a_graph_built_before_the_reference_keeps_its_gradient(
    lora_policy: HFVisionLanguagePolicy,
) -> None:
    prompts = lora_policy.collator()(QUESTIONS[:1])
    trained = [p for p in lora_policy.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(lora_policy.read(prompts).hidden.sum(), trained)
    with lora_policy.reference():
        pass
    loss = lora_policy.read(prompts).hidden.sum()
    with lora_policy.reference():
        lora_policy.read(prompts)
    for ours, theirs in zip(torch.autograd.grad(loss, trained), wanted, strict=True):
        assert torch.equal(ours, theirs)


def test_checkpoint_brings_back_weights_and_reference(
    lora_policy: HFVisionLanguagePolicy, tiny_qwen_folder: Path
) -> None:
    prompts = lora_policy.collator()(QUESTIONS[:1])
    with lora_policy.reference():
        start = lora_policy.read(prompts).hidden
    with torch.no_grad():
        for parameter in lora_policy.parameters():
            if parameter.requires_grad:
                parameter.mul_(1.5)
    moved = lora_policy.read(prompts).hidden
    state = {name: value.clone() for name, value in lora_policy.trainable_state().items()}

    resumed = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=4))
    resumed.load()
    resumed.load_trainable_state(state)
    assert torch.equal(resumed.read(prompts).hidden, moved)
    with resumed.reference():
        assert torch.equal(resumed.read(prompts).hidden, start)

    del state["base_model.model.model.language_model.layers.0.mlp.up_proj.lora_A.default.weight"]
    with pytest.raises(ConfigError, match=r"lacks 1 tensors .*mlp\.up_proj\.lora_A"):
        resumed.load_trainable_state(state)


def test_text_and_end_tokens(lora_policy: HFVisionLanguagePolicy) -> None:
    tokenizer = lora_policy.tokenizer
    texts = ["<think>a , b .</think> \\boxed{2,3}", "é"]
    rows = [
        [*tokenizer(text)["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
        for text in texts
    ]
    width = max(map(len, rows))
    tokens = torch.tensor([row + [7] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    assert lora_policy.decode(tokens, mask) == tuple(texts)
    assert set(lora_policy.end_token_ids) == set(
        tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    )


def test_constructing_and_collating_need_no_weights(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "processor-only"
    folder.mkdir()
    for file in tiny_qwen_folder.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    policy = HFVisionLanguagePolicy(str(folder), lora=LoraSettings())
    collator = pickle.loads(pickle.dumps(policy.collator()))
    assert len(collator(QUESTIONS[:1])) == 1
    assert not list(policy.parameters())
    with pytest.raises(PolicyNotLoaded, match="before load"):
        policy.read(collator(QUESTIONS[:1]))


def test_loading_twice_keeps_the_weights(lora_policy: HFVisionLanguagePolicy) -> None:
    before = lora_policy.model
    lora_policy.load()
    assert lora_policy.model is before


def test_settings_that_cannot_work() -> None:
    with pytest.raises(ConfigError, match="quantization needs lora"):
        HFVisionLanguagePolicy("x", quantization=QuantSettings())
    with pytest.raises(ConfigError, match="min_pixels must be at most max_pixels, got 9 and 4"):
        HFVisionLanguagePolicy("x", min_pixels=9, max_pixels=4)
