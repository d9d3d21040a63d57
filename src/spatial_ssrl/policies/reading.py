"""Running a model over prompts, and on from where it stopped."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.policies import families, group_cache
from spatial_ssrl.policies.base import ReadState
from spatial_ssrl.policies.cache_argument import CACHE


def read_prompts(
    network: PreTrainedModel, prompts: PromptBatch, inputs: Collection[str]
) -> ReadState:
    """Run the vision tower and the language model over each prompt once.

    Args:
        network: The model.
        prompts: B left-padded prompts.
        inputs: Names that the model takes; what else a processor returned is left out.
    """
    inner = families.inner_model(network)
    positions, following = families.prompt_positions(inner, prompts)
    cache = DynamicCache()
    output = inner(
        input_ids=prompts.input_ids,
        attention_mask=prompts.attention_mask.long(),
        position_ids=positions,
        use_cache=True,
        **{CACHE: cache},
        **{name: value for name, value in prompts.vision.items() if name in inputs},
    )
    return ReadState(
        cache=cache,
        mask=prompts.attention_mask,
        position=following,
        hidden=output.last_hidden_state[:, -1],
    )


def read_further(
    network: PreTrainedModel, state: ReadState, tokens: Tensor, mask: Tensor
) -> tuple[ReadState, Tensor]:
    """Continue rows that were read with further tokens.

    Args:
        network: The model.
        state: Of R rows; its cache is written to.
        tokens: Shape (R, K), int64, right padded.
        mask: True on real tokens, shape (R, K), bool.

    Returns:
        The state after them, and the hidden state of each token, shape (R, K, D).
    """
    inner = families.inner_model(network)
    seen = torch.cat([state.mask, mask], dim=1)
    with group_cache.attending_to_groups(network, state.cache):
        output = inner(
            input_ids=tokens,
            attention_mask=seen.long(),
            position_ids=families.next_positions(inner, state.position, mask),
            use_cache=True,
            **{CACHE: state.cache},
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
