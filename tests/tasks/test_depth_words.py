import re
from itertools import combinations, pairwise, product

import numpy as np
import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.tasks import DepthOrder, RelativePosition
from spatial_ssrl.tasks import depth_words as words
from spatial_ssrl.tasks.relative_position import FACINGS, ONE_WORD, TWO_WORDS

HEADING = {"away": (0, 1), "right": (1, 0), "toward": (0, -1), "left": (-1, 0)}
ASIDE = {"left of the picture": (-1, 0), "right of the picture": (1, 0)}


def of_many(make, draws=400):
    return sorted({make(np.random.default_rng(seed)) for seed in range(draws)})


def template(text):
    """The text without what the draw fills in."""
    return re.sub(r"(the (left|right) of the picture|(away from )?the viewer)", "_", text)


@pytest.mark.parametrize("task", [DepthOrder, RelativePosition])
def test_wordings_of_one_seed_have_the_same_picture_and_answer(scenes, task):
    for seed, scene in enumerate(scenes[:20]):
        varied, terse = (
            task(wording=wording).make(scene, np.random.default_rng(seed))
            for wording in ("varied", "terse")
        )
        assert np.array_equal(varied.images[0], terse.images[0])
        assert (varied.answer, varied.meta) == (terse.answer, terse.meta)
        assert varied.explanation != terse.explanation


@pytest.mark.parametrize("task", [DepthOrder, RelativePosition])
def test_short_words_draw_nothing(scenes, task):
    one, two = (np.random.default_rng(3) for _ in range(2))
    task(wording="terse").make(scenes[0], one)
    task(wording="varied").make(scenes[0], two)
    assert one.random() != two.random()
    with pytest.raises(ConfigError, match="wording must be"):
        task(wording="long")


def test_short_words_are_those_that_small_policies_learned():
    assert words.order_prompt(3, None) == (
        "<image>The picture has marked regions 1 to 3. Order them from the nearest to the "
        "farthest. Give the numbers separated by commas, such as 2,3,1."
    )
    assert words.order_explanation([3, 1, 2], [""] * 3, None) == (
        "Region 3 is nearest, then 1, then 2."
    )
    assert words.position_prompt("left", ONE_WORD, None) == (
        "<image>The picture has marked regions 1 and 2. A camera stands at region 1 and faces the "
        "left of the picture. Seen from that camera, whatever the height, where does region 2 "
        "lie? A. Left B. Right C. Front D. Back Answer with one letter, such as C."
    )
    assert words.position_explanation((1, 0), "left", (-1, 0), "Back", "D", None) == (
        "Region 2 is to the right and as far. The camera faces the left of the picture. "
        "So it lies Back."
    )


@pytest.mark.parametrize("count", range(2, 7))
def test_order_questions_are_phrased_in_many_ways(count):
    prompts = of_many(lambda rng: words.order_prompt(count, rng))
    assert len(prompts) >= 4
    for prompt in prompts:
        assert f"1 to {count}" in prompt or (count == 2 and "1 and 2" in prompt)
        assert "separated by commas" in prompt or "with commas between" in prompt
        example = prompt.rsplit("such as ", 1)[1].removesuffix(".")
        assert sorted(example.split(",")) == [str(n) for n in range(1, count + 1)]


@pytest.mark.parametrize("facing", FACINGS)
@pytest.mark.parametrize("options", [ONE_WORD, TWO_WORDS])
def test_position_questions_are_phrased_in_many_ways(facing, options):
    prompts = of_many(lambda rng: words.position_prompt(facing, options, rng))
    assert len({template(prompt) for prompt in prompts}) >= 4
    for prompt in prompts:
        assert "letter" in prompt.rsplit(options[-1], 1)[1]
        assert re.search("[Hh]eight", prompt), "the camera ignores height in every phrasing"
    # A phrasing that left the facing out would be the same for all four.
    others = [words.position_prompt(f, options, np.random.default_rng(0)) for f in FACINGS]
    assert len(set(others)) == 4


