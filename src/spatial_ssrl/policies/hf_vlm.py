"""Any transformers image-text-to-text model as a policy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from spatial_ssrl.core.batches import PromptBatch, Rollouts
from spatial_ssrl.core.errors import ConfigError, PolicyNotLoaded
from spatial_ssrl.core.questions import Question
from spatial_ssrl.policies import families, group_cache, weights
from spatial_ssrl.policies.adapted import Adapted, is_adapted
from spatial_ssrl.policies.adapters import LoraSettings, add_adapter, load_adapter, save_adapter
from spatial_ssrl.policies.base import (
    POLICIES,
    Collator,
    PolicyBackbone,
    Preparer,
    ReadState,
    Trained,
)
from spatial_ssrl.policies.collate import PromptCollator
from spatial_ssrl.policies.counting import TokenCount, repeated_tokens
from spatial_ssrl.policies.fixed_step import FixedStep, can_be_fixed
from spatial_ssrl.policies.freezing import check_groups, freeze_parts, keep_statistics
from spatial_ssrl.policies.head import float32_logits, head_width, other_logits
from spatial_ssrl.policies.hub import ModelSource, completed_processor
from spatial_ssrl.policies.image_packing import select_questions
from spatial_ssrl.policies.model_files import check_adapter_folder
from spatial_ssrl.policies.packing import packed_tokens
from spatial_ssrl.policies.pixel_budget import PixelBudget, hand_over
from spatial_ssrl.policies.prompt_budget import PromptBudget, PromptLimit
from spatial_ssrl.policies.quantization import QuantSettings, load_in_four_bits
from spatial_ssrl.policies.quick_layers import quicken_layers
from spatial_ssrl.policies.reading import read_further, read_prompts
from spatial_ssrl.policies.recomputation import prepare_recomputation
from spatial_ssrl.policies.reference import Reference
from spatial_ssrl.policies.repeated import repeated_logprobs
from spatial_ssrl.policies.sampling import SamplingSettings
from spatial_ssrl.policies.scoring import completion_logprobs
from spatial_ssrl.policies.traits import Traits


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
        dtype: Precision of the weights; "auto" takes what they were saved in. To train every
            weight choose float32: bfloat16 rounds small updates away. Adapters always train in
            float32.
        freeze: Groups of modules that nothing changes in, under LoRA too: "vision_tower",
            "projector", "language_model" (the vocabulary head included).
        min_pixels: Pictures with fewer pixels are enlarged to about as many.
        max_pixels: Pictures with more pixels are shrunk to at most as many. Both are set in the
            processor, and saved with it, where its family can keep them.
        gradient_checkpointing: Recompute activations in the backward pass, which saves memory
            and costs about a third more time.
        max_prompt_tokens: Most tokens of a prompt, placeholders of pictures expanded; None is
            limited by the model's context only, less the tokens of a completion.
        long_prompts: "scale" shrinks the pictures of a longer prompt until it fits; where that
            is not enough, and with "reject", another question is drawn. None is ever cut.
        reference_on_host: Keep the copy of what RL began from in the host's memory, and bring it
            to the card only to score: frees as much of the card as what is trained takes, costs
            its transfer each step, changes no result.

    Raises:
        ConfigError: If 4-bit weights are to be trained in full, a bound cannot be kept, or
            `freeze` names what does not exist or all there is.
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
        freeze: tuple[str, ...] = (),
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        gradient_checkpointing: bool = False,
        max_prompt_tokens: int | None = None,
        long_prompts: Literal["scale", "reject"] = "scale",
        reference_on_host: bool = False,
    ) -> None:
        super().__init__()
        if quantization is not None and lora is None and adapter is None:
            raise ConfigError(
                "quantization needs lora: 4-bit weights themselves cannot be trained."
            )
        self._pixels = PixelBudget(min_pixels, max_pixels)
        self._prompt_limit = PromptLimit(max_prompt_tokens, long_prompts)
        check_groups(freeze)
        self.source = model
        self.lora = lora
        self.quantization = quantization
        self.adapter = adapter
        self.revision = revision
        self.trust_remote_code = trust_remote_code
        self.dtype = dtype
        self.freeze = tuple(freeze)
        self.min_pixels = min_pixels
        self.max_pixels = max_pixels
        self.gradient_checkpointing = gradient_checkpointing
        self.max_prompt_tokens = max_prompt_tokens
        self.long_prompts = long_prompts
        self.reference_on_host = reference_on_host
        self._model: PreTrainedModel | Adapted | None = None
        self._processor: ProcessorMixin | None = None
        self._reference = Reference(reference_on_host)
        self._traits = Traits()
        # A buffer, which goes where the module goes: sampling needs it for every token.
        self._unsayable: Tensor
        self.register_buffer("_unsayable", torch.empty(0, dtype=torch.long), persistent=False)

    def _build_model(self) -> PreTrainedModel:
        """Return the model with its weights; called once. Override to bring another model."""
        return self._weights_from(self._source())

    def _weights_from(self, source: ModelSource) -> PreTrainedModel:
        if self.quantization is None:
            return source.build_model(dtype=self.dtype)
        return load_in_four_bits(source, self.quantization, self.dtype)

    def _build_processor(self) -> ProcessorMixin:
        """Return the processor, without loading weights. Override to bring another one."""
        return self._source().build_processor()

    def _source(self) -> ModelSource:
        return ModelSource(self.source, self.revision, self.trust_remote_code)

    def load(self) -> None:
        """Load weights, processor and adapters; does nothing the second time.

        Raises:
            ConfigError: If the model or its processor cannot be had, or the adapter does not
                fit.
        """
        if self._model is not None:
            return
        # First what needs no weights, which may take minutes to load.
        processor = self.processor
        if self.adapter is not None:
            check_adapter_folder(Path(self.adapter))
        network = self._build_model()
        quicken_layers(network)
        families.require_attention_only(network)
        self._traits = Traits.of(network, processor, self.tokenizer)
        self._unsayable = torch.tensor(self._traits.unsayable, dtype=torch.long)
        self._model, self._reference = self._adapted(network), Reference(self.reference_on_host)
        if self.gradient_checkpointing:
            prepare_recomputation(network)
        self.eval()

    def _adapted(self, network: PreTrainedModel) -> PreTrainedModel | Adapted:
        frozen = freeze_parts(network, self.freeze)
        if self.adapter is not None:
            return load_adapter(network, Path(self.adapter), self.lora, frozen, self.revision)
        if self.lora is not None:
            return add_adapter(network, self.lora, frozen, self.revision)
        return network

    def train(self, mode: bool = True) -> HFVisionLanguagePolicy:
        """Switch dropout and the like; batch statistics of frozen layers stay as they are."""
        super().train(mode)
        keep_statistics(self)
        return self

    @property
    def inputs(self) -> frozenset[str]:
        """Names of what the model takes; empty before `load`."""
        return self._traits.inputs

    @property
    def trained(self) -> Trained:
        """Adapters, if there are any, and else every weight."""
        return "pretrained" if self.lora is None and self.adapter is None else "adapters"

    @property
    def processor(self) -> ProcessorMixin:
        """The processor, built on first use."""
        if self._processor is None:
            processor = completed_processor(self._build_processor(), self.source)
            self._pixels = hand_over(processor, self._pixels)
            self._processor = processor
        return self._processor

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The processor's tokenizer."""
        return cast(PreTrainedTokenizerBase, self.processor.tokenizer)

    @property
    def model(self) -> PreTrainedModel | Adapted:
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
        base = model.get_base_model() if is_adapted(model) else model
        return cast(PreTrainedModel, base)

    def collator(self, answer_of: Callable[[Question], str] | None = None) -> Collator:
        """Return the picklable collator of this policy's processor; needs no weights."""
        # In this order: building the processor settles which bounds on pixels it keeps itself.
        return PromptCollator(self.processor, answer_of, self._pixels)

    def preparer(
        self, answer_of: Callable[[Question], str] | None = None, new_tokens: int = 0
    ) -> Preparer:
        """Return what keeps questions within `max_prompt_tokens` and, once loaded, the context."""
        collate = PromptCollator(self.processor, answer_of, self._pixels)
        return PromptBudget(collate, self._prompt_limit, self._traits.context, new_tokens)

    def read(self, prompts: PromptBatch) -> ReadState:
        """Run the vision tower and the language model over each prompt once."""
        self.tokens += TokenCount(computed=prompts.input_ids.numel())
        return read_prompts(self.network, prompts, self.inputs)

    def read_on(self, state: ReadState, tokens: Tensor, mask: Tensor) -> tuple[ReadState, Tensor]:
        """Continue rows that were read with further tokens, (R, K), right padded."""
        self.tokens += TokenCount(computed=tokens.numel())
        return read_further(self.network, state, tokens, mask)

    @property
    def keeps_prompts_once(self) -> bool:
        """Whether states made `for_sampling` keep a prompt once, however many rows continue it."""
        return group_cache.keeps_prompts_once(self.network)

    def for_sampling(self, states: Sequence[ReadState]) -> ReadState:
        """Return one state that keeps each prompt once, where the model's attention allows it."""
        if not self.keeps_prompts_once:
            return super().for_sampling(states)
        return ReadState.keeping_prompts_once(states)

    @property
    def has_fixed_steps(self) -> bool:
        """Whether all layers see all that was said, from a prompt kept once."""
        return self.keeps_prompts_once and can_be_fixed(self.network)

    def fixed_step(self, state: ReadState, room: int) -> FixedStep:
        """Return a step of decoding that can be recorded; see `PolicyBackbone.fixed_step`."""
        return FixedStep(self.network, state, room)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return next-token logits, (..., V), float32; placeholders are -inf.

        A plain head is applied in float32 whatever the weights' precision, because rounding
        logits to bfloat16 moves probabilities by several per cent.
        """
        head = self.network.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            if type(head) is nn.Linear:
                logits = float32_logits(head, hidden)
            else:
                logits = other_logits(head, hidden)
        if not len(self._unsayable):
            return logits
        return logits.index_fill_(-1, self._unsayable.to(logits.device), float("-inf"))

    def logprobs(
        self,
        prompts: PromptBatch,
        rollouts: Rollouts,
        sampling: SamplingSettings = SamplingSettings(),  # noqa: B008
    ) -> Tensor:
        """Return the log-probability of each completion token, shape (N, C), float32."""
        self.tokens += TokenCount(repeated=repeated_tokens(prompts, rollouts.mask))
        shared = self._shares(prompts.input_ids.shape[1], rollouts.tokens.shape[1])
        score = completion_logprobs if shared else repeated_logprobs
        return score(self, prompts, rollouts, sampling)

    def tokens_read(self, prompts: Sequence[int], completions: Sequence[Sequence[int]]) -> int:
        """Return the tokens that `logprobs` reads in one pass, padding included."""
        longest = max(max(group) for group in completions)
        if self._shares(max(prompts), longest):
            return packed_tokens(prompts, completions)
        return super().tokens_read(prompts, completions)

    def _shares(self, prompt: int, completion: int) -> bool:
        return self.shares_prompts and prompt + completion <= self._traits.sharing_limit

    def select(self, prompts: PromptBatch, rows: Sequence[int]) -> PromptBatch:
        """Return the prompts of questions `rows`, in that order, with their share of images.

        Columns that are padding in every one of them are left out.
        """
        traits = self._traits
        return select_questions(prompts, rows, traits.placeholders, traits.inputs, traits.packing)

    def decode(self, tokens: Tensor, mask: Tensor) -> tuple[str, ...]:
        """Return the text of each row of tokens, (N, C), special tokens left out."""
        rows = [row[kept].tolist() for row, kept in zip(tokens.cpu(), mask.cpu(), strict=True)]
        return tuple(
            self.tokenizer.batch_decode(
                rows, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    @property
    def vocabulary_size(self) -> int:
        """Width of `logits`."""
        return head_width(self.network.get_output_embeddings())

    @property
    def media_token_ids(self) -> tuple[int, ...]:
        """Placeholders of pictures and videos, and their begin and end marks; never sampled."""
        return self._traits.media

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens any of which ends a completion."""
        settings = getattr(self.network, "generation_config", None)
        found: set[int] = set()
        for value in (self.tokenizer.eos_token_id, getattr(settings, "eos_token_id", None)):
            if value is not None:
                found.update(value if isinstance(value, list) else [value])
        return tuple(sorted(found))

    def reference(self) -> AbstractContextManager[None]:
        """Return a context in which the policy is what it was when it was first entered."""
        return self._reference.in_place(self.model)

    def trainable_state(self) -> dict[str, Tensor]:
        """Return what training changes, and what RL began from once that is known, by name."""
        live = weights.trainable_tensors(self.model)
        return self._reference.added_to({name: tensor.detach() for name, tensor in live.items()})

    def load_trainable_state(self, state: dict[str, Tensor]) -> None:
        """Restore what `trainable_state` returned.

        Raises:
            ConfigError: If names or shapes are not those of this policy.
        """
        live = weights.trainable_tensors(self.model)
        weights.restore(live, self._reference.taken_from(state))

    def save(self, directory: Path) -> None:
        """Write the adapter (PEFT layout) or the whole model, and the processor.

        Raises:
            ConfigError: If the folder holds something else, or cannot be written.
        """

        def write(folder: Path) -> None:
            if is_adapted(self._model):
                self.save_adapter(folder)
            else:
                self.model.save_pretrained(str(folder))
            self.processor.save_pretrained(folder)

        weights.write_folder(Path(directory), write)

    def save_adapter(self, directory: Path) -> None:
        """Write the adapter alone (PEFT layout) into an empty folder."""
        save_adapter(cast(Adapted, self.model), directory)
