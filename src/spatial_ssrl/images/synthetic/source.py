"""The image source of drawn scenes."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource
from spatial_ssrl.images.synthetic.compose import compose
from spatial_ssrl.images.synthetic.render import Rendering, render

_SMALLEST = 16


@IMAGE_SOURCES.register("synthetic_scenes")
class SyntheticScenes(ImageSource):
    """Drawn scenes with exact depth: rooms, yards and open land with objects; no files needed.

    Every scene is a pure function of `(seed, first + index)`: the same whoever draws it, in any
    order. Scenes of one seed and index show the same things at every `size`. Depth is exact at
    pixel centres, in metres along the viewing axis, and NaN in the sky. The sun always stands to
    the left of the viewer, so that a mirrored part can be told from its surroundings.

    Args:
        count: Number of scenes.
        size: Side of the square pictures, in pixels, at least 16.
        seed: Names the collection; other seeds give unrelated scenes.
        first: Number of the first scene, at least 0. Ranges that do not overlap share no scene,
            which is how training and held-out scenes are kept apart.

    Raises:
        ConfigError: If `count` or `first` is negative or `size` is too small.
    """

    has_depth = True
    depth_unit: ClassVar[Literal["metre", "relative"]] = "metre"

    def __init__(self, count: int = 10_000, size: int = 96, seed: int = 0, first: int = 0) -> None:
        if count < 0:
            raise ConfigError(f"count must be at least 0, got {count}.")
        if first < 0:
            raise ConfigError(f"first must be at least 0, got {first}.")
        if size < _SMALLEST:
            raise ConfigError(f"size must be at least {_SMALLEST} pixels, got {size}.")
        self.count = count
        self.size = size
        self.seed = seed
        self.first = first

    def __len__(self) -> int:
        return self.count

    def scene(self, index: int) -> Scene:
        """Draw scene `index`, in [0, len(self)).

        Raises:
            IndexError: If there is no such scene.
        """
        drawn = draw(self.seed, self._number(index), self.size)
        return Scene(
            image=drawn.image,
            source_id=self.source_id(index),
            depth=drawn.depth,
            depth_unit=self.depth_unit,
        )

    def source_id(self, index: int) -> str:
        """Return the `source_id` of scene `index`, which is not drawn for it.

        Raises:
            IndexError: If there is no such scene.
        """
        return f"synthetic/s{self.seed}/{self._number(index)}/{self.size}px"

    def _number(self, index: int) -> int:
        if not 0 <= index < self.count:
            raise IndexError(f"scene {index} is out of range: there are {self.count} scenes.")
        return self.first + index


def draw(seed: int, number: int, size: int) -> Rendering:
    """Draw one scene with the owner of every pixel; a pure function of its arguments.

    Args:
        seed: Names the collection of scenes.
        number: Which scene of it.
        size: Side of the picture, in pixels.
    """
    rng = rng_for(seed, "synthetic_scene", number)
    layout = compose(rng)
    grain = rng.standard_normal((size, size, 1), dtype=np.float32) * np.float32(1.5)
    return render(layout, size, grain)
