"""Relative position: where a region lies for an imagined camera at another region."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks import regions
from spatial_ssrl.tasks.base import TASKS, PretextTask
from spatial_ssrl.tasks.depth_words import position_explanation, position_prompt
from spatial_ssrl.tasks.markers import draw_marker, marker_radius
from spatial_ssrl.tasks.pair_search import draw_pair
from spatial_ssrl.tasks.pairs import RegionSet, find_regions
from spatial_ssrl.tasks.wording import Wording, check_wording

LETTERS = ("A", "B", "C", "D")
FACINGS = ("left", "right", "toward", "away")
KINDS = ("near", "narrow", "wide")
ONE_WORD = ("Left", "Right", "Front", "Back")
TWO_WORDS = ("Left-Front", "Right-Front", "Right-Back", "Left-Back")

# Where each camera looks, in the viewer's axes (right, away).
_FRONT = {"left": (-1, 0), "right": (1, 0), "toward": (0, -1), "away": (0, 1)}


@TASKS.register("relative_position")
class RelativePosition(PretextTask):
    """Say where region 2 lies, as seen by an imagined camera at region 1.

    Three kinds of pair, all thresholds relative to the picture. *near*: alike in depth and
    height, apart sideways; one word decides. *narrow*: apart in depth, hardly sideways; one
    word decides. *wide*: apart in depth and sideways; the answer has two words.

    The direction is drawn first, every one alike, then the facing by its weight among those
    under which the pair can lie there, then a pair, uniformly from all that do. A scene is used
    only if it holds a pair for every case the text leaves open, so that neither the text nor
    what is rejected says anything of the answer. That takes equal weights of *near* and
    *narrow*, whose questions read the same.

    `meta`: `camera` and `target`, centres of regions 1 and 2 as (row, column) in pixels;
    `depths`, the depth at both in the scene's unit; `facing`, one of "left", "right",
    "toward", "away"; `options`, the directions in the order A to D; `kind`, one of "near",
    "narrow", "wide".

    Departures from the reference:
        1. Pairs are drawn uniformly from the whole picture, not searched from its centre.
        2. Pixel thresholds are fractions of the shorter side, taking 480 pixels as the
           reference: 150 pixels become 5/16, 30 pixels 1/16.
        3. Pairs of which depth alone decides differ sideways by 1/8 at most, and pairs of
           which the side alone decides differ by .1 in depth at most: no other word would do.
        4. Wide pairs lie to the same side in the picture and in space, and the word of near and
           narrow pairs names their longer distance in space, as seen through a usual lens.
        5. Every direction is equally likely, whatever the weights of the facings.

    Args:
        facing_weights: Of the facings left, right, toward the viewer, away from the viewer.
        kind_weights: Of the pairs near, narrow, wide.
        fixed_options: Share of questions whose options stand in a fixed order, in [0, 1];
            easier to learn from, and the letters stay balanced.
        noise: Share of a depth by which it may be off, in [0, 0.25]; no answer turns on less.
        field_of_view: Of the picture's longer side, degrees, to compare depth with sideways
            distance in space where one word decides; null when the lens may be any.
        wording: Whether questions and worked answers are worded in many ways or one short way.

    References:
        Spatial-SSRL, arXiv:2510.27606, relative 3D position prediction.
    """

    needs_depth = True

    def __init__(
        self,
        facing_weights: tuple[float, float, float, float] = (0.3, 0.3, 0.3, 0.1),
        kind_weights: tuple[float, float, float] = (0.25, 0.25, 0.5),
        fixed_options: float = 0.0,
        noise: float = 0.01,
        field_of_view: float | None = 60.0,
        wording: Wording = "varied",
    ) -> None:
        _check_weights("facing_weights", facing_weights)
        _check_weights("kind_weights", kind_weights)
        if not 0 <= fixed_options <= 1:
            raise ConfigError(f"fixed_options must be in [0, 1], got {fixed_options}.")
        self.facing_weights = facing_weights
        self.kind_weights = kind_weights
        if field_of_view is not None and not 0 < field_of_view < 180:
            raise ConfigError(f"field_of_view must be in (0, 180) degrees, got {field_of_view}.")
        regions.check_noise(noise)
        check_wording(wording)
        self.fixed_options = fixed_options
        self.noise = noise
        self.field_of_view = field_of_view
        self.wording = wording

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Mark two regions of `scene`; see `PretextTask.make`."""
        depth = regions.known_depth(scene)
        found = find_regions(depth, self.noise, self.field_of_view)
        kind = KINDS[_weighted(self.kind_weights, rng)]
        direction, facing = self._draw_direction(kind, rng)
        pair = self._draw_pair(found, offset_of(direction, facing), rng)
        camera, target = ((int(found.rows[i]), int(found.columns[i])) for i in pair)
        options = list(TWO_WORDS if kind == "wide" else ONE_WORD)
        if rng.random() >= self.fixed_options:
            rng.shuffle(options)
        picture = scene.image.copy()
        radius = marker_radius(*picture.shape[:2])
        draw_marker(picture, 1, *camera, radius)
        draw_marker(picture, 2, *target, radius)
        words = rng if self.wording == "varied" else None
        offset, letter = offset_of(direction, facing), LETTERS[options.index(direction)]
        return Question(
            uid=self.uid(scene, camera, target, facing, options),
            task=TASKS.key_of(self),
            images=(picture,),
            prompt=position_prompt(facing, options, words),
            answer=letter,
            answer_kind="choice",
            choices=LETTERS,
            chance=1 / len(LETTERS),
            explanation=position_explanation(
                offset, facing, _FRONT[facing], direction, letter, words
            ),
            meta={
                "camera": camera,
                "target": target,
                "depths": [float(depth[camera]), float(depth[target])],
                "facing": facing,
                "options": options,
                "kind": kind,
            },
        )

    def _draw_direction(self, kind: str, rng: np.random.Generator) -> tuple[str, str]:
        """Draw a direction, all alike, then a facing that allows it, by weight."""
        weights = {
            direction: np.array(
                [
                    weight * _allows(kind, offset_of(direction, facing))
                    for facing, weight in zip(FACINGS, self.facing_weights, strict=True)
                ]
            )
            for direction in (TWO_WORDS if kind == "wide" else ONE_WORD)
        }
        possible = [direction for direction, weight in weights.items() if weight.sum() > 0]
        direction = possible[rng.integers(len(possible))]
        return direction, FACINGS[_weighted(weights[direction], rng)]

    def _draw_pair(
        self, found: RegionSet, offset: tuple[int, int], rng: np.random.Generator
    ) -> tuple[int, int]:
        """Draw a pair at `offset` from a scene that holds every case the text leaves open.

        Were a scene accepted for the case drawn alone, the commoner case would be the better
        guess, and a reader of the options and the facing could tell which one it is.
        """
        cases: list[tuple[int, int]] = [(1, 1), (1, -1)]
        if 0 in offset:
            one_word = zip(((1, 0), (0, 1)), self.kind_weights[:2], strict=True)
            cases = [case for case, weight in one_word if weight > 0]
        pairs = {case: draw_pair(found, case, rng) for case in cases}
        if offset in pairs:
            return pairs[offset]
        second, first = pairs[-offset[0], -offset[1]]
        return first, second


