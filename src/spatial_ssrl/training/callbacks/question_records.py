"""Every held-out question with the policy's completion, as one JSON line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from spatial_ssrl.training.distributed import gather
from spatial_ssrl.training.held_out import AnswerRecord


class QuestionRecords(Callback):
    """Writes what `test` or `predict` found, question by question; two runs can be paired.

    Of several processes the first writes all questions, in their usual order.

    Args:
        path: File of JSON lines, one `AnswerRecord` each; None takes `records.jsonl` in the
            Trainer's root folder. Replaced by each run.
    """

    def __init__(self, path: Path | None = None) -> None:
        self.path = path
        self.records: list[AnswerRecord] = []

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the records of an earlier test."""
        self.records = []

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the records of one batch."""
        self.records += outputs["records"]

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        self._write(trainer)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the records of an earlier run."""
        self.records = []

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the records of one batch."""
        self.records += [AnswerRecord(**record) for record in outputs]

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        path = self.path or Path(trainer.default_root_dir) / "records.jsonl"
        parts = gather(self.records, "collecting records")
        if trainer.is_global_zero:
            write_records(path, [record.as_dict() for part in parts for record in part])


def write_records(path: Path, records: Iterable[Mapping[str, object]]) -> None:
    """Write records as JSON lines, whole or not at all: whoever finds the file may trust it.

    Args:
        path: File to write; its folder is made when missing.
        records: What to write, one line each.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    fresh.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    fresh.replace(path)


def read_records(path: Path) -> list[AnswerRecord]:
    """Return the records `QuestionRecords` wrote to `path`."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [AnswerRecord(**json.loads(line)) for line in lines]
