"""Photos in a folder."""

from __future__ import annotations

from pathlib import Path

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.photo_files import PhotoFiles
from spatial_ssrl.images.pictures import SUFFIXES


@IMAGE_SOURCES.register("image_folder")
class ImageFolder(PhotoFiles):
    """Photos in a folder, subfolders included, sorted by path; no depth.

    Files ending in jpg, jpeg, png, webp, gif, bmp, tif or tiff, in any case, are taken; hidden
    files and folders are not. Pictures are turned upright by their EXIF orientation, reduced to
    their first frame and converted to 8-bit RGB, transparent parts laid on white. Files whose
    header cannot be read are left out with one warning and named by `left_out`; one that breaks
    later raises `SceneUnreadable` when it is asked for. `source_id` is the path relative to the
    folder.

    The folder is looked at when its length is first asked for, not on construction.

    Args:
        folder: Folder with picture files; `~` is expanded.
        pattern: Glob relative to the folder, such as `train/**/*.jpg`.
        limit: Take at most this many pictures, the first in the order of their paths.
        size: Scale pictures down so that the longer side is at most this, in pixels; null keeps
            their sizes.
        square: Whether to cut out the largest central square and scale it to exactly `size`,
            as sources of one fixed size need.
        trim_frame: Whether to cut off uniform black or white frames, such as letterbox bars,
            which would tell where the patches of a picture belong.

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
        trim_frame: bool = False,
    ) -> None:
        super().__init__(folder, limit, size, square, trim_frame)
        self.pattern = pattern

    def _candidates(self) -> list[str]:
        root = self._root()
        names = _picture_names(root, self.pattern)
        if not names:
            raise ConfigError(
                f"folder {str(root)!r} holds no picture that matches {self.pattern!r}; "
                f"put files ending in {', '.join(sorted(SUFFIXES))} there or change pattern."
            )
        return names


def _picture_names(root: Path, pattern: str) -> list[str]:
    """Return the sorted relative posix paths of all visible picture files."""
    names = []
    for path in root.glob(pattern):
        relative = path.relative_to(root)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        # A link that leads nowhere is taken too, so that it is named among what is left out.
        is_file = path.is_file() or (path.is_symlink() and not path.exists())
        if path.suffix.lower() in SUFFIXES and not is_hidden and is_file:
            names.append(relative.as_posix())
    return sorted(names)
