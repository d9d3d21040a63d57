"""A copy of the process that works beside it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from spatial_ssrl.planning import plan
from spatial_ssrl.planning.plan import Planner
from spatial_ssrl.planning.prediction import Prediction
from spatial_ssrl.planning.rehearsal import Rehearsal
from spatial_ssrl.planning.second_process import SecondProcess, can_have_second_process

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes cannot be copied here")


def test_it_answers_from_a_copy_that_knows_what_was_known() -> None:
    asked = [10]

    def answer(number: int) -> tuple[int, int]:
        asked.append(number)
        return sum(asked), os.getpid()

    second: SecondProcess[int, tuple[int, int]] = SecondProcess(answer)
    asked.append(500)  # Not known there.
    found = []
    for number in (1, 2):
        second.ask(number)
        found.append(second.answer())
    assert [total for total, _ in found] == [11, 13]
    assert {process for _, process in found}.isdisjoint({os.getpid()})
    assert asked == [10, 500]


@pytest.mark.parametrize("fails", ["raises", "dies"])
def test_one_that_fails_says_so_each_time(fails: str, capfd: pytest.CaptureFixture[str]) -> None:
    second: SecondProcess[int, float] = SecondProcess(
        lambda number: 1 / number if fails == "raises" else os._exit(3)
    )
    for _ in range(2):
        second.ask(0)
        with pytest.raises(EOFError):
            second.answer()
    assert capfd.readouterr().err == "", "who asked meets the error and tells of it"


def test_nothing_of_it_stays_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    threads = torch.get_num_threads()
    second: SecondProcess[int, int] = SecondProcess(lambda number: torch.get_num_threads())
    second.ask(0)
    assert second.answer() == 1
    assert torch.get_num_threads() == threads
    assert "TOKENIZERS_PARALLELISM" not in os.environ


def test_one_core_has_no_room_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert not can_have_second_process()


@pytest.fixture
def in_two(monkeypatch: pytest.MonkeyPatch, plan_of: Callable[..., Planner]) -> Planner:
    """Return a planner with a second process, whatever else runs in that of the tests."""
    monkeypatch.setattr(plan, "can_have_second_process", lambda: True)
    plan_of()  # The first of a process also counts what libraries keep for good.
    planner = plan_of()
    planner._two_processes = True
    return planner


def bytes_of(prediction: Prediction) -> list[dict[str, int]]:
    """Return the bytes of each part of both stages, those that hold any."""
    stages = [prediction.sampling, prediction.update]
    assert all(peak is None or peak.total == sum(peak.parts.values()) for peak in stages)
    return [{k: v for k, v in peak.parts.items() if v} if peak else {} for peak in stages]


def test_predictions_are_the_same(in_two: Planner, plan_of: Callable[..., Planner]) -> None:
    alone = plan_of()
    for changes, pixels in (({}, None), ({"group_size": 6}, None), ({"completion": 96}, 64 * 64)):
        step = replace(alone.step, **changes)
        assert bytes_of(in_two.predict(step, pixels)) == bytes_of(alone.predict(step, pixels))


def test_sampling_is_not_rehearsed_here(
    in_two: Planner, plan_of: Callable[..., Planner], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = plan_of().predict()
    assert in_two._second_process() is not None
    monkeypatch.setattr(Rehearsal, "sample", lambda *args: pytest.fail("rehearsed here"))
    assert bytes_of(in_two.predict()) == bytes_of(found)


def test_without_it_all_is_rehearsed_here(
    in_two: Planner, plan_of: Callable[..., Planner], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lost(SecondProcess[Any, Any]):
        def __init__(self, answer: Any) -> None:
            super().__init__(lambda question: os._exit(1))

    monkeypatch.setattr(plan, "SecondProcess", Lost)
    alone = plan_of()
    assert bytes_of(in_two.predict()) == bytes_of(alone.predict())
    monkeypatch.setattr(plan, "SecondProcess", lambda answer: pytest.fail("tried again"))
    step = replace(alone.step, group_size=6)
    assert bytes_of(in_two.predict(step)) == bytes_of(alone.predict(step))
