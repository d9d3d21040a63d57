"""Which questions a set holds, and where."""

from __future__ import annotations

from pathlib import Path

import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data.curated import ImageEncoding, SetPart, SetPlan
from spatial_ssrl.data.curated.describe import described
from spatial_ssrl.data.curated.plan import apportion
from spatial_ssrl.images import ConcatSources, ImageFolder, SyntheticScenes
from spatial_ssrl.tasks import DepthOrder, FlippedPatch
from support.curation import small_plan


def plan_of(*counts: int, shard_questions: int = 7) -> SetPlan:
    parts = [SetPart([SyntheticScenes(5, 64)], [FlippedPatch()], count) for count in counts]
    return SetPlan(parts, shard_questions=shard_questions)


@pytest.mark.parametrize("counts", [(10,), (3, 3), (40, 1, 9), (1, 1, 1, 97), (5, 4, 3, 2, 1)])
def test_items_are_shared_out_by_the_order_of_their_places(counts: tuple[int, ...]) -> None:
    places = sorted(
        ((number + 0.5) / count, group)
        for group, count in enumerate(counts)
        for number in range(count)
    )
    for total in range(sum(counts) + 1):
        taken = [group for _, group in places[:total]]
        assert apportion(counts, total) == [taken.count(group) for group in range(len(counts))]


def test_shards_hold_every_question_once_and_mix_the_parts() -> None:
    plan = plan_of(40, 10, 7)
    shards = [plan.shard(number) for number in range(plan.shards)]
    assert [len(shard) for shard in shards] == [7] * 8 + [1]
    assert sorted(member for shard in shards for member in shard) == sorted(
        (part, place) for part, count in enumerate((40, 10, 7)) for place in range(count)
    )
    assert all(len({part for part, _ in shard}) >= 2 for shard in shards[:-1])


def test_the_order_of_questions_does_not_depend_on_the_shards() -> None:
    orders = [
        [member for number in range(plan.shards) for member in plan.shard(number)]
        for plan in (plan_of(40, 10, 7, shard_questions=size) for size in (1, 7, 100))
    ]
    assert orders[0] == orders[1] == orders[2]


def test_parts_share_no_draw() -> None:
    part = SetPart([SyntheticScenes(500, 64)], [FlippedPatch()], 20)
    first, second = SetPlan([part, part]).streams()
    uids = {stream[i].uid for stream in (first, second) for i in range(20)}
    assert len(uids) == 40


def test_whatever_changes_questions_changes_the_fingerprint() -> None:
    def plan(**settings: object) -> SetPlan:
        arguments = {"count": 10, "size": 32} | settings
        task = FlippedPatch(columns=int(arguments.pop("columns", 2)))
        return SetPlan([SetPart([SyntheticScenes(**arguments)], [task], 10)])

    prints = {
        "as it is": plan().fingerprint,
        "scenes": plan(count=11).fingerprint,
        "size": plan(size=48).fingerprint,
        "task": plan(columns=3).fingerprint,
        "seed": small_plan(seed=1).fingerprint,
        "encoding": small_plan(encoding=ImageEncoding("jpeg")).fingerprint,
        "shards": small_plan(shard_questions=5).fingerprint,
        "small": small_plan().fingerprint,
    }
    assert len(set(prints.values())) == len(prints)
    assert plan().fingerprint == prints["as it is"]


class Mine(FlippedPatch):
    """A task that no registry holds."""


def test_components_are_named_as_a_config_names_them() -> None:
    assert described(FlippedPatch(columns=3))["class_path"] == "FlippedPatch"
    assert described(FlippedPatch(columns=3))["init_args"]["columns"] == 3
    assert described(Mine())["class_path"] == f"{__name__}.Mine"
    source = ConcatSources([ImageFolder(Path("photos")), SyntheticScenes(3, 32)])
    inner = described(source)["init_args"]["sources"]
    assert inner[0]["init_args"]["folder"] == "photos"
    assert inner[1] == {
        "class_path": "SyntheticScenes",
        "init_args": {"count": 3, "size": 32, "seed": 0, "first": 0},
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SetPlan([]), "parts is empty"),
        (lambda: plan_of(3, shard_questions=0), "shard_questions must be at least 1"),
        (lambda: plan_of(0), "count must be at least 1 question, got 0"),
        (lambda: ImageEncoding("webp"), 'encoding.kind must be "png" or "jpeg"'),
        (lambda: ImageEncoding("jpeg", 0), r"encoding.quality must be in \[1, 100\], got 0"),
        (
            lambda: SetPlan([SetPart([SyntheticScenes(0, 32)], [DepthOrder()], 3)]).streams(),
            "SyntheticScenes holds no scene",
        ),
    ],
)
def test_bad_settings_are_named(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
