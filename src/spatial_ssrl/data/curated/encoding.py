"""Pictures as the encoded bytes that a curated set stores."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.errors import ConfigError

# Measured on questions made from photos of 640x480: level 1 is about three times as fast as
# Pillow's default of 6, and its files are about a tenth larger.
_PNG_LEVEL = 1


@dataclass(frozen=True)
class ImageEncoding:
    """How the pictures of a set are stored.

    Args:
        kind: "png" keeps every pixel; "jpeg" is several times smaller and changes pixels a
            little, alike in all pictures of a question.
        quality: Of JPEG, 1 to 100; not used for PNG.

    Raises:
        ConfigError: If a value is none of these.
    """

    kind: Literal["png", "jpeg"] = "png"
    quality: int = 95

    def __post_init__(self) -> None:
        if self.kind not in ("png", "jpeg"):
            raise ConfigError(f'encoding.kind must be "png" or "jpeg", got {self.kind!r}.')
        if not 1 <= self.quality <= 100:
            raise ConfigError(f"encoding.quality must be in [1, 100], got {self.quality}.")

    def encode(self, pixels: npt.NDArray[np.uint8]) -> bytes:
        """Return the file content of a picture, shape (H, W, 3)."""
        sink = BytesIO()
        picture = Image.fromarray(pixels)
        if self.kind == "png":
            picture.save(sink, "PNG", compress_level=_PNG_LEVEL)
        else:
            # Colour at full resolution: thin coloured borders and markers stay sharp.
            picture.save(sink, "JPEG", quality=self.quality, subsampling="4:4:4")
        return sink.getvalue()


def decode(content: bytes) -> npt.NDArray[np.uint8]:
    """Return the pixels of an encoded picture, shape (H, W, 3).

    Raises:
        OSError: If the content is no picture.
    """
    with Image.open(BytesIO(content)) as picture:
        return np.array(picture.convert("RGB"))
