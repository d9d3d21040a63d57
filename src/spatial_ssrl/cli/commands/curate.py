"""`spatial-ssrl curate`: a set of questions on disk, with a record of how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from spatial_ssrl.cli.files import check_writable
from spatial_ssrl.cli.progress import counting_bar
from spatial_ssrl.cli.questions import source_of, tasks_for
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.plugins import load_plugins
from spatial_ssrl.data.curated import Engine, ImageEncoding, SetPart, SetPlan, make_set
from spatial_ssrl.images import ImageSource
from spatial_ssrl.tasks import PretextTask

load_plugins()  # Before the parser reads the signature, so that their classes have short names.

_FEW = 5
_LOSSLESS = ImageEncoding()


def curate(
    images: ImageSource | str | None = None,
    tasks: list[PretextTask] | PretextTask | None = None,
    count: int | None = None,
    out: Path = Path("curated"),
    parts: list[SetPart] | None = None,
    seed: int = 0,
    shard_questions: int = 200,
    encoding: ImageEncoding = _LOSSLESS,
    workers: int = 1,
    engine: Engine = "local",
) -> None:
    """Make a set of questions on disk; run again after an interruption to go on.

    Args:
        images: A folder of pictures or an image source, such as SyntheticScenes, which is also
            what is used when nothing is given.
        tasks: Tasks to mix, such as `[FlippedPatch,DepthOrder]`; by default every task that
            the pictures allow.
        count: Number of questions, 1000 by default.
        out: Folder of the set: parquet shards in `data/`, `manifest.json` and a dataset card.
        parts: Parts with images, tasks and count of their own, instead of those three.
        seed: Names the questions; another seed draws others.
        shard_questions: Questions in a shard.
        encoding: How pictures are stored.
        workers: Processes that make shards. The set does not depend on it.
        engine: "local", or "ray" for a Ray cluster whose machines share the folder.
    """
    check_writable("out", out)
    if parts is None:
        source = source_of(images)
        tasks = [tasks] if isinstance(tasks, PretextTask) else tasks
        tasks = tasks_for(source) if tasks is None else tasks
        parts = [SetPart([source], tasks, 1000 if count is None else count)]
    elif images is not None or tasks is not None or count is not None:
        raise ConfigError("parts name images, tasks and count; give either parts or those three.")
    plan = SetPlan(parts, seed, shard_questions, encoding)
    try:
        manifest = _make(plan, out, workers, engine)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Stopped. What {out} holds is whole: the same command goes on from there."
        ) from None
    if not manifest["licences"].keys() - {""}:
        print("No source states a licence of its pictures; look before passing the set on.")
    Console().print(_table(manifest))
    print(out)


def _make(plan: SetPlan, out: Path, workers: int, engine: Engine) -> dict[str, Any]:
    with counting_bar("Making questions") as bar:
        task = bar.add_task("questions", total=plan.questions)
        return make_set(
            plan, out, workers, engine, lambda questions: bar.update(task, completed=questions)
        )


def _table(manifest: dict[str, Any]) -> Table:
    table = Table(title=f"{manifest['questions']:,} questions")
    for heading in ("task", "questions", "draws refused", "most common reasons"):
        table.add_column(heading, justify="right" if heading[0] in "qd" else "left")
    for task, found in manifest["tasks"].items():
        reasons = [f"{reason} ({n:,})" for reason, n in list(found["rejections"].items())[:2]]
        refused = sum(found["rejections"].values())
        table.add_row(task, f"{found['questions']:,}", f"{refused:,}", "; ".join(reasons))
    for message, count in list(manifest["unreadable"].items())[:_FEW]:
        table.add_row("unreadable", "", f"{count:,}", message)
    if len(manifest["unreadable"]) > _FEW:
        table.add_row("unreadable", "", "", f"{len(manifest['unreadable'])} files in all")
    left_out = sum(len(files) for files in manifest["left_out"].values())
    if left_out:
        table.add_row("files left out", "", f"{left_out:,}", "named in manifest.json")
    return table
