"""Some held-out questions with what the policy answered, at every validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from rich.table import Table
from rich.text import Text

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.data.contact_sheet import SheetItem, draw_sheet
from spatial_ssrl.training.callbacks.progress import TrainingProgress
from spatial_ssrl.training.callbacks.question_records import write_records
from spatial_ssrl.training.held_out import AnswerRecord

_DRAWN = 600  # Characters of a completion on the sheet.
_SHOWN = 60  # Characters of a completion on the console.


class SampleTable(Callback):
    """Writes what the policy answers to the same few held-out questions, as training goes on.

    Each validation leaves two files in the folder, named by the optimiser step: a sheet such as
    `step_000100.png` with the pictures, the question, the right answer, the completion and the
    verdict, and `step_000100.jsonl` with whole completions. With `TrainingProgress` a short
    table is shown too. Of several processes, the first writes what it answered itself.

    Args:
        count: How many questions, the first of those held out.
        directory: Folder of the files; None takes `samples` in the Trainer's root folder.

    Raises:
        ConfigError: If `count` is below 1.
    """

    def __init__(self, count: int = 8, directory: Path | None = None) -> None:
        if count < 1:
            raise ConfigError(f"count must be at least 1, got {count}; or leave SampleTable out.")
        self.count = count
        self.directory = directory
        self._samples: list[tuple[Question, AnswerRecord]] = []

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the answers of an earlier validation."""
        self._samples = []

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the answers of a batch until there are enough."""
        if isinstance(batch, PromptBatch):
            pairs = list(zip(batch.questions, outputs["records"], strict=True))
            self._samples += pairs[: self.count - len(self._samples)]

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files, and show the table."""
        if trainer.sanity_checking or not trainer.is_global_zero or not self._samples:
            return
        folder = self.directory or Path(trainer.default_root_dir) / "samples"
        path = Path(folder) / f"step_{trainer.global_step:06d}.png"
        title = f"Held-out questions after {trainer.global_step} steps"
        draw_sheet([_cell(*sample) for sample in self._samples], path, title=title)
        write_records(
            path.with_suffix(".jsonl"),
            [{"prompt": question.prompt} | r.as_dict() for question, r in self._samples],
        )
        progress = trainer.progress_bar_callback
        if isinstance(progress, TrainingProgress) and not progress.is_disabled:
            progress.print(sample_table([record for _, record in self._samples], title))


def sample_table(records: list[AnswerRecord], title: str = "") -> Table:
    """Return answers as a table for the console, completions cut short."""
    table = Table("task", "answer", "taken as", "reward", "completion", title=title)
    for record in records:
        completion = " ".join(record.completion.split())
        # As `Text`: a model may write what looks like markup.
        table.add_row(
            record.task,
            Text(record.answer),
            Text("-" if record.parsed is None else record.parsed),
            Text(f"{record.reward:.2f}", style="green" if record.correct else "red"),
            Text(_cut(completion, _SHOWN)),
        )
    return table


def _cell(question: Question, record: AnswerRecord) -> SheetItem:
    taken = "no answer" if record.parsed is None else f"taken as {record.parsed}"
    cut = ", cut off" if record.truncated else ""
    verdict = f"{'right' if record.correct else 'wrong'}: {taken}, reward {record.reward:.2f}{cut}"
    return SheetItem(
        question,
        captions=(_cut(record.completion, _DRAWN), verdict),
        verdict="right" if record.correct else "wrong",
    )


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
