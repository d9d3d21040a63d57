"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from spatial_ssrl.core.errors import ConfigError

_SIZE = re.compile(r"\s*(?P<number>\d+(\.\d+)?)\s*(?P<prefix>[KMGT]?)(i?B)?\s*", re.I)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def memory_size(text: str, name: str = "gpu") -> int:
    """Return bytes of a size such as "24GB" or "16 GiB".

    Cards are named after powers of 1,024: "24GB" and "24GiB" are the same.

    Args:
        text: A number and a unit from B to TiB; GB when there is none.
        name: What to call it in an error.

    Raises:
        ConfigError: If it is no size, or nothing.
    """
    match = _SIZE.fullmatch(text)
    unit = "" if match is None else match["prefix"].upper()
    if match is not None and re.fullmatch(r"\s*[\d.]+\s*", text):
        unit = "G"
    size = 0 if match is None else int(float(match["number"]) * 1024 ** _POWERS[unit])
    if size < 1:
        raise ConfigError(f"{name}: {text!r} is no size of memory; write it as 24GB or 16GiB.")
    return size
