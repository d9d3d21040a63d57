"""The words of the tasks on depth: phrasings of questions, and worked answers.

A function draws from its generator only; without one it gives the short wording.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from spatial_ssrl.tasks.wording import one_of

_ORDER_PROMPTS = (
    "The picture has marked regions {numbers}. Order them from the nearest to the farthest. "
    "Give the numbers separated by commas, such as {example}.",
    "Sort the regions marked {numbers} by their distance from the viewer, the closest first. "
    "Write their numbers with commas between them, such as {example}.",
    "How far away are the regions marked {numbers}? Rank them from near to far: only their "
    "numbers, separated by commas, such as {example}.",
    "Each numbered disc marks a region of the scene. Put regions {numbers} in order of "
    "growing distance from the camera, as numbers separated by commas, such as {example}.",
    "Imagine walking from the camera straight into this scene. In which order would you come "
    "level with regions {numbers}? Answer with the numbers separated by commas, such as "
    "{example}.",
    "Which of the marked regions {numbers} is closest to the viewer, which comes next, and so "
    "on to the farthest? List all numbers, separated by commas, such as {example}.",
)

_POSITION_PROMPTS = (
    "The picture has marked regions 1 and 2. A camera stands at region 1 and faces {faces}. "
    "Seen from that camera, whatever the height, where does region 2 lie? {options} Answer "
    "with one letter, such as C.",
    "Imagine a camera at region 1 that faces {faces}. Leaving differences in height aside, in "
    "which direction from it is region 2? {options} Give only the letter, such as C.",
    "You stand at the spot marked 1 and look {looks}. Where is the spot marked 2 from there? "
    "Height does not count. {options} Answer with the letter of your choice, such as C.",
    "Someone stands at region 1 and faces {faces}. On which side of that person, whatever the "
    "height, is region 2? {options} Reply with one letter, such as C.",
    "Take the point of view of region 1, looking {looks}. How does region 2 lie from there, "
    "height ignored? {options} Name one option by its letter, such as C.",
)

_FACES = {
    "left": "the left of the picture",
    "right": "the right of the picture",
    "toward": "the viewer",
    "away": "away from the viewer",
}
_LOOKS = {
    "left": "toward the left of the picture",
    "right": "toward the right of the picture",
    "toward": "toward the viewer",
    "away": "away from the viewer",
}

# Where a place lies, by the signs of (right, away) in the viewer's axes.
_PLACES = {
    (-1, 0): "to the left of it in the picture and at about the same depth",
    (1, 0): "to the right of it in the picture and at about the same depth",
    (0, -1): "nearer to the viewer than it and hardly to either side",
    (0, 1): "farther from the viewer than it and hardly to either side",
    (-1, -1): "to the left of it and nearer to the viewer",
    (1, -1): "to the right of it and nearer to the viewer",
    (-1, 1): "to the left of it and farther from the viewer",
    (1, 1): "to the right of it and farther from the viewer",
}
_SIDES = {
    (-1, 0): "the left of the picture",
    (1, 0): "the right of the picture",
    (0, -1): "the viewer",
    (0, 1): "the far side of the scene",
}


def order_prompt(count: int, rng: np.random.Generator | None) -> str:
    """Return the question for the order of `count` regions, with its placeholder."""
    example = ",".join(map(str, (*range(2, count + 1), 1)))
    if rng is None:
        return "<image>" + _ORDER_PROMPTS[0].format(numbers=f"1 to {count}", example=example)
    numbers = "1 and 2" if count == 2 else f"1 to {count}"
    return "<image>" + one_of(_ORDER_PROMPTS, rng).format(numbers=numbers, example=example)


def order_explanation(
    order: Sequence[int], places: Sequence[str], rng: np.random.Generator | None
) -> str:
    """Return how an order comes about.

    Args:
        order: Numbers of the regions from near to far, at least two.
        places: Where region 1, 2, ... lies in the picture; see `place_in_words`.
        rng: Source of the words, or None for the short wording.
    """
    first, *others = order
    if rng is None:
        return f"Region {first} is nearest" + "".join(f", then {n}" for n in others) + "."
    named = [f"region {number} {places[number - 1]}" for number in order]
    nearest, *between, farthest = named
    opening = one_of(
        (
            "I compare how far each marked region is from the viewer. ",
            "I look at the surface under each marker and judge its depth. ",
            "The question is how deep in the scene each marked region lies. ",
            "",
        ),
        rng,
    )
    if not between:
        body = one_of(
            (
                "{near} is nearer to the viewer than {far}.",
                "{near} is in front, and {far} lies farther back.",
                "Of the two, {far} is farther away, so {near} comes first.",
                "The surface at {near} is closer than the one at {far}.",
            ),
            rng,
        ).format(near=nearest, far=farthest)
    elif rng.integers(2):
        step = one_of(("behind it lies", "farther back comes", "next in depth is"), rng)
        chain = "".join(f"; {step} {name}" for name in between)
        body = f"{nearest} is the closest{chain}; {farthest} is the farthest."
    else:
        steps = [f"{near} is nearer than {far}" for near, far in pairwise(named)]
        body = f"{', '.join(steps[:-1])}, and {steps[-1]}."
    listed = ", ".join(map(str, order))
    closing = one_of(
        ("From near to far: {}.", "So the order is {}.", "Nearest first, that gives {}."), rng
    )
    return f"{opening}{body[0].upper()}{body[1:]} {closing.format(listed)}"


def place_in_words(row: int, column: int, height: int, width: int) -> str:
    """Return where a pixel lies in a picture, by thirds, such as "at the top left"."""
    down = ("top", "", "bottom")[min(2, 3 * row // height)]
    across = ("left", "", "right")[min(2, 3 * column // width)]
    if not down and not across:
        return "in the middle"
    return f"at the {' '.join(filter(None, (down, across)))}" + ("" if across else " middle")


def position_prompt(facing: str, options: Sequence[str], rng: np.random.Generator | None) -> str:
    """Return the question for a position, with its placeholder.

    Args:
        facing: Where the camera looks: "left", "right", "toward" or "away".
        options: What stands behind the letters from A on.
        rng: Source of the words, or None for the short wording.
    """
    listed = " ".join(f"{letter}. {o}" for letter, o in zip("ABCD", options, strict=True))
    phrasing = _POSITION_PROMPTS[0] if rng is None else one_of(_POSITION_PROMPTS, rng)
    return "<image>" + phrasing.format(faces=_FACES[facing], looks=_LOOKS[facing], options=listed)


def position_explanation(
    offset: tuple[int, int],
    facing: str,
    front: tuple[int, int],
    direction: str,
    letter: str,
    rng: np.random.Generator | None,
) -> str:
    """Return the change of frame that leads to a direction.

    Args:
        offset: Signs of (right, away) from region 1 to region 2, in the viewer's axes.
        facing: Where the camera looks: "left", "right", "toward" or "away".
        front: The same as signs of (right, away).
        direction: The right option, such as "Left" or "Right-Back".
        letter: Its letter.
        rng: Source of the words, or None for the short wording.
    """
    if rng is None:
        aside = {-1: "to the left", 0: "level", 1: "to the right"}[offset[0]]
        away = {-1: "nearer", 0: "as far", 1: "farther"}[offset[1]]
        return (
            f"Region 2 is {aside} and {away}. The camera faces {_FACES[facing]}. "
            f"So it lies {direction}."
        )
    seen = one_of(
        (
            "Seen from region 1, region 2 is {}.",
            "First the scene as the viewer sees it: with region 1 as the origin, region 2 is {}.",
            "Starting at region 1, the viewer finds region 2 {}.",
            "I start from region 1. Region 2 is {}.",
        ),
        rng,
    ).format(_PLACES[offset])
    right = front[1], -front[0]  # a quarter turn clockwise, seen from above
    frame = one_of(
        (
            "The camera faces {faces}, so its right-hand side points to {right} and its left to "
            "{left}.",
            "Now I turn with the camera: in front of it is {front}, behind it {back}, on its right "
            "{right}, on its left {left}.",
            "Facing {faces}, the camera has {right} on its right and {left} on its left; {back} is "
            "behind it.",
            "Whoever looks {looks} has {right} at the right hand and {back} behind.",
        ),
        rng,
    ).format(
        faces=_FACES[facing],
        looks=_LOOKS[facing],
        front=_SIDES[front],
        back=_SIDES[-front[0], -front[1]],
        right=_SIDES[right],
        left=_SIDES[-right[0], -right[1]],
    )
    closing = one_of(
        (
            "So for the camera region 2 lies {}, which is option {}.",
            "In that frame region 2 is {}. That is {}.",
            "From there region 2 lies {}: option {}.",
            "Hence the direction is {}, answer {}.",
        ),
        rng,
    ).format(direction, letter)
    return f"{seen} {frame} {closing}"
