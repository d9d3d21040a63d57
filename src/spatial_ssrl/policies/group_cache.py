"""Keys and values of completions being sampled: the prompt's once per group, not once per row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from spatial_ssrl.policies.attention_parts import attend, hidden_where, merged
from spatial_ssrl.policies.members import Members

_BLOCK = 64  # tokens by which buffers grow
_NAME = "spatial_ssrl_groups"  # of the attention below, among those of transformers
_LAYER = "group_layer"  # attribute by which keys say which layer's prompt goes before them


class GroupLayer(DynamicLayer):
    """Keys and values of one layer: Q prompts, and what R rows said after them.

    Args:
        prompt_keys: Shape (Q, H, P, d).
        prompt_values: Shape (Q, H, P, d).
        members: Which prompt each row continues.
        keys: Of what was said, shape (R, H, S, d); its memory is not extended.
        values: Shape (R, H, S, d).
    """

    def __init__(
        self,
        prompt_keys: Tensor,
        prompt_values: Tensor,
        members: Members,
        keys: Tensor,
        values: Tensor,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # transformers' own
        self.prompt_keys, self.prompt_values = prompt_keys, prompt_values
        self.members = members
        self.length = keys.shape[2]
        self.said_keys, self.said_values = keys, values
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Add what rows say next, (R, H, n, d); return all they said, without the prompt."""
        end = self.length + key_states.shape[2]
        if end > self.said_keys.shape[2]:
            self.said_keys = _grown(self.said_keys[:, :, : self.length], end)
            self.said_values = _grown(self.said_values[:, :, : self.length], end)
        self.said_keys[:, :, self.length : end] = key_states
        self.said_values[:, :, self.length : end] = value_states
        self.length = end
        return self.for_attention(self.said_keys[:, :, :end]), self.said_values[:, :, :end]

    def for_attention(self, keys: Tensor) -> Tensor:
        """Return keys by which `group_attention` finds the prompt that goes before them."""
        setattr(keys, _LAYER, self)
        return keys

    @property
    def said(self) -> tuple[Tensor, Tensor]:
        """Keys and values of what rows said, with room that is not used yet."""
        return self.said_keys, self.said_values

    def get_seq_length(self) -> int:
        """Return the tokens of prompt and completion so far."""
        return int(self.prompt_keys.shape[2]) + self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many tokens a mask covers, prompt included, and that it starts at 0."""
        return self.get_seq_length() + query_length, 0

    def select(self, rows: Tensor, members: Members, prompts: Tensor | None) -> GroupLayer:
        """Return rows `rows`, with prompts `prompts` only unless that is None."""

        def kept(prompt: Tensor) -> Tensor:
            return prompt if prompts is None else prompt.index_select(0, prompts)

        return GroupLayer(
            kept(self.prompt_keys),
            kept(self.prompt_values),
            members,
            self.said_keys[:, :, : self.length].index_select(0, rows),
            self.said_values[:, :, : self.length].index_select(0, rows),
        )


class GroupCache(Cache):
    """Keys and values of rows that continue prompts, each prompt kept once.

    For sampling only: gradients do not flow through it.

    Args:
        layers: One for each layer of the model.
        members: Which prompt each row continues.
    """

    def __init__(self, layers: Sequence[GroupLayer], members: Members) -> None:
        super().__init__(layers=list(layers))
        self.members = members

    @staticmethod
    def of(caches: Sequence[Cache]) -> GroupCache:
        """Return one cache that keeps once the prompts that are the rows of these.

        Prompts of different length are left padded to the longest.

        Raises:
            TypeError: If a layer keeps something else than all keys and values.
        """
        kinds = {type(layer) for cache in caches for layer in cache.layers}
        if kinds - {DynamicLayer}:
            names = ", ".join(sorted(kind.__name__ for kind in kinds))
            raise TypeError(f"prompts of layers {names} cannot be kept once")
        layers, members = [], None
        for parts in zip(*(cache.layers for cache in caches), strict=True):
            keys = _stacked([cast(DynamicLayer, part).keys for part in parts])
            values = _stacked([cast(DynamicLayer, part).values for part in parts])
            if members is None:
                members = Members.of(torch.arange(len(keys), device=keys.device), len(keys))
            layers.append(GroupLayer(keys, values, members, keys[:, :, :0], values[:, :, :0]))
        if members is None:
            raise TypeError("a cache without layers keeps no prompts")
        return GroupCache(layers, members)

    def select(self, rows: Tensor) -> GroupCache:
        """Return the cache of rows `rows`, shape (R',), int64, which may repeat."""
        still, prompt = torch.unique(self.members.prompt[rows], return_inverse=True)
        members = Members.of(prompt, len(still))
        prompts = None if len(still) == self.members.prompts else still
        layers = [cast(GroupLayer, layer) for layer in self.layers]
        return GroupCache([layer.select(rows, members, prompts) for layer in layers], members)


def keeps_prompts_once(network: PreTrainedModel) -> bool:
    """Return whether the language model's attention can read a `GroupCache`.

    It can where it is PyTorch's plain attention, called through transformers, with one
    configuration for all layers.
    """
    text = network.config.get_text_config()
    found = [getattr(module, "config", None) for module in _attentions(network)]
    alike = [config is text for config in found if type(config) is type(text)]
    return bool(text._attn_implementation == "sdpa" and any(alike) and all(alike))


@contextmanager
def attending_to_groups(network: PreTrainedModel, cache: Cache) -> Iterator[None]:
    """Let the language model read a `GroupCache` inside; does nothing for other caches."""
    if not isinstance(cache, GroupCache):
        yield
        return
    text = network.config.get_text_config()
    before = text._attn_implementation
    text._attn_implementation = _NAME
    try:
        yield
    finally:
        text._attn_implementation = before


def group_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend to a prompt that is kept once, and to what each row said after it.

    The two are parts of one softmax. Every row of a prompt is compared with its keys in one
    product, which reads them once.

    Args:
        module: The attention layer.
        query: Shape (R, A, n, d), A a multiple of the H key heads.
        key: As `GroupLayer.update` returns it, shape (R, H, S, d).
        value: Shape (R, H, S, d).
        attention_mask: True where a query may look, shape (R, 1, n, P + S), bool; None when it
            may look everywhere.
        scaling: Factor of the scores; None takes one over the root of d.
        kwargs: Whatever else models give; no concern of a single step without dropout.

    Returns:
        Shape (R, n, A, d), and None in place of attention weights.
    """
    layer: GroupLayer | None = getattr(key, _LAYER, None)
    if layer is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return out, None
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):  # it would round scores
        out = _attended(query, key, value, layer, attention_mask, scaling)
    return out.to(query.dtype).transpose(1, 2).contiguous(), None


def _attended(
    query: Tensor, key: Tensor, value: Tensor, layer: GroupLayer, mask: Tensor | None, scale: float
) -> Tensor:
    """Return what queries (R, A, n, d) find, of the same shape; see `group_attention`."""
    rows, heads, count, size = query.shape
    members, shared = layer.members, key.shape[1]
    # Heads that share keys become further queries of one head.
    asked = query.reshape(rows, shared, heads // shared * count, size)
    before = after = None
    if mask is not None:
        added = hidden_where(~mask).repeat(1, 1, heads // shared, 1)
        before, after = added.split([layer.prompt_keys.shape[2], key.shape[2]], dim=-1)
        before = members.gather(before)
    of_prompt, prompt_sums = attend(
        members.gather(asked), layer.prompt_keys, layer.prompt_values, before, scale
    )
    of_said, said_sums = attend(asked, key, value, after, scale)
    of_prompt = members.scatter(of_prompt, asked.shape[2])
    prompt_sums = members.scatter(prompt_sums.unsqueeze(-1), asked.shape[2]).squeeze(-1)
    return merged(of_prompt, prompt_sums, of_said, said_sums).reshape(query.shape)


def _stacked(prompts: Sequence[Tensor | None]) -> Tensor:
    """Return keys or values (Q_i, H, P_i, d) as one tensor, left padded, (sum Q_i, H, P, d)."""
    given = [cast(Tensor, part) for part in prompts]
    if len(given) == 1:
        return given[0]
    longest = max(part.shape[2] for part in given)
    return torch.cat([functional.pad(part, (0, 0, longest - part.shape[2], 0)) for part in given])


def _attentions(network: nn.Module) -> Iterator[nn.Module]:
    return (module for module in network.modules() if hasattr(module, "layer_idx"))


def _grown(used: Tensor, length: int) -> Tensor:
    """Return a copy of keys or values in memory for at least `length` tokens."""
    rows, heads, said, size = used.shape
    blocks = -(-length // _BLOCK)
    grown = used.new_empty(rows, heads, blocks * _BLOCK, size)
    grown[:, :, :said] = used
    return grown


AttentionInterface.register(_NAME, group_attention)
AttentionMaskInterface.register(_NAME, sdpa_mask)
