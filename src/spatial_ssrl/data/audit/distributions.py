"""How answers are distributed, against the uniform distribution they should have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_LEAST_EXPECTED = 5.0  # questions a cell, below which the chi-square law is a poor fit


@dataclass(frozen=True, slots=True)
class AnswerTest:
    """The answers of one task against the uniform distribution.

    Args:
        n: Answers counted.
        possible: How many different answers there can be.
        counts: How often each was given, those never given included; for a test by place,
            how often each item stands at each place, as "place 1: 3".
        test: "every answer", or "items by place" where there are too few questions for every
            answer to be expected five times.
        statistic: Chi-square statistic.
        dof: Its degrees of freedom.
        p: Chance of a statistic at least this large when all answers are equally likely.
    """

    n: int
    possible: int
    counts: dict[str, int]
    test: str
    statistic: float
    dof: int
    p: float


def answer_space(answer: str, kind: str, choices: Sequence[str]) -> tuple[str, ...]:
    """Return what tells questions with the same possible answers from others.

    Args:
        answer: The right answer.
        kind: "choice", "order" or "text".
        choices: Every answer that may be given, or ().

    Returns:
        The choices, else the items of an order, sorted; else ().
    """
    if choices:
        return tuple(choices)
    items = answer.split(",")
    return tuple(sorted(items)) if kind == "order" and len(set(items)) == len(items) else ()


def uniformity(answers: Sequence[str], space: tuple[str, ...], is_order: bool) -> AnswerTest:
    """Test answers against the uniform distribution over all possible ones.

    Orders of many items cannot be counted one by one; there it is tested whether every item
    stands at every place equally often, by Anderson's statistic.

    Args:
        answers: The answers given, all of one space, at least one.
        space: Every possible answer, or for orders the items that are ordered.
        is_order: Whether answers are orders of the items of `space`, separated by commas.

    Returns:
        The test; its p is 1 and its degrees of freedom 0 where only one answer is possible.

    References:
        R. L. Anderson, Biometrics 15 (1959), p. 582: contingency tables of ranks.
    """
    if not is_order:
        cells = Counter(answers)
        return _chi_square({choice: cells[choice] for choice in space}, len(answers))
    from itertools import permutations

    possible = math.factorial(len(space))
    if len(answers) >= _LEAST_EXPECTED * possible:
        cells = Counter(answers)
        every = (",".join(order) for order in permutations(space))
        return _chi_square({order: cells[order] for order in every}, len(answers))
    return _by_place(answers, space, possible)


def _chi_square(counts: dict[str, int], n: int) -> AnswerTest:
    from scipy.stats import chisquare

    if len(counts) < 2:
        return AnswerTest(n, len(counts), counts, "every answer", 0.0, 0, 1.0)
    found = chisquare(list(counts.values()))
    return AnswerTest(
        n,
        len(counts),
        counts,
        "every answer",
        float(found.statistic),
        len(counts) - 1,
        float(found.pvalue),
    )


def _by_place(answers: Sequence[str], items: tuple[str, ...], possible: int) -> AnswerTest:
    from scipy.stats import chi2

    places = [answer.split(",") for answer in answers]
    size, n = len(items), len(answers)
    table = np.array(
        [[sum(order[place] == item for order in places) for item in items] for place in range(size)]
    )
    expected = n / size
    # The cells of a row and of a column add up to n; the factor accounts for both at once.
    statistic = (size - 1) / size * float(((table - expected) ** 2 / expected).sum())
    counts = {
        f"place {place + 1}: {item}": int(table[place, column])
        for place in range(size)
        for column, item in enumerate(items)
    }
    dof = (size - 1) ** 2
    p = float(chi2.sf(statistic, dof))
    return AnswerTest(n, possible, counts, "items by place", statistic, dof, p)
