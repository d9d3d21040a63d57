"""Shuffled patches: say where each patch of a cut-up picture belongs."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks import grid
from spatial_ssrl.tasks.base import TASKS, PretextTask
from spatial_ssrl.tasks.wording import Wording, check_wording, counted, listed, one_of

LabelStyle = Literal["index", "place", "images"]
"""An index drawn on each patch, reading order alone, or each patch as a picture of its own."""

_OPENINGS = (
    "A picture was cut into a grid of {grid}, and the patches were put back in random order.",
    "The patches of this picture, {grid}, have been shuffled.",
    "This picture is a puzzle: it was divided into {grid} and its patches changed places.",
    "Someone cut a picture into {grid} and mixed up the patches, as you can see here.",
)
_OPENINGS_APART = (
    "These pictures are the patches of one picture that was cut into a grid of {grid}.",
    "One picture was cut into {grid}; its patches are shown here one after the other, shuffled.",
    "You see the pieces of a picture that was divided into {grid}, in random order.",
    "Here are the patches of a picture, {grid}, mixed up.",
)
_NUMBERING = {
    "index": "The patches are numbered from 0 to {last}, each in its top-left corner.",
    "place": "The patches are numbered from 0 to {last} in reading order.",
    "images": "The patches are numbered from 0 to {last} in the order in which they are shown.",
}
_REQUESTS = (
    "Find the patch that belongs at each place of the original picture. Go through the places "
    "row by row, from left to right, and give the numbers separated by commas, such as {example}.",
    "Put the picture together again in your mind: for every place, from top left to bottom "
    "right in reading order, name the patch that belongs there. Answer with the numbers "
    "separated by commas, such as {example}.",
    "Which patch belongs where? Write, for the places of the restored picture in reading order, "
    "the number of the patch that goes there, with commas in between, such as {example}.",
    "Restore the original. Your answer is a list of patch numbers, one for each place in "
    "reading order (left to right, then top to bottom), separated by commas, such as {example}.",
)
_STARTS = (
    "I look at what each patch shows and at how its edges go on in others.",
    "Each patch has one place where its content and its edges fit.",
    "Let me find the place of every patch.",
    "I compare the edges of the patches and put the picture together.",
)
_PLACEMENTS = (
    "Patch {patch} shows {place}",
    "Patch {patch} belongs in {place}",
    "In {place} goes patch {patch}",
    "The patch for {place} is {patch}",
)
_ENDS = (
    "In reading order the places hold patches {order}.",
    "Row by row, from left to right, that gives {order}.",
    "So the patches in reading order of the original are {order}.",
    "Read from the top left to the bottom right: {order}.",
)
_MOST_EDGES = 9  # patches; the edges of more make a worked answer long and tell nothing new


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
        3. Patches can be shown as separate pictures, without borders.

    Args:
        rows: Rows of the grid, 1 to 10.
        columns: Columns of the grid, 1 to 10.
        masked: Whether one random patch is painted white, which makes it harder.
        label_style: How a patch is numbered: by its "index" drawn on it, by its "place" in
            reading order, or in the order of "images", each of which shows one patch.
        min_difference: Least mean difference of two patches, as block means, in [0, 1] of
            the full range of intensity.
        wording: Several phrasings and full worked answers, or one short form of each.

    References:
        Spatial-SSRL, arXiv:2510.27606, shuffled patch reordering.
    """

    def __init__(
        self,
        rows: int = 2,
        columns: int = 2,
        masked: bool = False,
        label_style: LabelStyle = "index",
        min_difference: float = 0.02,
        wording: Wording = "varied",
    ) -> None:
        grid.check_grid(rows, columns)
        check_wording(wording)
        if label_style not in get_args(LabelStyle):
            raise ConfigError(
                f"label_style must be one of {', '.join(get_args(LabelStyle))}, "
                f"got {label_style!r}."
            )
        self.rows = rows
        self.columns = columns
        self.masked = masked
        self.label_style = label_style
        self.min_difference = min_difference
        self.wording = wording

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
        order = np.argsort(permutation).tolist()
        terse = self.wording == "terse"
        return Question(
            uid=self.uid(scene, permutation.tolist(), masked),
            task=TASKS.key_of(self),
            images=self._show(drawn),
            prompt=self._short_prompt() if terse else self._prompt(rng),
            answer=",".join(map(str, order)),
            answer_kind="order",
            chance=1 / math.factorial(count),
            explanation=_explain_shortly(order) if terse else self._explain(order, masked, rng),
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
        if self.label_style == "images":
            patches = np.stack(question.images)
        else:
            patches = grid.cut(question.images[0], self.rows, self.columns)
        order = [int(index) for index in question.answer.split(",")]
        return grid.join(patches[order], self.rows, self.columns)

    def _show(self, drawn: grid.Pixels) -> tuple[grid.Pixels, ...]:
        if self.label_style == "images":
            return tuple(drawn)
        picture = grid.join(drawn, self.rows, self.columns)
        grid.draw_grid(picture, self.rows, self.columns, self.label_style == "index")
        return (picture,)

    def _placeholders(self) -> str:
        return "<image>" * (self.rows * self.columns if self.label_style == "images" else 1)

    def _short_prompt(self) -> str:
        painted = " One patch is painted white." if self.masked else ""
        ordered = "the order shown" if self.label_style == "images" else "reading order"
        return (
            f"{self._placeholders()}A picture was cut into {self.rows} x {self.columns} patches, "
            f"which were shuffled. They are numbered from 0 in {ordered}.{painted} Which patch "
            f"belongs at each place of the original picture? Give the numbers in reading order, "
            f"separated by commas, such as {self._example()}."
        )

    def _prompt(self, rng: np.random.Generator) -> str:
        openings = _OPENINGS_APART if self.label_style == "images" else _OPENINGS
        parts = [
            one_of(openings, rng),
            _NUMBERING[self.label_style],
            "One of them is painted white." if self.masked else "",
            one_of(_REQUESTS, rng),
        ]
        return self._placeholders() + " ".join(part for part in parts if part).format(
            last=self.rows * self.columns - 1,
            grid=f"{counted(self.rows, 'row')} and {counted(self.columns, 'column')}",
            example=self._example(),
        )

    def _example(self) -> str:
        """Return one order, the same for all questions: each pair of neighbours exchanged."""
        count = self.rows * self.columns
        return ",".join(str(min(index ^ 1, count - 1)) for index in range(count))

    def _explain(self, order: list[int], masked: int | None, rng: np.random.Generator) -> str:
        """Say for each patch where it belongs, and in which others its edges go on."""
        start, placement, end = (one_of(form, rng) for form in (_STARTS, _PLACEMENTS, _ENDS))
        places = list(range(len(order)))
        if rng.random() < 0.5:  # patch by patch instead of place by place
            places.sort(key=order.__getitem__)
        sentences = [start]
        for place in places:
            if order[place] != masked:
                name = grid.place_name(place, self.rows, self.columns)
                found = placement.format(patch=order[place], place=name)
                sentences.append(found + self._edges(order, place, masked) + ".")
        if masked is not None:
            name = grid.place_name(order.index(masked), self.rows, self.columns)
            sentences.append(f"Patch {masked} is white and takes the place that is left, {name}.")
        return " ".join([*sentences, end.format(order=listed(order))])

    def _edges(self, order: list[int], place: int, masked: int | None) -> str:
        """Name the patches that a patch goes on in, to the right of it and below."""
        if len(order) > _MOST_EDGES:
            return ""
        row, column = divmod(place, self.columns)
        beside = order[place + 1] if column + 1 < self.columns else masked
        below = order[place + self.columns] if row + 1 < self.rows else masked
        ways = [
            f"{edge} edge goes on in patch {other}"
            for edge, other in (("right", beside), ("lower", below))
            if other != masked
        ]
        return f": its {' and its '.join(ways)}" if ways else ""


def _explain_shortly(order: list[int]) -> str:
    first, *others = order
    return f"Patch {first} comes first" + "".join(f", then {index}" for index in others) + "."
