"""Which questions each optimiser step of an update learns from."""

from __future__ import annotations

from collections.abc import Sequence

from spatial_ssrl.core.questions import Question
from spatial_ssrl.core.seeding import seed_for
from spatial_ssrl.training.distributed import gather, rank


def shares_of(
    questions: Sequence[Question], count: int, seed: int, *parts: int | str
) -> list[list[int]]:
    """Divide the questions of an update into equal shares, in an order named by the seed.

    Shares are equal over all processes, whichever process holds which question: one process
    with all questions divides them as several with some each do.

    Args:
        questions: Those of this process.
        count: Number of shares; 1 keeps the order.
        seed: Seed of the run.
        parts: What the order is for; see `seed_for`.

    Returns:
        `count` lists of row numbers of this process's questions, some perhaps empty.
    """
    if count == 1:
        return [list(range(len(questions)))]
    keys = [seed_for(seed, *parts, question.uid) for question in questions]
    everywhere = gather(keys, "dividing questions into mini-batches")
    mine = rank()
    order = sorted(
        (key, process, row)
        for process, found in enumerate(everywhere)
        for row, key in enumerate(found)
    )
    shares: list[list[int]] = [[] for _ in range(count)]
    for place, (_, process, row) in enumerate(order):
        if process == mine:
            shares[place * count // len(order)].append(row)
    return [sorted(share) for share in shares]
