"""Finding a model and its processor, with one clear line when they cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import HfApi, constants, try_to_load_from_cache
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PreTrainedModel,
    ProcessorMixin,
)

from spatial_ssrl.core.errors import ConfigError

T = TypeVar("T")

_AUTO_CLASS = AutoModelForImageTextToText.__name__


@dataclass(frozen=True)
class ModelSource:
    """Where a model comes from.

    Args:
        model: Hub id, or folder of a saved model and its processor.
        revision: Branch, tag or commit of the hub repository.
        trust_remote_code: Run code that comes with the model.
    """

    model: str
    revision: str | None = None
    trust_remote_code: bool = False

    def build_model(self, **extra: Any) -> PreTrainedModel:
        """Load the model with its weights.

        Args:
            extra: Further arguments of `from_pretrained`, which takes too many to list.

        Raises:
            ConfigError: If there is no such model, or it does not read pictures.
        """
        self._check_present()
        config = self._get(AutoConfig.from_pretrained, "configuration")
        remote = getattr(config, "auto_map", None) or {}
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and _AUTO_CLASS not in remote:
            raise ConfigError(
                f"model: {self.model!r} is a {config.model_type!r} model, which does not turn "
                "pictures and text into text; name one of the image-text-to-text kind."
            )
        loaded: PreTrainedModel = self._get(
            AutoModelForImageTextToText.from_pretrained, "weights", **extra
        )
        return loaded

    def build_processor(self) -> ProcessorMixin:
        """Load the processor; needs no weights.

        Raises:
            ConfigError: If there is none, or it lacks an image processor or a chat template.
        """
        self._check_present()
        processor = self._get(AutoProcessor.from_pretrained, "processor")
        if not isinstance(processor, ProcessorMixin) or not hasattr(processor, "image_processor"):
            raise ConfigError(
                f"model: {self.model!r} has no processor for pictures (no "
                "preprocessor_config.json or processor_config.json); save the processor of the "
                "base model beside it, or name a vision-language model."
            )
        return processor

    def _get(self, load: Callable[..., T], what: str, **extra: Any) -> T:
        try:
            return load(
                self._location(),
                revision=self.revision or "main",
                trust_remote_code=self.trust_remote_code,
                **extra,
            )
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(
                f"model: the {what} of {self.model!r} could not be loaded: {_first_line(error)}"
            ) from error

    def _location(self) -> str:
        folder = Path(self.model).expanduser()
        return str(folder) if folder.is_dir() else self.model

    def _check_present(self) -> None:
        folder = Path(self.model).expanduser()
        if self.model and folder.is_dir():
            if not (folder / "config.json").is_file():
                raise ConfigError(
                    f"model: folder {self.model!r} holds no config.json; name a folder written "
                    "by save_pretrained (an adapter alone goes into `adapter`)."
                )
            return
        if not self.model or self.model.startswith((".", "/", "~")) or self.model.count("/") > 1:
            raise ConfigError(
                f"model: there is no folder {self.model!r}; name a folder that exists or a hub "
                "id such as 'Qwen/Qwen2.5-VL-3B-Instruct'."
            )
        if isinstance(
            try_to_load_from_cache(self.model, "config.json", revision=self.revision), str
        ):
            return
        self._check_on_hub()

    def _check_on_hub(self) -> None:
        reason = "HF_HUB_OFFLINE is set"
        if not constants.HF_HUB_OFFLINE:
            try:
                # One short request: loaders would retry for half a minute before they give up.
                HfApi().model_info(self.model, revision=self.revision, timeout=10)
            except Exception as error:  # The hub client's errors have no common base of their own.
                reason = f"{type(error).__name__}: {_first_line(error)}"
            else:
                return
        raise ConfigError(
            f"model: {self.model!r} is not a folder here, not in the cache "
            f"({constants.HF_HUB_CACHE}), and cannot be had from {constants.ENDPOINT} ({reason}); "
            "check the name, or the connection."
        )


def completed_processor(processor: ProcessorMixin, source: str) -> ProcessorMixin:
    """Return a processor that has what collating needs, from its tokenizer where it lacks it.

    Args:
        processor: Changed in place.
        source: What to call its model in messages.

    Raises:
        ConfigError: If there is no chat template.
    """
    tokenizer = processor.tokenizer
    if processor.chat_template is None:
        processor.chat_template = getattr(tokenizer, "chat_template", None)
    if processor.chat_template is None:
        raise ConfigError(
            f"model: the processor of {source!r} has no chat template; use the instruction-tuned "
            "version of the model, or put a chat_template.jinja into its folder."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return processor


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
