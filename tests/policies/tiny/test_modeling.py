from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoProcessor

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.policies import SamplingSettings, TinyVLM
from spatial_ssrl.policies.tiny import TinyVLMForConditionalGeneration
from spatial_ssrl.policies.tiny.modeling import KeypointTokens
from spatial_ssrl.policies.tiny.tokenizer import ASSISTANT, IMAGE, PAD
from spatial_ssrl.rollout import InProcess
from support.tiny_vlm import loud_policy, mixed_questions


@pytest.fixture(scope="module")
def policy() -> TinyVLM:
    return loud_policy()


@pytest.fixture(scope="module")
def prompts(policy: TinyVLM) -> PromptBatch:
    return policy.collator()(mixed_questions())


def inputs(prompts: PromptBatch) -> dict[str, Tensor]:
    return {
        "input_ids": prompts.input_ids,
        "attention_mask": prompts.attention_mask.long(),
        **prompts.vision,
    }


def ids(policy: TinyVLM, *tokens: str) -> list[int]:
    return policy.tokenizer.convert_tokens_to_ids(list(tokens))


# What a token depends on.


def influences(policy: TinyVLM, tokens: list[str], fixed: set[int]) -> dict[int, set[int]]:
    """Return, for each position, the positions whose hidden state changes with its token."""
    given = torch.tensor([ids(policy, *tokens)])
    (other,) = ids(policy, "z")
    mask = (given != policy.tokenizer.pad_token_id).long()

    def hidden(tokens: Tensor) -> Tensor:
        return policy.network.model(input_ids=tokens, attention_mask=mask).last_hidden_state[0]

    found = {}
    with torch.no_grad():
        before = hidden(given)
        for position in set(range(len(tokens))) - fixed:
            changed = given.clone()
            changed[0, position] = other
            apart = (hidden(changed) - before).abs().amax(-1)
            found[position] = set((apart > 1e-5).nonzero().flatten().tolist())
    return found


def test_prompt_attends_both_ways_and_answer_backwards(policy: TinyVLM) -> None:
    tokens = [PAD, PAD, "a", "b", "c", ASSISTANT, "d", "e", "f"]
    prompt, everything = {2, 3, 4, 5}, {2, 3, 4, 5, 6, 7, 8}
    found = influences(policy, tokens, fixed={5})
    # Padding's own state may do what it likes, but nobody else may see it.
    assert {position: seen - {0, 1} for position, seen in found.items() if position < 2} == {
        0: set(),
        1: set(),
    }
    seen = {position: seen - {0, 1} for position, seen in found.items() if position >= 2}
    assert seen == dict.fromkeys(prompt - {5}, everything) | {6: {6, 7, 8}, 7: {7, 8}, 8: {8}}


def test_an_end_mark_in_the_answer_changes_nothing_before_it(policy: TinyVLM) -> None:
    tokens = ["a", "b", ASSISTANT, "d", ASSISTANT, "e"]
    found = influences(policy, tokens, fixed={2, 4})
    assert found == {0: set(range(6)), 1: set(range(6)), 3: {3, 4, 5}, 5: {5}}
    given = torch.tensor([ids(policy, *tokens)])
    with torch.no_grad():
        whole = policy.network(input_ids=given).logits
        cut = policy.network(input_ids=given[:, :4]).logits
    torch.testing.assert_close(whole[:, :4], cut, atol=1e-5, rtol=1e-5)


def test_text_without_a_prompt_is_read_backwards_only(policy: TinyVLM) -> None:
    assert influences(policy, ["a", "b", "c"], fixed=set()) == {0: {0, 1, 2}, 1: {1, 2}, 2: {2}}


def test_neither_padding_nor_neighbours_change_a_prompt(
    policy: TinyVLM, prompts: PromptBatch
) -> None:
    with torch.no_grad():
        together = policy.network(**inputs(prompts)).logits[:, -1]
        for row, question in enumerate(mixed_questions()):
            alone = policy.collator()([question])
            assert alone.attention_mask.all()
            logits = policy.network(**inputs(alone)).logits[:, -1]
            torch.testing.assert_close(together[row : row + 1], logits, atol=1e-5, rtol=1e-5)


