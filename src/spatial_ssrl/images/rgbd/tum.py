"""Recordings in the layout of the TUM RGB-D benchmark."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.images.base import IMAGE_SOURCES
from spatial_ssrl.images.pictures import SUFFIXES
from spatial_ssrl.images.rgbd.alignment import Depth
from spatial_ssrl.images.rgbd.association import check_tolerance, nearest_pairs
from spatial_ssrl.images.rgbd.base import Group, RGBDFiles
from spatial_ssrl.images.rgbd.values import read_16_bit, to_depth
from spatial_ssrl.images.tree import files_below

_COLOUR = ("rgb", "color")


@IMAGE_SOURCES.register("tum_rgbd")
class TUMRGBD(RGBDFiles):
    """Frames of TUM RGB-D recordings with depth in metres, and of others in their layout.

    ICL-NUIM is one of those. Reads recordings: folders with pictures in `rgb` (or `color`) and
    16-bit png in `depth`, in any subfolder. The two cameras do not fire together, so each picture
    goes with the depth file nearest in time, and each depth file with one picture. Times are
    those listed in `rgb.txt` and `depth.txt` beside the two folders, or else the file names.
    Where there is an `associations.txt`, its pairs are used instead.

    Args:
        folder: Folder that holds recordings, or is one; `~` is expanded.
        tolerance: Largest difference in time between a picture and its depth, in seconds.
        depth_scale: Metres per stored step.
        size: Scale pictures down so that the longer side is at most this, in pixels.
        square: Whether to cut out the largest central square and scale it to exactly `size`.
        every: Use only one in this many pictures, in the order of their paths.

    Raises:
        ConfigError: If `tolerance` is below 0 or `depth_scale` not above 0.

    References:
        File formats of the TUM RGB-D benchmark: depth is raw / 5000, 0 is unknown, and its
        tool associate.py allows 0.02 s.
    """

    looked_for = "rgb/<time>.png with depth/<time>.png at nearly the same time"

    def __init__(
        self,
        folder: Path | str,
        tolerance: float = 0.02,
        depth_scale: float = 1 / 5000,
        size: int | None = None,
        square: bool = False,
        every: int = 1,
    ) -> None:
        super().__init__(folder, size, square, every)
        check_tolerance(tolerance)
        if not depth_scale > 0:
            raise ConfigError(f"depth_scale must be above 0, got {depth_scale}.")
        self.tolerance = tolerance
        self.depth_scale = depth_scale

    def _find(self, root: Path) -> tuple[list[Group], list[str]]:
        recordings: dict[str, tuple[list[str], list[str]]] = {}
        for name in files_below(root):
            path = PurePosixPath(name)
            kind, start = path.parent.name, path.parent.parent.as_posix()
            if kind in (*_COLOUR, "depth") and path.suffix.lower() in SUFFIXES:
                recordings.setdefault(start, ([], []))[kind == "depth"].append(name)
        groups: list[tuple[str, str]] = []
        for start, (pictures, depths) in recordings.items():
            listed = root / start / "associations.txt"
            if listed.is_file():
                groups += _listed_pairs(listed, start, {*pictures, *depths})
            else:
                groups += self._timed_pairs(root / start, pictures, depths)
        taken = {picture for picture, _ in groups}
        pictures = [name for names, _ in recordings.values() for name in names]
        return sorted(groups), sorted(set(pictures) - taken)

    def _timed_pairs(
        self, start: Path, pictures: list[str], depths: list[str]
    ) -> list[tuple[str, str]]:
        times = [
            _times(start / f"{'depth' if is_depth else 'rgb'}.txt", names)
            for is_depth, names in ((False, pictures), (True, depths))
        ]
        first, second = ([*found] for found in times)
        pairs = nearest_pairs(
            [times[0][name] for name in first],
            [times[1][name] for name in second],
            self.tolerance,
        )
        return [(first[one], second[other]) for one, other in pairs]

    def _depth(self, group: Group) -> Depth:
        return to_depth(read_16_bit(self._root() / group[1]), self.depth_scale)


def _rows(path: Path) -> list[list[str]]:
    """Return the words of each line of a list that is not a comment; none if it is missing."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return [words for line in lines if (words := line.split()) and not words[0].startswith("#")]


def _times(path: Path, names: list[str]) -> dict[str, float]:
    """Return the time of each file, in seconds, from a list or the name; not of the others."""
    listed = {PurePosixPath(row[1]).name: row[0] for row in _rows(path) if len(row) > 1}
    times: dict[str, float] = {}
    for name in names:
        file = PurePosixPath(name)
        try:
            times[name] = float(listed.get(file.name, file.stem))
        except ValueError:  # Left out, and counted as a picture without depth.
            continue
    return times


def _listed_pairs(path: Path, start: str, existing: set[str]) -> list[tuple[str, str]]:
    pairs = []
    for row in _rows(path):
        files = [(PurePosixPath(start) / word).as_posix() for word in row[1:4:2]]
        files.sort(key=lambda name: PurePosixPath(name).parent.name == "depth")
        if len(files) == 2 and existing.issuperset(files):
            pairs.append((files[0], files[1]))
    return pairs
