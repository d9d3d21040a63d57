"""Cropped inpainting: choose the patch that fills a hole in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks import crops, grid, inpainting_words
from spatial_ssrl.tasks.base import TASKS, PretextTask
from spatial_ssrl.tasks.inpainting_words import LETTERS
from spatial_ssrl.tasks.wording import Wording, check_wording

Distractor = Literal["rotated_left", "rotated_right", "interior", "exterior_1.5", "exterior_2"]
"""What a wrong candidate of the "paper" mix shows, relative to the right one."""
Mix = Literal["paper", "matched"]
"""Whether wrong candidates are the right one changed, or other parts of the picture."""
Fill = Literal["black", "grey", "white", "mean"]
"""Colour of the hole; "mean" is the mean colour of the picture around it."""

DISTRACTORS: tuple[Distractor, ...] = get_args(Distractor)
_COLOURS = {"black": 0, "grey": 128, "white": 255}
# Side of the area each candidate shows, relative to the hole.
_EXTENT = {"interior": 0.5, "exterior_1.5": 1.5, "exterior_2": 2.0}
_SMALLEST_HOLE = 8  # pixels
_DRAWS = 8  # holes tried before a picture is given up


@dataclass(frozen=True, slots=True)
class _Draw:
    """A hole and its candidates.

    `kinds`, `coarse` and `places` go from A to D: what each candidate is, its samples (g, g, 3)
    on the common grid, and the top row and left column of its square or, when it was made from
    the right patch, of the hole.
    """

    kinds: list[str]
    coarse: list[crops.Pixels]
    places: list[tuple[int, int]]
    answer: int


@TASKS.register("cropped_inpainting")
class CroppedInpainting(PretextTask):
    """Choose which of four candidates fills the square hole of a picture.

    The question shows five pictures: the one with the hole, then candidates A to D, each of
    the hole's size. There are two mixes of candidates:

    - "paper": three distractors are drawn without replacement from five: the right patch
      turned 90 degrees left or right, its central half enlarged, and its surroundings at 1.5
      and 2 times its side. All of them come from the right patch, so that comparing the
      candidates gives it away without the holed picture (benchmarks/LOG.md).
    - "matched": four squares of one size are drawn from the picture, all by the same law and
      under conditions that treat them alike; then one of them, each as likely, becomes the hole.
      The candidates are thus exchangeable, so they alone say nothing about the answer. As the
      distractors lie elsewhere in the picture, finding them there is one way to rule them out.

    `meta`: `box`, the hole as (top, left, bottom, right) in pixels, end exclusive;
    `candidates`, the kinds in the order A to D: "true", one of `DISTRACTORS`, or "elsewhere";
    `places`, the boxes the candidates of the "matched" mix were cut from, () for "paper".

    Departures from the reference:
        1. Every candidate, the right one included, is sampled onto one coarse grid, then
           enlarged, so that neither blur nor sharpness tells them apart.
        2. Surroundings that reach over the edge are shifted inward rather than squeezed.
        3. A hole whose distractor looks like the right patch, or that can hardly be seen, is
           drawn again, then rejected.
        4. There is the "matched" mix.

    Args:
        side_ratio: Side of the hole relative to the picture's shorter side, in (0, 0.5].
        detail: Side of the common grid relative to the hole, in (0, 1]. Above 0.5 the enlarged
            candidate of the "paper" mix is blurrier than the others.
        min_difference: Least mean difference of the right patch to a distractor and to the
            hole, in [0, 1] of the full range of intensity; under "matched", of any two
            candidates and of each to the hole.
        fill: Colour of the hole.
        distractors: What the "paper" mix draws from, at least three.
        mix: Where distractors come from.
        min_shift: Least shift between two squares of the "matched" mix, along rows or columns,
            relative to their side, in (0, 1].
        wording: Several phrasings and full worked answers, or one short form of each.

    References:
        Spatial-SSRL, arXiv:2510.27606, cropped patch inpainting.
    """

    def __init__(
        self,
        side_ratio: float = 0.5,
        detail: float = 0.5,
        min_difference: float = 0.03,
        fill: Fill = "black",
        distractors: tuple[Distractor, ...] = DISTRACTORS,
        mix: Mix = "paper",
        min_shift: float = 0.5,
        wording: Wording = "varied",
    ) -> None:
        if not 0 < side_ratio <= 0.5:
            raise ConfigError(
                f"side_ratio must be in (0, 0.5] so that twice the hole fits, got {side_ratio}."
            )
        if not 0 < detail <= 1:
            raise ConfigError(f"detail must be in (0, 1], got {detail}.")
        if not 0 < min_shift <= 1:
            raise ConfigError(f"min_shift must be in (0, 1], got {min_shift}.")
        _check_choice("fill", fill, get_args(Fill))
        _check_choice("mix", mix, get_args(Mix))
        check_wording(wording)
        known = set(distractors) <= set(DISTRACTORS)
        if not known or len(set(distractors)) != len(distractors) or len(distractors) < 3:
            raise ConfigError(
                f"distractors must be three or more of {', '.join(DISTRACTORS)}, each once, "
                f"got {list(distractors)}."
            )
        self.side_ratio = side_ratio
        self.detail = detail
        self.min_difference = min_difference
        self.fill = fill
        self.distractors = tuple(distractors)
        self.mix = mix
        self.min_shift = min_shift
        self.wording = wording

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Cut a hole into `scene` and draw candidates; see `PretextTask.make`."""
        side = int(self.side_ratio * min(scene.image.shape[:2]))
        if side < _SMALLEST_HOLE or min(scene.image.shape[:2]) < grid.SMALLEST_PICTURE:
            raise SceneRejected("the picture is too small for the hole")
        draw_once = self._draw_matched if self.mix == "matched" else self._draw_paper
        source = Image.fromarray(scene.image)
        reason = ""
        for _ in range(_DRAWS):
            draw = draw_once(source, side, rng)
            reason = self._flaw(draw, self._colours(scene.image, draw.places, side))
            if not reason:
                break
        else:
            raise SceneRejected(reason)
        top, left = draw.places[draw.answer]
        holed = scene.image.copy()
        holed[top : top + side, left : left + side] = self._colours(
            scene.image, [(top, left)], side
        )
        matched = self.mix == "matched"
        if self.wording == "terse":
            prompt = inpainting_words.short_prompt(self.fill, matched)
            explanation = inpainting_words.explain_shortly(draw.kinds)
        else:
            prompt = inpainting_words.varied_prompt(self.fill, matched, rng)
            offsets = [(row - top, column - left) for row, column in draw.places]
            explanation = inpainting_words.explain(draw.kinds, offsets, rng)
        boxes = tuple((row, column, row + side, column + side) for row, column in draw.places)
        return Question(
            uid=self.uid(scene, draw.places, draw.kinds),
            task=TASKS.key_of(self),
            images=(holed, *(crops.enlarge(patch, side) for patch in draw.coarse)),
            prompt=prompt,
            answer=LETTERS[draw.answer],
            answer_kind="choice",
            choices=LETTERS,
            chance=1 / len(LETTERS),
            explanation=explanation,
            meta={
                "box": boxes[draw.answer],
                "candidates": draw.kinds,
                "places": boxes if matched else (),
            },
        )

    def _draw_paper(self, source: Image.Image, side: int, rng: np.random.Generator) -> _Draw:
        """Draw a hole, and three ways to change what it showed."""
        top = int(rng.integers(source.height - side + 1))
        left = int(rng.integers(source.width - side + 1))
        order = rng.permutation(len(self.distractors))
        kinds: list[str] = [self.distractors[index] for index in order[:3]]
        answer = int(rng.integers(len(LETTERS)))
        kinds.insert(answer, "true")
        points = self._points(side)
        true = crops.sample(source, top, left, side, 1.0, points)
        turned = {"true": true, "rotated_left": np.rot90(true), "rotated_right": np.rot90(true, 3)}
        coarse = [
            turned[kind]
            if kind in turned
            else crops.sample(source, top, left, side, _EXTENT[kind], points)
            for kind in kinds
        ]
        return _Draw(kinds, coarse, [(top, left)] * len(kinds), answer)

    def _draw_matched(self, source: Image.Image, side: int, rng: np.random.Generator) -> _Draw:
        """Draw four squares of the picture alike, then which of them becomes the hole."""
        shape = (source.height, source.width)
        found = crops.apart(shape, side, self.min_shift, len(LETTERS), rng)
        if found is None:
            raise SceneRejected("no room for squares that are well apart")
        places = [(int(top), int(left)) for top, left in found]
        points = self._points(side)
        coarse = [crops.sample(source, *place, side, 1.0, points) for place in places]
        answer = int(rng.integers(len(LETTERS)))
        kinds = ["true" if index == answer else "elsewhere" for index in range(len(LETTERS))]
        return _Draw(kinds, coarse, places, answer)

    def _points(self, side: int) -> int:
        return max(4, round(self.detail * side))

    def _flaw(self, draw: _Draw, colours: np.ndarray) -> str:
        """Return why a draw has no unique answer, or "" when it has one."""
        values = np.stack(draw.coarse).astype(np.int16)
        if self.mix == "matched":
            # Every candidate with every colour a hole might have had: a test of the hole alone
            # would set it apart from the others.
            first, second = np.triu_indices(len(values), k=1)
            nearest = _unlike(values[first], values[second]).min()
            visible = min(_unlike(values, colour).min() for colour in np.unique(colours, axis=0))
        else:
            others = np.delete(values, draw.answer, axis=0)
            nearest = _unlike(others, values[draw.answer]).min()
            visible = _unlike(values[[draw.answer]], colours[0]).min()
        if nearest < 255 * self.min_difference:
            return "a distractor looks like the right patch"
        return "" if visible >= 255 * self.min_difference else "the hole can hardly be seen"

    def _colours(
        self, image: crops.Pixels, places: Sequence[tuple[int, int]], side: int
    ) -> npt.NDArray[np.int16]:
        """Return the colour of a hole at each place, (n, 3), whatever the hole hides."""
        if self.fill != "mean":
            return np.full((len(places), 3), _COLOURS[self.fill], np.int16)
        total = _sum(image)
        hidden = [_sum(image[top : top + side, left : left + side]) for top, left in places]
        means = (total - np.stack(hidden)) / (image[..., 0].size - side * side)
        return np.asarray(np.rint(means), dtype=np.int16)


def _unlike(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference of each of n pictures, (n, g, g, 3), to another."""
    return np.asarray(np.abs(one - two).mean(axis=(1, 2, 3)))


def _sum(pixels: crops.Pixels) -> np.ndarray:
    # Rows first, whose pixels lie together in memory.
    return np.asarray(pixels.sum(axis=0, dtype=np.uint64).sum(axis=0), dtype=np.float64)


def _check_choice(name: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} must be one of {', '.join(allowed)}, got {value!r}.")
