"""TinyVLM as a transformers model: `generate`, PEFT and `save_pretrained` work as on any."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForImageTextToText,
    Cache,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    BaseModelOutputWithPooling,
    CausalLMOutputWithPast,
)

from spatial_ssrl.policies.cache_argument import CACHE
from spatial_ssrl.policies.tiny.configuration import TinyVLMConfig
from spatial_ssrl.policies.tiny.timm_library import timm_library

_FREQUENCIES = 4


def _encoder(config: TinyVLMConfig) -> nn.Module:
    body: nn.Module = timm_library().create_model(
        config.encoder, pretrained=False, features_only=True, in_chans=5, **config.encoder_kwargs
    )
    return body


class VisionTower(nn.Module):
    """A timm encoder over the picture and its pixel coordinates.

    The two coordinate channels (in [-1, 1]) tell a small convolutional encoder where it is,
    which borders alone tell it late (CoordConv, arXiv:1807.03247).
    """

    coordinates: Tensor

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__()
        self.body = _encoder(config)
        self.scale, self.shift = _expected_scale(config)
        axis = torch.linspace(-1, 1, config.image_size)
        rows, columns = torch.meshgrid(axis, axis, indexing="ij")
        self.register_buffer("coordinates", torch.stack([columns, rows]), persistent=True)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Return the finest and the coarsest feature map of pictures (N, 3, S, S)."""
        if self.scale is not None and self.shift is not None:
            scale, shift = (pixel_values.new_tensor(v) for v in (self.scale, self.shift))
            pixel_values = pixel_values * scale[:, None, None] + shift[:, None, None]
        coordinates = self.coordinates.to(pixel_values).expand(len(pixel_values), -1, -1, -1)
        maps: list[Tensor] = self.body(torch.cat([pixel_values, coordinates], dim=1))
        if getattr(self.body, "output_fmt", "NCHW") == "NHWC":  # Swin and its kin.
            maps = [features.permute(0, 3, 1, 2) for features in maps]
        return maps[0], maps[-1]

    @torch.no_grad()
    def map_shapes(self) -> tuple[torch.Size, torch.Size]:
        """Return the shapes (C, H, W) of the two feature maps.

        One picture is tried, because encoders round sides that their stride does not divide
        each in its own way.
        """
        training = self.training
        # While transformers loads a saved model, weights are on "meta" and coordinates are not.
        blank = self.coordinates.new_zeros(1, 3, *self.coordinates.shape[1:])
        fine, coarse = self.eval()(blank.to(next(self.body.parameters()).device))
        self.train(training)
        return fine.shape[1:], coarse.shape[1:]


@torch.no_grad()
def restore_buffers(body: nn.Module, build: Callable[[], nn.Module]) -> None:
    """Give back what a timm encoder works out when built and does not save, such as positions.

    transformers leaves such buffers of others' modules empty when it loads a model.
    """
    saved = body.state_dict()
    lost = {name: buffer for name, buffer in body.named_buffers() if name not in saved}
    if lost:
        with torch.random.fork_rng(devices=[]):
            fresh = dict(build().named_buffers())
        for name, buffer in lost.items():
            buffer.copy_(fresh[name])


def _expected_scale(config: TinyVLMConfig) -> tuple[list[float] | None, list[float] | None]:
    """Return what brings colours in [-1, 1] to the scale the encoder was trained on, if any."""
    if config.encoder_mean is None or config.encoder_std is None:
        return None, None
    pairs = list(zip(config.encoder_mean, config.encoder_std, strict=True))
    return [0.5 / std for _, std in pairs], [(0.5 - mean) / std for mean, std in pairs]


