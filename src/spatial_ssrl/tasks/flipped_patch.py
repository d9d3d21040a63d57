"""Flipped patch: say which patch of a picture is mirrored, and which way."""

from __future__ import annotations

import numpy as np

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks import grid
from spatial_ssrl.tasks.base import TASKS, PretextTask

_AXES = ("horizontal", "vertical")
_IN_WORDS = {"horizontal": "mirrored left to right", "vertical": "upside down"}


@TASKS.register("flipped_patch")
class FlippedPatch(PretextTask):
    """Find the flipped patch of a picture.

    Every answer is equally likely: a picture is rejected for what it shows, whichever patch
    and direction were drawn.

    `meta`: `rows`, `columns`; `patch`, the index of the flipped patch, from 0 in reading order;
    `axis`, "horizontal" (mirrored left to right) or "vertical" (upside down).

    Departures from the reference:
        1. Pictures with a patch that hardly changes when flipped are rejected.
        2. Borders and indices scale with the picture.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        labels: Whether each patch carries its index; without, its place tells it.
        min_difference: Least mean difference of a patch and its flipped self, as block means,
            in [0, 1] of the full range of intensity.

    References:
        Spatial-SSRL, arXiv:2510.27606, flipped patch recognition.
    """

    def __init__(
        self, rows: int = 2, columns: int = 2, labels: bool = True, min_difference: float = 0.01
    ) -> None:
        grid.check_grid(rows, columns)
        self.rows = rows
        self.columns = columns
        self.labels = labels
        self.min_difference = min_difference

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Flip one patch of `scene`; see `PretextTask.make`."""
        count = self.rows * self.columns
        picture = np.array(grid.crop_to_grid(scene.image, self.rows, self.columns), order="C")
        patches = grid.cut(picture, self.rows, self.columns)
        if _smallest_change(grid.thumbnails(patches)) < 255 * self.min_difference:
            raise SceneRejected("flipping a patch changes nothing")
        patch, axis = int(rng.integers(count)), _AXES[rng.integers(2)]
        self._flip(picture, patch, axis)
        grid.draw_grid(picture, self.rows, self.columns, self.labels)
        return Question(
            uid=self.uid(scene, patch, axis),
            task=TASKS.key_of(self),
            images=(picture,),
            prompt=(
                f"<image>A picture was cut into {self.rows} x {self.columns} patches, numbered "
                "from 0 in reading order. One patch is flipped: horizontal means mirrored left "
                "to right, vertical means upside down. Give its number and the direction, such "
                "as 1,vertical."
            ),
            answer=f"{patch},{axis}",
            answer_kind="text",
            choices=tuple(f"{index},{way}" for index in range(count) for way in _AXES),
            chance=1 / (2 * count),
            explanation=f"Patch {patch} is {_IN_WORDS[axis]}.",
            meta={"rows": self.rows, "columns": self.columns, "patch": patch, "axis": axis},
        )

    def undo(self, question: Question) -> np.ndarray:
        """Flip the patch of the answer back, with its border and index."""
        patch, axis = question.answer.split(",")
        picture = question.images[0].copy()
        self._flip(picture, int(patch), axis)
        return picture

    def _flip(self, picture: grid.Pixels, patch: int, axis: str) -> None:
        height, width = picture.shape[0] // self.rows, picture.shape[1] // self.columns
        row, column = divmod(patch, self.columns)
        area = picture[row * height : (row + 1) * height, column * width : (column + 1) * width]
        area[...] = (area[:, ::-1] if axis == "horizontal" else area[::-1]).copy()


def _smallest_change(thumbnails: np.ndarray) -> float:
    """Return how little a flip shows: unlike the patch itself, and unlike the other flip."""
    mirrored, upturned = thumbnails[:, :, ::-1], thumbnails[:, ::-1]
    pairs = ((thumbnails, mirrored), (thumbnails, upturned), (mirrored, upturned))
    return min(float(np.abs(one - two).mean(axis=(1, 2, 3)).min()) for one, two in pairs)
