"""What differs between model families: positions, packed images, tokens never to be said."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError

FreezeGroup = Literal["vision_tower", "projector", "language_model"]

# Names models give to their vision tower, most specific first.
VISION_TOWERS = ("visual", "vision_tower", "vision_model", "vision_encoder")

# Names of what turns the vision tower's features into tokens of the language model; the
# mergers of the Qwen-VL kind lie inside the vision tower.
PROJECTORS = (
    "multi_modal_projector",
    "connector",
    "merger",
    "deepstack_merger_list",
    "image_newline",
)

_GROUP_NAMES: Mapping[str, FreezeGroup] = {
    **dict.fromkeys(VISION_TOWERS, "vision_tower"),
    **dict.fromkeys(PROJECTORS, "projector"),
}

# Kinds of layers whose whole memory is keys and values.
_SHAREABLE_LAYERS = frozenset({"full_attention", "sliding_attention", "chunked_attention"})

# Method of inner models that count pictures along three axes (the Qwen-VL kind).
_ROPE_INDEX = "get_rope_index"

# Settings that say how far layers of a kind see, in tokens.
_WINDOWS = {"sliding_attention": "sliding_window", "chunked_attention": "attention_chunk_size"}

# Inputs of models that let pictures see one another both ways, or attend to them apart.
_OTHER_ATTENTION = frozenset({"token_type_ids", "cross_attention_mask"})

# Method of inner models whose prompts are read both ways: which tokens those are.
_IN_PROMPT = "in_prompt"

# Processor outputs with one entry per prompt token; 0 stands for text.
PER_TOKEN = ("mm_token_type_ids", "token_type_ids")

# Pixels that are no padding, where pictures are cut into tiles: (B, tiles, H, W).
_TILE_MASK = "pixel_attention_mask"

# How a processor's outputs are packed, where the name alone tells; the rest is inferred from
# lengths (see `select`). "row": one entry per question; "image": one entry per picture.
_PACKING: Mapping[str, str] = {
    "mm_token_type_ids": "row",
    "token_type_ids": "row",
    "cross_attention_mask": "row",
    "aspect_ratio_ids": "row",
    "aspect_ratio_mask": "row",
    _TILE_MASK: "row",
    "image_grid_thw": "image",
    "image_sizes": "image",
}

_MEDIA_SETTING = re.compile(r"(image|video|vision|audio|media|boi|eoi|boa|eoa)\w*token_(id|index)$")
_MEDIA_TOKEN = re.compile(
    r"^[<\[].*(image|img|video|vision|audio|media|row_\d+_col_\d+).*[>\]]$", re.I
)


def inner_model(network: PreTrainedModel) -> nn.Module:
    """Return the part of a model that ends in hidden states, without the vocabulary head."""
    inner = network.base_model
    if inner is network or not isinstance(inner, nn.Module):
        raise ConfigError(
            f"{type(network).__name__} has no inner model that returns hidden states; "
            "use a model of the AutoModelForImageTextToText kind."
        )
    return inner


def require_attention_only(network: PreTrainedModel) -> None:
    """Check that all a model keeps of what it has read are keys and values.

    Raises:
        ConfigError: If layers keep a running state, which cannot be continued row by row.
    """
    kinds = getattr(network.config.get_text_config(), "layer_types", None) or ()
    if other := sorted(set(kinds) - _SHAREABLE_LAYERS):
        raise ConfigError(
            f"model: {type(network).__name__} has {', '.join(other)} layers, whose state cannot "
            "be shared by a group of completions; use a model with attention layers only."
        )


def vision_tower(network: PreTrainedModel) -> tuple[str, nn.Module]:
    """Return the vision tower of a model and its name in `named_modules`.

    Raises:
        ConfigError: If no module goes by a known name.
    """
    modules = dict(network.named_modules())
    for wanted in VISION_TOWERS:
        for name, module in modules.items():
            if name.rpartition(".")[2] == wanted:
                return name, module
    raise ConfigError(
        f"No vision tower found in {type(network).__name__} (looked for "
        f"{', '.join(VISION_TOWERS)}); set freeze_vision: false."
    )


def freeze_groups(network: PreTrainedModel) -> Mapping[FreezeGroup, tuple[str, ...]]:
    """Return the parts of a model that can be frozen apart, as names of modules.

    Args:
        network: The model, with or without adapters inside its layers.

    Returns:
        For each group the shortest names that hold nothing of another group; a parameter that
        stands beside modules goes by its own name. Every parameter lies under exactly one of
        them. The vocabulary head counts as language model, tied or not.

    Raises:
        ConfigError: If a parameter belongs to no known part.
    """
    text = (network.get_decoder(), network.get_output_embeddings())
    found: dict[FreezeGroup, list[str]] = {group: [] for group in get_args(FreezeGroup)}
    for name, group in _parts("", network, None, text):
        if group is None:
            raise ConfigError(
                f"{name!r} of {type(network).__name__} is no known part of a vision-language "
                f"model (looked for {', '.join(_GROUP_NAMES)} and the language model); freeze "
                "nothing, or add its name to policies/families.py."
            )
        found[group].append(name)
    return {group: tuple(names) for group, names in found.items()}


def _parts(
    name: str, module: nn.Module, above: FreezeGroup | None, text: Sequence[nn.Module]
) -> list[tuple[str, FreezeGroup | None]]:
    """Return the names under a module and their groups, one name for what is of one group."""
    group = "language_model" if module in text else _group_of(name, above)
    start = f"{name}." if name else ""
    own = [start + key for key, _ in module.named_parameters(recurse=False)]
    parts = [(key, _group_of(key, group)) for key in own]
    for key, child in module.named_children():
        parts += _parts(start + key, child, group, text)
    groups = {group for _, group in parts}
    return [(name, groups.pop())] if name and len(groups) == 1 else parts


def _group_of(name: str, above: FreezeGroup | None) -> FreezeGroup | None:
    return _GROUP_NAMES.get(name.rpartition(".")[2], above)


def accepted_inputs(network: PreTrainedModel) -> frozenset[str]:
    """Return the argument names a model's forward takes, inner model included."""
    names: set[str] = set()
    for module in (network, inner_model(network)):
        names.update(inspect.signature(module.forward).parameters)
    return frozenset(names)


