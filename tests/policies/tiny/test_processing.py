from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor

from spatial_ssrl.policies.tiny import TinyVLMImageProcessor, TinyVLMProcessor
from spatial_ssrl.policies.tiny.policy import default_tokenizer

TOKENS = 5


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def processor() -> TinyVLMProcessor:
    return TinyVLMProcessor(TinyVLMImageProcessor(16), default_tokenizer(), tokens_per_image=TOKENS)


def pixels(images: object, side: int = 16) -> torch.Tensor:
    return TinyVLMImageProcessor(side).preprocess(images)["pixel_values"]


def test_values_run_from_minus_one_to_one_and_channels_come_first() -> None:
    image = np.zeros((16, 16, 3), dtype=np.uint8)
    image[3, 5] = (255, 0, 51)
    values = pixels(image)
    assert values.shape == (1, 3, 16, 16)
    assert values.dtype == torch.float32
    assert values[0, :, 3, 5].tolist() == pytest.approx([1.0, -1.0, -0.6])
    values[0, :, 3, 5] = -1
    assert (values == -1).all()


def test_pictures_of_the_right_size_are_left_as_they_are() -> None:
    image = noise(16, 16)
    restored = ((pixels(image)[0].permute(1, 2, 0) + 1) * 127.5).round().byte().numpy()
    assert np.array_equal(restored, image)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (48, 20), (7, 9), (40, 8)])
def test_other_sizes_are_scaled_as_pillow_scales_them(height: int, width: int) -> None:
    image = noise(height, width)
    # Pillow's bilinear filter averages when it shrinks; its result is rounded to whole values.
    wanted = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
    found = (pixels(image)[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(found - wanted).max() <= 1.5


def test_pictures_of_mixed_shapes_keep_their_order() -> None:
    shapes = [(20, 20), (16, 16), (20, 20), (9, 30), (16, 16)]
    images = [noise(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    together = pixels(images)
    for number, image in enumerate(images):
        torch.testing.assert_close(together[number], pixels(image)[0])


def test_pictures_may_be_nested_and_of_several_kinds() -> None:
    images = [noise(16, 16, seed) for seed in range(3)]
    nested = [[Image.fromarray(images[0])], [images[1], Image.fromarray(images[2])]]
    assert torch.equal(pixels(nested), pixels(images))
    assert torch.equal(pixels(Image.fromarray(images[1])), pixels(images[1]))


def test_pillow_pictures_of_other_modes_become_rgb() -> None:
    grey = Image.fromarray(noise(16, 16)[..., 0])
    values = pixels([grey])
    assert torch.equal(values[0, 0], values[0, 2])


def test_each_placeholder_becomes_the_tokens_of_one_picture(processor: TinyVLMProcessor) -> None:
    tokenizer = processor.tokenizer
    images = [[noise(16, 16)], [noise(20, 20), noise(16, 16)]]
    encoded = processor(
        text=["<image> Which one?", "<image> or <image>? Answer with one letter."],
        images=images,
        padding=True,
        padding_side="left",
    )
    is_picture = encoded["input_ids"] == tokenizer.convert_tokens_to_ids("<image>")
    assert is_picture.sum(1).tolist() == [TOKENS, 2 * TOKENS]
    assert encoded["pixel_values"].shape == (3, 3, 16, 16)
    # Left padded: the shorter text starts with padding, and both end in text.
    assert encoded["attention_mask"][0, 0] == 0
    assert encoded["attention_mask"][:, -1].tolist() == [1, 1]
    words = encoded["input_ids"][1][~is_picture[1] & encoded["attention_mask"][1].bool()]
    assert tokenizer.decode(words) == " or ? Answer with one letter."


def test_text_alone_needs_no_pictures(processor: TinyVLMProcessor) -> None:
    encoded = processor(text="Which one?")
    assert set(encoded) == {"input_ids", "attention_mask"}
    assert encoded["input_ids"].shape[0] == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_wrong_number_of_pictures(processor: TinyVLMProcessor, count: int) -> None:
    images = [noise(16, 16)] * count or None
    with pytest.raises(ValueError, match=f"2 <image> placeholders for {count} pictures"):
        processor(text=["<image> or <image>?"], images=images)


def test_processor_survives_saving(processor: TinyVLMProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    assert isinstance(loaded, TinyVLMProcessor)
    given = {"text": ["<image> Patch 2,3.", "Why?"], "images": [noise(30, 20)], "padding": True}
    for name, value in processor(**given).items():
        assert torch.equal(loaded(**given)[name], value)
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Why?"}]}]
    assert loaded.apply_chat_template(turn, tokenize=False) == "<image>Why?"
