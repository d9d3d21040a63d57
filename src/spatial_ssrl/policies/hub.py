"""Finding a model and its processor, with one clear line when they cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import (
    constants,
    get_hf_file_metadata,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from spatial_ssrl.core.errors import ConfigError, ran_out_of_memory
from spatial_ssrl.policies.model_files import (
    CONFIG,
    check_loaded,
    check_model_folder,
    check_weight_files,
)

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
        self._image_text_config()
        folder = Path(self._location())
        if folder.is_dir():
            check_weight_files(folder)
        outcome: Any = self._get(
            AutoModelForImageTextToText.from_pretrained,
            "weights",
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # Reported below, tensor and all.
            **extra,
        )
        loaded: PreTrainedModel = outcome[0]
        check_loaded(self.model, outcome[1])
        return loaded

    def build_skeleton(self) -> PreTrainedModel:
        """Build the model on the meta device: all its modules, none of its weights.

        Raises:
            ConfigError: If there is no such model, or it does not read pictures.
        """
        config = self._image_text_config()
        with torch.device("meta"):
            skeleton: PreTrainedModel = AutoModelForImageTextToText.from_config(
                config, trust_remote_code=self.trust_remote_code
            )
        return skeleton

    def _image_text_config(self) -> PretrainedConfig:
        self._check_present()
        config: PretrainedConfig = self._get(AutoConfig.from_pretrained, "configuration")
        remote = getattr(config, "auto_map", None) or {}
        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and _AUTO_CLASS not in remote:
            raise ConfigError(
                f"model: {self.model!r} is a {config.model_type!r} model, which does not turn "
                "pictures and text into text; name one of the image-text-to-text kind."
            )
        return config

    def build_processor(self) -> ProcessorMixin:
        """Load the processor; needs no weights.

        Raises:
            ConfigError: If there is none, or it lacks an image processor, or the model does not
                read pictures.
        """
        self._image_text_config()
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
        except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
            if ran_out_of_memory(error):
                raise
            raise ConfigError(
                f"model: the {what} of {self.model!r} could not be loaded: "
                f"{_first_line(error).rstrip('.')}{self._remedy(what, error)}"
            ) from error

    def _remedy(self, what: str, error: BaseException) -> str:
        """Return where was looked, and what to do, for an error of transformers or the client."""
        text = str(error)
        if "trust_remote_code" in text or "custom code" in text:
            return (
                "; the model comes with code of its own: if you trust its authors, set "
                "trust_remote_code: true"
            )
        if isinstance(error, ImportError):
            return "; install what it names"
        if Path(self._location()).is_dir():
            if what == "processor":
                return "; save the processor and tokenizer of the base model into the folder"
            if what == "weights" and "no file named" in text:
                return "; copy or download them into the folder."
            return "."
        return (
            f"; looked in the cache ({constants.HF_HUB_CACHE}) and at {constants.ENDPOINT}"
            f"{', but not there, since HF_HUB_OFFLINE is set' if constants.HF_HUB_OFFLINE else ''}"
            "."
        )

    def _location(self) -> str:
        folder = Path(self.model).expanduser()
        # Absolute, because adapters name it, and are loaded from elsewhere.
        return str(folder.absolute()) if folder.is_dir() else self.model

    def _check_present(self) -> None:
        folder = Path(self.model).expanduser()
        if self.model and folder.is_dir():
            check_model_folder(folder)
            return
        if not self.model or self.model.startswith((".", "/", "~")) or self.model.count("/") > 1:
            raise ConfigError(
                f"model: there is no folder {self.model!r}; name a folder that exists or a hub "
                "id such as 'Qwen/Qwen2.5-VL-3B-Instruct'."
            )
        if isinstance(try_to_load_from_cache(self.model, CONFIG, revision=self.revision), str):
            return
        self._check_on_hub()

    def _check_on_hub(self) -> None:
        reason, remedy = "HF_HUB_OFFLINE is set", "check the name, or unset HF_HUB_OFFLINE"
        if not constants.HF_HUB_OFFLINE:
            try:
                # One short request: loaders would retry for half a minute before they give up.
                get_hf_file_metadata(
                    hf_hub_url(self.model, CONFIG, revision=self.revision), timeout=10
                )
            # The hub client's errors have no common base of their own.
            except Exception as error:  # noqa: BLE001
                reason, remedy = self._refusal(error)
            else:
                return
        raise ConfigError(
            f"model: {self.model!r} is not a folder here, not in the cache "
            f"({constants.HF_HUB_CACHE}), and cannot be had from {constants.ENDPOINT} ({reason}); "
            f"{remedy}."
        )

    def _refusal(self, error: Exception) -> tuple[str, str]:
        """Return why the hub does not give a file, and what to do."""
        log_in = "log in with `hf auth login` or set HF_TOKEN"
        refusals: tuple[tuple[type[Exception], str, str], ...] = (
            (
                GatedRepoError,
                "access to it is gated",
                f"accept its conditions on its page there, and {log_in}",
            ),
            (
                RevisionNotFoundError,
                f"it has no revision {self.revision!r}",
                "correct `revision`, or leave it out",
            ),
            (
                RepositoryNotFoundError,
                "there is no such repository, or it is private",
                f"check the name; if it is private, {log_in}",
            ),
            (
                EntryNotFoundError,
                f"it holds no {CONFIG}",
                "name a repository that transformers can load",
            ),
            (HFValidationError, "that is no name of a repository", "write it as owner/name"),
        )
        for kind, reason, remedy in refusals:
            if isinstance(error, kind):
                return reason, remedy
        return f"{type(error).__name__}: {_first_line(error)}", "check the connection, or the name"


def completed_processor(processor: ProcessorMixin, source: str) -> ProcessorMixin:
    """Return a processor that has what collating needs, from its tokenizer where it lacks it.

    Args:
        processor: Changed in place.
        source: What to call its model in messages.

    Raises:
        ConfigError: If there is no chat template, or the tokenizer is empty.
    """
    tokenizer = processor.tokenizer
    if not set(tokenizer("near or far?", add_special_tokens=False)["input_ids"]) - {
        tokenizer.unk_token_id
    }:
        # Transformers builds an empty one where it finds no files.
        raise ConfigError(
            f"model: the tokenizer of {source!r} knows no words (no tokenizer.json or "
            "tokenizer.model?); save the tokenizer of the base model beside the model."
        )
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
