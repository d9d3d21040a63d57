"""Photos in a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource
from spatial_ssrl.images.pictures import (
    SUFFIXES,
    apply_crop,
    check_fit,
    crop_for,
    open_picture,
    opens,
)

_log = logging.getLogger(__name__)


@IMAGE_SOURCES.register("image_folder")
class ImageFolder(ImageSource):
    """Photos in a folder, subfolders included, sorted by path; no depth.

    Files ending in jpg, jpeg, png, webp, gif, bmp, tif or tiff, in any case, are taken; hidden
    files and folders are not. Pictures are turned upright by their EXIF orientation, reduced to
    their first frame and converted to 8-bit RGB, transparent parts laid on white. Files whose
    header cannot be read are left out with one warning; one that breaks later raises
    `SceneUnreadable` when it is asked for. `source_id` is the path relative to the folder.

    The folder is looked at when its length is first asked for, not on construction.

    Args:
        folder: Folder with picture files; `~` is expanded.
        pattern: Glob relative to the folder, such as `train/**/*.jpg`.
        limit: Take at most this many pictures, the first in the order of their paths.
        size: Scale pictures down so that the longer side is at most this, in pixels; null keeps
            their sizes.
        square: Whether to cut out the largest central square and scale it to exactly `size`,
            as sources of one fixed size need.

    Raises:
        ConfigError: If `limit` or `size` is below 1, or `square` is set without `size`.
    """

    def __init__(
        self,
        folder: Path | str,
        pattern: str = "**/*",
        limit: int | None = None,
        size: int | None = None,
        square: bool = False,
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1 picture or null, got {limit}.")
        check_fit(size, square)
        self.folder = Path(folder)
        self.pattern = pattern
        self.limit = limit
        self.size = size
        self.square = square
        self._names: tuple[str, ...] | None = None
        self._broken: dict[str, str] = {}

    def __len__(self) -> int:
        """Return the number of pictures.

        Raises:
            ConfigError: If the folder is missing or holds no picture that opens.
        """
        return len(self._files())

    def prepare(self) -> None:
        """Check that at least one picture can be decoded.

        Raises:
            ConfigError: If the folder is missing, or holds no picture that can be decoded.
        """
        cause = ""
        for name in self._files():
            try:
                open_picture(self._root() / name)
            except SceneUnreadable as error:
                cause = cause or str(error)
            else:
                return
        raise self._only_broken(cause)

    def scene(self, index: int) -> Scene:
        """Decode picture `index`.

        Raises:
            SceneUnreadable: If the file cannot be decoded; the message names it and the cause.
        """
        name = self.source_id(index)
        picture, _ = open_picture(self._root() / name, self.size)
        crop = crop_for(*picture.size, self.size, self.square)
        return Scene(image=apply_crop(picture, crop), source_id=name)

    def source_id(self, index: int) -> str:
        """Return the path of picture `index` relative to the folder.

        Raises:
            IndexError: If there is no such picture.
        """
        names = self._files()
        if not 0 <= index < len(names):
            raise IndexError(f"picture {index} is out of range: there are {len(names)}.")
        return names[index]

    def left_out(self) -> Mapping[str, str]:
        """Return why files that look like pictures by their names were left out.

        Files that come after the last picture that `limit` admits were not looked at.
        """
        self._files()
        return dict(self._broken)

    def _root(self) -> Path:
        return self.folder.expanduser()

    def _files(self) -> tuple[str, ...]:
        # Kept once found, and pickled along, so that every worker counts the same pictures.
        if self._names is None:
            self._names = self._find()
        return self._names

    def _find(self) -> tuple[str, ...]:
        root = self._root()
        if not root.is_dir():
            raise ConfigError(
                f"folder {str(root)!r} is not a folder; give one that holds picture files."
            )
        names = _picture_names(root, self.pattern)
        if not names:
            raise ConfigError(
                f"folder {str(root)!r} holds no picture that matches {self.pattern!r}; "
                f"put files ending in {', '.join(sorted(SUFFIXES))} there or change pattern."
            )
        found: list[str] = []
        broken: list[str] = []
        for name in names:
            if len(found) == self.limit:
                break
            (found if opens(root / name) else broken).append(name)
        if not found:
            raise self._only_broken(f"first of them: {broken[0]}")
        if broken:
            _log.warning(
                "Left out %d of %d files in %s that cannot be opened as pictures, such as %s.",
                len(broken), len(found) + len(broken), root, broken[0],
            )  # fmt: skip
        self._broken = dict.fromkeys(broken, "not a picture")
        return tuple(found)

    def _only_broken(self, cause: str) -> ConfigError:
        return ConfigError(
            f"folder {str(self._root())!r} holds only broken picture files ({cause}); "
            "replace them with files that an image viewer can open."
        )


def _picture_names(root: Path, pattern: str) -> list[str]:
    """Return the sorted relative posix paths of all visible picture files."""
    names = []
    for path in root.glob(pattern):
        relative = path.relative_to(root)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        if path.suffix.lower() in SUFFIXES and not is_hidden and path.is_file():
            names.append(relative.as_posix())
    return sorted(names)
