from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies import PromptCollator
from spatial_ssrl.policies.pixel_budget import PixelBudget
from spatial_ssrl.prompts import full_prompt, plain_answer, worked_answer
from support.tiny_models import random_question, tiny_processor

QUESTIONS = [random_question(count, "Left or right?", seed=count) for count in (1, 3)]


def input_ids(collator: PromptCollator) -> torch.Tensor:
    return collator(QUESTIONS).input_ids


def test_prompt_is_one_turn_with_pictures_where_the_text_has_them() -> None:
    processor = tiny_processor()
    batch = PromptCollator(processor)(QUESTIONS)
    grids = batch.vision["image_grid_thw"]
    tokens = [int(grid.prod()) // 4 for grid in grids]
    for row, (question, counts) in enumerate(zip(QUESTIONS, (tokens[:1], tokens[1:]), strict=True)):
        pieces = full_prompt(question).split("<image>")
        text = pieces[0] + "".join(
            f"<|vision_start|>{'<|image_pad|>' * count}<|vision_end|>{piece}"
            for count, piece in zip(counts, pieces[1:], strict=True)
        )
        kept = batch.input_ids[row][batch.attention_mask[row]]
        assert processor.tokenizer.decode(kept) == (
            f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        )


def test_rows_are_left_padded_and_nothing_the_processor_made_is_lost() -> None:
    batch = PromptCollator(tiny_processor())(QUESTIONS)
    assert batch.attention_mask.dtype == torch.bool
    assert batch.attention_mask[:, -1].all()
    assert not batch.attention_mask[0, 0]
    assert batch.questions == tuple(QUESTIONS)
    assert set(batch.vision) == {"pixel_values", "image_grid_thw", "mm_token_type_ids"}
    assert batch.vision["image_grid_thw"].shape == (4, 3)
    assert batch.targets is None
    assert batch.target_mask is None


@pytest.mark.parametrize("answer_of", [plain_answer, worked_answer])
def test_given_answers_end_with_the_end_token(answer_of: object) -> None:
    processor = tiny_processor()
    questions = [QUESTIONS[0], replace(QUESTIONS[1], answer="A", explanation="Near.")]
    batch = PromptCollator(processor, answer_of)(questions)
    assert batch.targets is not None
    for row, question in enumerate(questions):
        given = batch.targets[row][batch.target_mask[row]]
        assert processor.tokenizer.decode(given) == answer_of(question) + "<|im_end|>"
    lengths = batch.target_mask.sum(1)
    assert lengths[1] < lengths[0] == batch.targets.shape[1]
    assert batch.target_mask[1, : lengths[1]].all()


def test_a_pickled_collator_gives_the_same() -> None:
    collator = PromptCollator(tiny_processor(), plain_answer)
    copy = pickle.loads(pickle.dumps(collator))
    assert torch.equal(input_ids(copy), input_ids(collator))


@pytest.mark.parametrize(
    ("bounds", "area"),
    [
        ({"max_pixels": 56 * 56}, 56 * 56),
        ({"min_pixels": 112 * 112}, 112 * 112),
        ({}, 84 * 84),
    ],
)
def test_pictures_are_brought_within_the_bounds(bounds: dict[str, int], area: int) -> None:
    question = replace(QUESTIONS[0], images=(np.zeros((84, 84, 3), dtype=np.uint8),))
    batch = PromptCollator(tiny_processor(), pixels=PixelBudget(**bounds))([question])
    patches = int(batch.vision["image_grid_thw"].prod())
    assert patches * 14 * 14 == area


def test_large_picture_keeps_its_shape() -> None:
    question = replace(QUESTIONS[0], images=(np.zeros((280, 70, 3), dtype=np.uint8),))
    batch = PromptCollator(tiny_processor(), pixels=PixelBudget(max_pixels=112 * 28))([question])
    assert batch.vision["image_grid_thw"].tolist() == [[1, 8, 2]]


def test_placeholders_must_be_as_many_as_pictures() -> None:
    question: Question = replace(QUESTIONS[1], prompt="<image> and <image>", uid="q7")
    with pytest.raises(
        ConfigError, match=r"q7 of task 'flipped_patch' has 2 <image> .* for 3 images"
    ):
        PromptCollator(tiny_processor())([question])


def test_question_without_pictures() -> None:
    question = replace(QUESTIONS[0], images=(), prompt="What is left of left?")
    batch = PromptCollator(tiny_processor())([question])
    assert "pixel_values" not in batch.vision
