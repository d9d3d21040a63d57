"""From questions to model inputs: the picklable collator around a processor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from transformers import ProcessorMixin

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.prompts.templates import full_prompt

PLACEHOLDER = "<image>"


class PromptCollator:
    """Tokenises questions as one chat turn each, with pictures where the text has them.

    Holds a processor and no weights, so that data workers can hold it.

    Args:
        processor: Processor with a chat template, an image processor and a tokenizer.
        answer_of: Picklable function that gives the completion to learn from (cold start);
            None leaves completions to the policy.
        min_pixels: Pictures with fewer pixels are enlarged to about as many; None leaves them.
        max_pixels: Pictures with more pixels are shrunk to at most as many; None leaves them.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        answer_of: Callable[[Question], str] | None = None,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        self.processor = processor
        self.answer_of = answer_of
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels

    def __call__(self, questions: Sequence[Question]) -> PromptBatch:
        """Return the prompts of `questions`, left padded, with everything the processor made.

        Raises:
            ConfigError: If a question's placeholders are not as many as its pictures, or the
                processor returns something else than tensors.
        """
        texts = [self._chat(question) for question in questions]
        images = [[self._picture(image) for image in question.images] for question in questions]
        encoded = self.processor(
            text=texts,
            images=images if any(images) else None,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        fields = dict(encoded)
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

    def _chat(self, question: Question) -> str:
        pieces = full_prompt(question).split(PLACEHOLDER)
        if len(pieces) - 1 != len(question.images):
            raise ConfigError(
                f"Question {question.uid} of task {question.task!r} has {len(pieces) - 1} "
                f"{PLACEHOLDER} placeholders for {len(question.images)} images; "
                "its prompt must hold one per image."
            )
        content: list[dict[str, str]] = []
        for index, piece in enumerate(pieces):
            if index:
                content.append({"type": "image"})
            if piece:
                content.append({"type": "text", "text": piece})
        turn: list[dict[str, Any]] = [{"role": "user", "content": content}]
        text: str = self.processor.apply_chat_template(
            turn, add_generation_prompt=True, tokenize=False
        )
        return text

    def _picture(self, image: npt.NDArray[np.uint8]) -> Image.Image:
        picture = Image.fromarray(image)
        pixels = picture.width * picture.height
        scale = 1.0
        if self.max_pixels is not None and pixels > self.max_pixels:
            scale = math.sqrt(self.max_pixels / pixels)
        elif self.min_pixels is not None and pixels < self.min_pixels:
            scale = math.sqrt(self.min_pixels / pixels)
        if scale == 1.0:
            return picture
        size = (max(1, int(picture.width * scale)), max(1, int(picture.height * scale)))
        return picture.resize(size, Image.Resampling.BICUBIC)

    def _targets(self, questions: Sequence[Question]) -> tuple[Tensor | None, Tensor | None]:
        if self.answer_of is None:
            return None, None
        tokenizer = self.processor.tokenizer
        rows = []
        for question in questions:
            tokens = tokenizer(self.answer_of(question), add_special_tokens=False)["input_ids"]
            rows.append([*tokens, tokenizer.eos_token_id])
        length = max(len(row) for row in rows)
        targets = torch.full((len(rows), length), tokenizer.pad_token_id, dtype=torch.int64)
        mask = torch.zeros(len(rows), length, dtype=torch.bool)
        for index, row in enumerate(rows):
            targets[index, : len(row)] = torch.tensor(row)
            mask[index, : len(row)] = True
        return targets, mask
