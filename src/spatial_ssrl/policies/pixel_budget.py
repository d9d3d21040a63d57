"""How many pixels of a picture reach the model: left to its image processor where it can tell."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ProcessorMixin

from spatial_ssrl.core.errors import ConfigError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PixelBudget:
    """Bounds on the pixels of a picture.

    Args:
        min_pixels: Pictures with fewer pixels are enlarged to about as many; None leaves them.
        max_pixels: Pictures with more pixels are shrunk to at most as many; None leaves them.

    Raises:
        ConfigError: If a bound is below 1, or the bounds cross.
    """

    min_pixels: int | None = None
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        for name, bound in (("min_pixels", self.min_pixels), ("max_pixels", self.max_pixels)):
            if bound is not None and bound < 1:
                raise ConfigError(f"{name} must be at least 1, got {bound}.")
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ConfigError(
                "min_pixels must be at most max_pixels, got "
                f"{self.min_pixels} and {self.max_pixels}."
            )

    def size_of(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width of a picture within the bounds, its shape kept."""
        pixels, scale = height * width, 1.0
        if self.max_pixels is not None and pixels > self.max_pixels:
            scale = math.sqrt(self.max_pixels / pixels)
        elif self.min_pixels is not None and pixels < self.min_pixels:
            scale = math.sqrt(self.min_pixels / pixels)
        if scale == 1.0:
            return height, width
        return max(1, int(height * scale)), max(1, int(width * scale))

    def resized(self, picture: Image.Image) -> Image.Image:
        """Return a picture within the bounds."""
        height, width = self.size_of(picture.height, picture.width)
        if (width, height) == picture.size:
            return picture
        return picture.resize((width, height), Image.Resampling.BICUBIC)


def hand_over(processor: ProcessorMixin, budget: PixelBudget) -> PixelBudget:
    """Let a processor keep a budget itself where its family can, and return what is left of it.

    A picture that is scaled before a processor scales it again loses detail twice, and the
    second scaling may undo the first. What is left has to be kept by scaling pictures before;
    one warning says so if the processor undoes that.

    Args:
        processor: Changed in place: its image processor is replaced by one with other bounds.
        budget: Of a picture as it is cut into patches. Families that show a small copy of the
            whole picture besides its tiles show it in addition.

    Raises:
        ConfigError: If `max_pixels` is less than the smallest picture the model can see.
    """
    if budget == PixelBudget():
        return budget
    own: Any = copy(processor.image_processor)
    for applies, narrow in _KINDS:
        if applies(own):
            narrow(own, budget)
            processor.image_processor = own
            return PixelBudget()
    for bound in ("min_pixels", "max_pixels"):
        if complaint := _undone(own, budget, bound):
            _log.warning("%s", complaint)
    return budget


def smallest_pixels(processor: ProcessorMixin) -> int:
    """Return the pixels below which an image processor enlarges pictures, 1 if it never does."""
    size = getattr(processor.image_processor, "size", None) or {}
    known = {name: size[name] for name in _SIZES if size.get(name)}
    if takes_range(processor.image_processor):
        return int(known["shortest_edge"])
    if "height" in known and "width" in known:
        return int(known["height"] * known["width"])
    return int(max(known.values(), default=1)) ** 2


def takes_range(image_processor: Any) -> bool:
    """Whether an image processor keeps pictures within a number of pixels (the Qwen-VL kind)."""
    known = getattr(getattr(image_processor, "valid_kwargs", None), "__annotations__", {})
    size = getattr(image_processor, "size", None) or {}
    named = {"min_pixels", "max_pixels"} <= known.keys()
    return named and "shortest_edge" in size and "longest_edge" in size


def refuses(image_processor: Any, height: int, width: int) -> bool:
    """Whether a picture is too elongated for an image processor of the Qwen-VL kind.

    It accepts no side more than 200 times the other, and lets a long strip have more pixels
    than its bound, since no side can be less than one patch.
    """
    if not takes_range(image_processor):
        return False
    try:
        patches = image_processor.get_number_of_image_patches(height, width)
    except ValueError:
        return True
    return bool(patches * image_processor.patch_size**2 > image_processor.size["longest_edge"])


