"""Even answers pass, uneven ones are told, and the p-values are right."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
from scipy.stats import chi2

from spatial_ssrl.data.audit.distributions import answer_space, uniformity


def test_chi_square_of_letters_by_hand() -> None:
    test = uniformity(["A"] * 30 + ["B"] * 20 + ["C"] * 30, ("A", "B", "C", "D"), is_order=False)
    # Twenty expected of each: (100 + 0 + 100 + 400) / 20.
    assert test.counts == {"A": 30, "B": 20, "C": 30, "D": 0}
    assert (test.statistic, test.dof, test.n, test.possible) == (pytest.approx(30.0), 3, 80, 4)
    # Closed form of the survival function at three degrees of freedom.
    x = 30.0
    p = math.erfc(math.sqrt(x / 2)) + math.sqrt(2 * x / math.pi) * math.exp(-x / 2)
    assert test.p == pytest.approx(p, rel=1e-9)


def test_even_answers_have_p_one() -> None:
    assert uniformity(["1,left", "0,left"] * 9, ("0,left", "1,left"), is_order=False).p == 1.0


def test_orders_are_counted_one_by_one_when_there_are_enough() -> None:
    answers = ["1,2,3"] * 12 + ["3,2,1"] * 18
    test = uniformity(answers, ("1", "2", "3"), is_order=True)
    assert test.test == "every answer"
    assert sum(test.counts.values()) == 30
    assert len(test.counts) == 6
    # Five expected of each: (49 + 169 + 4 * 25) / 5.
    assert test.statistic == pytest.approx(63.6)
    assert test.p == pytest.approx(float(chi2.sf(63.6, 5)))


def test_orders_of_many_items_are_tested_by_place() -> None:
    items = tuple("012345")
    answers = [",".join(items)] * 60
    test = uniformity(answers, items, is_order=True)
    assert (test.test, test.dof, test.possible) == ("items by place", 25, 720)
    assert test.counts["place 1: 0"] == 60
    assert test.p < 1e-100


def test_test_by_place_keeps_its_level_under_random_orders() -> None:
    rng = np.random.default_rng(0)
    items = tuple("0123456")
    p = [
        uniformity([",".join(rng.permutation(items)) for _ in range(60)], items, is_order=True).p
        for _ in range(150)
    ]
    # Uniform p-values: mean 1/2 within 4 standard errors, and few below 5 %.
    assert abs(np.mean(p) - 0.5) < 4 * math.sqrt(1 / 12 / 150)
    assert np.mean(np.array(p) < 0.05) < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 150)


def test_every_order_once_by_place_is_perfectly_even() -> None:
    answers = [",".join(order) for order in permutations("0123")]
    test = uniformity(answers, tuple("0123"), is_order=True)
    assert test.test == "items by place"
    assert test.statistic == 0


def test_answer_space() -> None:
    assert answer_space("B", "choice", ("A", "B")) == ("A", "B")
    assert answer_space("2,0,1", "order", ()) == ("0", "1", "2")
    assert answer_space("2,2,1", "order", ()) == ()
    assert answer_space("anything", "text", ()) == ()
    assert uniformity(["A"], ("A",), is_order=False).p == 1.0
