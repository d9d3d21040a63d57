"""Shuffled patches: say where each patch of a cut-up picture belongs."""

from __future__ import annotations

import math

import numpy as np

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks import grid
from spatial_ssrl.tasks.base import TASKS, PretextTask


@TASKS.register("shuffled_patches")
class ShuffledPatches(PretextTask):
    """Reorder the shuffled patches of a picture.

    Every order is equally likely, the one that changes nothing included: whether a scene is
    rejected does not depend on the order drawn. Patches that fill no whole cell are cropped
    at the bottom and right.

    `meta`: `rows`, `columns`; `permutation`, whose item i is the original place of the patch
    drawn at place i; `order`, the answer as a list (the argsort of `permutation`); `masked`,
    the drawn index of the patch painted white, or None.

    Departures from the reference:
        1. Pictures with two patches that look alike are rejected: the answer is not unique.
        2. Borders and indices scale with the picture.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        masked: Whether one random patch is painted white, which makes it harder.
        labels: Whether each drawn patch carries its index; without, its place tells it.
        min_difference: Least mean difference of two patches, as block means, in [0, 1] of
            the full range of intensity.

    References:
        Spatial-SSRL, arXiv:2510.27606, shuffled patch reordering.
    """

    def __init__(
        self,
        rows: int = 2,
        columns: int = 2,
        masked: bool = False,
        labels: bool = True,
        min_difference: float = 0.02,
    ) -> None:
        grid.check_grid(rows, columns)
        self.rows = rows
        self.columns = columns
        self.masked = masked
        self.labels = labels
        self.min_difference = min_difference

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Shuffle the patches of `scene`; see `PretextTask.make`."""
        count = self.rows * self.columns
        patches = grid.cut(
            grid.crop_to_grid(scene.image, self.rows, self.columns), self.rows, self.columns
        )
        if grid.smallest_difference(grid.thumbnails(patches)) < 255 * self.min_difference:
            raise SceneRejected("two patches look alike")
        permutation = rng.permutation(count)
        drawn = patches[permutation]
        masked = int(rng.integers(count)) if self.masked else None
        if masked is not None:
            drawn[masked] = 255
        picture = grid.join(drawn, self.rows, self.columns)
        grid.draw_grid(picture, self.rows, self.columns, self.labels)
        order = np.argsort(permutation).tolist()
        return Question(
            uid=self.uid(scene, permutation.tolist(), masked),
            task=TASKS.key_of(self),
            images=(picture,),
            prompt=self._prompt(),
            answer=",".join(map(str, order)),
            answer_kind="order",
            chance=1 / math.factorial(count),
            explanation=_explain(order),
            meta={
                "rows": self.rows,
                "columns": self.columns,
                "permutation": permutation.tolist(),
                "order": order,
                "masked": masked,
            },
        )

    def undo(self, question: Question) -> np.ndarray:
        """Put the patches back where the answer says, with their borders and indices."""
        patches = grid.cut(question.images[0], self.rows, self.columns)
        order = [int(index) for index in question.answer.split(",")]
        return grid.join(patches[order], self.rows, self.columns)

    def _prompt(self) -> str:
        example = ",".join(str(index ^ 1) for index in range(self.rows * self.columns & ~1))
        if self.rows * self.columns % 2:
            example += f",{self.rows * self.columns - 1}"
        painted = " One patch is painted white." if self.masked else ""
        return (
            f"<image>A picture was cut into {self.rows} x {self.columns} patches, which were "
            f"shuffled. They are numbered from 0 in reading order.{painted} Which patch belongs "
            f"at each place of the original picture? Give the numbers in reading order, "
            f"separated by commas, such as {example}."
        )


def _explain(order: list[int]) -> str:
    first, *others = order
    return f"Patch {first} comes first" + "".join(f", then {index}" for index in others) + "."
