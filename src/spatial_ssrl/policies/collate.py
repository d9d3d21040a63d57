"""From questions to model inputs: the picklable collator around a processor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature, ProcessorMixin

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies.pixel_budget import PixelBudget
from spatial_ssrl.prompts.templates import full_prompt

PLACEHOLDER = "<image>"


class PromptCollator:
    """Tokenises questions as one chat turn each, with pictures where the text has them.

    Holds a processor and no weights, so that data workers can hold it.

    Args:
        processor: Processor with a chat template, an image processor and a tokenizer.
        answer_of: Picklable function that gives the completion to learn from (cold start);
            None leaves completions to the policy.
        pixels: Bounds within which pictures are scaled before the processor sees them.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        answer_of: Callable[[Question], str] | None = None,
        pixels: PixelBudget = PixelBudget(),  # noqa: B008
    ) -> None:
        self.processor = processor
        self.answer_of = answer_of
        self.pixels = pixels

    def __call__(self, questions: Sequence[Question]) -> PromptBatch:
        """Return the prompts of `questions`, left padded, with everything the processor made.

        Raises:
            ConfigError: If a question's placeholders are not as many as its pictures, or the
                processor refuses a picture or returns something else than tensors.
        """
        fields = dict(self._encoded(questions))
        if odd := [name for name, value in fields.items() if not isinstance(value, Tensor)]:
            raise ConfigError(
                f"{type(self.processor).__name__} returns {odd[0]!r} as "
                f"{type(fields[odd[0]]).__name__}, not as one tensor for the batch; set its image "
                "processor to pad (do_pad), or to return nothing that is not a tensor."
            )
        targets, target_mask = self._targets(questions)
        return PromptBatch(
            input_ids=fields.pop("input_ids"),
            attention_mask=fields.pop("attention_mask").bool(),
            vision=fields,
            questions=tuple(questions),
            targets=targets,
            target_mask=target_mask,
        )

    def chat(self, question: Question) -> str:
        """Return a question as a chat turn, with one unexpanded placeholder per picture.

        Raises:
            ConfigError: If the placeholders are not as many as the pictures.
        """
        pieces = full_prompt(question).split(PLACEHOLDER)
        if len(pieces) - 1 != len(question.images):
            raise ConfigError(
                f"Question {question.uid} of task {question.task!r} has {len(pieces) - 1} "
                f"{PLACEHOLDER} placeholders for {len(question.images)} images; "
                "its prompt must hold one per image."
            )
        return chat_text(self.processor, pieces)

    def answer_tokens(self, question: Question) -> int:
        """Return the tokens of the completion to learn from, its end included; 0 without one."""
        return 0 if self.answer_of is None else len(self._answer(question))

    def _encoded(self, questions: Sequence[Question]) -> BatchFeature:
        texts = [self.chat(question) for question in questions]
        images = [
            [self.pixels.resized(Image.fromarray(image)) for image in question.images]
            for question in questions
        ]
        try:
            return encode(self.processor, texts, images)
        except (ValueError, ArithmeticError, RuntimeError) as error:
            if len(questions) == 1:
                raise _refused(questions[0], error) from error
            for question in questions:
                self._encoded([question])
            raise

    def _answer(self, question: Question) -> list[int]:
        assert self.answer_of is not None
        tokenizer = self.processor.tokenizer
        tokens = tokenizer(self.answer_of(question), add_special_tokens=False)["input_ids"]
        return [*tokens, tokenizer.eos_token_id]

    def _targets(self, questions: Sequence[Question]) -> tuple[Tensor | None, Tensor | None]:
        if self.answer_of is None:
            return None, None
        tokenizer = self.processor.tokenizer
        rows = [self._answer(question) for question in questions]
        length = max(len(row) for row in rows)
        targets = torch.full((len(rows), length), tokenizer.pad_token_id, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for index, row in enumerate(rows):
            targets[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        return targets, mask


def chat_text(processor: ProcessorMixin, pieces: Sequence[str]) -> str:
    """Return one user turn as the model's chat template writes it.

    Args:
        processor: Processor with a chat template.
        pieces: Text before, between and after the pictures: one piece more than pictures.
    """
    content: list[dict[str, str]] = []
    for index, piece in enumerate(pieces):
        if index:
            content.append({"type": "image"})
        if piece:
            content.append({"type": "text", "text": piece})
    turn: list[dict[str, Any]] = [{"role": "user", "content": content}]
    text: str = processor.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    return text


def encode(
    processor: ProcessorMixin, texts: Sequence[str], images: Sequence[Sequence[Image.Image]]
) -> BatchFeature:
    """Return everything a processor makes of chat turns and their pictures, left padded."""
    encoded: BatchFeature = processor(
        text=list(texts),
        images=[list(pictures) for pictures in images] if any(images) else None,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    return encoded


def prompt_tokens(processor: ProcessorMixin, text: str, sizes: Sequence[tuple[int, int]]) -> int:
    """Return the tokens of one chat turn with pictures of these heights and widths."""
    blank = [Image.new("RGB", (width, height)) for height, width in sizes]
    return int(encode(processor, [text], [blank])["input_ids"].shape[1])


def _refused(question: Question, error: Exception) -> ConfigError:
    sizes = ", ".join(f"{image.shape[0]} x {image.shape[1]}" for image in question.images)
    lines = str(error).splitlines() or [type(error).__name__]
    return ConfigError(
        f"Question {question.uid} of task {question.task!r} cannot be read by the model's "
        f"processor ({lines[0].rstrip('.')}); its pictures, height x width, are: {sizes or 'none'}."
    )
