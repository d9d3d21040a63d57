"""Random streams that depend on what is drawn, never on who draws it or when."""

from __future__ import annotations

import hashlib
import operator

import numpy as np


def seed_for(seed: int, *parts: int | str) -> int:
    """Derive a 64-bit seed from a base seed and the parts that name a draw.

    Args:
        seed: Base seed of the run, any integer.
        parts: What the draw is for, such as `("scene", 17)`. Order and type matter:
            `1` and `"1"` give different seeds.

    Returns:
        An integer in [0, 2**63), equal on every machine and Python version.
    """
    # NumPy's integers and strings print unlike Python's; both must name the same stream.
    plain = (str(part) if isinstance(part, str) else operator.index(part) for part in parts)
    text = "\x1f".join([repr(int(seed)), *(repr(part) for part in plain)])
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def rng_for(seed: int, *parts: int | str) -> np.random.Generator:
    """Return a generator whose stream is named by `(seed, *parts)`.

    Args:
        seed: Base seed of the run, any integer.
        parts: What the stream is for; see `seed_for`.
    """
    return np.random.Generator(np.random.PCG64(seed_for(seed, *parts)))
