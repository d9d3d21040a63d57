from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.files import write_json
from spatial_ssrl.evaluation.report import compare, comparison_table
from spatial_ssrl.training import AnswerRecord


def records(task: str, right: str, chance: float = 0.25) -> list[AnswerRecord]:
    """Return answers, "1" for a right one and "0" for a wrong one."""
    return [
        AnswerRecord(f"{task}{i:04d}", task, "", "A", "A", hit == "1", 0.0, chance, False)
        for i, hit in enumerate(right)
    ]


# Two tasks of eight and four questions, worked out by hand below.
BEFORE = records("b_task", "01001010") + records("a_task", "0100", chance=0.5)
AFTER = records("b_task", "11010110") + records("a_task", "1110", chance=0.5)
Z = 1.959963984540054


@pytest.fixture
def results() -> dict[str, dict[str, object]]:
    return compare(BEFORE, AFTER)


def test_structure_is_what_the_results_file_promises(results: dict) -> None:
    assert list(results) == ["tasks", "mean"]
    assert list(results["tasks"]) == ["a_task", "b_task"]
    for row in (*results["tasks"].values(), results["mean"]):
        assert list(row) == ["chance", "n", "cold_start", "grpo", "gain"]
        for stage in ("cold_start", "grpo"):
            assert list(row[stage]) == ["accuracy", "ci95"]
            low, high = row[stage]["ci95"]
            assert 0 <= low <= row[stage]["accuracy"] <= high <= 1
        assert list(row["gain"]) == ["points", "ci95"]
        low, high = row["gain"]["ci95"]
        assert low <= row["gain"]["points"] <= high


def test_tasks_by_hand(results: dict) -> None:
    row = results["tasks"]["b_task"]
    assert (row["chance"], row["n"]) == (0.25, 8)
    assert (row["cold_start"]["accuracy"], row["grpo"]["accuracy"]) == (3 / 8, 5 / 8)
    # Wilson: (p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = 3/8, n = 8.
    centre, half = 0.375 + Z * Z / 16, Z * (0.375 * 0.625 / 8 + Z * Z / 256) ** 0.5
    scale = 1 + Z * Z / 8
    wilson = ((centre - half) / scale, (centre + half) / scale)
    assert row["cold_start"]["ci95"] == pytest.approx(wilson)
    # Differences 1, 0, 0, 1, -1, 1, 0, 0: mean 1/4, variance (4 - 8/16) / 7 = 1/2.
    assert row["gain"]["points"] == pytest.approx(25)
    half = 100 * Z * (0.5 / 8) ** 0.5
    assert row["gain"]["ci95"] == pytest.approx((25 - half, 25 + half))
    row = results["tasks"]["a_task"]
    assert (row["chance"], row["n"]) == (0.5, 4)
    assert row["gain"]["points"] == pytest.approx(50)


def test_mean_by_hand(results: dict) -> None:
    row = results["mean"]
    assert row["chance"] == pytest.approx((0.5 + 0.25) / 2)
    assert row["n"] == 12
    assert row["cold_start"]["accuracy"] == pytest.approx((1 / 4 + 3 / 8) / 2)
    assert row["grpo"]["accuracy"] == pytest.approx((3 / 4 + 5 / 8) / 2)
    assert row["gain"]["points"] == pytest.approx((50 + 25) / 2)
    # Standard errors of the two gains: variances 1/3 over 4 and 1/2 over 8 questions.
    half = 100 * Z * (1 / 12 + 1 / 16) ** 0.5 / 2
    assert row["gain"]["ci95"] == pytest.approx((37.5 - half, 37.5 + half))


def test_chance_is_the_mean_over_the_questions_of_a_task() -> None:
    mixed = records("a", "10", chance=0.5) + records("a", "0011", chance=0.25)[2:]
    assert compare(mixed, mixed)["tasks"]["a"]["chance"] == pytest.approx(0.375)


def test_order_of_the_answers_does_not_matter(results: dict) -> None:
    assert compare(BEFORE[::-1], AFTER) == results


def test_other_questions_are_refused() -> None:
    with pytest.raises(ConfigError, match="not asked the same questions"):
        compare(BEFORE, AFTER[1:])


def test_table_shows_every_number(results: dict) -> None:
    console = Console(width=200, record=True, file=None, force_terminal=False)
    with console.capture() as captured:
        console.print(comparison_table(results))
    lines = {
        line.split("│")[1].strip(): line for line in captured.get().splitlines() if "│" in line
    }
    assert set(lines) == {"a task", "b task", "mean"}
    cells = [cell.strip() for cell in lines["b task"].split("│")[2:-1]]
    low, high = results["tasks"]["b_task"]["grpo"]["ci95"]
    assert cells[0] == "25.0"
    assert cells[1].startswith("37.5  [13.7, ")
    assert cells[2] == f"62.5  [{100 * low:.1f}, {100 * high:.1f}]"
    assert cells[3] == "+25.0  [-24.0, +74.0]"
    assert "+37.5  [" in lines["mean"]


def test_results_survive_the_file(results: dict, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.json"
    write_json(path, results)
    read = json.loads(path.read_text())
    assert read["tasks"]["b_task"]["gain"]["ci95"] == pytest.approx(
        list(results["tasks"]["b_task"]["gain"]["ci95"])
    )
    assert path.read_text().endswith("}\n")
