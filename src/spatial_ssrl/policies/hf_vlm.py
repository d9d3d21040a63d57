"""Any transformers image-text-to-text model as a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    DynamicCache,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.errors import ConfigError, PolicyNotLoaded
from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies import families
from spatial_ssrl.policies.adapters import LoraSettings, add_adapter, load_adapter
from spatial_ssrl.policies.base import POLICIES, Collator, PolicyBackbone, ReadState
from spatial_ssrl.policies.collate import PromptCollator
from spatial_ssrl.policies.quantization import QuantSettings, quantization_config

_REFERENCE = "reference::"


@POLICIES.register("hf_vlm")
class HFVisionLanguagePolicy(PolicyBackbone):
    """A transformers image-text-to-text model, adapted with LoRA or trained in full.

    Args:
        model: Hub id, or folder of a saved model and its processor.
        lora: Adapters to train; None trains every weight.
        quantization: Load the base weights in 4 bits; needs `lora` or `adapter`.
        adapter: Folder of a saved PEFT adapter to start from, instead of fresh ones.
        revision: Branch, tag or commit of the hub repository.
        trust_remote_code: Run code that comes with the model. Only for authors you trust.
        dtype: Precision of the weights; "auto" takes what they were saved in.
        freeze_vision: Train nothing in the vision tower.
        min_pixels: Pictures with fewer pixels are enlarged to about as many.
        max_pixels: Pictures with more pixels are shrunk to at most as many.

    Raises:
        ConfigError: If 4-bit weights are to be trained in full.
    """

    def __init__(
        self,
        model: str,
        lora: LoraSettings | None = None,
        quantization: QuantSettings | None = None,
        adapter: Path | None = None,
        revision: str | None = None,
        trust_remote_code: bool = False,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        freeze_vision: bool = False,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
    ) -> None:
        super().__init__()
        if quantization is not None and lora is None and adapter is None:
            raise ConfigError(
                "quantization needs lora: 4-bit weights cannot be trained themselves."
            )
        self.source = model
        self.lora = lora
        self.quantization = quantization
        self.adapter = adapter
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.dtype = dtype
        self.freeze_vision = freeze_vision
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self._model: PreTrainedModel | PeftModel | None = None
        self._processor: ProcessorMixin | None = None
        self._reference: dict[str, Tensor] | None = None
        self._unsayable: tuple[int, ...] = ()
        self._media: tuple[int, ...] = ()

    # Hooks for policies that bring their own model.

    def _build_model(self) -> PreTrainedModel:
        """Return the model with its weights; called once, by `load`."""
        extra: dict[str, Any] = {}
        if self.quantization is not None:
            extra["quantization_config"] = quantization_config(
                self.quantization, ("lm_head", "visual")
            )
        model: PreTrainedModel = AutoModelForImageTextToText.from_pretrained(
            self.source,
            revision=self.revision or "main",
            trust_remote_code=self.trust_remote_code,
            dtype=self.dtype,
            **extra,
        )
        return model

    def _build_processor(self) -> ProcessorMixin:
        """Return the processor; needs no weights."""
        processor: ProcessorMixin = AutoProcessor.from_pretrained(
            self.source,
            revision=self.revision or "main",
            trust_remote_code=self.trust_remote_code,
        )
        return processor

    # Loading.

    def load(self) -> None:
        """Load weights, processor and adapters; does nothing the second time.

        Raises:
            ConfigError: If the model or its processor cannot be had, or the adapter does not
                fit.
        """
        if self._model is not None:
            return
        processor = self.processor
        network = self._build_model()
        excluded = None
        if self.freeze_vision:
            name, tower = families.vision_tower(network)
            tower.requires_grad_(False)
            excluded = rf"(.*\.)?{name}\..*"
        self._media = families.media_token_ids(network, processor, self.tokenizer)
        vocabulary = int(network.get_output_embeddings().weight.shape[0])
        self._unsayable = tuple(
            sorted(
                {id_ for id_ in self._media if id_ < vocabulary}
                | set(range(len(self.tokenizer), vocabulary))
            )
        )
        if self.adapter is not None:
            self._model = load_adapter(network, Path(self.adapter))
        elif self.lora is not None:
            self._model = add_adapter(network, self.lora, excluded)
        else:
            self._model = network
        self.eval()

    @property
    def processor(self) -> ProcessorMixin:
        """The processor, built on first use."""
        if self._processor is None:
            self._processor = self._build_processor()
        return self._processor

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        tokenizer: PreTrainedTokenizerBase = self.processor.tokenizer
        return tokenizer

    @property
    def model(self) -> PreTrainedModel | PeftModel:
        """The model with its adapters.

        Raises:
            PolicyNotLoaded: Before `load`.
        """
        if self._model is None:
            raise PolicyNotLoaded(f"{type(self).__name__} was used before load().")
        return self._model

    @property
    def network(self) -> PreTrainedModel:
        """The transformers model itself, adapters living inside its layers."""
        model = self.model
        network: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model
        return network

    def collator(self, answer_of: Callable[[Question], str] | None = None) -> Collator:
        """Return the picklable collator of this policy's processor; needs no weights."""
        return PromptCollator(self.processor, answer_of, self.min_pixels, self.max_pixels)

    # Reading.

    def read(self, prompts: PromptBatch) -> ReadState:
        """Run the vision tower and the language model over each prompt once."""
        inner = families.inner_model(self.network)
        positions, following = families.prompt_positions(inner, prompts)
        known = families.accepted_inputs(self.network)
        cache = DynamicCache()
        output = inner(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in prompts.vision.items() if name in known},
        )
        return ReadState(
            cache=cache,
            mask=prompts.attention_mask,
            position=following,
            hidden=output.last_hidden_state[:, -1],
        )

    def read_on(self, state: ReadState, tokens: Tensor, mask: Tensor) -> tuple[ReadState, Tensor]:
        """Continue rows that were read with further tokens, (R, K), right padded."""
        inner = families.inner_model(self.network)
        seen = torch.cat([state.mask, mask], dim=1)
        output = inner(
            input_ids=tokens,
            attention_mask=seen.long(),
            position_ids=families.next_positions(inner, state.position, mask),
            past_key_values=state.cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        count = mask.long().sum(-1)
        rows = torch.arange(len(count), device=count.device)
        last = hidden[rows, (count - 1).clamp(min=0)]
        after = ReadState(
            cache=state.cache,
            mask=seen,
            position=state.position + count,
            hidden=torch.where(count[:, None] > 0, last, state.hidden),
        )
        return after, hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token logits, (..., V), float32; placeholders are -inf.

        A plain head is applied in float32 whatever the weights' precision, because rounding
        logits to bfloat16 moves probabilities by several per cent.
        """
        head = self.network.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            if type(head) is nn.Linear:
                bias = None if head.bias is None else head.bias.float()
                logits = functional.linear(hidden.float(), head.weight.float(), bias)
            else:
                logits = head(hidden).float()
        if not self._unsayable:
            return logits
        columns = torch.tensor(self._unsayable, device=logits.device)
        return logits.index_fill(-1, columns, float("-inf"))

    def logprobs(self, prompts: PromptBatch, rollouts: Rollouts, temperature: float) -> Tensor:
        """Return the log-probability of each completion token, shape (N, C), float32."""
        from spatial_ssrl.policies.scoring import completion_logprobs

        return completion_logprobs(self, prompts, rollouts, temperature)

    def select(self, prompts: PromptBatch, rows: Sequence[int]) -> PromptBatch:
        """Return the prompts of questions `rows`, in that order, with their share of images."""
        media = torch.tensor(self._media, device=prompts.input_ids.device)
        index = torch.tensor(rows, dtype=torch.int64, device=prompts.input_ids.device)
        return PromptBatch(
            input_ids=prompts.input_ids[index],
            attention_mask=prompts.attention_mask[index],
            vision=families.select(
                prompts.vision,
                [len(question.images) for question in prompts.questions],
                torch.isin(prompts.input_ids, media).sum(-1).tolist(),
                rows,
            ),
            questions=tuple(prompts.questions[row] for row in rows),
            targets=None if prompts.targets is None else prompts.targets[index],
            target_mask=None if prompts.target_mask is None else prompts.target_mask[index],
        )

    # Text.

    def decode(self, tokens: Tensor, mask: Tensor) -> tuple[str, ...]:
        """Return the text of each row of tokens, (N, C), special tokens left out."""
        rows = [row[kept].tolist() for row, kept in zip(tokens.cpu(), mask.cpu(), strict=True)]
        return tuple(self.tokenizer.batch_decode(rows, skip_special_tokens=True))

    @property
    def vocabulary_size(self) -> int:
        """Width of `logits`."""
        return int(self.network.get_output_embeddings().weight.shape[0])

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens any of which ends a completion."""
        found: set[int] = set()
        settings = getattr(self.network, "generation_config", None)
        for value in (self.tokenizer.eos_token_id, getattr(settings, "eos_token_id", None)):
            found.update(
                value if isinstance(value, list | tuple) else [value] if value is not None else []
            )
        return tuple(sorted(found))

    # What RL began from.

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Swap in the trainable tensors as they were when this was first entered; no gradient.

        A copy of the trainable tensors is all that is kept: the adapter under LoRA, the
        whole model without. Flags of the parameters do not change.
        """
        live = self._trainable()
        if self._reference is None:
            self._reference = {name: value.detach().clone() for name, value in live.items()}
        current = {name: value.data for name, value in live.items()}
        with torch.no_grad():
            try:
                for name, value in live.items():
                    value.data = self._reference[name].to(value.device)
                yield
            finally:
                for name, value in live.items():
                    value.data = current[name]

    def _trainable(self) -> dict[str, Tensor]:
        model = self.model
        tensors = {name: value for name, value in model.named_parameters() if value.requires_grad}
        if not isinstance(model, PeftModel):
            saved = model.state_dict(keep_vars=True)
            tensors.update((name, value) for name, value in model.named_buffers() if name in saved)
        return tensors

    def trainable_state(self) -> dict[str, Tensor]:
        """Return the trainable tensors by name, and the reference's where there is one."""
        state = {name: value.detach() for name, value in self._trainable().items()}
        for name, value in (self._reference or {}).items():
            state[_REFERENCE + name] = value
        return state

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `trainable_state` returned.

        Raises:
            ConfigError: On missing or unexpected names.
        """
        live = self._trainable()
        given = {name: value for name, value in state.items() if not name.startswith(_REFERENCE)}
        if missing := sorted(live.keys() - given.keys()):
            raise ConfigError(f"The checkpoint lacks {len(missing)} tensors, first {missing[0]!r}.")
        if extra := sorted(given.keys() - live.keys()):
            raise ConfigError(
                f"The checkpoint has {len(extra)} unknown tensors, first {extra[0]!r}."
            )
        with torch.no_grad():
            for name, value in live.items():
                value.copy_(given[name])
        kept = {
            name.removeprefix(_REFERENCE): value.clone()
            for name, value in state.items()
            if name.startswith(_REFERENCE)
        }
        self._reference = kept or None

    def save(self, directory: Path) -> None:
        """Write the adapter (PEFT layout) or the whole model, and the processor."""
        directory.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(directory)
        self.processor.save_pretrained(directory)
