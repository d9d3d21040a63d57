"""Several sources as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from itertools import accumulate

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource


@IMAGE_SOURCES.register("concat")
class ConcatSources(ImageSource):
    """The scenes of several sources, one source after another.

    It has depth only if all of them have. Each `source_id` is that of its source after the
    source's number, `1/kitchen.jpg`, so that equal names in two folders stay apart.

    Args:
        sources: Sources in order, at least one.

    Raises:
        ConfigError: If there are no sources.
    """

    def __init__(self, sources: list[ImageSource]) -> None:
        if not sources:
            raise ConfigError("sources must name at least one image source, got an empty list.")
        self.sources = list(sources)
        self.has_depth = all(source.has_depth for source in self.sources)
        self._ends: list[int] | None = None

    def __len__(self) -> int:
        return self._bounds()[-1]

    def prepare(self) -> None:
        """Prepare every source in turn."""
        for source in self.sources:
            source.prepare()

    def scene(self, index: int) -> Scene:
        """Return scene `index`, counted through all sources.

        Raises:
            SceneUnreadable: If its source cannot decode it.
        """
        number, inner = self._locate(index)
        scene = self.sources[number].scene(inner)
        return replace(scene, source_id=f"{number}/{scene.source_id}")

    def source_id(self, index: int) -> str:
        """Return the name of scene `index` without decoding it where its source can."""
        number, inner = self._locate(index)
        return f"{number}/{self.sources[number].source_id(inner)}"

    def left_out(self) -> Mapping[str, str]:
        """Return what every source left out, named after the source's number."""
        return {
            f"{number}/{name}": reason
            for number, source in enumerate(self.sources)
            for name, reason in source.left_out().items()
        }

    def _bounds(self) -> list[int]:
        if self._ends is None:
            self._ends = list(accumulate(len(source) for source in self.sources))
        return self._ends

    def _locate(self, index: int) -> tuple[int, int]:
        ends = self._bounds()
        if not 0 <= index < ends[-1]:
            raise IndexError(f"scene {index} is out of range: there are {ends[-1]} scenes.")
        number = bisect_right(ends, index)
        return number, index - (ends[number - 1] if number else 0)
