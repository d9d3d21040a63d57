"""What sources of plain picture files have in common."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from spatial_ssrl.core.errors import ConfigError, SceneUnreadable
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images.base import ImageSource
from spatial_ssrl.images.pictures import check_fit, fit_picture, open_picture, why_no_picture

_log = logging.getLogger(__name__)


class PhotoFiles(ImageSource):
    """Picture files of one folder; subclasses say which.

    `source_id` is the path relative to the folder. Files are looked for when the length is first
    asked for, not on construction. A file whose header cannot be read, or that claims more than
    `MOST_PIXELS` pixels, is left out, with one warning for all; one that breaks later raises
    `SceneUnreadable` when it is asked for.

    Args:
        folder: Folder that holds the files; `~` is expanded.
        limit: Take at most this many pictures, the first in the order of `_candidates`.
        size: Longest side of a scene, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        trim_frame: Whether to cut off uniform black or white frames; see `find_frame`.

    Raises:
        ConfigError: If `limit` or `size` is below 1, or `square` is set without `size`.
    """

    def __init__(
        self,
        folder: Path | str,
        limit: int | None,
        size: int | None,
        square: bool,
        trim_frame: bool,
    ) -> None:
        if limit is not None and limit < 1:
            raise ConfigError(f"limit must be at least 1 picture or null, got {limit}.")
        check_fit(size, square)
        self.folder = Path(folder)
        self.limit = limit
        self.size = size
        self.square = square
        self.trim_frame = trim_frame
        self._names: tuple[str, ...] | None = None
        self._left_out: dict[str, str] = {}

    @abstractmethod
    def _candidates(self) -> Sequence[str]:
        """Return the paths of files that should be pictures, relative to the folder.

        Raises:
            ConfigError: If there are none.
        """

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
        # A JPEG that is decoded at a fraction of its size has blurred its frame into the picture.
        picture, _ = open_picture(self._root() / name, None if self.trim_frame else self.size)
        image = fit_picture(picture, self.size, self.square, self.trim_frame)
        return Scene(image=image, source_id=name, licence=self._licence_of(name))

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
        """Return why files were left out, by their paths relative to the folder.

        Files that come after the last picture that `limit` admits were not looked at.
        """
        self._files()
        return dict(self._left_out)

    def _licence_of(self, name: str) -> str:
        return ""

    def _root(self) -> Path:
        return self.folder.expanduser()

    def _files(self) -> tuple[str, ...]:
        # Kept once found, and pickled along, so that every worker counts the same pictures.
        if self._names is None:
            root = self._root()
            if not root.is_dir():
                raise ConfigError(
                    f"folder {str(root)!r} is not a folder; give one that holds picture files."
                )
            self._names, self._left_out = self._opened(root, self._candidates())
        return self._names

    def _opened(
        self, root: Path, candidates: Sequence[str]
    ) -> tuple[tuple[str, ...], dict[str, str]]:
        """Return the files that open as pictures, and why others do not."""
        found: list[str] = []
        left_out: dict[str, str] = {}
        for name in candidates:
            if len(found) == self.limit:
                break
            reason = why_no_picture(root / name)
            if reason:
                left_out[name] = reason
            else:
                found.append(name)
        if not found:
            raise self._only_broken("first of them: {}: {}".format(*next(iter(left_out.items()))))
        if left_out:
            counts = Counter(left_out.values()).most_common()
            _log.warning(
                "Left out %d of %d files in %s (%s), such as %s.",
                len(left_out), len(found) + len(left_out), root,
                ", ".join(f"{reason}: {count}" for reason, count in counts), next(iter(left_out)),
            )  # fmt: skip
        return tuple(found), left_out

    def _only_broken(self, cause: str) -> ConfigError:
        return ConfigError(
            f"folder {str(self._root())!r} holds only broken picture files ({cause}); "
            "replace them with files that an image viewer can open."
        )