def prompt_positions(inner: nn.Module, prompts: PromptBatch) -> tuple[Tensor, Tensor]:
    """Return the positions of prompt tokens and of the token after each prompt.

    Models of the Qwen-VL kind count pictures along three axes; their own `get_rope_index` is
    asked, whatever it caches is not used. All others count real tokens.

    Args:
        inner: Model without vocabulary head.
        prompts: B left-padded prompts of P tokens.

    Returns:
        Position ids, shape (B, P) or (3, B, P), int64, and the next position of each row,
        shape (B,), int64.
    """
    mask = prompts.attention_mask
    rope_index: Callable[..., tuple[Tensor, Tensor]] | None = getattr(inner, _ROPE_INDEX, None)
    if rope_index is not None:
        known = inspect.signature(rope_index).parameters
        vision = {name: value for name, value in prompts.vision.items() if name in known}
        positions, _ = rope_index(prompts.input_ids, attention_mask=mask.long(), **vision)
        return positions, positions.masked_fill(~mask, 0).amax(dim=(0, 2)) + 1
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    return positions, mask.long().sum(-1)


def next_positions(inner: nn.Module, position: Tensor, mask: Tensor) -> Tensor:
    """Return the positions of tokens that follow what was read.

    Args:
        inner: Model without vocabulary head.
        position: Position of the first new token of each row, shape (R,), int64.
        mask: True on real new tokens, right padded, shape (R, K), bool.

    Returns:
        Position ids, shape (R, K), or (3, R, K) where text counts along three axes at once.
    """
    return along_axes(inner, position[:, None] + (mask.long().cumsum(-1) - 1).clamp(min=0))


def along_axes(inner: nn.Module, positions: Tensor) -> Tensor:
    """Return positions of text, shape (..., K), as the model takes them.

    Returns:
        The same, or shape (3, ..., K) where text counts along three axes at once.
    """
    if hasattr(inner, _ROPE_INDEX):
        return positions[None].expand(3, *positions.shape)
    return positions


def both_ways(inner: nn.Module, prompts: PromptBatch) -> Tensor | None:
    """Return which prompt tokens see one another both ways, shape (B, P), bool; None if none."""
    in_prompt: Callable[[Tensor], Tensor] | None = getattr(inner, _IN_PROMPT, None)
    return None if in_prompt is None else in_prompt(prompts.input_ids) & prompts.attention_mask


def in_one_row(prompts: PromptBatch, known: frozenset[str], added: int) -> dict[str, Tensor]:
    """Return what a model takes besides tokens when all prompts are read as one sequence.

    Args:
        prompts: B prompts of P tokens.
        known: Argument names the model takes.
        added: Tokens that follow the prompts, all of them text.
    """
    inputs = {}
    for name, value in prompts.vision.items():
        if name not in known:
            continue
        per_token = name in PER_TOKEN and value.shape == prompts.input_ids.shape
        inputs[name] = functional.pad(value.reshape(1, -1), (0, added)) if per_token else value
    return inputs


def sharing_limit(network: PreTrainedModel) -> float:
    """Return how long prompt and completion may be for `shared_attention`, in tokens.

    Its attention is "all real tokens before me", so windows set a limit.

    Returns:
        `inf` where nothing does; 0 for models that let pictures see one another both ways, or
        attend to them apart, or that do not let others compute their attention.
    """
    text = network.config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    limits = [getattr(text, name, None) for kind, name in _WINDOWS.items() if kind in kinds]
    other = (
        not getattr(network.get_decoder(), "_supports_attention_backend", False)
        or getattr(text, "use_bidirectional_attention", None)
        or accepted_inputs(network) & _OTHER_ATTENTION
    )
    return 0 if other else min((limit for limit in limits if limit is not None), default=math.inf)


