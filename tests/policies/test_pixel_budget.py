"""Bounds on pixels, checked on what the real image processors hand to the model."""

from __future__ import annotations

import itertools
import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import ProcessorMixin

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.images import ImageFolder
from spatial_ssrl.policies import HFVisionLanguagePolicy, PromptCollator
from spatial_ssrl.policies.pixel_budget import PixelBudget, hand_over, refuses
from support.tiny_models import random_question, tiny_processor, write_tiny

SAMPLES = os.environ.get("SPATIAL_SSRL_SAMPLES", "")
SIZES = [(200, 300), (301, 97), (90, 500), (64, 64), (12, 9), (700, 650)]


def question_of(picture: np.ndarray[Any, Any]) -> Question:
    return replace(random_question(1), images=(picture,))


def seen_by_the_model(family: str, processor: ProcessorMixin, collator: PromptCollator) -> Any:
    """Return a function that says how many pixels of a picture the model gets, tiles only."""
    own = processor.image_processor

    def pixels(picture: np.ndarray[Any, Any]) -> int:
        vision = collator([question_of(picture)]).vision
        if "image_grid_thw" in vision:
            return int(vision["image_grid_thw"].prod()) * own.patch_size**2
        tiles = vision["pixel_values"].flatten(0, -4).shape[0]
        side = vision["pixel_values"].shape[-1]
        whole = tiles > 1 and family in ("idefics3", "smolvlm", "internvl")  # a small copy
        return (tiles - whole) * side**2

    return pixels


@pytest.mark.parametrize(
    ("family", "most"),
    [
        *itertools.product(["qwen2_5_vl", "qwen3_vl"], [3000, 5000, 9000, 40_000]),
        *itertools.product(["idefics3", "smolvlm"], [300, 5000]),
        *itertools.product(["internvl"], [300, 600, 5000]),
    ],
)
def test_the_upper_bound_holds_for_what_the_model_sees(family: str, most: int) -> None:
    processor = tiny_processor(family)
    left = hand_over(processor, PixelBudget(max_pixels=most))
    assert left == PixelBudget(), "the processor keeps the bound itself"
    pixels = seen_by_the_model(family, processor, PromptCollator(processor, pixels=left))
    own = seen_by_the_model(family, same := tiny_processor(family), PromptCollator(same))
    kept = [size for size in SIZES if not refuses(processor.image_processor, *size)]
    assert len(kept) >= 4
    for size in kept:
        picture = np.full((*size, 3), 99, dtype=np.uint8)
        assert pixels(picture) <= most
        assert pixels(picture) <= own(picture) or family.startswith("qwen")
    # Only strips are refused: one patch wide, they would still be too long.
    assert not set(SIZES) - set(kept) - {(90, 500), (301, 97)}


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_both_bounds_replace_the_processors_own(family: str) -> None:
    # Its own are 784 and 12,544 pixels.
    processor = tiny_processor(family)
    hand_over(processor, PixelBudget(min_pixels=30_000, max_pixels=60_000))
    pixels = seen_by_the_model(family, processor, PromptCollator(processor))
    side = processor.image_processor.patch_size * processor.image_processor.merge_size
    for size in SIZES:
        # Sides are rounded to whole patches, which takes at most one row and one column off.
        within = pixels(np.full((*size, 3), 99, dtype=np.uint8))
        assert 30_000 - side * sum(size) <= within <= 60_000
        assert within >= 20_000


def test_a_lower_bound_raises_the_number_of_tiles() -> None:
    processor = tiny_processor("internvl")
    hand_over(processor, PixelBudget(min_pixels=3 * 16 * 16))
    pixels = seen_by_the_model("internvl", processor, PromptCollator(processor))
    assert pixels(np.zeros((16, 16, 3), dtype=np.uint8)) >= 3 * 16 * 16


