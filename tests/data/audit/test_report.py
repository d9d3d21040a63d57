"""An audit finds planted shortcuts and lets fair questions pass."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import numpy as np
import pytest
from rich.console import Console

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.seeding import rng_for
from spatial_ssrl.data.audit import AuditSettings, audit, facts_of, tables
from spatial_ssrl.data.audit.candidates import appearance

LETTERS = ("A", "B", "C", "D")
WORDS = ("Left", "Right", "Front", "Back")
SETS = {"candidates": appearance}

Maker = Callable[[np.random.Generator, int], Question]


def noise(rng: np.random.Generator, low: int = 0) -> np.ndarray:
    return rng.integers(low, low + 200, (16, 16, 3), dtype=np.uint8)


def question(rng: np.random.Generator, number: int, answer: str, **other: object) -> Question:
    settings = {
        "uid": f"q{number}",
        "task": "a_task",
        "images": (noise(rng),),
        "prompt": "<image>Which?",
        "answer": answer,
        "answer_kind": "choice",
        "choices": LETTERS,
        "chance": 0.25,
        "source_id": f"scene{number}",
        **other,
    }
    return Question(**settings)  # type: ignore[arg-type]


def letter(rng: np.random.Generator) -> str:
    return LETTERS[rng.integers(4)]


def fair(rng: np.random.Generator, number: int) -> Question:
    words = " ".join(rng.permutation(["near", "far", "tree", "wall"])[:2])
    return question(rng, number, letter(rng), prompt=f"<image>Which one, by the {words}?")


def worded(rng: np.random.Generator, number: int) -> Question:
    """The prompt says "exactly" when the answer is A or B."""
    answer = letter(rng)
    word = "exactly" if answer in "AB" else "only"
    return question(rng, number, answer, prompt=f"<image>Which {word} one fits?")


def crossed(rng: np.random.Generator, number: int) -> Question:
    """Front is right when the camera faces left, Back when it faces right."""
    options, facing = rng.permutation(WORDS).tolist(), ("left", "right")[rng.integers(2)]
    answer = LETTERS[options.index({"left": "Front", "right": "Back"}[facing])]
    listed = " ".join(f"{one}. {word}" for one, word in zip(LETTERS, options, strict=True))
    prompt = f"<image>The camera faces {facing}. Where is it? {listed}"
    return question(rng, number, answer, prompt=prompt, meta={"options": options})


def patches(rng: np.random.Generator, number: int, brighter: int = 0) -> Question:
    place = int(rng.integers(4))
    candidates = [noise(rng, brighter if one == place else 0) for one in range(4)]
    images = (noise(rng), *candidates)
    return question(rng, number, LETTERS[place], images=images, prompt="<image>" * 5)


def marked(rng: np.random.Generator, number: int) -> Question:
    """The right candidate is a little brighter."""
    return patches(rng, number, brighter=25)


def half_known(rng: np.random.Generator, number: int) -> Question:
    """The prompt tells the second half of the answer, not the first."""
    way = ("horizontal", "vertical")[rng.integers(2)]
    return question(
        rng,
        number,
        f"{rng.integers(4)},{way}",
        answer_kind="text",
        choices=tuple(f"{one},{two}" for one in range(4) for two in ("horizontal", "vertical")),
        chance=1 / 8,
        prompt=f"<image>One is {'upset' if way == 'vertical' else 'swapped'}.",
    )


def audited(make: Maker, count: int = 240, **settings: object) -> dict:
    rng = rng_for(0, make.__name__)
    facts = [facts_of(make(rng, number), SETS) for number in range(count)]
    return audit(facts, {}, AuditSettings(**settings))  # type: ignore[arg-type]


def shortcuts(found: dict) -> set[tuple[str, str]]:
    return {
        (one["sees"], one["part"])
        for one in found["tasks"]["a_task"]["baselines"]
        if one["finding"] == "shortcut"
    }


@pytest.mark.parametrize("make", [fair, patches])
def test_a_fair_task_is_not_flagged(make: Maker) -> None:
    found = audited(make)
    assert found["findings"] == []
    measured = found["tasks"]["a_task"]["baselines"]
    assert {one["sees"] for one in measured} >= {"prompt" if make is fair else "candidates"}
    for one in measured:
        assert one["chance"] == 0.25
        assert one["n"] == 240
        assert abs(one["accuracy"] - 0.25) < 4 * np.sqrt(0.1875 / 240)


@pytest.mark.parametrize(
    ("make", "expected", "accuracy"),
    [
        (worded, ("prompt", "answer"), 0.5),
        (crossed, ("options", "answer"), 1.0),
        (marked, ("candidates", "answer"), 0.9),
        (half_known, ("prompt", "part 2"), 1.0),
    ],
)
def test_a_planted_shortcut_is_found(
    make: Maker, expected: tuple[str, str], accuracy: float
) -> None:
    found = audited(make)
    assert expected in shortcuts(found)
    best = max(
        one["accuracy"]
        for one in found["tasks"]["a_task"]["baselines"]
        if (one["sees"], one["part"]) == expected
    )
    assert best > accuracy - 0.1
    assert any(f"from the {expected[0]} alone" in line for line in found["findings"])


def test_uneven_answers_and_repetitions_are_found() -> None:
    def uneven(rng: np.random.Generator, number: int) -> Question:
        return question(rng, number % 100, "ABCD"[int(rng.integers(4)) // 2])

    found = audited(uneven, 120)
    task = found["tasks"]["a_task"]
    assert task["answers"]["counts"]["D"] == 0
    assert task["answers"]["p"] < 1e-6
    assert task["duplicates"]["same"] == 20
    assert len(found["findings"]) >= 2
    assert any("uneven" in line for line in found["findings"])
    assert any("20 questions are repetitions" in line for line in found["findings"])


def test_a_wide_margin_lets_a_shortcut_pass() -> None:
    assert shortcuts(audited(worded, margin=0.6)) == set()


def test_orders_and_markers() -> None:
    """Of three marked regions the lower is always nearer: a hint, never a finding."""

    def ordered(rng: np.random.Generator, number: int) -> Question:
        rows = rng.permutation([20, 50, 80])
        order = ",".join(str(index + 1) for index in np.argsort(-rows))
        meta = {"regions": [(int(row), 10) for row in rows]}
        image = np.full((100, 120, 3), rng.integers(256), np.uint8)
        return question(
            rng,
            number,
            order,
            images=(image,),
            answer_kind="order",
            choices=(),
            chance=1 / 6,
            meta=meta,
        )

    task = audited(ordered)["tasks"]["a_task"]
    assert task["answers"]["possible"] == 6
    assert sum(task["answers"]["counts"].values()) == 240
    (hint,) = [one for one in task["baselines"] if one["sees"] == "markers"]
    assert (hint["accuracy"], hint["finding"]) == (1.0, "hint")
    assert hint["chance"] == pytest.approx(1 / 6)
    assert {one["part"] for one in task["baselines"]} == {"answer", "part 1", "part 2", "part 3"}
    assert task["pictures"]["shorter_side_px"] == [100, 100, 100]
    assert task["pictures"]["marker_px"] == [13, 13, 13]
    assert shortcuts({"tasks": {"a_task": task}}) == set()


def test_the_record_is_json_and_the_tables_tell_it() -> None:
    rng = rng_for(0)
    facts = [facts_of(fair(rng, number), SETS) for number in range(40)]
    facts += [facts_of(half_known(rng, number), SETS) for number in range(40)]
    refusals = {("a_task", "two patches look alike"): 3, ("a_task", "too small"): 7}
    found = audit(facts, refusals)
    assert json.loads(json.dumps(found))["questions"] == 80
    assert list(found["tasks"]) == ["a_task (4 answers)", "a_task (8 answers)"]
    refused = found["tasks"]["a_task (4 answers)"]["rejections"]
    assert list(refused.items()) == [("too small", 7), ("two patches look alike", 3)]
    console = Console(width=140, file=io.StringIO())
    for table in tables(found):
        console.print(table)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "a task (8 answers)" in text
    assert "two patches look alike" in text
    assert "shortcut" in text


def test_nothing_to_audit_is_an_error() -> None:
    with pytest.raises(ConfigError, match="raise count"):
        audit([], {})
    with pytest.raises(ConfigError, match="folds must be at least 2"):
        AuditSettings(folds=1)
