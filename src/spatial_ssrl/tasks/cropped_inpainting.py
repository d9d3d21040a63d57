"""Cropped inpainting: choose the patch that fills a hole in a picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks.base import TASKS, PretextTask
from spatial_ssrl.tasks.wording import Wording, check_wording, one_of

Pixels = npt.NDArray[np.uint8]

LETTERS = ("A", "B", "C", "D")
DISTRACTORS = ("rotated_left", "rotated_right", "interior", "exterior_1.5", "exterior_2")
_IN_WORDS = {
    "true": "fits",
    "rotated_left": "is turned left",
    "rotated_right": "is turned right",
    "interior": "is zoomed in",
    "exterior_1.5": "is zoomed out",
    "exterior_2": "is zoomed out",
}
_SHORT_PROMPT = (
    "<image><image><image><image><image>The first picture has a black square hole. "
    "The others are candidates A, B, C and D. Which one fills the hole, neither "
    "turned nor zoomed? Answer with one letter, such as C."
)
_OPENINGS = (
    "A square was cut out of the first picture and painted black.",
    "The first picture has a black square hole.",
    "In the first picture a square part is missing; it is black.",
    "Part of the first picture, a square, is covered in black.",
)
_OFFERS = (
    "The next four pictures are candidates A, B, C and D, in this order.",
    "The four pictures after it, A, B, C and D, are patches that may belong there.",
    "Then follow four patches in the order A, B, C, D.",
)
_REQUESTS = (
    "Which of them is the missing part, in its right direction and size? Answer with one letter, "
    "such as C.",
    "Choose the one that completes the picture as it was, neither turned nor zoomed. Give its "
    "letter alone, such as C.",
    "Only one fits as it is, without turning or scaling it. Reply with its letter, such as C.",
    "Exactly one continues its surroundings on all sides at the same scale. Name it by its "
    "letter, such as C.",
)
_STARTS = (
    "I compare each candidate with what surrounds the hole.",
    "The right patch has to go on at all four sides of the hole.",
    "Let me check direction and scale of every candidate.",
    "What lies around the hole has to continue in the patch.",
)
_VERDICTS = {
    "true": (
        "Candidate {letter} continues the lines and surfaces around the hole at their scale.",
        "{letter} goes on at every side of the hole.",
        "The edges of {letter} meet those of the hole, with the same direction and size.",
    ),
    "rotated_left": (
        "Candidate {letter} is turned a quarter to the left: its right side is now on top.",
        "{letter} is turned left by 90 degrees.",
        "What should be on the right of {letter} is on top, so it is turned left.",
    ),
    "rotated_right": (
        "Candidate {letter} is turned a quarter to the right: its left side is now on top.",
        "{letter} is turned right by 90 degrees.",
        "What should be on the left of {letter} is on top, so it is turned right.",
    ),
    "interior": (
        "Candidate {letter} shows only the middle of the missing part, enlarged.",
        "{letter} is zoomed in: everything in it is twice too large.",
        "Things in {letter} are larger than those around the hole.",
    ),
    "exterior_1.5": (
        "Candidate {letter} shows more than the missing part, with everything smaller.",
        "{letter} is zoomed out a little and repeats what is around the hole.",
        "Things in {letter} are somewhat smaller than those around the hole.",
    ),
    "exterior_2": (
        "Candidate {letter} shows twice the width of the hole, with everything at half its size.",
        "{letter} is zoomed out a lot and repeats what is around the hole.",
        "Things in {letter} have half the size of those around the hole.",
    ),
}
_ENDS = ("So {letter} fills the hole.", "The missing part is {letter}.", "It is {letter}.")
# Side of the area each candidate shows, relative to the hole.
_EXTENT = {"interior": 0.5, "exterior_1.5": 1.5, "exterior_2": 2.0}
_SMALLEST_HOLE = 8  # pixels
_DRAWS = 8  # holes tried before a picture is given up


@TASKS.register("cropped_inpainting")
class CroppedInpainting(PretextTask):
    """Choose which of four candidates fills the square hole of a picture.

    The question shows five pictures: the one with the hole, then candidates A to D, each of
    the hole's size. Three distractors are drawn without replacement from five: the right
    patch turned 90 degrees left or right, its central half enlarged, and its surroundings at
    1.5 and 2 times its side.

    `meta`: `box`, the hole as (top, left, bottom, right) in pixels, end exclusive;
    `candidates`, the kinds in the order A to D: "true" or one of `DISTRACTORS`.

    Departures from the reference:
        1. Every candidate, the right one included, is sampled onto one coarse grid, then
           enlarged, so that neither blur nor sharpness tells them apart.
        2. Surroundings that reach over the edge are shifted inward rather than squeezed.
        3. A hole whose distractor looks like the right patch is drawn again, then rejected.

    Args:
        side_ratio: Side of the hole relative to the picture's shorter side, in (0, 0.5].
        detail: Side of the common grid relative to the hole, in (0, 1]. Above 0.5 the enlarged
            candidate is blurrier than the others.
        min_difference: Least mean difference of the right patch and a distractor, in [0, 1]
            of the full range of intensity.
        wording: Several phrasings and full worked answers, or one short form of each.

    References:
        Spatial-SSRL, arXiv:2510.27606, cropped patch inpainting.
    """

    def __init__(
        self,
        side_ratio: float = 0.5,
        detail: float = 0.5,
        min_difference: float = 0.03,
        wording: Wording = "varied",
    ) -> None:
        check_wording(wording)
        if not 0 < side_ratio <= 0.5:
            raise ConfigError(
                f"side_ratio must be in (0, 0.5] so that twice the hole fits, got {side_ratio}."
            )
        if not 0 < detail <= 1:
            raise ConfigError(f"detail must be in (0, 1], got {detail}.")
        self.side_ratio = side_ratio
        self.detail = detail
        self.min_difference = min_difference
        self.wording = wording

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Cut a hole into `scene` and draw candidates; see `PretextTask.make`."""
        height, width = scene.image.shape[:2]
        side = int(self.side_ratio * min(height, width))
        if side < _SMALLEST_HOLE:
            raise SceneRejected("the picture is too small for the hole")
        source = Image.fromarray(scene.image)
        for _ in range(_DRAWS):
            top = int(rng.integers(height - side + 1))
            left = int(rng.integers(width - side + 1))
            kinds = [DISTRACTORS[i] for i in rng.permutation(len(DISTRACTORS))[:3]]
            place = int(rng.integers(len(LETTERS)))
            kinds.insert(place, "true")
            coarse = self._candidates(source, top, left, side, kinds)
            if self._differ(coarse, place):
                break
        else:
            raise SceneRejected("a distractor looks like the right patch")
        holed = scene.image.copy()
        holed[top : top + side, left : left + side] = 0
        candidates = tuple(_enlarge(patch, side) for patch in coarse)
        terse = self.wording == "terse"
        return Question(
            uid=self.uid(scene, top, left, kinds),
            task=TASKS.key_of(self),
            images=(holed, *candidates),
            prompt=_SHORT_PROMPT if terse else _prompt(rng),
            answer=LETTERS[place],
            answer_kind="choice",
            choices=LETTERS,
            chance=1 / len(LETTERS),
            explanation=_explain_shortly(kinds) if terse else _explain(kinds, rng),
            meta={"box": (top, left, top + side, left + side), "candidates": kinds},
        )

    def _candidates(
        self, source: Image.Image, top: int, left: int, side: int, kinds: list[str]
    ) -> list[Pixels]:
        """Return each candidate on the common grid, (g, g, 3)."""
        grid = max(4, round(self.detail * side))
        true = _sample(source, top, left, side, 1.0, grid)
        turned = {"true": true, "rotated_left": np.rot90(true), "rotated_right": np.rot90(true, 3)}
        return [
            turned[kind]
            if kind in turned
            else _sample(source, top, left, side, _EXTENT[kind], grid)
            for kind in kinds
        ]

    def _differ(self, candidates: list[Pixels], place: int) -> bool:
        values = np.stack(candidates).astype(np.int16)
        differences = np.abs(values - values[place]).mean(axis=(1, 2, 3))
        differences[place] = np.inf
        return bool(differences.min() >= 255 * self.min_difference)


