"""Prompts within a number of tokens; what the real processor makes of them is the oracle."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ProcessorMixin

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data import QuestionDataset
from spatial_ssrl.images import ImageFolder
from spatial_ssrl.policies import HFVisionLanguagePolicy, PromptCollator, TinyVLM
from spatial_ssrl.policies.pixel_budget import PixelBudget, smallest_pixels
from spatial_ssrl.policies.prompt_budget import PromptBudget, PromptLimit
from spatial_ssrl.tasks import CroppedInpainting, FlippedPatch
from support.tiny_models import FAMILIES, random_question, tiny_processor

SAMPLES = os.environ.get("SPATIAL_SSRL_SAMPLES", "")


def asked(count: int, seed: int, largest: int = 400) -> Question:
    """Return a question over pictures of any size and shape."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(20, largest, (count, 2))
    pictures = tuple(rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes)
    return replace(random_question(count, seed=seed), images=pictures)


def tokens_of(processor: ProcessorMixin, question: Question) -> int:
    """Return the length of a prompt as the collator makes it."""
    return int(PromptCollator(processor)([question]).attention_mask.sum())


def budget(processor: ProcessorMixin, limit: int | None, **settings: Any) -> PromptBudget:
    longer = settings.pop("longer", "scale")
    return PromptBudget(PromptCollator(processor), PromptLimit(limit, longer), **settings)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_rejected_is_what_the_processor_makes_too_long(family: str) -> None:
    processor = tiny_processor(family)
    fit = budget(processor, None)
    for seed, count in enumerate((1, 1, 2, 3, 5)):
        question = asked(count, seed)
        tokens = tokens_of(processor, question)
        for limit in (tokens - 40, tokens - 1, tokens, tokens + 1, tokens + 40):
            fit.limit = PromptLimit(limit, "reject")
            if tokens <= limit:
                assert fit(question) is question
            else:
                with pytest.raises(SceneRejected, match="longer than policy"):
                    fit(question)


def test_a_picture_alone_may_take_more_tokens_than_in_company() -> None:
    processor = tiny_processor("llava_onevision")  # cuts only single pictures into tiles
    fit, picture = budget(processor, None), np.zeros((100, 200, 3), dtype=np.uint8)
    for count in (1, 3, 1):
        question = replace(random_question(count), images=(picture,) * count)
        tokens = tokens_of(processor, question)
        fit.limit = PromptLimit(tokens, "reject")
        assert fit(question) is question
        fit.limit = PromptLimit(tokens - 1, "reject")
        with pytest.raises(SceneRejected):
            fit(question)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl"])
def test_pictures_are_scaled_until_the_prompt_fits(family: str) -> None:
    processor, scaled = tiny_processor(family), 0
    fit = budget(processor, None)
    for seed, count in enumerate((1, 2, 3, 5, 1, 4)):
        question = asked(count, seed)
        tokens = tokens_of(processor, question)
        for share in (0.95, 0.8):
            limit = int(tokens * share)
            fit.limit = PromptLimit(limit)
            try:
                smaller = fit(question)
            except SceneRejected:
                continue
            scaled += 1
            assert tokens_of(processor, smaller) <= limit
            assert replace(smaller, images=question.images) == question, "only pictures change"
            for picture, whole in zip(smaller.images, question.images, strict=True):
                check_shape(picture.shape, whole.shape, smallest_pixels(processor))
    assert scaled >= 3


def check_shape(got: tuple[int, ...], whole: tuple[int, ...], smallest: int) -> None:
    """A scaled picture keeps its shape, to the rounding of its sides, and is no less than that."""
    (short, long), (low, high) = sorted(got[:2]), sorted(whole[:2])
    assert (got[0] <= got[1]) == (whole[0] <= whole[1]) or short == long
    assert long <= high
    assert abs(short - low * long / high) <= 1
    assert short * long >= min(smallest, low * high) - long