def media_token_ids(
    network: PreTrainedModel, processor: ProcessorMixin, tokenizer: PreTrainedTokenizerBase
) -> tuple[int, ...]:
    """Return the ids of image, video and audio placeholders and of their begin and end marks.

    They are gathered from the configuration, the processor and the names of special tokens,
    since no single place lists them for every family.
    """
    found: set[int] = set()
    for holder in (vars(network.config), vars(processor)):
        for name, value in holder.items():
            if _MEDIA_SETTING.search(name) and isinstance(value, int):
                found.add(value)
    for token_id, token in tokenizer.added_tokens_decoder.items():
        if _MEDIA_TOKEN.match(str(token)):
            found.add(token_id)
    return tuple(sorted(found))


def select_questions(
    prompts: PromptBatch, media: Sequence[int], rows: Sequence[int]
) -> PromptBatch:
    """Return the prompts of questions `rows`, in that order, with their share of images.

    Args:
        prompts: B questions.
        media: Ids of media placeholders.
        rows: Questions wanted; columns that are padding in every one of them are left out.
    """
    placeholders = torch.tensor(media, device=prompts.input_ids.device)
    index = torch.tensor(rows, dtype=torch.int64, device=prompts.input_ids.device)
    mask = prompts.attention_mask[index]
    first = int(mask.any(dim=0).int().argmax())
    vision = select(
        prompts.vision,
        [len(question.images) for question in prompts.questions],
        torch.isin(prompts.input_ids, placeholders).sum(-1).tolist(),
        rows,
    )
    by_token = {
        name for name, value in prompts.vision.items() if value.shape[:2] == prompts.input_ids.shape
    }
    return PromptBatch(
        input_ids=prompts.input_ids[index, first:],
        attention_mask=mask[:, first:],
        vision={
            name: value[:, first:] if name in by_token else value for name, value in vision.items()
        },
        questions=tuple(prompts.questions[row] for row in rows),
        targets=None if prompts.targets is None else prompts.targets[index],
        target_mask=None if prompts.target_mask is None else prompts.target_mask[index],
    )


def select(
    vision: Mapping[str, Tensor],
    images: Sequence[int],
    placeholders: Sequence[int],
    rows: Sequence[int],
) -> dict[str, Tensor]:
    """Return the share of some questions in a processor's packed outputs.

    Args:
        vision: Packed outputs of B questions.
        images: Pictures of each question, length B.
        placeholders: Media placeholder tokens of each question's prompt, length B; outputs
            packed neither per question nor per picture are shared out by it.
        rows: Questions wanted, in the order wanted.

    Raises:
        ConfigError: If an output fits no known packing.
    """
    chosen = {}
    for name, value in vision.items():
        ends = [0, *accumulate(_entries(name, value, vision, images, placeholders))]
        index = [entry for row in rows for entry in range(ends[row], ends[row + 1])]
        chosen[name] = value[torch.tensor(index, dtype=torch.int64, device=value.device)]
    return _without_empty_tiles(chosen)


def _without_empty_tiles(vision: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return outputs without the tiles that pad every question, (B, tiles, ...) in each."""
    mask = vision.get(_TILE_MASK)
    if mask is None or mask.dim() != 4:
        return vision
    used = mask.flatten(2).any(-1).any(0).nonzero()
    count = int(used.max()) + 1 if len(used) else 1
    return vision | {
        name: vision[name][:, :count].contiguous() for name in ("pixel_values", _TILE_MASK)
    }


def _entries(
    name: str,
    value: Tensor,
    vision: Mapping[str, Tensor],
    images: Sequence[int],
    placeholders: Sequence[int],
) -> list[int]:
    """Return how many entries of packed output `name` belong to each question."""
    length, total = value.shape[0], sum(placeholders)
    packing = _PACKING.get(name)
    if name == "pixel_values" and "image_grid_thw" in vision:
        patches = iter(vision["image_grid_thw"].prod(-1).tolist())
        return [sum(next(patches) for _ in range(count)) for count in images]
    if name == "pixel_values" and _TILE_MASK in vision:
        packing = _PACKING[_TILE_MASK]
    if packing == "image" or (packing is None and length == sum(images)):
        return list(images)
    if packing == "row" or length == len(images):
        return [1] * len(images)
    if total and all(count * length % total == 0 for count in placeholders):
        return [count * length // total for count in placeholders]
    raise ConfigError(
        f"Cannot tell how the processor packs {name!r} of shape {tuple(value.shape)} for "
        f"{len(images)} questions with {sum(images)} images; use a micro-batch that holds the "
        "whole batch."
    )
