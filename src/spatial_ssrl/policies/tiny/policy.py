"""The TinyVLM policy: built from scratch, or loaded from a folder it was saved to."""

from __future__ import annotations

import difflib
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast, ProcessorMixin

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.policies.adapters import LoraSettings
from spatial_ssrl.policies.base import POLICIES, Trained
from spatial_ssrl.policies.hf_vlm import HFVisionLanguagePolicy
from spatial_ssrl.policies.hub import ModelSource
from spatial_ssrl.policies.quantization import QuantSettings
from spatial_ssrl.policies.tiny.configuration import TinyVLMConfig
from spatial_ssrl.policies.tiny.decoder import decoder_config
from spatial_ssrl.policies.tiny.encoder_weights import load_encoder_weights
from spatial_ssrl.policies.tiny.modeling import TinyVLMForConditionalGeneration
from spatial_ssrl.policies.tiny.processing import TinyVLMImageProcessor, TinyVLMProcessor
from spatial_ssrl.policies.tiny.timm_library import timm_library
from spatial_ssrl.policies.tiny.tokenizer import ASSISTANT, IMAGE, build_tokenizer

_CORPUS_DRAWS = 200  # questions a task; enough for every clause of the built-in tasks to recur


@POLICIES.register("tiny_vlm")
class TinyVLM(HFVisionLanguagePolicy):
    """A vision-language model of 1 M parameters that learns on a CPU in minutes.

    A timm image encoder and a small decoder, joined as a transformers model. Everything but its
    making is as in `HFVisionLanguagePolicy`.

    Args:
        model: Folder of a saved TinyVLM to start from; None builds one from scratch, and then
            the settings of the architecture below apply.
        lora: Adapters to train; None trains every weight.
        quantization: Store the base weights of the decoder in 4 bits; needs `lora`.
        freeze: Groups of modules that nothing changes in, as in `HFVisionLanguagePolicy`.
        encoder: timm model name; any that takes `features_only`.
        encoder_kwargs: Further arguments of that timm model, such as `{img_size: 64}` for
            vision transformers made for another size.
        encoder_weights: File of weights saved from that timm model (.safetensors or .pth), to
            start from; None starts from random ones.
        decoder: Decoder, by its `model_type` in transformers: "llama", "qwen2", "qwen3",
            "gemma3_text" or any other whose layers all see the whole prompt.
        decoder_kwargs: Further settings of the decoder's configuration.
        image_size: Side of the square input, in pixels.
        hidden_size: Width of the decoder.
        layers: Decoder layers.
        heads: Attention heads; must divide `hidden_size`.
        seed: Seed of the initial weights.

    Raises:
        ConfigError: If `heads` does not divide `hidden_size`; on loading, if timm lacks the
            encoder, it cannot be built for pictures of this size, its weights do not fit, or
            there is no such decoder.
    """

    def __init__(
        self,
        model: Path | None = None,
        lora: LoraSettings | None = None,
        quantization: QuantSettings | None = None,
        freeze: tuple[str, ...] = (),
        encoder: str = "patch_resnet_nano",
        encoder_kwargs: dict[str, Any] | None = None,
        encoder_weights: Path | None = None,
        decoder: str = "llama",
        decoder_kwargs: dict[str, Any] | None = None,
        image_size: int = 64,
        hidden_size: int = 96,
        layers: int = 3,
        heads: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__(
            model="" if model is None else str(model),
            lora=lora,
            quantization=quantization,
            freeze=freeze,
        )
        if hidden_size % heads:
            raise ConfigError(f"heads must divide hidden_size, got {heads} and {hidden_size}.")
        self.encoder = encoder
        self.encoder_kwargs = encoder_kwargs
        self.encoder_weights = encoder_weights
        self.decoder = decoder
        self.decoder_kwargs = decoder_kwargs
        self.image_size = image_size
        self.hidden_size = hidden_size
        self.layers = layers
        self.heads = heads
        self.seed = seed

    @property
    def trained(self) -> Trained:
        """As in `HFVisionLanguagePolicy`, or from scratch where no folder is named."""
        whole = super().trained
        return "scratch" if whole == "pretrained" and not self.source else whole

    def _build_model(self) -> PreTrainedModel:
        if self.source:
            return super()._build_model()
        network = self._build_from_scratch()
        if self.quantization is None:
            return network
        # 4-bit weights are made while loading, by transformers.
        with tempfile.TemporaryDirectory() as folder:
            network.save_pretrained(folder)
            quantised = self._weights_from(ModelSource(folder))
        quantised.name_or_path = quantised.config.name_or_path = ""
        return quantised

    def _build_from_scratch(self) -> PreTrainedModel:
        timm = timm_library()
        if not timm.is_model(self.encoder):
            close = difflib.get_close_matches(self.encoder, timm.list_models(), n=3)
            hint = f" Did you mean {' or '.join(close)}?" if close else ""
            raise ConfigError(f"encoder: timm has no model {self.encoder!r}.{hint}")
        config = self._config()
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                network = TinyVLMForConditionalGeneration(config)
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"encoder: {self.encoder!r} cannot be built for {self.image_size}-pixel pictures "
                f"({str(error).splitlines()[0].rstrip('.')}); change image_size, or set "
                "encoder_kwargs, such as {img_size: 64} for vision transformers."
            ) from error
        if self.encoder_weights is not None:
            body = network.model.visual.body
            path = Path(self.encoder_weights).expanduser()
            load_encoder_weights(body, self.encoder, config.encoder_kwargs, path)
        return network

    def _config(self) -> TinyVLMConfig:
        tokenizer = self.tokenizer
        vocabulary = tokenizer.get_vocab()
        text = {
            "vocab_size": len(tokenizer),
            "hidden_size": self.hidden_size,
            "intermediate_size": 2 * self.hidden_size,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads,
            "max_position_embeddings": 4096,
            "initializer_range": self.hidden_size**-0.5,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": None,
            "tie_word_embeddings": True,
        }
        expected: dict[str, Any] = {}
        if self.encoder_weights is not None:  # What it was trained on; random ones take anything.
            expected = getattr(timm_library().get_pretrained_cfg(self.encoder), "to_dict", dict)()
        return TinyVLMConfig(
            encoder=self.encoder,
            encoder_kwargs=self.encoder_kwargs,
            encoder_mean=expected.get("mean"),
            encoder_std=expected.get("std"),
            image_size=self.image_size,
            text_config=decoder_config(self.decoder, text, self.decoder_kwargs or {}),
            image_token_id=vocabulary[IMAGE],
            prompt_end_token_id=vocabulary[ASSISTANT],
        )

    def _build_processor(self) -> ProcessorMixin:
        if self.source:
            return super()._build_processor()
        config = TinyVLMConfig()
        return TinyVLMProcessor(
            TinyVLMImageProcessor(self.image_size),
            default_tokenizer(),
            tokens_per_image=config.tokens_per_image,
        )


@lru_cache(maxsize=1)
def default_tokenizer() -> PreTrainedTokenizerFast:
    """Build the tokenizer of the built-in tasks' questions and worked answers."""
    from spatial_ssrl import tasks
    from spatial_ssrl.images import SyntheticScenes
    from spatial_ssrl.prompts.templates import full_prompt, plain_answer, worked_answer

    built_in = (
        tasks.ShuffledPatches(wording="terse"),
        tasks.FlippedPatch(wording="terse"),
        tasks.CroppedInpainting(wording="terse"),
        tasks.DepthOrder(wording="terse"),
        tasks.RelativePosition(wording="terse"),
    )
    scenes = SyntheticScenes(count=_CORPUS_DRAWS, size=64)
    texts: list[str] = []
    for index in range(_CORPUS_DRAWS):
        scene = scenes.scene(index)
        for number, task in enumerate(built_in):
            try:
                question = task.make(scene, rng_for(0, "corpus", number, index))
            except SceneRejected:
                continue
            texts += [full_prompt(question), worked_answer(question), plain_answer(question)]
    return build_tokenizer(texts)