class DenseTokens(nn.Module):
    """A few tokens that describe the whole of a feature map."""

    def __init__(self, shape: torch.Size, tokens: int, width: int) -> None:
        super().__init__()
        channels, height, across = shape
        self.squeeze = nn.Conv2d(channels, 64, 1)
        self.inward = nn.Linear(64 * height * across, 256)
        self.norm = nn.LayerNorm(256)
        self.outward = nn.Linear(256, tokens * width)
        self.tokens = tokens

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens (N, tokens, width) of feature maps (N, C, H, W)."""
        hidden = self.norm(self.inward(self.squeeze(features).flatten(1)))
        tokens: Tensor = self.outward(nn.functional.gelu(hidden))
        return tokens.reshape(len(tokens), self.tokens, -1)


class KeypointTokens(nn.Module):
    """Tokens that each find one place in a feature map and say what is there and where.

    A soft arg-max over positions (deep spatial autoencoders, arXiv:1509.06113) gives a place;
    the token holds the features pooled there and Fourier features of the place.
    """

    places: Tensor
    octaves: Tensor

    def __init__(self, shape: torch.Size, tokens: int, width: int) -> None:
        super().__init__()
        channels, height, across = shape
        self.score = nn.Conv2d(channels, tokens, 1)
        self.outward = nn.Linear(channels + 4 * _FREQUENCIES, width)
        self.identity = nn.Parameter(torch.randn(tokens, width) * 0.02)
        axes = (torch.linspace(-1, 1, height), torch.linspace(-1, 1, across))
        rows, columns = torch.meshgrid(*axes, indexing="ij")
        self.register_buffer("places", torch.stack([columns, rows], -1).flatten(0, 1))
        octaves = math.pi * 2.0 ** torch.arange(_FREQUENCIES)
        self.register_buffer("octaves", octaves)

    def forward(self, features: Tensor) -> Tensor:
        """Return tokens (N, tokens, width) of feature maps (N, C, H, W)."""
        weights = self.score(features).flatten(2).softmax(dim=-1)
        what = weights @ features.flatten(2).transpose(1, 2)
        where = weights @ self.places
        angles = (where.unsqueeze(-1) * self.octaves).flatten(2)
        tokens: Tensor = self.outward(torch.cat([what, angles.sin(), angles.cos()], -1))
        return tokens + self.identity


class Connector(nn.Module):
    """Turns the feature maps of a picture into its image tokens."""

    def __init__(self, config: TinyVLMConfig, fine: torch.Size, coarse: torch.Size) -> None:
        super().__init__()
        width = config.text_config.hidden_size
        self.dense = DenseTokens(coarse, config.dense_tokens, width)
        self.keypoints = KeypointTokens(fine, config.keypoint_tokens, width)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Return image tokens, shape (N, dense + keypoints, width)."""
        return torch.cat([self.dense(coarse), self.keypoints(fine)], dim=1)


class TinyVLMPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation shared by the TinyVLM models."""

    config_class = TinyVLMConfig
    base_model_prefix = "model"
    input_modalities = ["image", "text"]  # noqa: RUF012 (transformers reads the class attribute)
    _supports_sdpa = True
    supports_gradient_checkpointing = True

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a saved model; arguments as of any transformers model."""
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for module in model.modules():
            if isinstance(module, VisionTower):
                restore_buffers(module.body, partial(_encoder, cast(TinyVLMConfig, model.config)))
        return loaded

    def _init_weights(self, module: nn.Module) -> None:
        # The decoder initialises itself, and timm its encoder. The connector keeps PyTorch's
        # defaults: a standard deviation of 0.02 would mute the image tokens.
        return


