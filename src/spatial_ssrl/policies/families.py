"""What differs between model families: parts, positions, attention, tokens never to be said."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies.image_packing import Packing

FreezeGroup = Literal["vision_tower", "projector", "language_model"]

# Which layers get adapters where a run does not say: linear ones, the vocabulary head never.
LoraTargets = Literal["language-model", "all-linear"]


@dataclass(frozen=True, slots=True)
class Family:
    """What has to be told about a type of model, because its classes do not tell it.

    Everything else is inferred for every family: positions (`prompt_positions`), tokens never
    to be sampled (`media_token_ids`), freeze groups by the names below, other outputs of the
    processor (`image_packing`).

    Args:
        packing: How outputs of its processor are packed, by name.
        mutual_images: Whether the tokens of a picture see one another both ways, as
            `token_type_ids` 1 marks them.
        lora_targets: What gets adapters unless a run says otherwise, as in `LoraSettings`. A
            pre-trained vision tower and its projector stay as they are by default: they know
            pictures already, and without gradients their activations need not be kept.
    """

    packing: Mapping[str, Packing] = field(default_factory=dict)
    mutual_images: bool = False
    lora_targets: LoraTargets = "language-model"


# By `model_type`. Types that are not here are taken to need nothing told. For all but ours the
# targets are q, k, v, o, gate, up and down of every decoder layer. Sources, read for what each
# leaves alone: `find_all_linear_names` of LLaVA's train.py (towers, projectors, the head) for the
# LLaVA kind; `wrap_llm_lora` of InternVL's modeling_internvl_chat.py (the seven names, in the
# language model only) for InternVL; `freeze_vision_tower`, true by default, of LLaMA-Factory's
# finetuning_args.py for the Qwen kind. For Gemma 3 and Idefics3 / SmolVLM, whose decoders have
# the same seven layers, by analogy. All seven, where PEFT's own table has q and v: QLoRA
# (arXiv:2305.14314, section 4) needed every linear layer of a block to match full fine-tuning.
FAMILIES: Mapping[str, Family] = {
    "gemma3": Family({"pixel_values": "tile"}, mutual_images=True),
    "idefics3": Family(),
    "internvl": Family({"pixel_values": "tile"}),
    "llava": Family({"pixel_values": "image"}),
    "llava_onevision": Family({"pixel_values": "image"}),
    "qwen2_vl": Family(),
    "qwen2_5_vl": Family(),
    "qwen3_vl": Family(),
    "smolvlm": Family(),
    # Trained from scratch by a short cold start: its encoder is no better settled than the rest.
    "tiny_vlm": Family({"pixel_values": "image"}, lora_targets="all-linear"),
}

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

# Method of inner models whose prompts are read both ways: which tokens those are.
_IN_PROMPT = "in_prompt"

# Inputs of models that let pictures see one another both ways, or attend to them apart.
_OTHER_ATTENTION = frozenset({"token_type_ids", "cross_attention_mask"})

_MEDIA_SETTING = re.compile(r"(image|video|vision|audio|media|boi|eoi|boa|eoa)\w*token_(id|index)$")
_MEDIA_TOKEN = re.compile(
    r"^[<\[].*(image|img|video|vision|audio|media|row_\d+_col_\d+).*[>\]]$", re.I
)


def family_of(network: PreTrainedModel) -> Family:
    """Return what the table tells about a model."""
    return FAMILIES.get(network.config.model_type, Family())


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
    return parameters_of(network.forward) | parameters_of(inner_model(network).forward)


def parameters_of(function: Callable[..., Any]) -> frozenset[str]:
    """Return the names of a function's parameters."""
    return frozenset(inspect.signature(function).parameters)


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
        known = parameters_of(rope_index)
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


def mutual_tokens(network: PreTrainedModel, prompts: PromptBatch) -> Tensor | None:
    """Return which prompt tokens see one another both ways; None where all attention is causal.

    Returns:
        Shape (B, P), int64: tokens of a prompt with the same number from 0 on see one another
        whatever their order, those with -1 see what is before them only.
    """
    in_prompt: Callable[[Tensor], Tensor] | None
    in_prompt = getattr(inner_model(network), _IN_PROMPT, None)
    if in_prompt is not None:
        inside: Tensor = in_prompt(prompts.input_ids) & prompts.attention_mask
        return inside.long() - 1
    if not family_of(network).mutual_images or "token_type_ids" not in prompts.vision:
        return None
    is_image = prompts.vision["token_type_ids"] == 1
    begins = is_image & ~functional.pad(is_image, (1, 0))[:, :-1]
    return torch.where(is_image, begins.long().cumsum(1) - 1, -1)


def sharing_limit(network: PreTrainedModel) -> float:
    """Return how long prompt and completion may be for `shared_attention`, in tokens.

    Returns:
        `inf` where nothing sets a limit; the chunk where attention is cut into chunks; 0 for
        models that attend in ways it does not know, or that do not let others compute their
        attention.
    """
    text = network.config.get_text_config()
    other = (
        not getattr(network.get_decoder(), "_supports_attention_backend", False)
        or getattr(text, "use_bidirectional_attention", None)
        or getattr(text, "attn_logit_softcapping", None)
        or (accepted_inputs(network) & _OTHER_ATTENTION and not family_of(network).mutual_images)
    )
    if other:
        return 0
    chunk = getattr(text, "attention_chunk_size", None)
    chunked = "chunked_attention" in (getattr(text, "layer_types", None) or ())
    return chunk if chunked and chunk is not None else math.inf


def placeholder_ids(network: PreTrainedModel) -> tuple[int, ...]:
    """Return the ids of the tokens that features of pictures replace; empty if not told."""
    id_ = getattr(network.config, "image_token_id", None)
    return () if id_ is None else (int(id_),)


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
