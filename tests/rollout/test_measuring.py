"""Which way completions go on, chosen by a clock that goes as the test says."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.batches import Rollouts
from spatial_ssrl.policies import SamplingSettings, TinyVLM, TokenCount
from spatial_ssrl.policies.fixed_step import FixedStep
from spatial_ssrl.rollout import InProcess, cuda_graphs, measuring
from spatial_ssrl.rollout.continuing import WARM_UP, Recorded, Recorder
from spatial_ssrl.rollout.measuring import TIMED, TOO_FEW, Timing
from support.recording import recorded
from support.tiny_vlm import loud_policy, mixed_questions

LIMIT, GROUP = 90, 4


class Measuring(InProcess):
    """Does on a CPU what it would do on a card."""

    def __init__(self) -> None:
        super().__init__(cuda_graphs="measured")

    def recorder(self, device: torch.device) -> Recorder | None:
        return super().recorder(torch.device("cuda"))


@dataclass
class World:
    """Tells what time it is: every step and every recording takes as long as the test says.

    Args:
        plain: Seconds of a plain step.
        replay: Of a replayed one.
        recording: Of a recording; the first takes ten times as long.
    """

    policy: TinyVLM
    plain: float = 0.02
    replay: float = 0.005
    recording: float = 0.1
    now: float = 0.0
    looks: int = 0
    recordings: int = 0
    replays: int = 0

    def clock(self, device: torch.device) -> float:
        self.looks += 1
        return self.now

    def record(self, step: FixedStep) -> Callable[[], None]:
        self.now += self.recording * (1 if self.recordings else 10)
        self.recordings += 1
        replay = recorded(step)

        def timed() -> None:
            self.now += self.replay
            self.replays += 1
            replay()

        return timed

    def sample(
        self, engine: InProcess, group: int = GROUP, limit: int = LIMIT, temperature: float = 1.0
    ) -> Rollouts:
        """Return completions, and forget what was counted before them."""
        self.looks = self.recordings = self.replays = 0
        self.now = 0.0
        self.policy.tokens = TokenCount()
        prompts = self.policy.collator()(mixed_questions())
        sampling = SamplingSettings(max_new_tokens=limit, temperature=temperature)
        return engine.sample(self.policy, prompts, group, sampling, 0)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    policy = loud_policy()
    found, read_on = World(policy), policy.read_on

    def slowly(*args: Any) -> Any:
        found.now += found.plain
        return read_on(*args)

    monkeypatch.setattr(policy, "read_on", slowly)
    monkeypatch.setattr(measuring, "_clock", found.clock)
    monkeypatch.setattr(cuda_graphs, "_recorded", found.record)
    # No completion ends early, so that what is measured does not depend on it.
    monkeypatch.setattr(type(policy), "end_token_ids", property(lambda self: ()))
    return found


def check(found: Rollouts, wanted: Rollouts) -> None:
    assert torch.equal(found.tokens, wanted.tokens)
    assert torch.equal(found.mask, wanted.mask)
    assert found.logprobs is not None
    torch.testing.assert_close(found.logprobs, wanted.logprobs, atol=1e-5, rtol=1e-5)


# By hand, of 64 tokens of which 3 are taken plainly before a recording is made:
#   0.1 s + 3 * 20 ms + 61 * 5 ms = 465 ms, 7.27 ms each, less than 20 ms;
#   0.1 s + 3 * 6 ms + 61 * 5 ms = 423 ms, 6.61 ms each, more than 6 ms, although a replay is
#   faster than a plain step;
#   0.1 s + 3 * 6 ms + 61 * 7 ms = 545 ms, 8.52 ms each.
@pytest.mark.parametrize(
    ("plain", "replay", "by_graphs", "figures"),
    [
        (0.020, 0.005, True, ("20.00", "7.27")),
        (0.006, 0.005, False, ("6.00", "6.61")),
        (0.006, 0.007, False, ("6.00", "8.52")),
    ],
)
def test_the_faster_way_is_taken(
    plain: float,
    replay: float,
    by_graphs: bool,
    figures: tuple[str, str],
    world: World,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = world.sample(InProcess())
    world.plain, world.replay = plain, replay
    engine = Measuring()
    with caplog.at_level(logging.INFO):
        check(world.sample(engine), wanted)
    (line,) = caplog.messages
    assert line == (
        f"Sampling 12 completions at once takes {figures[0]} ms a token kernel by kernel and "
        f"{figures[1]} ms by CUDA graphs, 100 ms to record one every 64 tokens included: "
        f"it goes on {'by' if by_graphs else 'without'} CUDA graphs."
    )
    assert world.recordings >= 2
    if by_graphs:
        assert world.replays > LIMIT / 2
    else:
        # The one that was checked, the first one that served, and those that were timed.
        assert world.replays == 2 + TIMED
    assert world.policy.tokens.replayed == 12 * (world.replays - 1)
    # It is known from then on.
    with caplog.at_level(logging.INFO):
        check(world.sample(engine), wanted)
    assert len(caplog.messages) == 1
    assert world.looks == 0
    assert (world.replays > LIMIT / 2) == by_graphs
    assert (world.recordings > 0) == by_graphs


def test_figures_of_a_token() -> None:
    timing = Timing(plain=0.020, replay=0.005, recording=0.1, steps=64)
    assert timing.recorded == pytest.approx((0.1 + 3 * 0.020 + 61 * 0.005) / 64)


def test_it_is_measured_anew_for_twice_as_many(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    engine = Measuring()
    with caplog.at_level(logging.INFO):
        for group in (4, 8, 4, 5, 8):
            world.sample(engine, group)
    # 12 and 15 completions have four binary digits, 24 have five.
    assert [line.split(" at once")[0] for line in caplog.messages] == [
        "Sampling 12 completions",
        "Sampling 24 completions",
    ]


def test_ends_while_measuring_change_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # About one token in twenty ends a completion: rows leave and are given up all the time.
    ends = tuple(range(5, world.policy.vocabulary_size, 20))
    monkeypatch.setattr(type(world.policy), "end_token_ids", property(lambda self: ends))
    wanted = world.sample(InProcess(), group=24)
    assert not wanted.mask[:, LIMIT // 3].all()
    for plain in (0.02, 0.001):
        world.plain, engine = plain, Measuring()
        with caplog.at_level(logging.INFO):
            check(world.sample(engine, group=24), wanted)
            check(world.sample(engine, group=24), wanted)
    assert [line.rpartition(" on ")[2] for line in caplog.messages] == [
        "by CUDA graphs.",
        "without CUDA graphs.",
    ]


class Uneven(Recorded):
    """Is steady from the second token to the fourth, which takes as long as its number says."""

    def __init__(self, world: World) -> None:
        self.world, self.said = world, 0

    @property
    def steady(self) -> bool:
        return 2 <= self.said <= 4

    def go_on(self, row: Tensor, chosen: Tensor) -> Tensor:
        self.said += 1
        self.world.now += self.said
        return row


def test_steps_that_begin_or_end_something_do_not_count(world: World) -> None:
    trial, uneven, row = measuring._Trial(recorded), Uneven(world), torch.zeros(1)
    for _ in range(6):
        trial.go_on(uneven, row, row)
    assert trial.replays == [3.0, 4.0]
    assert trial.plain == []


def refused(step: FixedStep) -> Callable[[], None]:
    step()  # As far as it came.
    raise RuntimeError("operation not permitted when stream is capturing")


def test_sampling_goes_on_plainly_where_recording_fails(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = world.sample(InProcess())
    monkeypatch.setattr(cuda_graphs, "_recorded", refused)
    engine = Measuring()
    with caplog.at_level(logging.INFO):
        check(world.sample(engine), wanted)
        # Not plain, and not timed, are the steps before the recording and that after it failed.
        assert world.now / world.plain == pytest.approx(LIMIT - 1 - WARM_UP - 1)
        assert world.policy.tokens.replayed == 0
        for group in (GROUP, 2 * GROUP):
            world.sample(engine, group)
            assert world.looks == 0
            assert world.now / world.plain == pytest.approx(LIMIT - 1)
    (line,) = caplog.messages
    assert line.startswith("Sampling goes on without CUDA graphs: operation not permitted")


def test_short_batches_are_not_measured(world: World) -> None:
    engine = Measuring()
    world.sample(engine, limit=TOO_FEW)
    assert world.looks == 0
    world.sample(engine, limit=TOO_FEW + 1)
    assert world.looks > 0
    world.sample(engine)
    assert world.looks == 0


def test_what_comes_to_no_end_is_given_up(world: World, caplog: pytest.LogCaptureFixture) -> None:
    engine = Measuring()
    # The most likely completions are all the same, and share their rows to the end.
    with caplog.at_level(logging.INFO):
        looks = [world.sample(engine, temperature=0.0) and world.looks for _ in range(5)]
    assert [look > 0 for look in looks] == [True, True, True, False, False]
    assert world.recordings == 0
    (line,) = caplog.messages
    assert line.startswith("Sampling 12 completions at once goes on without CUDA graphs: 3 ")


def test_on_a_cpu_nothing_is_measured(world: World) -> None:
    check(world.sample(InProcess(cuda_graphs="measured")), world.sample(InProcess()))
    world.sample(InProcess(cuda_graphs="measured"))
    assert world.looks == world.recordings == 0


def test_a_card_is_waited_for_before_the_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    happened = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: happened.append(str(device)))
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: happened.append("clock") or 7.0)
    assert measuring._clock(torch.device("cuda", 1)) == 7.0
    assert measuring._clock(torch.device("cpu")) == 7.0
    assert happened == ["cuda:1", "clock", "clock"]
