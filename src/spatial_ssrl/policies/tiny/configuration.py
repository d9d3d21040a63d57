"""Configuration of TinyVLM, saved and loaded like that of any transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import AutoConfig, PretrainedConfig


class TinyVLMConfig(PretrainedConfig):
    """A timm image encoder, a connector of a few tokens, and a small decoder.

    Args:
        encoder: timm model name; anything that `timm.create_model(..., features_only=True)`
            takes.
        encoder_kwargs: Further arguments of that model.
        encoder_mean: Mean of each colour, in [0, 1], that the encoder expects taken off; None
            where it takes values in [-1, 1].
        encoder_std: Standard deviation it expects colours to be divided by then.
        image_size: Side of the square input, in pixels.
        dense_tokens: Tokens that describe the whole coarsest feature map.
        keypoint_tokens: Tokens that each find one place in the finest feature map.
        text_config: Decoder configuration, or its fields with the `model_type`; that of a Llama
            when it is missing.
        image_token_id: Id of the placeholder that image tokens replace.
        prompt_end_token_id: Id of the token that ends a prompt. Everything up to it attends
            in both directions, everything after it only backwards.
    """

    model_type = "tiny_vlm"
    sub_configs = {"text_config": AutoConfig}  # noqa: RUF012 (transformers reads the class attribute)

    def __init__(
        self,
        encoder: str = "patch_resnet_nano",
        encoder_kwargs: dict[str, Any] | None = None,
        encoder_mean: Sequence[float] | None = None,
        encoder_std: Sequence[float] | None = None,
        image_size: int = 64,
        dense_tokens: int = 8,
        keypoint_tokens: int = 8,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        image_token_id: int = 3,
        prompt_end_token_id: int = 4,
        **kwargs: Any,
    ) -> None:
        self.encoder = encoder
        self.encoder_kwargs = dict(encoder_kwargs or {})
        self.encoder_mean = encoder_mean
        self.encoder_std = encoder_std
        self.image_size = image_size
        self.dense_tokens = dense_tokens
        self.keypoint_tokens = keypoint_tokens
        self.image_token_id = image_token_id
        self.prompt_end_token_id = prompt_end_token_id
        if not isinstance(text_config, PretrainedConfig):
            text_config = AutoConfig.for_model(**({"model_type": "llama"} | (text_config or {})))
        self.text_config = text_config
        kwargs.setdefault("tie_word_embeddings", True)
        super().__init__(**kwargs)

    @property
    def tokens_per_image(self) -> int:
        """Number of image tokens that stand for one picture."""
        return self.dense_tokens + self.keypoint_tokens


AutoConfig.register("tiny_vlm", TinyVLMConfig, exist_ok=True)
