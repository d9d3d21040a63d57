"""`spatial-ssrl audit`: what questions give away to those who do not look."""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.progress import track

from spatial_ssrl.cli.files import check_writable
from spatial_ssrl.cli.questions import Asked, at_most, chosen_questions, refusals
from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.files import write_json
from spatial_ssrl.core.plugins import load_plugins
from spatial_ssrl.data import PretextDataModule
from spatial_ssrl.data import audit as library
from spatial_ssrl.images import ImageSource
from spatial_ssrl.tasks import PretextTask

load_plugins()  # Before the parser reads the signature, so that their classes have short names.

_SETTINGS = library.AuditSettings()
_VERSIONS = ("spatial-ssrl", "numpy", "scipy", "torch", "pillow")


def audit(
    images: ImageSource | str | None = None,
    tasks: list[PretextTask] | PretextTask | None = None,
    data: PretextDataModule | None = None,
    curated: Path | None = None,
    count: int = 1000,
    out: Path = Path("audit.json"),
    seed: int = 0,
    features: str | None = None,
    settings: library.AuditSettings = _SETTINGS,
) -> None:
    """Look for uneven answers, repetitions and shortcuts in questions.

    Shortcuts are looked for by guessers that see the prompt alone, or the candidate patches
    without the picture they belong to. They are fitted to some scenes and measured on others;
    a thousand questions a task tell four points from chance.

    Args:
        images: A folder of pictures or an image source, such as SyntheticScenes, which is also
            what is used when nothing is given.
        tasks: Tasks to audit, such as `[FlippedPatch,DepthOrder]`; by default every task that
            the pictures allow.
        data: A YAML file with a PretextDataModule; audits what it trains on, instead of
            `images` and `tasks`.
        curated: Folder or file of a set of questions on disk; audits some of it or all,
            instead of the others.
        count: Number of questions, of all tasks together.
        out: JSON file to write.
        seed: Names the questions; another seed audits others.
        features: A timm model whose features of candidate patches are tried too, such as
            `resnet18`; its weights must be on this machine or on the hub.
        settings: When to raise a hand.
    """
    if count < 1:
        raise ConfigError(f"count must be at least 1, got {count}.")
    if out.is_dir():
        raise ConfigError(f"out: {str(out)!r} is a folder; name a JSON file in it.")
    check_writable("out", out.parent)
    sets = library.feature_sets(features)
    questions = chosen_questions(Asked(images, tasks, data, curated), seed, "audit")
    quiet = not sys.stderr.isatty()
    errors = Console(stderr=True)
    numbers = track(
        range(at_most(count, questions)),
        "Making questions",
        console=errors,
        transient=True,
        disable=quiet,
    )
    facts = [library.facts_of(questions[number], sets) for number in numbers]
    with errors.status("Guessing") as status:
        found = library.audit(
            facts,
            refusals(questions),
            settings,
            begun=lambda task: status.update(f"Guessing {task.replace('_', ' ')}"),
        )
    versions = {name: version(name) for name in _VERSIONS}
    write_json(out, {"seed": seed, "versions": versions, **found})
    _show(found, out)


def _show(found: dict[str, object], out: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else 120)
    for table in library.tables(found):
        console.print(table, "")
    for line in found["findings"]:  # type: ignore[attr-defined]
        console.print(line, style="red", markup=False, soft_wrap=True)
    if not found["findings"]:
        console.print("Nothing was found.")
    print(out)
