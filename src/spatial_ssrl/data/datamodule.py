"""Questions for training and for held-out evaluation, as a Lightning data module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningDataModule

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.curated.streams import ChosenQuestions, CuratedSplit, ShuffledQuestions
from spatial_ssrl.data.dataset import QuestionDataset
from spatial_ssrl.data.loader import Collate, HeldOutLoader, QuestionLoader, Share
from spatial_ssrl.data.splits import Except, names_of, split_sources
from spatial_ssrl.images import ImageSource
from spatial_ssrl.tasks import PretextTask

_EVALUATION_SEED = 0


@dataclass(frozen=True)
class HeldOutSettings:
    """How much is held out, and how many questions are asked of it.

    Args:
        share: Share of the training sources' scenes that is held out, in (0, 1); not used
            when the data module is given held-out sources.
        val_questions: Questions a task at each validation.
        test_questions: Questions a task in the test; 1000 tell 3 points apart when paired.
        batch_size: Questions in a batch, of each process.
    """

    share: float = 0.1
    val_questions: int = 100
    test_questions: int = 1000
    batch_size: int = 64

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"evaluation.share must be in (0, 1), got {self.share}.")
        for name in ("val_questions", "test_questions", "batch_size"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"evaluation.{name} must be at least 1, got {getattr(self, name)}."
                )


class PretextDataModule(LightningDataModule):
    """Endless training questions, and the same held-out questions in every run.

    Questions are drawn fresh from `images` by `tasks`, or read from a curated set.

    No held-out question comes from a scene that training may see: scenes are parted by their
    `source_id`. Held-out questions depend neither on `seed` nor on the tasks' weights, so that
    runs can be compared question by question.

    A question that the policy in training cannot read (see its `preparer`) is replaced by another
    one, held-out ones too: policies with equal limits are asked the same.

    Training batches follow one another without end; an epoch is only `epoch_questions` of
    them. A resumed run goes on with the next batch.

    Several processes (`trainer.devices` above 1) share every batch and all held-out questions,
    so that their number changes neither what is trained on nor what is asked.

    Args:
        images: Where scenes come from. Tasks that need depth draw from the sources that have
            it, the others from all. None with a curated set.
        tasks: The tasks to mix; None with a curated set.
        held_out: Sources of held-out scenes; training skips whatever they hold. None holds
            out a share of `images`, chosen by a hash of each scene's name.
        image_weights: Share of each source in training, any positive scale; by default in
            proportion to their numbers of scenes.
        task_weights: Share of each task in training, any positive scale; equal by default.
        epoch_questions: Questions in an epoch, at least `batch_size`.
        batch_size: Questions in a training step, over all processes; their number must divide
            it.
        num_workers: Processes that prepare batches; 0 prepares them in the training process.
        seed: Names the training questions.
        evaluation: How much is held out, and how many questions are asked of it.
        curated: Folder or file of a curated set to train on, instead of `images` and what goes
            with them; see `CuratedQuestions`. Every question is shown once before one is shown
            again, in an order named by `seed`.

    Raises:
        ConfigError: If a number is out of range, or neither or both kinds of questions are
            given.
    """

    def __init__(
        self,
        images: list[ImageSource] | None = None,
        tasks: list[PretextTask] | None = None,
        held_out: list[ImageSource] | None = None,
        image_weights: list[float] | None = None,
        task_weights: list[float] | None = None,
        epoch_questions: int = 1_000_000,
        batch_size: int = 16,
        num_workers: int = 0,
        seed: int = 0,
        evaluation: HeldOutSettings = HeldOutSettings(),
        curated: Path | str | None = None,
    ) -> None:
        super().__init__()
        drawn = (images, tasks, held_out, image_weights, task_weights)
        if curated is None and (images is None or tasks is None):
            raise ConfigError("Give images and tasks to draw questions, or curated to read them.")
        if curated is not None and any(setting is not None for setting in drawn):
            raise ConfigError(
                "curated already holds questions; leave out images, tasks, held_out and the "
                "weights."
            )
        if batch_size < 1:
            raise ConfigError(f"batch_size must be at least 1, got {batch_size}.")
        if epoch_questions < batch_size:
            raise ConfigError(
                f"epoch_questions is {epoch_questions}, less than batch_size ({batch_size}); "
                "raise it."
            )
        self.images = images or []
        self.tasks = tasks or []
        self.held_out = held_out
        self.image_weights = image_weights
        self.task_weights = task_weights
        self.epoch_questions = epoch_questions
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.evaluation = evaluation
        self.curated = curated
        self._split_set: CuratedSplit | None = None
        self._loader: QuestionLoader | None = None
        self._position = 0

    def prepare_data(self) -> None:
        """Let every source do its slow one-time work, or look at the curated set.

        Raises:
            ConfigError: If a source or the set cannot be used.
        """
        if self.curated is not None:
            self._set()
        for source in [*self.images, *(self.held_out or [])]:
            source.prepare()

    def setup(self, stage: str) -> None:
        """Refuse a batch that the processes of a run cannot share evenly.

        Args:
            stage: "fit", "validate", "test" or "predict".

        Raises:
            ConfigError: If `batch_size` is no multiple of the number of processes.
        """
        processes = self._share().processes
        if stage == "fit" and self.batch_size % processes:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}, which {processes} processes cannot share "
                f"evenly; choose a multiple of {processes}."
            )

    def training_questions(self) -> QuestionDataset | ShuffledQuestions:
        """Return the stream of training questions.

        Raises:
            ConfigError: If a source is empty, weights do not fit, or a task lacks depth.
        """
        if self.curated is not None:
            return self._set().stream(self.seed, self._prepare())
        return QuestionDataset(
            self.images,
            self.tasks,
            self.seed,
            stream="train",
            block=self.batch_size,
            task_weights=self.task_weights,
            image_weights=self.image_weights,
            admits=self._split(for_training=True),
            prepare=self._prepare(),
        )

    def held_out_questions(self, stream: str) -> QuestionDataset | ChosenQuestions:
        """Return a stream of held-out questions with equally many of each task.

        Drawn questions go on without end; of a curated set there are as many as `evaluation`
        asks for, or fewer.

        Args:
            stream: "val", "test" or another name; streams share scenes, not draws.

        Raises:
            ConfigError: If a source is empty or a task lacks depth.
        """
        if self.curated is not None:
            asked = self.evaluation
            count = asked.val_questions if stream == "val" else asked.test_questions
            return self._set().chosen(stream, count, self._prepare())
        return QuestionDataset(
            self.images if self.held_out is None else self.held_out,
            self.tasks,
            _EVALUATION_SEED,
            stream=stream,
            block=len(self.tasks),
            image_weights=self.image_weights if self.held_out is None else None,
            admits=self._split(for_training=False),
            prepare=self._prepare(),
        )

    def train_dataloader(self) -> QuestionLoader:
        """Return the training batches, from where the run is."""
        self._loader = QuestionLoader(
            self.training_questions(),
            self.batch_size,
            self.epoch_questions // self.batch_size,
            self._collate(),
            self.num_workers,
            self._position,
            self._share(),
        )
        return self._loader

    def val_dataloader(self) -> HeldOutLoader:
        """Return the validation batches."""
        return self._held_out_loader("val", self.evaluation.val_questions)

    def test_dataloader(self) -> HeldOutLoader:
        """Return the test batches."""
        return self._held_out_loader("test", self.evaluation.test_questions)

    def predict_dataloader(self) -> HeldOutLoader:
        """Return the test batches."""
        return self.test_dataloader()

    def state_dict(self) -> dict[str, int]:
        """Return the position of the training stream."""
        return {"position": self._position if self._loader is None else self._loader.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue the training stream where a checkpoint left it.

        Lightning restores a loader's own state only in the middle of an epoch, a data
        module's always.
        """
        self._position = state_dict["position"]
        if self._loader is not None:
            self._loader.position = self._position

    def _held_out_loader(self, stream: str, questions_per_task: int) -> HeldOutLoader:
        questions = self.held_out_questions(stream)
        asked = questions_per_task * len(self.tasks)
        count = len(questions) if isinstance(questions, ChosenQuestions) else asked
        share = self._share()
        if count < share.processes:
            # The Trainer leaves out a process without batches, and the others would wait for it.
            raise ConfigError(
                f"evaluation: {count} held-out questions are too few for {share.processes} "
                f"processes; raise evaluation.{'val' if stream == 'val' else 'test'}_questions."
            )
        return HeldOutLoader(
            questions,
            self.evaluation.batch_size,
            count,
            self._collate(),
            self.num_workers,
            share,
        )

    def _share(self) -> Share:
        """Return this process's part of the work; all of it when there is no Trainer."""
        if self.trainer is None:
            return Share()
        return Share(self.trainer.global_rank, self.trainer.world_size)

    def _collate(self) -> Collate:
        """Return the collator of the module in training, or `list` when there is none."""
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        return list if module is None else module.collator()

    def _prepare(self) -> Callable[[Question], Question] | None:
        """Return what fits questions to the module in training, None when there is none."""
        module: Any = None if self.trainer is None else self.trainer.lightning_module
        return None if module is None else module.preparer()

    def _split(self, for_training: bool) -> Callable[[str], bool] | None:
        if self.held_out is None:
            split = split_sources(self.images, self.evaluation.share)
            return Except(split) if for_training else split
        return Except(names_of(self.held_out)) if for_training else None

    def _set(self) -> CuratedSplit:
        if self._split_set is None:
            assert self.curated is not None
            self._split_set = CuratedSplit(self.curated, self.evaluation.share)
        return self._split_set