def test_pictures_are_scaled_no_more_than_needed() -> None:
    processor = tiny_processor()
    question = replace(random_question(1), images=(np.zeros((110, 112, 3), dtype=np.uint8),))
    whole = tokens_of(processor, question)  # 4 x 4 patches
    smaller = budget(processor, whole - 1)(question)
    assert tokens_of(processor, smaller) == whole - 16 + 12 or (
        tokens_of(processor, smaller) == whole - 16 + 9
    )
    height, width = smaller.images[0].shape[:2]
    # One step larger and there would be as many patches as before.
    larger = np.zeros((round(height / 0.95), round(width / 0.95), 3), dtype=np.uint8)
    assert tokens_of(processor, replace(question, images=(larger,))) == whole


def test_no_text_and_no_placeholder_is_lost() -> None:
    processor = tiny_processor()
    question = asked(3, seed=7)
    limit = tokens_of(processor, question) - 20
    batch = PromptCollator(processor)([budget(processor, limit)(question)])
    ids = batch.input_ids[batch.attention_mask]
    picture = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert int((ids == picture).sum()) == int(batch.vision["image_grid_thw"].prod(-1).sum()) // 4
    whole = PromptCollator(processor)([question]).input_ids[0]
    assert torch.equal(ids[ids != picture], whole[whole != picture])


def test_text_that_is_too_long_by_itself_is_rejected() -> None:
    question = replace(asked(2, 0), prompt="<image><image>" + "near or far? " * 50)
    with pytest.raises(SceneRejected, match="longer than policy"):
        budget(tiny_processor(), 100)(question)


@pytest.mark.parametrize("family", ["llava", "idefics3", "gemma3"])
def test_pictures_whose_tokens_do_not_depend_on_size_are_rejected(family: str) -> None:
    processor, question = tiny_processor(family), asked(2, 0)
    with pytest.raises(SceneRejected, match="longer than policy"):
        budget(processor, tokens_of(processor, question) - 1)(question)


def test_pictures_are_not_scaled_below_the_users_own_bound() -> None:
    collator = PromptCollator(tiny_processor(), pixels=PixelBudget(min_pixels=84 * 84))
    question = replace(random_question(1), images=(np.zeros((112, 112, 3), dtype=np.uint8),))
    tokens = int(collator([question]).attention_mask.sum())
    smaller = PromptBudget(collator, PromptLimit(tokens - 7))(question)
    assert 84 <= smaller.images[0].shape[0] < 112
    with pytest.raises(SceneRejected):
        PromptBudget(collator, PromptLimit(tokens - 8))(question)


# The context of the model.


def answer(question: Question) -> str:
    return "near " * 10


def test_prompt_and_completion_share_the_context() -> None:
    processor, question = tiny_processor(), asked(1, 0)
    tokens = tokens_of(processor, question)
    fit = budget(processor, None, longer="reject", context=tokens + 30, new_tokens=30)
    assert fit(question) is question
    fit = budget(processor, 10_000, longer="reject", context=tokens + 30, new_tokens=31)
    with pytest.raises(SceneRejected, match="longer than the model's context"):
        fit(question)


def test_an_answer_to_learn_from_is_never_cut() -> None:
    collator, question = PromptCollator(tiny_processor(), answer), asked(1, 0)
    batch = collator([question])
    tokens = int(batch.attention_mask.sum()) + int(batch.target_mask.sum())
    fits, tight = (
        PromptBudget(collator, PromptLimit(None, "reject"), context, new_tokens=1)
        for context in (tokens, tokens - 1)
    )
    assert fits(question) is question
    with pytest.raises(SceneRejected, match="prompt and completion"):
        tight(question)


def test_completions_that_fill_the_context_are_a_mistake_of_the_config() -> None:
    with pytest.raises(ConfigError, match=r"sampling.max_new_tokens is 512, but .* 512 tokens"):
        budget(tiny_processor(), None, context=512, new_tokens=512)


