"""`spatial-ssrl preview`: questions made from pictures, on one sheet."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.progress import track

from spatial_ssrl.cli.files import check_writable
from spatial_ssrl.cli.questions import Asked, at_most, chosen_questions
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.plugins import load_plugins
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.data.contact_sheet import SheetItem, draw_sheet
from spatial_ssrl.images import ImageSource
from spatial_ssrl.tasks import PretextTask

load_plugins()  # Before the parser reads the signature, so that their classes have short names.


def preview(
    images: ImageSource | str | None = None,
    tasks: list[PretextTask] | PretextTask | None = None,
    data: PretextDataModule | None = None,
    curated: Path | None = None,
    count: int = 15,
    out: Path = Path("preview.png"),
    seed: int = 0,
) -> None:
    """Draw questions on one sheet, with their chance levels and worked answers.

    Args:
        images: A folder of pictures or an image source, such as SyntheticScenes, which is also
            what is used when nothing is given.
        tasks: Tasks to draw, such as `[FlippedPatch,DepthOrder]`; by default every task that
            the pictures allow.
        data: A YAML file with a PretextDataModule; shows what it trains on, instead of
            `images` and `tasks`.
        curated: Folder or file of a set of questions on disk; shows some of it, instead of
            the others.
        count: Number of questions.
        out: PNG file to write.
        seed: Names the questions; another seed shows others.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, got {count}.")
    if out.is_dir():
        raise ConfigError(f"out: {str(out)!r} is a folder; name a PNG file in it.")
    check_writable("out", out.parent)
    questions = chosen_questions(Asked(images, tasks, data, curated), seed, "preview")
    numbers = track(
        range(at_most(count, questions)),
        "Making questions",
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    items = [SheetItem(questions[number], worked=True) for number in numbers]
    order = questions.task_keys
    items.sort(key=lambda item: order.index(item.question.task))
    columns = min(4, -(-count // len(order)))
    print(draw_sheet(items, out, columns))
