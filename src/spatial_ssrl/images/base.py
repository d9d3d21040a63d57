"""Where pictures come from: the image source contract and its registry."""

from __future__ import annotations

from abc import ABC, abstractmethod

from spatial_ssrl.core.questions import Scene
from spatial_ssrl.core.registry import Registry


class ImageSource(ABC):
    """A finite, indexable collection of scenes.

    A source knows where pixels and depth come from; it knows nothing of tasks. `scene(i)`
    is a pure function of the constructor's arguments and `i`, so that workers agree.
    `has_depth` tells whether every scene has depth; sources of sources copy it.
    """

    has_depth: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of scenes."""

    @abstractmethod
    def scene(self, index: int) -> Scene:
        """Return scene `index`, in [0, len(self)).

        Raises:
            SceneUnreadable: If its files cannot be decoded; the message names the file.
        """

    def source_id(self, index: int) -> str:
        """Return the `source_id` of scene `index`; override it where that needs no decoding.

        Splits into training and held-out scenes ask for the ids of scenes they do not use.
        """
        return self.scene(index).source_id

    def prepare(self) -> None:  # noqa: B027 - optional: most sources have nothing to do.
        """Do slow one-time work, such as rendering into a cache, before scenes are asked for.

        Called once on one process, with a progress bar where it takes long. Does nothing by
        default.
        """


IMAGE_SOURCES: Registry[ImageSource] = Registry(ImageSource, "image source")