def test_the_policys_context_is_known_once_it_is_loaded(tiny_qwen_folder: Path) -> None:
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder))
    assert policy.preparer(new_tokens=10**7)(asked(1, 0)).uid == "noise-0"
    policy.load()
    length = policy.network.config.text_config.max_position_embeddings
    with pytest.raises(ConfigError, match=f"but the model reads {length} tokens"):
        policy.preparer(new_tokens=length)
    tiny = TinyVLM(image_size=32, hidden_size=32, layers=1, heads=2)
    tiny.load()
    with pytest.raises(ConfigError, match="but the model reads 4096 tokens"):
        tiny.preparer(new_tokens=5000)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_prompt_tokens": 0}, "max_prompt_tokens must be at least 1, got 0"),
        ({"long_prompts": "cut"}, 'long_prompts must be "scale" or "reject", got \'cut\''),
        ({"max_pixels": 0}, "max_pixels must be at least 1, got 0"),
    ],
)
def test_bad_settings_are_named_before_anything_is_loaded(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        HFVisionLanguagePolicy("nobody/nothing", **settings)


# Pictures no image processor takes.


@pytest.mark.parametrize("size", [(1, 300), (900, 3), (20, 1900)])
def test_pictures_too_elongated_are_rejected(size: tuple[int, int]) -> None:
    question = replace(random_question(1), images=(np.zeros((*size, 3), dtype=np.uint8),))
    with pytest.raises(SceneRejected, match="too elongated"):
        budget(tiny_processor(), None)(question)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (1, 60)])
def test_tiny_pictures_are_read(family: str, size: tuple[int, int]) -> None:
    processor = tiny_processor(family)
    question = replace(random_question(1), images=(np.zeros((*size, 3), dtype=np.uint8),))
    tokens = tokens_of(processor, question)
    assert budget(processor, tokens, longer="reject")(question) is question
    with pytest.raises(SceneRejected):
        budget(processor, tokens - 1, longer="reject")(question)


# What it costs.


@pytest.mark.parametrize("family", FAMILIES)
def test_pictures_are_not_processed_to_be_measured(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = tiny_processor(family)
    fit, calls = budget(processor, 5000), []
    kind = type(processor.image_processor)
    preprocess = kind.preprocess

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return preprocess(self, *args, **kwargs)

    monkeypatch.setattr(kind, "preprocess", counted)
    question = asked(2, 0)
    for seed in range(30):
        fit(replace(asked(2, seed), images=question.images))
    # Where the processor has no right rule of its own, it is run once for each size.
    assert len(calls) <= (2 if family in ("smolvlm", "llava_onevision", "tiny_vlm") else 0)


def test_a_pickled_budget_decides_alike() -> None:
    fit = budget(tiny_processor(), 150)
    copy = pickle.loads(pickle.dumps(fit))
    for seed in range(20):
        question = asked(1 + seed % 4, seed)
        assert outcome(copy, question) == outcome(fit, question) == outcome(fit, question)


def outcome(fit: PromptBudget, question: Question) -> Any:
    try:
        return [image.tobytes() for image in fit(question).images]
    except SceneRejected as refusal:
        return refusal.reason


@pytest.mark.skipif(not SAMPLES, reason="SPATIAL_SSRL_SAMPLES is not set")
def test_questions_on_photos_fit_a_real_budget() -> None:
    processor = tiny_processor()
    processor.image_processor.size = {"shortest_edge": 56 * 56, "longest_edge": 1280 * 784}
    photos, tasks = ImageFolder(Path(SAMPLES, "rgb")), [FlippedPatch(), CroppedInpainting()]
    plain = QuestionDataset([photos], tasks, block=2)
    fitted = QuestionDataset([photos], tasks, block=2, prepare=budget(processor, 1200))
    scaled = 0
    for index in range(16):
        before, after = plain[index], fitted[index]
        assert tokens_of(processor, after) <= 1200
        if before.uid == after.uid:
            scaled += before.images[0].shape != after.images[0].shape
            assert after.images[0].shape <= before.images[0].shape
    assert scaled > 3
