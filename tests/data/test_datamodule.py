from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.data import HeldOutSettings, PretextDataModule
from spatial_ssrl.images import ImageSource, SyntheticScenes
from spatial_ssrl.tasks import FlippedPatch, ShuffledPatches


class Names(ImageSource):
    """Pictures that are names only."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self.prepared = 0

    def __len__(self) -> int:
        return len(self.names)

    def prepare(self) -> None:
        self.prepared += 1

    def scene(self, index: int) -> Scene:
        return Scene(np.zeros((8, 8, 3), dtype=np.uint8), self.names[index])


class Echo(FlippedPatch):
    """Repeats the scene's name, with the draw in the id."""

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        return Question(str(rng.integers(10**9)), "flipped_patch", (), "", scene.source_id, "text")


class Other(Echo):
    """A second task."""


def module(names: int = 400, **arguments: object) -> PretextDataModule:
    source = Names([f"scene-{i}" for i in range(names)])
    settings = {"batch_size": 4, "epoch_questions": 40, **arguments}
    return PretextDataModule([source], [Echo(), Other()], **settings)


def names_in(loader: object) -> set[str]:
    return {question.answer for batch in loader for question in batch}


def test_training_and_held_out_scenes_never_meet() -> None:
    data = module(epoch_questions=4000, evaluation=HeldOutSettings(0.2, 500, 500))
    trained = names_in(data.train_dataloader())
    held = names_in(data.val_dataloader()) | names_in(data.test_dataloader())
    assert not trained & held
    # Nearly every scene was drawn on its side; the held-out side is binomial (400, .2).
    assert len(trained | held) > 390
    assert len(held) == pytest.approx(80, abs=4 * 8)


def test_a_scene_keeps_its_side_when_others_are_added() -> None:
    evaluation = HeldOutSettings(0.2, 500, 500)
    few = names_in(module(200, evaluation=evaluation).test_dataloader())
    many = names_in(module(400, evaluation=evaluation).test_dataloader())
    assert few < many


def test_held_out_sources_are_kept_from_training_by_name() -> None:
    shared = Names([f"scene-{i}" for i in range(20)] + ["elsewhere"])
    data = module(40, epoch_questions=2000, held_out=[shared])
    assert names_in(data.train_dataloader()) == {f"scene-{i}" for i in range(20, 40)}
    assert names_in(data.test_dataloader()) == {f"scene-{i}" for i in range(20)} | {"elsewhere"}


@pytest.mark.parametrize("count", [2, 5, 9])
def test_a_handful_of_pictures_still_has_both_sides(count: int) -> None:
    data = module(count, epoch_questions=400)
    trained, held = names_in(data.train_dataloader()), names_in(data.val_dataloader())
    assert trained
    assert held
    assert not trained & held


def test_held_out_questions_are_the_same_in_every_run_and_balanced() -> None:
    settings = {"evaluation": HeldOutSettings(val_questions=9, test_questions=15, batch_size=8)}
    first = module(seed=1, task_weights=[3.0, 1.0], batch_size=8, **settings).test_dataloader()
    second = module(seed=2, **settings).test_dataloader()
    batches = list(first)
    assert [len(batch) for batch in batches] == [8, 8, 8, 6]
    assert len(first) == 4
    again = [q.uid for batch in first for q in batch]
    assert again == [q.uid for batch in second for q in batch]
    dataset = first.dataset
    assert Counter(type(dataset.task_at(i)) for i in range(30)) == {Echo: 15, Other: 15}
    other = {q.uid for batch in module(**settings).val_dataloader() for q in batch}
    assert not other & set(again)


def uids(loader: object, batches: int | None = None) -> list[str]:
    found = []
    for number, batch in enumerate(loader):
        if number == batches:
            break
        found += [question.uid for question in batch]
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_training_goes_on_where_it_was(workers: int) -> None:
    whole = uids(module(epoch_questions=80).train_dataloader())
    data = module(num_workers=workers)
    for number, _ in enumerate(data.train_dataloader(), start=1):
        if number == 3:
            state = data.state_dict()
            break
    assert state == {"position": 12}
    resumed = module(num_workers=workers)
    resumed.load_state_dict(state)
    loader = resumed.train_dataloader()
    assert len(loader) == 10
    assert uids(loader, 7) == whole[12:40]