@pytest.mark.parametrize(
    ("family", "smallest"), [("qwen2_5_vl", 784), ("qwen3_vl", 1024), ("idefics3", 256)]
)
def test_a_bound_below_the_smallest_picture_is_refused(family: str, smallest: int) -> None:
    hand_over(tiny_processor(family), PixelBudget(max_pixels=smallest))
    with pytest.raises(
        ConfigError, match=f"max_pixels is {smallest - 1}, less .* = {smallest} pix"
    ):
        hand_over(tiny_processor(family), PixelBudget(max_pixels=smallest - 1))


@pytest.mark.parametrize(
    ("family", "bounds", "said"),
    [
        ("llava", {"max_pixels": 900}, "max_pixels is 900, but CLIPImageProcessor .* 1024 pixels"),
        ("llava", {"min_pixels": 4096}, "min_pixels is 4096, but CLIPImageProcessor .* 1024 pix"),
        ("gemma3", {"max_pixels": 200}, "max_pixels is 200, but Gemma3ImageProcessor .* 256 pix"),
        ("idefics3", {"min_pixels": 5000}, "min_pixels is 5000, but Idefics3.* to 32 pixels"),
    ],
)
def test_a_bound_that_is_undone_is_said_once(
    family: str, bounds: dict[str, int], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        hand_over(tiny_processor(family), PixelBudget(**bounds))
    (record,) = caplog.records
    assert re.search(said, record.getMessage())


@pytest.mark.parametrize(
    ("family", "bounds"),
    [
        ("llava", {"min_pixels": 500, "max_pixels": 2000}),
        ("gemma3", {"max_pixels": 256}),
        ("qwen2_5_vl", {"min_pixels": 4096, "max_pixels": 9000}),
        ("internvl", {"max_pixels": 9000}),
    ],
)
def test_a_bound_that_holds_is_not_spoken_of(
    family: str, bounds: dict[str, int], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        hand_over(tiny_processor(family), PixelBudget(**bounds))
    assert not caplog.records


def test_a_policy_gives_its_bounds_to_the_processor_and_saves_them(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "model")
    policy = HFVisionLanguagePolicy(str(folder), min_pixels=4000, max_pixels=6000)
    collator = policy.collator()
    assert collator.pixels == PixelBudget()
    picture = np.zeros((300, 400, 3), dtype=np.uint8)
    assert seen_by_the_model("qwen2_5_vl", policy.processor, collator)(
        picture
    ) == 70 * 70 // 4900 * (56 * 84)
    policy.load()
    policy.save(tmp_path / "saved")
    again = HFVisionLanguagePolicy(str(tmp_path / "saved"))
    assert dict(again.processor.image_processor.size) == {
        "shortest_edge": 4000,
        "longest_edge": 6000,
    }
    untouched = HFVisionLanguagePolicy(str(folder)).processor.image_processor.size
    assert dict(untouched) == {"shortest_edge": 784, "longest_edge": 12544}


def test_a_picture_no_processor_takes_is_named() -> None:
    strip = replace(question_of(np.zeros((1, 300, 3), dtype=np.uint8)), uid="strip")
    with pytest.raises(
        ConfigError, match=r"Question strip of task 'flipped_patch' .* aspect ratio .* 1 x 300\.$"
    ):
        PromptCollator(tiny_processor("qwen2_5_vl"))([random_question(2), strip])


@pytest.mark.skipif(not SAMPLES, reason="SPATIAL_SSRL_SAMPLES is not set")
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_photos_keep_the_reference_budget(family: str) -> None:
    # The bounds of the paper's cold start and GRPO, and the range of the real Qwen3-VL.
    photos = ImageFolder(Path(SAMPLES, "rgb"))
    for low, high in ((None, 262_144), (262_144, 524_288)):
        processor = tiny_processor(family)
        processor.image_processor.size = {"shortest_edge": 65_536, "longest_edge": 16_777_216}
        hand_over(processor, PixelBudget(low, high))
        pixels = seen_by_the_model(family, processor, PromptCollator(processor))
        for index in range(min(len(photos), 12)):
            seen = pixels(photos.scene(index).image)
            assert (low or 65_536) * 0.85 <= seen <= high