def test_every_picture_counts_and_their_order_too(policy: TinyVLM, prompts: PromptBatch) -> None:
    given = inputs(prompts)
    pictures = given.pop("pixel_values")
    owner = torch.tensor([0, 1, 1, 1, 2, 2])

    def logits(pictures: Tensor) -> Tensor:
        with torch.no_grad():
            return policy.network(**given, pixel_values=pictures).logits[:, -1]

    before = logits(pictures)
    for picture in range(len(pictures)):
        changed = pictures.clone()
        changed[picture] = -changed[picture]
        apart = (logits(changed) - before).abs().amax(-1)
        assert (apart > 1e-4).nonzero().flatten().tolist() == [int(owner[picture])]
    swapped = logits(pictures[[0, 2, 1, 3, 4, 5]])
    assert (swapped - before)[1].abs().max() > 1e-4


# Through transformers.


def test_generate_says_what_in_process_sampling_says(policy: TinyVLM, prompts: PromptBatch) -> None:
    sampling = SamplingSettings(max_new_tokens=12, temperature=0)
    ours = InProcess().sample(policy, prompts, 1, sampling, seed=0)
    logits = policy.logits(policy.read(prompts).hidden)
    unsayable = torch.isneginf(logits).all(0).nonzero().flatten().tolist()
    theirs = policy.network.generate(
        **inputs(prompts), max_new_tokens=12, do_sample=False, suppress_tokens=unsayable
    )[:, prompts.input_ids.shape[1] :]
    assert len({tuple(row) for row in ours.tokens.tolist()}) == 3
    for row in range(3):
        said = ours.tokens[row][ours.mask[row]]
        assert theirs[row, : len(said)].tolist() == said.tolist()
        assert (theirs[row, len(said) :] == policy.tokenizer.pad_token_id).all()


def test_saved_model_is_read_by_transformers(
    policy: TinyVLM, prompts: PromptBatch, tmp_path: Path
) -> None:
    policy.save(tmp_path / "saved")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
    processor = AutoProcessor.from_pretrained(tmp_path / "saved")
    assert isinstance(loaded, TinyVLMForConditionalGeneration)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert processor.tokens_per_image == loaded.config.tokens_per_image
    with torch.no_grad():
        found, wanted = loaded(**inputs(prompts)).logits, policy.network(**inputs(prompts)).logits
    assert torch.equal(found, wanted)


def test_settings_of_the_encoder_are_saved(tmp_path: Path) -> None:
    policy = loud_policy(encoder_kwargs={"channels": (8, 16, 24)}, image_size=40)
    policy.save(tmp_path / "saved")
    loaded = TinyVLM(tmp_path / "saved")
    loaded.load()
    assert loaded.network.config.encoder_kwargs == {"channels": [8, 16, 24]}
    prompts = policy.collator()(mixed_questions())
    assert prompts.vision["pixel_values"].shape[-2:] == (40, 40)
    again = loaded.collator()(mixed_questions())
    with torch.no_grad():
        assert torch.equal(
            loaded.network(**inputs(again)).logits, policy.network(**inputs(prompts)).logits
        )


@pytest.mark.parametrize("count", [5, 7])
def test_pictures_must_be_as_many_as_placeholders(
    policy: TinyVLM, prompts: PromptBatch, count: int
) -> None:
    given = inputs(prompts) | {"pixel_values": torch.zeros(count, 3, 32, 32)}
    each = policy.network.config.tokens_per_image
    told = rf"{6 * each} image placeholders, but {count} pictures give {count * each}"
    with pytest.raises(ValueError, match=told):
        policy.network(**given)


def test_embeddings_may_stand_for_the_tokens(policy: TinyVLM, prompts: PromptBatch) -> None:
    given = inputs(prompts)
    embeds = policy.network.get_input_embeddings()(given["input_ids"])
    with torch.no_grad():
        before = policy.network(**given).logits
        assert torch.equal(policy.network(**given, inputs_embeds=embeds).logits, before)
        apart = policy.network(**given, inputs_embeds=2 * embeds).logits - before
    assert apart.abs().max() > 1e-3