_SIZES = ("shortest_edge", "longest_edge", "height", "width")


def _narrow_range(own: Any, budget: PixelBudget) -> None:
    """Set the bounds on the pixels of a picture."""
    side = own.patch_size * own.merge_size
    low, high = own.size["shortest_edge"], own.size["longest_edge"]
    low = budget.min_pixels or min(low, budget.max_pixels or low)
    high = budget.max_pixels or max(high, low)
    _check_smallest(high, side, side)
    own.size = type(own.size)(shortest_edge=low, longest_edge=high)


def _cuts_tiles_of_a_length(own: Any) -> bool:
    """Whether every picture's longer side is brought to one length (the Idefics3 kind)."""
    return hasattr(own, "max_image_size") and "longest_edge" in (getattr(own, "size", None) or {})


def _narrow_length(own: Any, budget: PixelBudget) -> None:
    """Set the length of the longer side; it is a whole number of tiles, as it comes."""
    tile = own.max_image_size["longest_edge"]
    length = own.size["longest_edge"]
    if budget.max_pixels is not None:
        _check_smallest(budget.max_pixels, tile, tile)
        length = min(length, math.isqrt(budget.max_pixels) // tile * tile)
    own.size = type(own.size)(longest_edge=length)
    if budget.min_pixels is not None and length**2 < budget.min_pixels:
        _log.warning(
            "min_pixels is %d, but %s brings the longer side of every picture to %d pixels.",
            budget.min_pixels, type(own).__name__, length,
        )  # fmt: skip


def _cuts_tiles_by_number(own: Any) -> bool:
    """Whether pictures are cut into a number of tiles within bounds (the InternVL kind)."""
    size = getattr(own, "size", None) or {}
    return hasattr(own, "min_patches") and hasattr(own, "max_patches") and "height" in size


def _narrow_number(own: Any, budget: PixelBudget) -> None:
    """Set the least and the largest number of tiles."""
    height, width = own.size["height"], own.size["width"]
    if budget.max_pixels is not None:
        _check_smallest(budget.max_pixels, height, width)
        own.max_patches = min(own.max_patches, budget.max_pixels // (height * width))
    if budget.min_pixels is not None:
        own.min_patches = min(own.max_patches, -(-budget.min_pixels // (height * width)))
    own.min_patches = min(own.min_patches, own.max_patches)


_KINDS: tuple[tuple[Callable[[Any], bool], Callable[[Any, PixelBudget], None]], ...] = (
    (takes_range, _narrow_range),
    (_cuts_tiles_of_a_length, _narrow_length),
    (_cuts_tiles_by_number, _narrow_number),
)


def _check_smallest(pixels: int, height: int, width: int) -> None:
    if pixels < height * width:
        raise ConfigError(
            f"max_pixels is {pixels}, less than the smallest picture of this model "
            f"({height} x {width} = {height * width} pixels); raise it to that or more."
        )


def _undone(own: Any, budget: PixelBudget, bound: str) -> str | None:
    """Return what to say when an image processor undoes a bound, found out with a grey square."""
    wanted = getattr(budget, bound)
    if wanted is None:
        return None
    smaller = bound == "min_pixels"
    side = max(1, math.isqrt(wanted) // 2) if smaller else 2 * math.isqrt(wanted)
    picture = budget.resized(Image.fromarray(np.full((side, side, 3), 128, dtype=np.uint8)))
    seen = own(picture, return_tensors="pt")["pixel_values"]
    if not torch.is_tensor(seen) or seen.dim() < 4 or seen.shape[-3] != 3:
        return None  # Patches of an unknown layout: nothing can be said.
    pixels = seen.numel() // 3
    # A picture is enlarged to "about" the lower bound: rounding may take a line off.
    if (pixels >= wanted - 2 * side) if smaller else (pixels <= wanted):
        return None
    return (
        f"{bound} is {wanted}, but {type(own).__name__} turns such a picture into {pixels} pixels "
        f"({' x '.join(map(str, seen.shape))}); its family has no bound on pixels, so leave "
        f"{bound} out or set image_processor.size of the model's processor."
    )
