"""How processors pack the pictures of a batch, and the share of some questions in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError

Packing = Literal["row", "row with images", "image", "patch", "tile"]
"""What one entry of a processor's output belongs to.

"row": a question. "row with images": a question, those without pictures left out. "image": a
picture. "patch": a picture, which has as many as `image_grid_thw` says. "tile": a picture, which
has as many as it has placeholder tokens, each tile standing for equally many.
"""

# Processor outputs with one entry per prompt token; 0 stands for text.
PER_TOKEN = ("mm_token_type_ids", "token_type_ids")

# Pixels that are no padding, where pictures are cut into tiles: (B, tiles, H, W).
_TILE_MASK = "pixel_attention_mask"
_GRID = "image_grid_thw"

# Outputs that mean the same wherever they occur; the rest is in the table of families, or told
# by what else there is.
_PACKING: Mapping[str, Packing] = {
    "mm_token_type_ids": "row",
    "token_type_ids": "row",
    "cross_attention_mask": "row",
    "aspect_ratio_ids": "row",
    "aspect_ratio_mask": "row",
    _TILE_MASK: "row",
    "batch_num_images": "row with images",
    _GRID: "image",
    "image_sizes": "image",
}


def select_questions(
    prompts: PromptBatch,
    rows: Sequence[int],
    placeholders: Sequence[int],
    known: frozenset[str],
    packing: Mapping[str, Packing],
) -> PromptBatch:
    """Return the prompts of questions `rows`, in that order, with their share of images.

    Args:
        prompts: B questions.
        rows: Questions wanted; columns that are padding in every one of them are left out.
        placeholders: Ids of the tokens that features of pictures replace.
        known: Names of the inputs the model takes; outputs it has no use for are left out.
        packing: How the family packs outputs that other families pack otherwise.
    """
    replaced = torch.tensor(placeholders, device=prompts.input_ids.device)
    index = torch.tensor(rows, dtype=torch.int64, device=prompts.input_ids.device)
    mask = prompts.attention_mask[index]
    first = int(mask.any(dim=0).int().argmax())
    vision = select(
        {name: value for name, value in prompts.vision.items() if name in known},
        [len(question.images) for question in prompts.questions],
        torch.isin(prompts.input_ids, replaced).sum(-1).tolist(),
        rows,
        packing,
    )
    by_token = {name for name in vision if _is_per_token(name, prompts)}
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
    packing: Mapping[str, Packing] | None = None,
) -> dict[str, Tensor]:
    """Return the share of some questions in a processor's packed outputs.

    Args:
        vision: Packed outputs of B questions.
        images: Pictures of each question, length B.
        placeholders: Tokens of each question's prompt that features of pictures replace,
            length B.
        rows: Questions wanted, in the order wanted.
        packing: How some outputs are packed, by name; None leaves it to what they are.

    Raises:
        ConfigError: If an output fits no known packing, or several.
    """
    chosen = {}
    for name, value in vision.items():
        known = (packing or {}).get(name) or _told(name, vision)
        shares = _shares(known, value, vision, images, placeholders) if known else None
        if shares is None or sum(shares) != len(value):
            shares = _guessed(name, value, images, placeholders)
        ends = [0, *accumulate(shares)]
        index = [entry for row in rows for entry in range(ends[row], ends[row + 1])]
        chosen[name] = value[torch.tensor(index, dtype=torch.int64, device=value.device)]
    return _without_empty_tiles(chosen)


def in_one_row(prompts: PromptBatch, known: frozenset[str], added: int) -> dict[str, Tensor]:
    """Return what a model takes besides tokens when all prompts are read as one sequence.

    Args:
        prompts: B prompts of P tokens.
        known: Argument names the model takes.
        added: Tokens that follow the prompts, all of them text.
    """
    return {
        name: functional.pad(value.reshape(1, -1), (0, added))
        if _is_per_token(name, prompts)
        else value
        for name, value in prompts.vision.items()
        if name in known
    }


def followed(prompts: PromptBatch, known: frozenset[str], added: int) -> dict[str, Tensor]:
    """Return what a model takes besides tokens when each prompt is followed by `added` of text."""
    return {
        name: functional.pad(value, (0, added)) if _is_per_token(name, prompts) else value
        for name, value in prompts.vision.items()
        if name in known
    }


def _is_per_token(name: str, prompts: PromptBatch) -> bool:
    return name in PER_TOKEN and prompts.vision[name].shape == prompts.input_ids.shape


def _told(name: str, vision: Mapping[str, Tensor]) -> Packing | None:
    """Return the packing that the name of an output tells, or what else there is; or None."""
    if name == "pixel_values" and _GRID in vision:
        return "patch"
    if name == "pixel_values" and _TILE_MASK in vision:
        return "row"
    return _PACKING.get(name)


def _shares(
    packing: Packing,
    value: Tensor,
    vision: Mapping[str, Tensor],
    images: Sequence[int],
    placeholders: Sequence[int],
) -> list[int] | None:
    """Return how many entries belong to each question; None if placeholders do not divide."""
    if packing == "row":
        return [1] * len(images)
    if packing == "row with images":
        return [int(count > 0) for count in images]
    if packing == "image":
        return list(images)
    if packing == "patch":
        patches = iter(vision[_GRID].prod(-1).tolist())
        return [sum(next(patches) for _ in range(count)) for count in images]
    total, entries = max(sum(placeholders), 1), len(value)
    if any(count * entries % total for count in placeholders):
        return None
    return [count * entries // total for count in placeholders]


def _guessed(
    name: str, value: Tensor, images: Sequence[int], placeholders: Sequence[int]
) -> list[int]:
    """Return how many entries belong to each question where only one packing fits the number."""
    fitting: list[list[int]] = []
    kinds: tuple[Packing, ...] = ("row", "image", "tile")
    for kind in kinds:
        shares = _shares(kind, value, {}, images, placeholders)
        if shares is not None and sum(shares) == len(value) and shares not in fitting:
            fitting.append(shares)
    if len(fitting) != 1:
        raise ConfigError(
            f"Cannot tell how the processor packs {name!r} of shape {tuple(value.shape)} for "
            f"{len(images)} questions with {sum(images)} images; add the model's type to the "
            "table in policies/families.py, or use a micro-batch that holds the whole batch."
        )
    return fitting[0]


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