def _prompt(rng: np.random.Generator) -> str:
    parts = [one_of(form, rng) for form in (_OPENINGS, _OFFERS, _REQUESTS)]
    return "<image>" * (1 + len(LETTERS)) + " ".join(parts)


def _explain(kinds: list[str], rng: np.random.Generator) -> str:
    """Say what each candidate shows, and so which one is left."""
    sentences = [one_of(_STARTS, rng)]
    for letter, kind in zip(LETTERS, kinds, strict=True):
        sentences.append(one_of(_VERDICTS[kind], rng).format(letter=letter))
    sentences.append(one_of(_ENDS, rng).format(letter=LETTERS[kinds.index("true")]))
    return " ".join(sentences)


def _explain_shortly(kinds: list[str]) -> str:
    return " ".join(
        f"{letter} {_IN_WORDS[kind]}." for letter, kind in zip(LETTERS, kinds, strict=True)
    )


def _sample(
    source: Image.Image, top: int, left: int, side: int, extent: float, grid: int
) -> Pixels:
    """Sample the square `extent` times as large as the hole, with its centre, onto (g, g, 3)."""
    shown = extent * side
    x = min(max(left + (side - shown) / 2, 0), source.width - shown)
    y = min(max(top + (side - shown) / 2, 0), source.height - shown)
    small = source.resize((grid, grid), Image.Resampling.BICUBIC, box=(x, y, x + shown, y + shown))
    return np.asarray(small)


def _enlarge(patch: Pixels, side: int) -> Pixels:
    large = Image.fromarray(np.ascontiguousarray(patch)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    return np.array(large)
