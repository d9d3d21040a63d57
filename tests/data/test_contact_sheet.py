"""The contact sheet shows every image of every question, sharp, and appears whole or not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from spatial_ssrl.core.questions import Question
from spatial_ssrl.data import contact_sheet
from spatial_ssrl.data.contact_sheet import SheetItem, draw_sheet


def question(task: str = "a_task", images: int = 1, size: int = 96, seed: int = 0) -> Question:
    rng = np.random.default_rng(seed)
    return Question(
        uid=f"{task}{seed}",
        task=task,
        images=tuple(rng.integers(0, 256, (size, size, 3), dtype=np.uint8) for _ in range(images)),
        prompt="<image>" * images + "Which of the words fits here? " * 4,
        answer="B",
        answer_kind="choice",
    )


def drawn(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def holds(sheet: np.ndarray, part: np.ndarray) -> bool:
    """Whether `part` occurs in `sheet`, pixel by pixel."""
    rows, columns = part.shape[:2]
    corners = (sheet[: -rows or None, : -columns or None] == part[0, 0]).all(-1)
    return any(
        np.array_equal(sheet[row : row + rows, column : column + columns], part)
        for row, column in zip(*np.nonzero(corners), strict=True)
    )


def test_a_small_image_is_enlarged_by_whole_pixels(tmp_path: Path) -> None:
    item = SheetItem(question())
    sheet = drawn(draw_sheet([item], tmp_path / "sheet.png"))
    assert holds(sheet, item.question.images[0].repeat(3, axis=0).repeat(3, axis=1))


def test_every_image_of_a_question_is_drawn(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    images = tuple(np.full((48, 48, 3), colour, np.uint8) for colour in colours)
    item = SheetItem(Question("u", "t", images, "<image>" * 5, "A", "choice"))
    sheet = drawn(draw_sheet([item], tmp_path / "sheet.png"))
    areas = [int((sheet == colour).all(-1).sum()) for colour in colours]
    assert areas[0] == 288**2
    assert min(areas[1:]) > 60**2
    lefts = [int(np.nonzero((sheet == colour).all(-1))[1].min()) for colour in colours[1:]]
    assert lefts == sorted(lefts), "candidates stand in the order of their letters"


@pytest.mark.parametrize(("verdict", "channel"), [("right", 1), ("wrong", 0)])
def test_verdicts_are_framed_in_their_colour(tmp_path: Path, verdict: str, channel: int) -> None:
    image = np.full((96, 96, 3), 128, np.uint8)
    item = Question("u", "t", (image,), "<image>", "A", "choice")
    sheet = drawn(draw_sheet([SheetItem(item, ("A", verdict), verdict)], tmp_path / "s.png"))  # type: ignore[arg-type]
    grey = np.nonzero((sheet == 128).all(-1))
    frame = sheet[grey[0].min() - 1, grey[1].min() - 1].astype(int)
    assert frame.argmax() == channel
    assert frame.max() - np.delete(frame, channel).max() > 50


def test_tasks_stand_in_bands_and_columns_are_bounded(tmp_path: Path) -> None:
    items = [SheetItem(question(task, seed=n)) for n, task in enumerate(["a", "b", "a", "a"])]
    narrow = drawn(draw_sheet(items, tmp_path / "narrow.png", columns=2))
    wide = drawn(draw_sheet(items, tmp_path / "wide.png", columns=3))
    assert narrow.shape[1] < wide.shape[1]
    assert narrow.shape[0] > wide.shape[0]


def test_large_and_oblong_pictures_fit_their_cell(tmp_path: Path) -> None:
    for height, width in [(1200, 1600), (2000, 300), (40, 900), (1, 1)]:
        image = np.zeros((height, width, 3), np.uint8)
        item = SheetItem(Question("u", "t", (image,), "<image>", "A", "choice"))
        sheet = drawn(draw_sheet([item], tmp_path / "sheet.png"))
        assert sheet.shape[1] == 288 + 2 * 28
        assert sheet.shape[0] < 700


def test_any_text_can_be_drawn(tmp_path: Path) -> None:
    item = SheetItem(question(), ("\\boxed{" * 40, "", "日本語 \n\n\t é", "x" * 500), "wrong")
    draw_sheet([item], tmp_path / "deep" / "er" / "sheet.png", title="A title")
    assert sorted(path.name for path in (tmp_path / "deep" / "er").iterdir()) == ["sheet.png"]


def ink(image: Image.Image) -> np.ndarray:
    """Return the columns of a picture that hold anything but paper."""
    return np.nonzero((np.asarray(image) < 250).any(axis=(0, 2)))[0]


@pytest.mark.parametrize("bold", [False, True])
@pytest.mark.parametrize(
    "text",
    [
        "Which of the patches, numbered from 0 to 3, belongs where? " * 6,
        "WWWW MMMM " * 30,
        "W" * 200,
        "\\boxed{" * 60 + " is it",
        "a\nb",
    ],
)
def test_text_stays_inside_its_cell(text: str, bold: bool) -> None:
    block = contact_sheet._text(text, (0, 0, 0), bold)
    # Drawn again on a block as wide as the text needs: nothing may have been cut off.
    lines = [
        line
        for paragraph in text.splitlines()
        for line in contact_sheet._wrap(paragraph, contact_sheet._font(13, bold))
    ]
    assert block.height == 18 * len(lines)
    assert "".join("".join(lines).split()) == "".join(text.split()), "no word is lost"
    wide = Image.new("RGB", (2000, 40), (255, 255, 255))
    for line in lines:
        ImageDraw.Draw(wide).text((0, 0), line, (0, 0, 0), contact_sheet._font(13, bold))
    assert ink(wide).max() <= 288


def test_the_worked_answer_and_chance_are_drawn_when_asked_for(tmp_path: Path) -> None:
    asked = replace(question(), explanation="Patch 2 comes first. " * 30, chance=0.25)
    plain = drawn(draw_sheet([SheetItem(asked)], tmp_path / "plain.png"))
    worked = drawn(draw_sheet([SheetItem(asked, worked=True)], tmp_path / "worked.png"))
    assert worked.shape[0] > plain.shape[0] + 10 * 18


def test_pieces_of_one_picture_stand_in_their_grid(tmp_path: Path) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
    images = tuple(np.full((20, 30, 3), colour, np.uint8) for colour in colours)
    meta = {"rows": 2, "columns": 3}
    asked = Question("u", "t", images, "<image>" * 6, "0,1,2,3,4,5", "order", meta=meta)
    sheet = drawn(draw_sheet([SheetItem(asked)], tmp_path / "sheet.png"))
    areas = [np.nonzero((sheet == colour).all(-1)) for colour in colours]
    assert len({len(rows) for rows, _ in areas}) == 1, "all of one size"
    corners = [(int(rows.min()), int(columns.min())) for rows, columns in areas]
    assert corners == sorted(corners)
    assert len({row for row, _ in corners}) == 2
    assert len({column for _, column in corners}) == 3


def test_a_failed_drawing_leaves_the_old_sheet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = draw_sheet([SheetItem(question())], tmp_path / "sheet.png")
    before = out.read_bytes()

    def save(self: Image.Image, path: Path, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match="No space"):
        draw_sheet([SheetItem(question(seed=1))], out)
    assert out.read_bytes() == before
