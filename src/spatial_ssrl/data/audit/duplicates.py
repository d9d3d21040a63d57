"""Questions that are asked twice, or nearly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Look = npt.NDArray[np.uint64]

_SIDE = 16  # 256 bits: enough for a marker elsewhere to show
_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Duplicates:
    """How many questions of a task are no new ones.

    Args:
        same: Questions whose uid an earlier question has.
        near: Other questions whose first picture looks like that of an earlier question with
            the same answer.
        examples: Up to five pairs of uids that are nearly the same, the earlier one first.
    """

    same: int
    near: int
    examples: tuple[tuple[str, str], ...]


def look(image: npt.NDArray[np.uint8]) -> Look:
    """Return 256 bits that hardly change with scale and compression, shape (4,), uint64.

    Bit by bit: whether each of 16 x 16 cells is darker than the one to its right.

    Args:
        image: Shape (H, W, 3), uint8.
    """
    small = Image.fromarray(image).convert("L").resize((_SIDE + 1, _SIDE), Image.Resampling.BOX)
    grey = np.asarray(small, dtype=np.int16)
    bits = np.packbits(grey[:, 1:] > grey[:, :-1])
    return bits.view(np.uint64)


def find_duplicates(
    uids: Sequence[str], answers: Sequence[str], looks: Sequence[Look], distance: int
) -> Duplicates:
    """Count questions of one task that repeat an earlier one.

    Args:
        uids: Id of each question.
        answers: Answer of each.
        looks: `look` of the first picture of each.
        distance: Bits by which two looks may differ and still count as alike.
    """
    first: dict[str, int] = {}
    for index, uid in enumerate(uids):
        first.setdefault(uid, index)
    kept = sorted(first.values())
    by_answer: dict[str, list[int]] = {}
    for index in kept:
        by_answer.setdefault(answers[index], []).append(index)
    pairs = [
        (one, other)
        for members in by_answer.values()
        for one, other in _near(members, looks, distance)
    ]
    pairs.sort(key=lambda pair: pair[1])
    examples = tuple((uids[one], uids[other]) for one, other in pairs[:5])
    return Duplicates(len(uids) - len(kept), len(pairs), examples)


def _near(members: Sequence[int], looks: Sequence[Look], distance: int) -> list[tuple[int, int]]:
    """Pair each question with the first earlier one that looks like it, where there is one."""
    bits = np.stack([looks[index] for index in members])
    pairs = []
    for start in range(0, len(members), _BLOCK):
        block = bits[start : start + _BLOCK]
        earlier = bits[: start + len(block)]
        apart = np.zeros((len(block), len(earlier)), dtype=np.uint16)
        for word in range(bits.shape[1]):
            apart += _ones(block[:, None, word] ^ earlier[None, :, word])
        alike = np.tril(apart <= distance, k=start - 1)
        for row in np.flatnonzero(alike.any(axis=1)):
            pairs.append((members[int(alike[row].argmax())], members[start + int(row)]))
    return pairs


def _ones(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint16]:
    """Count the bits that are set; `np.bitwise_count` needs NumPy 2."""
    octets = words[..., None].view(np.uint8)
    return np.asarray(_ONES[octets].sum(axis=-1, dtype=np.uint16))


_ONES = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)
