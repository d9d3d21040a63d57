"""Prompts within a number of tokens, counted as the model sees them: pictures expanded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image
from transformers import PreTrainedModel, ProcessorMixin

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies.collate import PromptCollator, chat_text, prompt_tokens
from spatial_ssrl.policies.pixel_budget import refuses, smallest_pixels

Size = tuple[int, int]
"""Height and width of a picture, in pixels."""

_SHAPE = "a picture is too elongated for the model's image processor and its max_pixels"
_LONG = "the prompt is longer than policy.max_prompt_tokens allows (raise it, or lower max_pixels)"
_CONTEXT = (
    "prompt and completion are longer than the model's context (lower sampling.max_new_tokens, or "
    "max_pixels)"
)

_STEP = 0.95  # Of a side, between one size that is tried and the next.
_MARGIN = 8  # Tokens a picture or the text may be off, where tokens join across their border.
_REMEMBERED = 65_536  # Sizes of pictures: some megabytes.
_PROBES: tuple[Size, ...] = ((64, 64), (64, 200), (300, 500))


@dataclass(frozen=True)
class PromptLimit:
    """How long prompts may be, and what becomes of longer ones.

    Args:
        max_prompt_tokens: Most tokens of a prompt, placeholders of pictures expanded; None is
            limited by the model's context only.
        long_prompts: "scale" shrinks the pictures of a longer prompt until it fits, and rejects
            the question if it does not even with the smallest ones; "reject" always does.

    Raises:
        ConfigError: If the limit is below 1.
    """

    max_prompt_tokens: int | None = None
    long_prompts: Literal["scale", "reject"] = "scale"

    def __post_init__(self) -> None:
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ConfigError(
                f"max_prompt_tokens must be at least 1, got {self.max_prompt_tokens}."
            )
        if self.long_prompts not in ("scale", "reject"):
            raise ConfigError(
                f'long_prompts must be "scale" or "reject", got {self.long_prompts!r}.'
            )


def context_length(network: PreTrainedModel) -> int | None:
    """Return the most tokens of prompt and completion a model was made for, None if unknown."""
    length = getattr(network.config.get_text_config(), "max_position_embeddings", None)
    return int(length) if length else None


class PromptBudget:
    """Fits questions to what a model can read, or rejects them; never cuts one.

    A pure function of the question, picklable, so that data workers can hold it. It costs a
    fraction of what processing the pictures does: their tokens are counted from their sizes,
    with the processor's own rule where that is right, and the processor itself is asked, with
    blank pictures, only when a prompt is within a few tokens of the limit.

    Args:
        collator: Makes the prompts, and the completions to learn from.
        limit: How long prompts may be.
        context: Most tokens of prompt and completion together; None is unlimited.
        new_tokens: Tokens a sampled completion may have.

    Raises:
        ConfigError: If completions alone fill the model's context.
    """

    def __init__(
        self,
        collator: PromptCollator,
        limit: PromptLimit,
        context: int | None = None,
        new_tokens: int = 0,
    ) -> None:
        if context is not None and new_tokens >= context:
            raise ConfigError(
                f"sampling.max_new_tokens is {new_tokens}, but the model reads {context} tokens "
                "in all, prompt included; lower it."
            )
        self.collator = collator
        self.limit = limit
        self.context = context
        self.new_tokens = new_tokens
        self._pictures = PictureTokens(collator.processor)
        self._floor = max(smallest_pixels(collator.processor), collator.pixels.min_pixels or 1)

    def __call__(self, question: Question) -> Question:
        """Return a question that fits: the same, or one with smaller pictures.

        Raises:
            SceneRejected: If it cannot be made to fit, or the model's image processor refuses a
                picture.
        """
        limit, reason = self._limit_of(question)
        sizes = [(image.shape[0], image.shape[1]) for image in question.images]
        if self._fits(question, sizes, limit):
            return question
        if self.limit.long_prompts == "reject":
            raise SceneRejected(reason)
        smaller = self._scaled(question, sizes, limit)
        if smaller is None:
            raise SceneRejected(reason)
        images = zip(question.images, smaller, strict=True)
        return replace(question, images=tuple(_resized(image, size) for image, size in images))

    def _limit_of(self, question: Question) -> tuple[int | None, str]:
        """Return the most tokens of this question's prompt, and why no more."""
        limit = self.limit.max_prompt_tokens
        if self.context is None:
            return limit, _LONG
        room = self.context - max(self.new_tokens, self.collator.answer_tokens(question))
        if limit is None or room < limit:
            return room, _CONTEXT
        return limit, _LONG

    def _fits(self, question: Question, sizes: Sequence[Size], limit: int | None) -> bool:
        shown = [self.collator.pixels.size_of(*size) for size in sizes]
        pictures = sum(self._pictures(size, len(shown) == 1) for size in shown)
        if limit is None:
            return True
        text = self.collator.chat(question)
        if pictures + len(text.encode()) <= limit:
            return True  # A token stands for at least one byte.
        tokens = pictures + len(self.collator.processor.tokenizer(text)["input_ids"])
        if abs(tokens - limit) > _MARGIN * (len(sizes) + 1):
            return tokens <= limit
        return prompt_tokens(self.collator.processor, text, shown) <= limit

    def _scaled(
        self, question: Question, sizes: Sequence[Size], limit: int | None
    ) -> list[Size] | None:
        """Return the largest sizes tried that fit, all pictures scaled alike; None if none do.

        None gets smaller than what the model would enlarge again.
        """
        most = max((height * width / self._floor for height, width in sizes), default=1.0)
        last = max(0, math.ceil(math.log(math.sqrt(most)) / -math.log(_STEP)))

        def at(step: int) -> list[Size]:
            return [_scaled_size(size, _STEP**step, self._floor) for size in sizes]

        if last == 0 or not self._fits(question, at(last), limit):
            return None
        first = 1
        while first < last:  # Halving: fewer pixels never make a longer prompt, or hardly ever.
            middle = (first + last) // 2
            if self._fits(question, at(middle), limit):
                last = middle
            else:
                first = middle + 1
        return at(last)


