"""The task that CONTRIBUTING.md shows works as it is printed there."""

from __future__ import annotations

import re
import types
from pathlib import Path

import numpy as np
import pytest

from spatial_ssrl.core.errors import SceneRejected
from spatial_ssrl.core.questions import Scene
from spatial_ssrl.images import SyntheticScenes
from spatial_ssrl.tasks import TASKS, PretextTask

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> PretextTask:
    """The task in the text, registered until the test ends."""
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    module = types.ModuleType("turned_picture")
    exec(code, module.__dict__)
    made: PretextTask = TASKS.get("turned_picture")()
    return made


def test_every_turn_is_asked_and_undone(task: PretextTask) -> None:
    scene = SyntheticScenes(count=1, size=64).scene(0)
    answers = set()
    for seed in range(40):
        question = task.make(scene, np.random.default_rng(seed))
        answers.add(question.answer)
        turns = "ABCD".index(question.answer)
        # A quarter turn clockwise brings the left column to the top row, read from below.
        expected = scene.image
        for _ in range(turns):
            expected = expected[::-1].transpose(1, 0, 2)
        assert np.array_equal(question.images[0], expected)
        undone = task.undo(question)
        assert undone is not None
        assert np.array_equal(undone, scene.image)
    assert answers == set("ABCD")


def test_a_picture_of_one_colour_is_refused(task: PretextTask) -> None:
    grey = Scene(np.full((64, 64, 3), 90, np.uint8), "grey")
    with pytest.raises(SceneRejected, match="one colour"):
        task.make(grey, np.random.default_rng(0))


def test_commands_in_the_text_exist() -> None:
    found = re.findall(r"(?:python |`)((?:notebooks|tests|src)/[\w/]+\.py)", TEXT)
    assert "notebooks/build.py" in found
    for path in found:
        assert (Path(__file__).parents[1] / path).is_file(), path
