"""Where pictures come from: the image source contract and its registry."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

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

    def left_out(self) -> Mapping[str, str]:
        """Return why files that were found are not among the scenes, by their names.

        Complete after `prepare`, and the same in every process. Names are relative to the
        source, like `source_id`; a reason is a short phrase without names or numbers, such as
        "not a picture", so that reasons can be counted. Empty by default.

        A file that turns out to be broken only when its scene is asked for is not named here:
        `scene` raises `SceneUnreadable`, and whoever asked counts it.
        """
        return {}

    def prepare(self) -> None:  # noqa: B027 - optional: most sources have nothing to do.
        """Do slow one-time work, such as rendering into a cache, before scenes are asked for.

        Called once on one process, with a progress bar where it takes long. Does nothing by
        default.
        """


IMAGE_SOURCES: Registry[ImageSource] = Registry(ImageSource, "image source")
