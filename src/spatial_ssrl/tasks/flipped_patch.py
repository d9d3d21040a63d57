"""Flipped patch: say which patch of a picture is mirrored, and which way."""

from __future__ import annotations

import numpy as np

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks import grid
from spatial_ssrl.tasks.base import TASKS, PretextTask
from spatial_ssrl.tasks.wording import Wording, check_wording, counted, listed, one_of

_AXES = ("horizontal", "vertical")
_IN_WORDS = {"horizontal": "mirrored left to right", "vertical": "upside down"}
_OPENINGS = (
    "This picture is divided into {grid}. One of its patches has been flipped.",
    "A grid of {grid} lies over this picture, and a single patch of it was mirrored in place.",
    "One patch of this picture, cut into {grid}, does not stand as it did in the original.",
    "The picture was cut into {grid}. All patches are in their places, but one is reversed.",
)
_REQUESTS = (
    "Find it and say how it was flipped: horizontal if left and right are exchanged, vertical if "
    "top and bottom are. Answer with the number, a comma and the direction, such as 1,vertical.",
    "Which one is it, and which way was it flipped? Write horizontal for mirrored left to right "
    "or vertical for turned upside down, after the number of the patch and a comma, such as "
    "1,vertical.",
    "Name the patch and the direction, where horizontal means mirrored left to right and "
    "vertical means upside down. The answer has the form number,direction, such as 1,vertical.",
    "Tell its number and whether the flip is horizontal (left becomes right) or vertical (top "
    "becomes bottom). Give both separated by a comma, such as 1,vertical.",
)
_STARTS = (
    "I follow lines and surfaces across the borders between the patches.",
    "Patches that are as they were go on in their neighbours; a flipped one does not.",
    "Let me compare every patch with those beside it.",
    "First I look for a patch that does not fit its surroundings.",
)
_FINDINGS = (
    "At patch {patch}, {place}, they break off: its edges do not meet those of {others}.",
    "Patch {patch}, {place}, does not go on in {others}.",
    "What {others} show does not continue in patch {patch}, {place}.",
    "Patch {patch} in {place} is the odd one: it does not join {others}.",
)
_CHECKS = {
    "horizontal": (
        "It still stands the right way up, but its left and right sides are exchanged.",
        "Mirrored left to right it would fit again.",
        "What belongs on its left is on its right, so it was flipped horizontally.",
    ),
    "vertical": (
        "Its left and right are in order, but its top and bottom are exchanged.",
        "Turned upside down it would fit again.",
        "What belongs at its top is at its bottom, so it was flipped vertically.",
    ),
}
_ENDS = (
    "Patch {patch} is flipped, and the direction is {axis}.",
    "So the flip of patch {patch} is {axis}.",
    "The answer is patch {patch}, {axis}.",
)


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
        rows: Rows of the grid, 1 to 10.
        columns: Columns of the grid, 1 to 10.
        labels: Whether each patch carries its index; without, its place tells it.
        min_difference: Least mean difference of a patch and its flipped self, as block means,
            in [0, 1] of the full range of intensity.
        wording: Several phrasings and full worked answers, or one short form of each.

    References:
        Spatial-SSRL, arXiv:2510.27606, flipped patch recognition.
    """

    def __init__(
        self,
        rows: int = 2,
        columns: int = 2,
        labels: bool = True,
        min_difference: float = 0.01,
        wording: Wording = "varied",
    ) -> None:
        grid.check_grid(rows, columns)
        check_wording(wording)
        self.rows = rows
        self.columns = columns
        self.labels = labels
        self.min_difference = min_difference
        self.wording = wording

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
        terse = self.wording == "terse"
        return Question(
            uid=self.uid(scene, patch, axis),
            task=TASKS.key_of(self),
            images=(picture,),
            prompt=self._short_prompt() if terse else self._prompt(rng),
            answer=f"{patch},{axis}",
            answer_kind="text",
            choices=tuple(f"{index},{way}" for index in range(count) for way in _AXES),
            chance=1 / (2 * count),
            explanation=(
                f"Patch {patch} is {_IN_WORDS[axis]}." if terse else self._explain(patch, axis, rng)
            ),
            meta={"rows": self.rows, "columns": self.columns, "patch": patch, "axis": axis},
        )

    def undo(self, question: Question) -> np.ndarray:
        """Flip the patch of the answer back, with its border and index."""
        patch, axis = question.answer.split(",")
        picture = question.images[0].copy()
        self._flip(picture, int(patch), axis)
        return picture

    def _short_prompt(self) -> str:
        return (
            f"<image>A picture was cut into {self.rows} x {self.columns} patches, numbered "
            "from 0 in reading order. One patch is flipped: horizontal means mirrored left "
            "to right, vertical means upside down. Give its number and the direction, such "
            "as 1,vertical."
        )

    def _prompt(self, rng: np.random.Generator) -> str:
        last = self.rows * self.columns - 1
        where = "each in its top-left corner" if self.labels else "in reading order"
        parts = (
            one_of(_OPENINGS, rng),
            f"The patches are numbered from 0 to {last}, {where}.",
            one_of(_REQUESTS, rng),
        )
        return "<image>" + " ".join(parts).format(
            grid=f"{counted(self.rows, 'row')} and {counted(self.columns, 'column')}"
        )

    def _explain(self, patch: int, axis: str, rng: np.random.Generator) -> str:
        """Say where the flipped patch meets others, and what undoes the flip."""
        row, column = divmod(patch, self.columns)
        beside = [
            r * self.columns + c
            for r, c in ((row - 1, column), (row, column - 1), (row, column + 1), (row + 1, column))
            if 0 <= r < self.rows and 0 <= c < self.columns
        ]
        forms = (_STARTS, _FINDINGS, _CHECKS[axis], _ENDS)
        return " ".join(one_of(form, rng) for form in forms).format(
            patch=patch,
            axis=axis,
            place=grid.place_name(patch, self.rows, self.columns),
            others=f"{'patch' if len(beside) == 1 else 'patches'} {listed(beside)}",
        )

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