class PictureTokens:
    """How many tokens pictures of a size add to a prompt that has their placeholders.

    The processor's own rule is taken where it agrees with what the processor does, else the
    processor is run once for each size. Some families cut up a picture only if it is alone.

    Args:
        processor: Real processor of the model.
    """

    def __init__(self, processor: ProcessorMixin) -> None:
        self._processor = processor
        self._known: dict[tuple[Size, bool], int] = {}
        self._offsets = {alone: self._offset(alone) for alone in (True, False)}

    def __call__(self, size: Size, alone: bool) -> int:
        """Return the tokens of one picture besides its placeholder.

        Raises:
            SceneRejected: If the image processor refuses a picture of this shape.
        """
        known = self._known.get((size, alone))
        if known is not None:
            return known
        if refuses(self._processor.image_processor, *size):
            raise SceneRejected(_SHAPE)
        offset = self._offsets[alone]
        try:
            tokens = self._measured(size, alone) if offset is None else self._ruled(size) + offset
        except (ValueError, ZeroDivisionError) as error:
            raise SceneRejected(_SHAPE) from error
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[size, alone] = tokens
        return tokens

    def _offset(self, alone: bool) -> int | None:
        """Return what to add to the rule's count; None if no number makes it right."""
        try:
            found = {self._measured(size, alone) - self._ruled(size) for size in _PROBES}
        # The rule is private to transformers: it may be missing, or change.
        except Exception:  # noqa: BLE001
            return None
        return found.pop() if len(found) == 1 else None

    def _ruled(self, size: Size) -> int:
        rule: Any = self._processor
        return int(rule._get_num_multimodal_tokens(image_sizes=[size]).num_image_tokens[0])

    def _measured(self, size: Size, alone: bool) -> int:
        count = 1 if alone else 2
        text = chat_text(self._processor, ["", *["which?"] * count])
        plain = len(self._processor.tokenizer(text)["input_ids"])
        return (prompt_tokens(self._processor, text, [size] * count) - plain) // count


def _scaled_size(size: Size, scale: float, floor: int) -> Size:
    """Return a size scaled down, but not below a number of pixels; its shape is kept."""
    height, width = size
    scale = min(1.0, max(scale, math.sqrt(floor / (height * width))))
    return max(1, round(height * scale)), max(1, round(width * scale))


def _resized(image: np.ndarray[Any, np.dtype[np.uint8]], size: Size) -> Any:
    height, width = size
    if image.shape[:2] == size:
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