def offset_of(direction: str, facing: str) -> tuple[int, int]:
    """Return the signs of (right, away), in the viewer's axes, of what lies in a direction.

    Args:
        direction: As the camera sees it, such as "Left" or "Right-Back".
        facing: Where the camera looks, one of `FACINGS`.
    """
    front_x, front_z = _FRONT[facing]
    right_x, right_z = front_z, -front_x  # a quarter turn clockwise, seen from above
    ahead = ("Front" in direction) - ("Back" in direction)
    aside = ("Right" in direction) - ("Left" in direction)
    return ahead * front_x + aside * right_x, ahead * front_z + aside * right_z


def _allows(kind: str, offset: tuple[int, int]) -> bool:
    return (offset[0] != 0, offset[1] != 0) == (kind != "narrow", kind != "near")


def _weighted(weights: npt.ArrayLike, rng: np.random.Generator) -> int:
    """Draw an index by weight; `Generator.choice` takes ten times as long."""
    ends = np.cumsum(weights)
    return int(np.searchsorted(ends, rng.random() * ends[-1], side="right"))


def _check_weights(name: str, weights: tuple[float, ...]) -> None:
    if min(weights) < 0 or sum(weights) <= 0:
        raise ConfigError(f"{name} must be 0 or more, not all 0, got {weights}.")
