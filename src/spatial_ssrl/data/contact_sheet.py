"""Draws questions, with what was answered, on one picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from spatial_ssrl.core.questions import Question

Verdict = Literal["right", "wrong", "plain"]

_CELL = 288  # Width of a cell, pixels; three times a drawn scene, so its pixels stay square.
_GAP = 18  # Between cells, pixels.
_MARGIN = 28  # Around the sheet, pixels.
_LINE = 18  # Height of a line of text, pixels.
_TEXT = 13  # Size of the question text, pixels.
_HEADING = 20  # Size of a row's heading, pixels.

_INK = (33, 37, 41)
_FAINT = (108, 117, 125)
_PAPER = (255, 255, 255)
_RULE = (222, 226, 230)
_COLOURS: dict[Verdict, tuple[int, int, int]] = {
    "right": (25, 118, 60),
    "wrong": (190, 30, 45),
    "plain": _INK,
}


@dataclass(frozen=True, slots=True)
class SheetItem:
    """One cell of a sheet.

    Args:
        question: The question; all its images are drawn.
        captions: Lines under the question, such as a completion; "" draws none.
        verdict: Colour of the captions and of the frame: "right" is green, "wrong" is red.
        worked: Whether the chance level and the worked answer are drawn too.
    """

    question: Question
    captions: tuple[str, ...] = ()
    verdict: Verdict = "plain"
    worked: bool = False


def draw_sheet(items: Sequence[SheetItem], out: Path, columns: int = 4, title: str = "") -> Path:
    """Draw items on one picture, a band of rows for each task, and save it.

    The file appears whole or not at all.

    Args:
        items: What to draw; the bands come in the order in which tasks first occur.
        out: PNG file to write; its folder is made when missing.
        columns: Cells in a row.
        title: Heading of the sheet; "" draws none.

    Returns:
        `out`.
    """
    bands: dict[str, list[SheetItem]] = {}
    for item in items:
        bands.setdefault(item.question.task, []).append(item)
    columns = max(1, min(columns, max((len(band) for band in bands.values()), default=1)))
    width = 2 * _MARGIN + columns * _CELL + (columns - 1) * _GAP
    blocks = [_title(title, width)] if title else []
    for task, band in bands.items():
        blocks.append(_heading(task.replace("_", " "), width))
        for start in range(0, len(band), columns):
            blocks.append(_row([_cell(item) for item in band[start : start + columns]], width))
    _save(_stack(blocks, width), out)
    return out


def _save(sheet: Image.Image, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    sheet.save(partial, format="PNG", optimize=True)
    partial.replace(out)


def _cell(item: SheetItem) -> Image.Image:
    question = item.question
    asked = question.prompt.replace("<image>", " ")
    prompt = "\n".join(" ".join(line.split()) for line in asked.strip().splitlines())
    answer = f"Answer: {question.answer}"
    if item.worked:
        answer += f"   (chance {100 * question.chance:.3g} %)"
    parts = [_pictures(question, _COLOURS[item.verdict], item.verdict != "plain")]
    parts.append(_text(prompt, _INK))
    parts.append(_text(answer, _FAINT, bold=True))
    if item.worked and question.explanation:
        parts.append(_text(question.explanation, _FAINT))
    parts += [
        _text(caption, _COLOURS[item.verdict], bold=item.verdict != "plain")
        for caption in item.captions
        if caption
    ]
    return _stack(parts, _CELL, gap=6)


def _pictures(question: Question, colour: tuple[int, int, int], framed: bool) -> Image.Image:
    """Draw the first image wide and candidates beneath it, or pieces that are all alike."""
    images = question.images
    if len(images) > 1 and question.answer_kind != "choice":
        return _grid(images, [str(number) for number in range(len(images))], _columns(question))
    parts = [_fit(images[0], _CELL)]
    if framed:
        ImageDraw.Draw(parts[0]).rectangle(
            (0, 0, parts[0].width - 1, parts[0].height - 1), outline=colour, width=3
        )
    if others := images[1:]:
        letters = [chr(ord("A") + place) for place in range(len(others))]
        parts.append(_grid(others, letters, len(others)))
    return _stack(parts, _CELL, gap=6)


def _columns(question: Question) -> int:
    """Return the columns of the grid that pieces come from, or those of a square."""
    columns = question.meta.get("columns")
    return columns if isinstance(columns, int) else math.ceil(math.sqrt(len(question.images)))


def _grid(
    images: Sequence[npt.NDArray[np.uint8]], names: Sequence[str], columns: int
) -> Image.Image:
    """Draw small images side by side, each over its name."""
    gap = 6
    side = (_CELL - gap * (columns - 1)) // columns
    pictures = [_fit(image, side, side) for image in images]
    rows = []
    for start in range(0, len(images), columns):
        shown = pictures[start : start + columns]
        height = max(picture.height for picture in shown)
        row = Image.new("RGB", (_CELL, height + _LINE), _PAPER)
        pen = ImageDraw.Draw(row)
        for place, (picture, name) in enumerate(zip(shown, names[start:], strict=False)):
            left = place * (side + gap)
            row.paste(picture, (left, 0))
            pen.text((left + picture.width // 2, height + 1), name, _FAINT, _font(), "ma")
        rows.append(row)
    return _stack(rows, _CELL, gap=gap)


def _fit(image: npt.NDArray[np.uint8], width: int, height: int = 10**6) -> Image.Image:
    """Scale an image to a box; small ones keep their pixels sharp."""
    picture = Image.fromarray(image)
    scale = min(width / picture.width, height / picture.height, 1.4 * width / picture.height)
    scale = float(int(scale)) if scale >= 2 else scale
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    if scale <= 1:
        return picture.resize(size, Image.Resampling.LANCZOS)
    return picture.resize(size, Image.Resampling.NEAREST)


def _text(text: str, colour: tuple[int, int, int], bold: bool = False) -> Image.Image:
    font = _font(_TEXT, bold)
    lines = [line for paragraph in text.splitlines() or [""] for line in _wrap(paragraph, font)]
    block = Image.new("RGB", (_CELL, _LINE * len(lines)), _PAPER)
    pen = ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        pen.text((0, number * _LINE), line, colour, font)
    return block


def _wrap(text: str, font: ImageFont.FreeTypeFont) -> Iterator[str]:
    """Yield lines of words that fit a cell; a word that is too long is broken."""
    line = ""
    for word in text.split():
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) > _CELL and line:
            yield line
            longer = word
        while font.getlength(longer) > _CELL:
            fits = next(n for n in range(len(longer), 0, -1) if font.getlength(longer[:n]) <= _CELL)
            yield longer[:fits]
            longer = longer[fits:]
        line = longer
    yield line


def _heading(text: str, width: int) -> Image.Image:
    block = Image.new("RGB", (width, _HEADING + 26), _PAPER)
    pen = ImageDraw.Draw(block)
    pen.line((_MARGIN, 6, width - _MARGIN, 6), _RULE, 2)
    pen.text((_MARGIN, 14), text, _INK, _font(_HEADING, bold=True))
    return block


def _title(text: str, width: int) -> Image.Image:
    block = Image.new("RGB", (width, 46), _PAPER)
    ImageDraw.Draw(block).text((_MARGIN, 14), text, _INK, _font(24, bold=True))
    return block


def _row(cells: Sequence[Image.Image], width: int) -> Image.Image:
    block = Image.new("RGB", (width, max(cell.height for cell in cells) + 14), _PAPER)
    for place, cell in enumerate(cells):
        block.paste(cell, (_MARGIN + place * (_CELL + _GAP), 0))
    return block


def _stack(parts: Sequence[Image.Image], width: int, gap: int = 0) -> Image.Image:
    height = sum(part.height for part in parts) + gap * max(0, len(parts) - 1)
    block = Image.new("RGB", (width, max(1, height)), _PAPER)
    top = 0
    for part in parts:
        block.paste(part, (0, top))
        top += part.height + gap
    return block


@cache
def _font(size: int = _TEXT, bold: bool = False) -> ImageFont.FreeTypeFont:
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)
