"""`spatial-ssrl preview`: questions made from pictures, on one sheet."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.progress import track

from spatial_ssrl.cli.contact_sheet import SheetItem, draw_sheet
from spatial_ssrl.cli.errors import did_you_mean
from spatial_ssrl.cli.files import check_writable
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.plugins import load_plugins
from spatial_ssrl.data import PretextDataModule, QuestionDataset
from spatial_ssrl.data.curated.streams import ShuffledQuestions
from spatial_ssrl.images import IMAGE_SOURCES, ImageFolder, ImageSource, SyntheticScenes
from spatial_ssrl.tasks import TASKS, PretextTask

load_plugins()  # Before the parser reads the signature, so that their classes have short names.


def preview(
    images: ImageSource | str | None = None,
    tasks: list[PretextTask] | PretextTask | None = None,
    data: PretextDataModule | None = None,
    count: int = 15,
    out: Path = Path("preview.png"),
    seed: int = 0,
) -> None:
    """Draw questions made from pictures on one sheet.

    Args:
        images: A folder of pictures or an image source, such as SyntheticScenes, which is also
            what is used when nothing is given.
        tasks: Tasks to draw, such as `[FlippedPatch,DepthOrder]`; by default every task that
            the pictures allow.
        data: A YAML file with a PretextDataModule; shows what it trains on, instead of
            `images` and `tasks`.
        count: Number of questions.
        out: PNG file to write.
        seed: Names the questions; another seed shows others.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, got {count}.")
    if data is not None and (images is not None or tasks is not None):
        raise ConfigError("data already names images and tasks; give either data or the others.")
    if out.is_dir():
        raise ConfigError(f"out: {str(out)!r} is a folder; name a PNG file in it.")
    check_writable("out", out.parent)
    tasks = [tasks] if isinstance(tasks, PretextTask) else tasks
    questions = _of_data(data, seed) if data else _of_parts(images, tasks, seed)
    numbers = track(
        range(count), "Making questions", transient=True, disable=not sys.stderr.isatty()
    )
    items = [SheetItem(questions[number]) for number in numbers]
    order = questions.task_keys
    items.sort(key=lambda item: order.index(item.question.task))
    columns = min(4, -(-count // len(order)))
    print(draw_sheet(items, out, columns))


def _of_data(data: PretextDataModule, seed: int) -> QuestionDataset | ShuffledQuestions:
    data.seed = seed
    data.prepare_data()
    return data.training_questions()


def _of_parts(
    images: ImageSource | str | None, tasks: list[PretextTask] | None, seed: int
) -> QuestionDataset:
    source = source_of(images)
    source.prepare()
    tasks = tasks_for(source) if tasks is None else tasks
    return QuestionDataset([source], tasks, seed, stream="preview", block=len(tasks) or 1)


def tasks_for(source: ImageSource) -> list[PretextTask]:
    """Return every task that the pictures of a source allow, with default settings."""
    every = [entry.cls() for entry in TASKS.entries()]
    return [task for task in every if source.has_depth or not task.needs_depth]


def source_of(images: ImageSource | str | None) -> ImageSource:
    """Return the source that an option names: itself, a folder, or drawn scenes for None.

    Raises:
        ConfigError: If the text is neither a folder nor an image source.
    """
    if images is None:
        return SyntheticScenes()
    if isinstance(images, ImageSource):
        return images
    if not Path(images).exists():
        names = [entry.cls.__name__ for entry in IMAGE_SOURCES.entries()]
        hint = did_you_mean(images, names) or f" Image sources: {', '.join(names)}."
        raise ConfigError(f"images: {images!r} is neither a folder nor an image source.{hint}")
    return ImageFolder(Path(images))
