"""The model card of an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import yaml

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data.curated.manifest import read_manifest
from spatial_ssrl.export.base_model import BaseModel
from spatial_ssrl.export.results import last_values
from spatial_ssrl.export.runs import Run
from spatial_ssrl.prompts import instruction

Kind = Literal["merged", "adapter"]


@dataclass(frozen=True, slots=True)
class Made:
    """How an export was made.

    Args:
        kind: Whether the adapter was merged into the weights.
        base: The model that training began from.
        model_class: Import path of the model's class.
        precision: Of the weights written, such as "bfloat16".
        check: What comparing the files with the trained policy found, one sentence.
        versions: Of the packages, by name.
    """

    kind: Kind
    base: BaseModel
    model_class: str
    precision: str
    check: str
    versions: Mapping[str, str]


def model_card(run: Run, made: Made) -> str:
    """Return the README of an export, with the header that the Hugging Face hub reads.

    Args:
        run: The run; read for its recipe, its data and its results.
        made: How the export was made.
    """
    sections = (_header(made), _what(run, made), _use(run, made), _data(run), _results(run))
    lines = [line for section in sections for line in section]
    return "\n".join([*lines, *_recipe(run), *_versions(made), ""])


def _header(made: Made) -> list[str]:
    fields: dict[str, Any] = {
        "library_name": "transformers" if made.kind == "merged" else "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["spatial-reasoning", "reinforcement-learning", "spatial-ssrl"],
    }
    if made.base.name and not made.base.is_local:
        fields["base_model"] = made.base.name
        fields["base_model_relation"] = "finetune" if made.kind == "merged" else "adapter"
    if made.base.licence:
        fields["license"] = made.base.licence
    return ["---", yaml.safe_dump(fields, sort_keys=False).rstrip(), "---", ""]


def _what(run: Run, made: Made) -> list[str]:
    base, policy = made.base, run.policy_settings.get("init_args") or {}
    name = f"`{base.shown}`" if base.name else "a model built from scratch"
    at = f" at revision `{base.revision}`" if base.revision else ""
    lines = [f"# {base.shown or 'TinyVLM'}, trained on spatial questions with Spatial-SSRL", ""]
    trained = "Weights" if made.kind == "merged" else "PEFT adapter"
    lines += [
        f"{trained} of {name}{at}, trained on questions that a program makes from pictures and "
        "whose answers it can check (Spatial-SSRL, arXiv:2510.27606).",
        "",
        f"Licence of the base model: {base.licence or 'see base model'}.",
        "",
    ]
    if policy.get("quantization") and made.kind == "merged":
        lines += [
            "The adapter was trained beside weights rounded to 4 bits and merged into the "
            "full-precision ones.",
            "",
        ]
    return [*lines, f"{made.check} `sha256sum -c SHA256SUMS` checks the files.", ""]


def _use(run: Run, made: Made) -> list[str]:
    root = made.model_class.partition(".")[0]
    lines = ["## Use", "", "```python"]
    if root != "transformers":
        lines.append(f"import {root}.policies  # {made.model_class.rpartition('.')[2]} is its own")
    lines.append("from transformers import AutoModelForImageTextToText, AutoProcessor")
    if made.kind == "adapter":
        lines += ["from peft import PeftModel", ""]
        revision = f', revision="{made.base.revision}"' if made.base.revision else ""
        lines += [
            f'base = AutoModelForImageTextToText.from_pretrained("{made.base.shown}"{revision})',
            'model = PeftModel.from_pretrained(base, "FOLDER")  # the folder of this file',
        ]
    else:
        lines += ["", 'model = AutoModelForImageTextToText.from_pretrained("FOLDER")']
    lines += ['processor = AutoProcessor.from_pretrained("FOLDER")', "```", ""]
    lines += [f"In training each question ended with: {instruction()}"]
    policy = run.policy_settings.get("init_args") or {}
    bounds = [
        f"{word} {policy[key]:,}"
        for key, word in (("min_pixels", "at least"), ("max_pixels", "at most"))
        if policy.get(key)
    ]
    if bounds:
        lines.append(f"Pictures were scaled to {' and '.join(bounds)} pixels.")
    return [*lines, ""]


def _data(run: Run) -> list[str]:
    data = run.config.get("data") or {}
    arguments = data.get("init_args") or {}
    lines = ["## Data", ""]
    if arguments.get("curated"):
        return [*lines, *_curated(Path(arguments["curated"])), ""]
    for title, key, told in (("Pictures", "images", _component), ("Tasks", "tasks", _class_name)):
        parts = arguments.get(key) or []
        parts = parts if isinstance(parts, list) else [parts]
        if parts:
            lines.append(f"{title}: {', '.join(f'`{told(part)}`' for part in parts)}.")
    lines.append("Questions were drawn afresh; pictures keep the licences of their sources.")
    return [*lines, ""]


def _curated(folder: Path) -> list[str]:
    try:
        manifest = read_manifest(folder)
    except ConfigError:
        manifest = None
    if manifest is None or not manifest.get("complete"):
        return [f"The set `{folder.name}`, whose manifest was not at hand."]
    licences = [
        f"| {licence or 'not stated by the source'} | {count:,} |"
        for licence, count in manifest["licences"].items()
    ]
    tasks = [f"{task} {found['questions']:,}" for task, found in manifest["tasks"].items()]
    return [
        f"The set `{folder.name}` of {manifest['questions']:,} questions ({', '.join(tasks)}), "
        f"content hash `{manifest['content']}`.",
        "",
        "| licence of the picture | questions |",
        "|---|---:|",
        *licences,
    ]


def _component(settings: Any) -> str:
    """Return a class name with what was set, paths of this machine without the way to them."""
    arguments = settings.get("init_args") or {} if isinstance(settings, Mapping) else {}
    given = [f"{key}: {_shared(value)}" for key, value in arguments.items() if value]
    return f"{_class_name(settings)}({', '.join(given)})" if given else _class_name(settings)


def _class_name(settings: Any) -> str:
    path = settings.get("class_path", "") if isinstance(settings, Mapping) else settings
    return str(path).rpartition(".")[2]


def _results(run: Run) -> list[str]:
    rows = [
        f"| {name} | {value:.4g} | {step:,} |"
        for name, (step, value) in last_values(run.folder).items()
    ]
    if not rows:
        return []
    heading = ["## Results", "", "The last of each that the run logged.", ""]
    return [*heading, "| measure | value | step |", "|---|---:|---:|", *rows, ""]


def _recipe(run: Run) -> list[str]:
    trainer = run.config["trainer"]
    kept = ("max_steps", "max_epochs", "precision", "devices", "strategy")
    recipe = {
        "seed_everything": run.config.get("seed_everything"),
        "model": run.config["model"],
        "data": run.config.get("data"),
        "trainer": {name: trainer[name] for name in kept if trainer.get(name) is not None},
    }
    text = yaml.safe_dump(_shared(recipe), sort_keys=False).rstrip()
    return ["## Recipe", "", "```yaml", text, "```", ""]


def _versions(made: Made) -> list[str]:
    told = ", ".join(f"{name} {version}" for name, version in made.versions.items())
    return [f"Exported in {made.precision} with {told}."]


def _shared(value: Any) -> Any:
    """Return a value for others to read: paths of this machine without the way to them."""
    if isinstance(value, Mapping):
        return {key: _shared(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_shared(item) for item in value]
    if isinstance(value, str) and value.startswith("~"):
        return PurePosixPath(value).name
    if isinstance(value, str) and (
        PurePosixPath(value).is_absolute() or PureWindowsPath(value).is_absolute()
    ):
        return PureWindowsPath(value).name if "\\" in value else PurePosixPath(value).name
    return value