def test_an_epoch_follows_the_one_before() -> None:
    whole = uids(module(epoch_questions=80).train_dataloader())
    loader = module().train_dataloader()
    assert uids(loader) + uids(loader) == whole
    assert len(set(whole)) == 80


def test_state_reaches_a_loader_that_is_already_there() -> None:
    data = module()
    loader = data.train_dataloader()
    data.load_state_dict({"position": 8})
    assert loader.state_dict() == {"position": 8}
    loader.load_state_dict({"position": 20})
    assert data.state_dict() == {"position": 20}


def test_every_source_is_prepared() -> None:
    held = Names(["a"])
    data = module(held_out=[held])
    data.prepare_data()
    assert held.prepared == 1
    assert data.images[0].prepared == 1


def test_real_scenes_and_tasks_give_plain_questions_without_a_trainer() -> None:
    data = PretextDataModule(
        [SyntheticScenes(40, 48)], [ShuffledPatches(), FlippedPatch()], batch_size=4
    )
    batch = next(iter(data.train_dataloader()))
    assert Counter(q.task for q in batch) == {"shuffled_patches": 2, "flipped_patch": 2}
    assert all(image.dtype == np.uint8 for q in batch for image in q.images)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"epoch_questions": 3}, r"epoch_questions is 3, less than batch_size \(4\); raise it"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        module(**arguments)


def test_bad_evaluation_settings_are_named() -> None:
    with pytest.raises(ConfigError, match=r"evaluation.share must be in \(0, 1\), got 1"):
        HeldOutSettings(share=1)
    with pytest.raises(ConfigError, match=r"evaluation.val_questions must be at least 1, got 0"):
        HeldOutSettings(val_questions=0)


class Part:
    """As much of a Trainer as the data module looks at."""

    lightning_module = None

    def __init__(self, rank: int, processes: int) -> None:
        self.global_rank, self.world_size = rank, processes


def parts(processes: int, **arguments: object) -> list[PretextDataModule]:
    modules = [module(**arguments) for _ in range(processes)]
    for rank, data in enumerate(modules):
        data.trainer = Part(rank, processes)
        data.setup("fit")
    return modules


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_each_batch_in_its_order(processes: int) -> None:
    whole = list(module().train_dataloader())
    shared = [list(data.train_dataloader()) for data in parts(processes)]
    for number, batch in enumerate(whole):
        together = [question for part in shared for question in part[number]]
        assert [q.uid for q in together] == [q.uid for q in batch]
        assert {len(part[number]) for part in shared} == {4 // processes}


def test_a_run_goes_on_with_another_number_of_processes() -> None:
    whole = uids(module().train_dataloader())
    first, _ = parts(2)
    uids(first.train_dataloader(), 3)
    alone = module()
    alone.load_state_dict(first.state_dict())
    assert uids(alone.train_dataloader(), 3) == whole[16:28]


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_share_held_out_questions_in_their_order(processes: int) -> None:
    settings = {"evaluation": HeldOutSettings(test_questions=11, batch_size=4)}
    settings |= {"batch_size": 30, "epoch_questions": 30}
    whole = uids(module(**settings).test_dataloader())
    loaders = [data.test_dataloader() for data in parts(processes, **settings)]
    assert [uid for loader in loaders for uid in uids(loader)] == whole
    assert all(len(loader) == len(list(loader)) for loader in loaders)


def test_what_processes_cannot_share_is_named() -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 4, which 3 processes .* multiple of 3"):
        parts(3)
    data = parts(4, evaluation=HeldOutSettings(val_questions=1))[0]
    with pytest.raises(ConfigError, match=r"2 held-out .* for 4 processes; raise .*val_questions"):
        data.val_dataloader()
