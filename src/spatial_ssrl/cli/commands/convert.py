"""`spatial-ssrl convert`: a curated set in the shape another trainer reads."""

from __future__ import annotations

from pathlib import Path

from spatial_ssrl.cli.files import check_writable
from spatial_ssrl.cli.progress import counting_bar
from spatial_ssrl.data.cold_start import Answers, ColdStartAnswers
from spatial_ssrl.data.curated import CuratedQuestions
from spatial_ssrl.data.curated.export import Shape, export


def convert(
    curated: Path,
    to: Shape = "trl",
    out: Path = Path("converted"),
    count: int | None = None,
    answers: Answers = "worked",
    image_folder: Path | None = None,
) -> None:
    """Write a curated set in the shape that TRL, verl or LLaMA-Factory reads.

    Args:
        curated: Folder of a set made by `curate`, or a file of another project: parquet of the
            reference, TRL or verl, or ShareGPT JSON. (EasyR1 reads a set as it is.)
        to: "trl" or "verl": conversations with pictures as parquet. "sharegpt": JSON with right
            completions and pictures as files, for the cold start with LLaMA-Factory.
        out: Folder to write, new or empty.
        count: How many questions, the first ones; all by default.
        answers: What the completions of "sharegpt" say: "worked", "plain", or a list of the
            tasks whose answers are worked.
        image_folder: Where pictures lie that a file names by path; by default beside the file.
    """
    check_writable("out", out)
    questions = CuratedQuestions(curated, image_folder)
    with counting_bar("Writing questions") as bar:
        task = bar.add_task("questions", total=count or len(questions))
        export(
            questions,
            to,
            out,
            count,
            ColdStartAnswers(answers),
            lambda written: bar.update(task, completed=written),
        )
    print(out)