class TinyVLMModel(TinyVLMPreTrainedModel):
    """The vision tower, the connector and the decoder, without the vocabulary head."""

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__(config)
        self.visual = VisionTower(config)
        self.connector = Connector(config, *self.visual.map_shapes())
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        """Return the token embedding."""
        return cast(nn.Module, self.language_model.embed_tokens)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.language_model.embed_tokens = cast(nn.Embedding, value)

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """Return the image tokens of pictures (N, 3, S, S) as `pooler_output`, (N, T, width)."""
        return BaseModelOutputWithPooling(pooler_output=self._image_tokens(pixel_values))

    def _image_tokens(self, pixel_values: Tensor) -> Tensor:
        tokens: Tensor = self.connector(*self.visual(pixel_values))
        return tokens

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Run prompts, or go on with tokens after a cached prompt.

        Args:
            input_ids: Token ids, shape (R, T); prompts are left padded.
            attention_mask: 1 on real tokens, shape (R, cached + T).
            position_ids: Position of each token, shape (R, T).
            pixel_values: Pictures of all rows in order, shape (images, 3, S, S); left aside
                when `input_ids` holds no placeholder, as in the later steps of `generate`.
            inputs_embeds: Embeddings to read in place of the tokens' own, shape (R, T, width);
                `input_ids` still say where pictures and the ends of prompts are.
            use_cache: Whether to return the cache.
            cache: What was read before.
            past_key_values: The same, as transformers called it before 5.24.
            kwargs: Passed to the decoder.
        """
        embeds = inputs_embeds
        if embeds is None:
            embeds = self.get_input_embeddings()(input_ids)
        is_image = input_ids == self.config.image_token_id
        if pixel_values is not None and bool(is_image.any()):
            tokens = self._image_tokens(pixel_values).flatten(0, 1)
            if len(tokens) != int(is_image.sum()):
                raise ValueError(
                    f"the prompts hold {int(is_image.sum())} image placeholders, but "
                    f"{len(pixel_values)} pictures give {len(tokens)} image tokens."
                )
            embeds = embeds.masked_scatter(is_image.unsqueeze(-1), tokens.to(embeds.dtype))
        cache = past_key_values if cache is None else cache
        cached = 0 if cache is None else cache.get_seq_length()
        if attention_mask is None:
            attention_mask = torch.ones(
                len(input_ids), cached + input_ids.shape[1], device=input_ids.device
            )
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, cached:]
        output: BaseModelOutputWithPast = self.language_model(
            inputs_embeds=embeds,
            attention_mask=self._mask(input_ids, attention_mask, cached),
            position_ids=position_ids,
            use_cache=use_cache,
            **{CACHE: cache},
            **kwargs,
        )
        return output

    def in_prompt(self, input_ids: Tensor) -> Tensor:
        """Return which tokens belong to the prompts, shape (R, T), bool.

        The first end mark of a row ends its prompt: a completion that contains the mark must
        not change what was computed before it.
        """
        is_end: Tensor = input_ids == self.config.prompt_end_token_id
        ends = is_end.long()
        before_end = ends.cumsum(1) - ends == 0
        return before_end & ends.any(1, keepdim=True)

    def _mask(self, input_ids: Tensor, attention_mask: Tensor, cached: int) -> Tensor:
        """Return which key each query sees, (R, 1, T, cached + T): both ways within a prompt.

        A ready mask, of four dimensions, is taken as it is.
        """
        if attention_mask.dim() == 4:
            return attention_mask
        attention_mask = attention_mask.bool()
        length = input_ids.shape[1]
        keys = torch.arange(cached + length, device=input_ids.device)
        queries = keys[cached:]
        visible = keys <= queries.unsqueeze(-1)
        if cached == 0:
            in_prompt = self.in_prompt(input_ids)
            both_ways = in_prompt.unsqueeze(1) & in_prompt.unsqueeze(2)
            visible = visible | both_ways
        # A padding query sees everything, so that no softmax is empty; nobody sees it back.
        seen = visible & attention_mask.unsqueeze(1)
        padding = ~attention_mask[:, cached:]
        return (seen | padding.unsqueeze(-1)).unsqueeze(1)


class TinyVLMForConditionalGeneration(TinyVLMPreTrainedModel, GenerationMixin):
    """TinyVLM with its vocabulary head, tied to the token embedding."""

    _tied_weights_keys = {  # noqa: RUF012 (transformers reads the class attribute)
        "lm_head.weight": "model.language_model.embed_tokens.weight"
    }

    def __init__(self, config: TinyVLMConfig) -> None:
        super().__init__(config)
        self.model = TinyVLMModel(config)
        text = config.text_config
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_output_embeddings(self) -> nn.Module:
        """Return the vocabulary head."""
        return cast(nn.Module, self.lm_head)

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the vocabulary head."""
        self.lm_head = value

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Return next-token logits; arguments as in `TinyVLMModel.forward`.

        Args:
            input_ids: Token ids, shape (R, T).
            attention_mask: 1 on real tokens, shape (R, cached + T).
            position_ids: Position of each token, shape (R, T).
            pixel_values: Pictures of all rows in order.
            inputs_embeds: Embeddings to read in place of the tokens' own, shape (R, T, width).
            labels: Token ids to predict, shape (R, T), -100 where there is no loss.
            use_cache: Whether to return the cache.
            logits_to_keep: Last positions to compute logits for; 0 for all.
            kwargs: Passed to the decoder.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            pixel_values=pixel_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **kwargs,
        )
        logits = self.lm_head(outputs.last_hidden_state[:, -logits_to_keep:])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.text_config.vocab_size
            )
        read: dict[str, Any] = {CACHE: outputs.get(CACHE)}
        return CausalLMOutputWithPast(loss=loss, logits=logits, **read)


AutoModelForImageTextToText.register(TinyVLMConfig, TinyVLMForConditionalGeneration, exist_ok=True)
