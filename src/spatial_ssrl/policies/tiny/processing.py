"""Processor of TinyVLM: square pictures and expanded image placeholders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoImageProcessor,
    AutoProcessor,
    BatchFeature,
    PreTrainedTokenizerFast,
    ProcessorMixin,
)
from transformers.image_processing_utils import BaseImageProcessor

from spatial_ssrl.policies.tiny.configuration import TinyVLMConfig
from spatial_ssrl.policies.tiny.tokenizer import IMAGE


class TinyVLMImageProcessor(BaseImageProcessor):
    """Scales pictures to a square and their values to [-1, 1].

    Args:
        image_size: Side of the square, in pixels.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 (transformers reads the class attribute)

    def __init__(self, image_size: int = 64, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size

    def preprocess(
        self, images: Any, return_tensors: str | None = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Return `pixel_values`, shape (images, 3, S, S), float32, of one or more pictures.

        Args:
            images: Pictures as PIL images or (H, W, 3) uint8 arrays, nested at will.
            return_tensors: Only "pt" is known.
            kwargs: Accepted for the transformers interface.
        """
        return BatchFeature({"pixel_values": self._square(_flatten(images))})

    def _square(self, images: list[np.ndarray]) -> Tensor:
        side = self.image_size
        pixels = torch.empty(len(images), 3, side, side)
        shapes: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            shapes.setdefault(image.shape, []).append(index)
        # Pictures of one shape are scaled together: a call per picture costs more than its work.
        for shape, indices in shapes.items():
            stack = torch.from_numpy(np.stack([images[index] for index in indices]))
            values = stack.permute(0, 3, 1, 2).float() / 127.5 - 1
            if shape[:2] != (side, side):
                values = torch.nn.functional.interpolate(
                    values, (side, side), mode="bilinear", antialias=max(shape[:2]) > side
                )
            pixels[indices] = values
        return pixels


def _flatten(images: Any) -> list[np.ndarray]:
    if isinstance(images, Image.Image):
        return [np.asarray(images.convert("RGB"))]
    if isinstance(images, np.ndarray) and images.ndim == 3:
        return [images]
    return [array for image in images for array in _flatten(image)]


class TinyVLMProcessor(ProcessorMixin):
    """Joins the image processor and the tokenizer of TinyVLM.

    Args:
        image_processor: Makes `pixel_values`.
        tokenizer: Makes `input_ids`.
        chat_template: Jinja template; the tokenizer's own when None.
        tokens_per_image: Placeholders that stand for one picture.
    """

    def __init__(
        self,
        image_processor: TinyVLMImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerFast | None = None,
        chat_template: str | None = None,
        tokens_per_image: int = 16,
        **kwargs: Any,
    ) -> None:
        self.tokens_per_image = tokens_per_image
        self.image_token = IMAGE
        if tokenizer is not None:
            self.image_token_id = tokenizer.convert_tokens_to_ids(IMAGE)
            chat_template = chat_template or tokenizer.chat_template
        super().__init__(  # type: ignore[no-untyped-call]
            image_processor, tokenizer, chat_template=chat_template
        )

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] = "",
        **kwargs: Any,
    ) -> BatchFeature:
        """Tokenise texts and process their pictures.

        Args:
            images: Pictures of all texts in order, nested at will, or None.
            text: One text or several, with one "<image>" per picture.
            kwargs: Passed to the tokenizer, such as `padding` and `padding_side`.

        Raises:
            ValueError: If placeholders and pictures differ in number.
        """
        texts = [text] if isinstance(text, str) else list(text)
        features: dict[str, Any] = {}
        count = 0
        if images is not None:
            features = dict(self.image_processor.preprocess(images))
            count = len(features["pixel_values"])
        placeholders = sum(item.count(IMAGE) for item in texts)
        if placeholders != count:
            raise ValueError(
                f"the texts hold {placeholders} {IMAGE} placeholders for {count} pictures."
            )
        kwargs.setdefault("return_tensors", "pt")
        kwargs.setdefault("padding", len(texts) > 1)
        expanded = [item.replace(IMAGE, IMAGE * self.tokens_per_image) for item in texts]
        return BatchFeature({**self.tokenizer(expanded, **kwargs), **features})


AutoImageProcessor.register(
    TinyVLMConfig,
    image_processor_classes={"pil": TinyVLMImageProcessor, "torchvision": TinyVLMImageProcessor},
    exist_ok=True,
)
AutoProcessor.register(TinyVLMConfig, TinyVLMProcessor, exist_ok=True)
