"""A plan as tables."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from spatial_ssrl.planning.fitting import Change, Fit
from spatial_ssrl.planning.ledger import OTHER
from spatial_ssrl.planning.limits import Limit
from spatial_ssrl.planning.optimizers import saved_by_8_bit_states
from spatial_ssrl.planning.parts import PARTS
from spatial_ssrl.planning.plan import Overheads, Planner
from spatial_ssrl.planning.prediction import Prediction
from spatial_ssrl.planning.sizes import Card

_GIB = 2**30

# Share of a card from which a saving is mentioned.
_WORTH_SAYING = 0.02


def report(
    planner: Planner, prediction: Prediction, card: Card | None, found: list[Limit]
) -> RenderableType:
    """Return what a run needs, whether it fits, how large it may be, and what was assumed.

    Args:
        planner: Knows the run.
        prediction: Of the run.
        card: The card, if one was named.
        found: The largest values that fit it.
    """
    parts: list[RenderableType] = [_memory(planner, prediction)]
    if card is not None:
        parts += [_verdict(planner, prediction, card), _sizes(found)]
    parts.append(Text("Assumed:\n" + "\n".join(f"  {line}" for line in assumptions(planner))))
    return Group(*parts)


def assumptions(planner: Planner) -> list[str]:
    """Return everything the numbers rest on, a line each."""
    step, module = planner.step, planner.module
    lines = [
        *planner.assumed,
        f"prompt: {planner.question.tokens} tokens",
        f"step: {step.questions} questions a process, groups of {step.group_size}, "
        f"{step.completion} completion tokens, {step.micro_batch} questions a pass",
    ]
    if planner.cuda:
        lines.append(
            "card: the rows marked * are not measured; operations that a card's kernels do in "
            "several steps are counted as on a CPU"
        )
    if module.update.self_check:
        lines.append("self-check: the checks before the first step are smaller than a step")
    return lines


def _memory(planner: Planner, prediction: Prediction) -> Table:
    table = Table(title="Peak memory, GiB", title_justify="left")
    table.add_column("part")
    columns = [("sampling", prediction.sampling), ("update", prediction.update)]
    peaks = [(name, peak) for name, peak in columns if peak is not None]
    for name, _ in peaks:
        table.add_column(name, justify="right")
    for part in (*PARTS, OTHER):
        sizes = [peak.parts.get(part, 0) for _, peak in peaks]
        if any(size >= 0.005 * _GIB for size in sizes) or (part != OTHER and any(sizes)):
            table.add_row(part, *map(_gib, sizes))
    table.add_section()
    if planner.cuda:
        beside = [Overheads.of(peak.total, True) for _, peak in peaks]
        table.add_row("* CUDA context", *(_gib(one.context) for one in beside))
        table.add_row("* fragmentation", *(_gib(one.fragmentation) for one in beside))
        table.add_section()
    table.add_row("total", *(_gib(planner.needed_at(peak)) for _, peak in peaks), style="bold")
    return table


def _verdict(planner: Planner, prediction: Prediction, card: Card) -> Text:
    spare = card.usable - planner.needed(prediction)
    margin = f" with {_gib(card.size - card.usable)} of them kept free" if card.margin else ""
    if spare >= 0:
        text = f"Fits {_gib(card.size)} GiB{margin}; {_gib(spare)} more are left.\n"
        return Text(text, style="green")
    text = f"Does not fit {_gib(card.size)} GiB{margin}; {_gib(-spare)} are missing.\n"
    saved = saved_by_8_bit_states(planner, prediction)
    if saved > _WORTH_SAYING * card.usable:
        text += (
            f"An optimiser with paged 8-bit states (bitsandbytes.optim.PagedAdamW8bit) would take "
            f"about {_gib(saved)} GiB less; it changes results a little, so --write does not set "
            "it.\n"
        )
    return Text(text, style="red")


def changes_table(fit: Fit) -> Table:
    """Return what makes a run fit as a table, with old and new values."""
    table = Table(title="What changes, so that it fits", title_justify="left")
    table.add_column("setting")
    table.add_column("now", justify="right")
    table.add_column("becomes", justify="right")
    table.add_column("what else changes")
    for change in fit.changes:
        table.add_row(change.key, said(change.before), said(change.after), effect_of(change))
    return table


def effect_of(change: Change) -> str:
    """Return what a change means to the user."""
    return "results" if change.results else "time only"


def said(value: int | bool | None) -> str:
    """Return a value of a setting as a config has it."""
    return "no limit" if value is None else str(value).lower()


def _sizes(found: list[Limit]) -> Table:
    table = Table(title="Largest that fits, all else as it is", title_justify="left")
    table.add_column("quantity")
    table.add_column("now", justify="right")
    table.add_column("largest", justify="right")
    table.add_column("setting")
    for limit in found:
        largest = "none" if limit.largest is None else f"{limit.largest}{'+' if limit.more else ''}"
        table.add_row(limit.name, str(limit.now), largest, limit.key)
    return table


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f}"
