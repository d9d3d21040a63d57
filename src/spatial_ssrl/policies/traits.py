"""What is found out about a model once, when it is loaded."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from spatial_ssrl.policies import families
from spatial_ssrl.policies.head import head_width
from spatial_ssrl.policies.image_packing import Packing
from spatial_ssrl.policies.prompt_budget import context_length

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Traits:
    """What a policy asks about its model again and again; the defaults are those of no model.

    Args:
        inputs: Argument names that the model's forward takes.
        sharing_limit: Most tokens of prompt and completion with which completions share a
            reading of their prompt; 0 where they never do.
        packing: How outputs of the processor are packed, by name.
        context: Most tokens of prompt and completion, None if unknown.
        media: Placeholders of pictures and videos, and their begin and end marks.
        placeholders: The tokens that features of pictures replace.
        unsayable: Tokens that must not be sampled, as columns of the logits.
    """

    inputs: frozenset[str] = frozenset()
    sharing_limit: float = 0.0
    packing: Mapping[str, Packing] = field(default_factory=dict)
    context: int | None = None
    media: tuple[int, ...] = ()
    placeholders: tuple[int, ...] = ()
    unsayable: tuple[int, ...] = ()

    @classmethod
    def of(
        cls, network: PreTrainedModel, processor: ProcessorMixin, tokenizer: PreTrainedTokenizerBase
    ) -> Traits:
        """Look a model over; its weights are not read, and may be on the meta device."""
        limit = families.sharing_limit(network)
        if not limit:
            _log.info(
                "%s attends in a way that completions cannot share a prompt in; it is scored by "
                "repeated forwards, which takes longer.",
                type(network).__name__,
            )
        media = families.media_token_ids(network, processor, tokenizer)
        # Heads are often wider than the tokenizer; tokens without text could not be verified.
        width = head_width(network.get_output_embeddings())
        without_text = range(len(tokenizer), width)
        return cls(
            inputs=families.accepted_inputs(network),
            sharing_limit=limit,
            packing=families.family_of(network).packing,
            context=context_length(network),
            media=media,
            placeholders=families.placeholder_ids(network) or media,
            unsayable=(*(token for token in media if token < width), *without_text),
        )
