"""How steps are recorded, on a card that is not there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from spatial_ssrl.policies.fixed_step import FixedStep
from spatial_ssrl.rollout.cuda_graphs import CudaGraphs, _side_stream
from support.recording import recorded
from support.tiny_vlm import loud_policy, mixed_questions


class Card:
    """PyTorch's ways to record, as far as streams are concerned: those of release 2.14."""

    def __init__(self) -> None:
        self.stream = "default"
        self.modes: list[str] = []
        self.fails = False

    @contextmanager
    def on(self, stream: str) -> Iterator[None]:
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            self.stream = before

    @contextmanager
    def graph(self, graph: Any, stream: str, capture_error_mode: str) -> Iterator[None]:
        self.modes.append(capture_error_mode)
        before, self.stream = self.stream, stream
        try:
            yield
        finally:
            if self.fails:  # The stream is not set back.
                raise RuntimeError("operation failed due to a previous error during capture")
            self.stream = before


class Graph:
    def replay(self) -> None:
        raise AssertionError("There is nothing to replay.")


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    card = Card()
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: card.stream)
    monkeypatch.setattr(torch.cuda, "stream", card.on)
    monkeypatch.setattr(torch.cuda, "graph", card.graph)
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"side of {device}")
    _side_stream.cache_clear()
    yield card
    _side_stream.cache_clear()


@pytest.fixture
def step() -> Iterator[FixedStep]:
    policy = loud_policy()
    with torch.inference_mode():
        state = policy.read(policy.collator()(mixed_questions()))
        made = policy.fixed_step(policy.for_sampling([state]), room=4)
        made.tokens.fill_(7)
        yield made


def test_a_failed_recording_leaves_the_stream_and_the_step_as_they_were(
    card: Card, step: FixedStep, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, graphs = step.kept(), CudaGraphs()
    streams = []

    def fails(step: FixedStep) -> None:
        streams.append(card.stream)
        step._place.add_(1)
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    monkeypatch.setattr(FixedStep, "__call__", fails)
    card.fails = True
    assert graphs(step) is step
    assert graphs.given_up
    assert streams == ["side of cpu"]
    assert card.modes == ["thread_local"]
    assert card.stream == "default"
    assert all(map(torch.equal, step.kept(), before))
    # What went wrong first is said, not that the recording could not be ended.
    assert caplog.messages == [
        "Sampling goes on without CUDA graphs: operation not permitted when stream is capturing"
    ]
    assert graphs(step) is step
    assert len(streams) == 1


def no_count(step: FixedStep) -> Callable[[], None]:
    """Return a replay that finds what it should, and does not move on."""
    replay = recorded(step)

    def stays() -> None:
        *counts, _ = (tensor.clone() for tensor in step._changing())
        replay()
        step.restore((*counts, step.hidden.clone()))

    return stays


def no_number(step: FixedStep) -> Callable[[], None]:
    replay = recorded(step)

    def loses() -> None:
        replay()
        step.hidden.fill_(float("nan"))

    return loses


@pytest.mark.parametrize(("record", "said"), [(no_count, "move on"), (no_number, "nan off")])
def test_a_replay_that_leaves_something_else_behind_is_refused(
    record: Callable[[FixedStep], Callable[[], None]],
    said: str,
    step: FixedStep,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("spatial_ssrl.rollout.cuda_graphs._recorded", record)
    before: tuple[Tensor, ...] = step.kept()
    graphs = CudaGraphs()
    assert graphs(step) is step
    assert graphs.given_up
    assert said in caplog.text
    assert all(map(torch.equal, step.kept(), before))


def test_recordings_of_one_card_share_a_stream(card: Card) -> None:
    first = torch.device("cuda", 0)
    assert _side_stream(first) is _side_stream(torch.device("cuda", 0))
    assert _side_stream(first) != _side_stream(torch.device("cuda", 1))