def test_loss_is_the_mean_surprise_of_the_labels(policy: TinyVLM) -> None:
    given = torch.tensor([ids(policy, "a", "b", ASSISTANT, "c", "d"), ids(policy, *"aaaaa")])
    labels = given.clone()
    labels[0, :3] = -100
    with torch.no_grad():
        output = policy.network(input_ids=given, labels=labels)
        last = policy.network(input_ids=given, logits_to_keep=1).logits
    surprise = -output.logits.log_softmax(-1)
    wanted = [surprise[0, t, given[0, t + 1]] for t in (2, 3)]
    wanted += [surprise[1, t, given[1, t + 1]] for t in range(4)]
    assert float(output.loss) == pytest.approx(float(sum(wanted)) / len(wanted), rel=1e-5)
    torch.testing.assert_close(last, output.logits[:, -1:])


def test_every_weight_learns(policy: TinyVLM, prompts: PromptBatch) -> None:
    logits = policy.network(**inputs(prompts)).logits
    named = dict(policy.network.named_parameters())
    gradients = torch.autograd.grad(logits[:, -1].square().sum(), list(named.values()))
    dead = [name for name, grad in zip(named, gradients, strict=True) if not grad.any()]
    assert dead == []


# Parts.


def test_encoder_is_told_where_each_pixel_is(policy: TinyVLM, prompts: PromptBatch) -> None:
    seen: list[Tensor] = []
    body = policy.network.model.visual.body
    handle = body.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        policy.network(**inputs(prompts))
    handle.remove()
    pictures, columns, rows = seen[0][:, :3], seen[0][:, 3], seen[0][:, 4]
    assert torch.equal(pictures, prompts.vision["pixel_values"])
    steps = torch.arange(32) / 31 * 2 - 1
    torch.testing.assert_close(columns, steps.expand(6, 32, 32))
    torch.testing.assert_close(rows, steps[:, None].expand(6, 32, 32))


@pytest.mark.parametrize(("row", "column"), [(0, 0), (4, 1), (2, 6)])
def test_keypoint_says_what_is_where(row: int, column: int) -> None:
    height, width = 5, 7
    keypoints = KeypointTokens(torch.Size((2, height, width)), tokens=1, width=4)
    with torch.no_grad():
        keypoints.identity.zero_()
        keypoints.score.weight[:] = torch.tensor([1000.0, 0.0]).view(1, 2, 1, 1)
        # What: channel 1. Where: sines of the slowest octave of column and row; a cosine.
        keypoints.outward.weight.zero_()
        keypoints.outward.bias.zero_()
        for output, entry in enumerate((1, 2, 6, 10)):
            keypoints.outward.weight[output, entry] = 1
        features = torch.rand(1, 2, height, width)
        features[0, 0] = 0
        features[0, 0, row, column] = 1
        what, sine_x, sine_y, cosine_x = keypoints(features)[0, 0].tolist()
    x, y = 2 * column / (width - 1) - 1, 2 * row / (height - 1) - 1
    assert what == pytest.approx(float(features[0, 1, row, column]), abs=1e-5)
    assert (sine_x, sine_y) == pytest.approx(
        (math.sin(math.pi * x), math.sin(math.pi * y)), abs=1e-5
    )
    assert cosine_x == pytest.approx(math.cos(math.pi * x), abs=1e-5)


def test_placeholder_itself_is_never_read(policy: TinyVLM, prompts: PromptBatch) -> None:
    embedding = policy.network.get_input_embeddings().weight
    (image,) = ids(policy, IMAGE)
    with torch.no_grad():
        before = policy.read(prompts).hidden
        kept = embedding[image].clone()
        embedding[image] += 1
        after = policy.read(prompts).hidden
        embedding[image] = kept
    assert torch.equal(before, after)
