"""Planted repetitions are found, and only those."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from spatial_ssrl.data.audit.duplicates import find_duplicates, look


def picture(seed: int, height: int = 96, width: int = 128) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return np.array(small.resize((width, height), Image.Resampling.BICUBIC))


def recompressed(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    height, width = image.shape[:2]
    Image.fromarray(image).resize((2 * width, 2 * height)).save(file, "JPEG", quality=90)
    return np.array(Image.open(file))


def apart(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.unpackbits((look(one) ^ look(other)).view(np.uint8)).sum())


def test_a_look_survives_scale_and_compression_and_tells_pictures_apart() -> None:
    pictures = [picture(seed) for seed in range(8)]
    assert max(apart(image, recompressed(image)) for image in pictures) <= 8
    assert min(apart(pictures[i], pictures[j]) for i in range(8) for j in range(i)) > 60
    assert look(pictures[0]).shape == (4,)
    assert look(np.zeros((1, 1, 3), np.uint8)).any() == False  # noqa: E712 - NumPy's own False


def test_planted_repetitions_are_found() -> None:
    images = [picture(seed) for seed in range(40)]
    uids = [f"q{number}" for number in range(40)]
    answers = ["A", "B"] * 20
    uids[30] = "q4"  # the same question, drawn again
    images[30] = images[4]
    images[21], answers[21] = recompressed(images[3]), answers[3]  # almost the same
    images[22], answers[22] = recompressed(images[5]), "A"  # alike, but answered otherwise
    found = find_duplicates(uids, answers, [look(image) for image in images], distance=8)
    assert found.same == 1
    assert found.near == 1
    assert found.examples == (("q3", "q21"),)


def test_pairs_across_blocks_are_found() -> None:
    rng = np.random.default_rng(0)
    looks = list(rng.integers(0, 2**63, (1100, 4), dtype=np.uint64))
    looks[1099] = looks[2] ^ np.array([0b1011, 0, 1, 0], np.uint64)
    looks[700] = looks[650]
    uids = [str(number) for number in range(1100)]
    assert find_duplicates(uids, ["A"] * 1100, looks, 4).examples == (("650", "700"), ("2", "1099"))
    assert find_duplicates(uids, ["A"] * 1100, looks, 3).examples == (("650", "700"),)