@pytest.mark.parametrize("order", [(2, 1), (3, 1, 2), (4, 2, 6, 1, 3, 5)])
def test_worked_order_names_every_region_once_and_in_turn(order):
    places = [f"at place {chr(96 + number)}" for number in range(1, len(order) + 1)]
    texts = of_many(lambda rng: words.order_explanation(order, places, rng))
    assert len(texts) >= 12
    for text in texts:
        body, listed = re.fullmatch(r"(.*?\.) [^.]*?((?:\d, )+\d)\.", text).groups()
        assert [int(number) for number in listed.split(", ")] == list(order)
        for number, place in re.findall(r"[Rr]egion (\d) (at place .)", body):
            assert place == places[int(number) - 1]
        compared = re.findall(r"[Rr]egion (\d)[^,;]*? is nearer than region (\d)", body)
        if compared:
            assert compared == [(str(a), str(b)) for a, b in pairwise(order)]
        elif len(order) > 2:
            named = [int(number) for number in re.findall(r"[Rr]egion (\d) at", body)]
            assert named == list(order)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_worked_order_of_two_says_which_is_nearer(order):
    for text in of_many(lambda rng: words.order_explanation(order, ["at a", "at b"], rng)):
        near, far = order
        named = [int(number) for number in re.findall(r"[Rr]egion (\d)", text)]
        said_far_first = "farther away, so" in text
        assert named == ([far, near] if said_far_first else [near, far])


def test_places_are_named_by_thirds():
    named = [words.place_in_words(r, c, 90, 60) for r, c in product((0, 45, 89), (0, 30, 59))]
    assert named == [
        "at the top left",
        "at the top middle",
        "at the top right",
        "at the left",
        "in the middle",
        "at the right",
        "at the bottom left",
        "at the bottom middle",
        "at the bottom right",
    ]


def side_in_words(vector):
    return {
        (-1, 0): "the left of the picture",
        (1, 0): "the right of the picture",
        (0, -1): "the viewer",
        (0, 1): "the far side of the scene",
    }[vector]


@pytest.mark.parametrize("facing", FACINGS)
@pytest.mark.parametrize("offset", [o for o in product((-1, 0, 1), repeat=2) if any(o)])
def test_worked_position_turns_the_frame_as_a_rotation_does(facing, offset):
    # Complex numbers as (right, away): a quarter turn clockwise multiplies by -i.
    front = complex(*HEADING[facing])
    sides = {"front": front, "right": front * -1j, "back": -front, "left": front * 1j}
    said = {name: side_in_words((round(at.real), round(at.imag))) for name, at in sides.items()}
    texts = of_many(
        lambda rng: words.position_explanation(offset, facing, HEADING[facing], "Left", "B", rng)
    )
    assert len(texts) >= 30
    for text in texts:
        for pattern, name in (
            (r"right-hand side points to (the [^,]*?) and its left", "right"),
            (r"and its left to (the [^.]*)\.", "left"),
            (r"in front of it is (the [^,]*),", "front"),
            (r"behind it (the [^,]*),", "back"),
            (r"on its right (the [^,]*),", "right"),
            (r"on its left (the [^.]*)\.", "left"),
            (r"has (the [^.]*?) on its right and", "right"),
            (r"on its right and (the .*?) on its left;", "left"),
            (r"; (the .*?) is behind it", "back"),
            (r"has (the [^.]*?) at the right hand", "right"),
            (r"hand and (the .*?) behind\.", "back"),
        ):
            for given in re.findall(pattern, text):
                assert given == said[name], text
        frames = ("right-hand", "in front of it", "on its right", "at the right hand")
        assert any(frame in text for frame in frames)
        assert text.count("Left") == 1
        assert re.search(r"\bB\.$", text)
        seen = text.split(". ")[0 if "I start" not in text else 1]
        assert ("to the left" in seen, "to the right" in seen) == (offset[0] < 0, offset[0] > 0)
        assert ("nearer" in seen, "farther" in seen) == (offset[1] < 0, offset[1] > 0)
    assert all(one != two for one, two in combinations(texts, 2))
