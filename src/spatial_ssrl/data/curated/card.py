"""The dataset card of a curated set."""

from __future__ import annotations

from typing import Any

_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def card(manifest: dict[str, Any]) -> str:
    """Return the README of a finished set, with the header that the Hugging Face hub reads.

    Args:
        manifest: As `manifest.closing` returns it.
    """
    return "\n".join(
        [*_header(manifest), *_what(manifest), *_tasks(manifest), *_licences(manifest), *_use()]
    )


def _header(manifest: dict[str, Any]) -> list[str]:
    count = manifest["questions"]
    size = next((name for bound, name in _SIZES if count < bound), "n>1M")
    return [
        "---",
        "license: other",
        "language: en",
        "task_categories:",
        "- visual-question-answering",
        "tags:",
        "- spatial-reasoning",
        "- self-supervised",
        "size_categories:",
        f"- {size}",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        "    path: data/train-*.parquet",
        "---",
        "",
    ]


def _what(manifest: dict[str, Any]) -> list[str]:
    repeated = manifest["questions"] - manifest["distinct_questions"]
    return [
        "# Spatial questions with answers that a program can check",
        "",
        f"{manifest['questions']:,} questions made by a program from pictures, without labels and "
        "without a model, after Spatial-SSRL (arXiv:2510.27606). Made by `spatial-ssrl curate`, "
        f"version {manifest['versions']['spatial-ssrl']}; `manifest.json` holds every setting, the "
        "counts of all answers and the reasons why scenes were refused. The same settings and "
        "versions give the same files.",
        "",
        f"{repeated:,} questions are the same as an earlier one (small sources allow few "
        "different ones)." if repeated else "All questions are different.",
        "",
        f"Content hash: `{manifest['content']}`, over prompts, answers and pixels.",
        "",
    ]  # fmt: skip


def _tasks(manifest: dict[str, Any]) -> list[str]:
    rows = [
        f"| {task} | {found['questions']:,} | {sum(found['rejections'].values()):,} |"
        for task, found in manifest["tasks"].items()
    ]
    return ["| task | questions | draws refused |", "|---|---:|---:|", *rows, ""]


def _licences(manifest: dict[str, Any]) -> list[str]:
    rows = [
        f"| {licence or 'not stated by the source'} | {count:,} |"
        for licence, count in manifest["licences"].items()
    ]
    return [
        "The pictures keep the licences of their sources; look at them before passing this set on.",
        "",
        "| licence of the picture | questions |",
        "|---|---:|",
        *rows,
        "",
    ]


def _use() -> list[str]:
    return [
        "Columns: `problem` (the prompt, one `<image>` for each picture), `answer`, `images` "
        "(encoded), and `uid`, `task`, `answer_kind`, `choices`, `chance`, `explanation`, `meta` "
        "(JSON), `source_id`, `licence`. The first three are what EasyR1 reads: "
        "`data.train_files=SET/data data.prompt_key=problem`.",
        "",
        "```python",
        "from datasets import load_dataset",
        "",
        'questions = load_dataset("SET", split="train")  # the folder of this file',
        "```",
        "",
    ]
