"""Ways to divide a step further, which change its memory and time and not its results."""

from __future__ import annotations

from dataclasses import replace

from spatial_ssrl.core.batches import PromptBatch
from spatial_ssrl.planning.rehearsal import Rehearsal, Step


def smaller_parts(rehearsal: Rehearsal, prompt: PromptBatch, step: Step) -> list[Step]:
    """Return steps that sample less at once, the largest first.

    First fewer questions at once with whole groups, then fewer completions of one question.

    Args:
        rehearsal: Of the run.
        prompt: Its largest question, alone.
        step: As it is now.
    """
    together, completions = rehearsal.sampled_together(prompt, step)
    one = rehearsal.tokens_kept(prompt, step, step.group_size)
    limits = [count * one for count in range(together - 1, 0, -1)]
    limits += [
        rehearsal.tokens_kept(prompt, step, count) for count in range(completions - 1, 0, -1)
    ]
    return [replace(step, batch_tokens=limit) for limit in limits]


def smaller_passes(rehearsal: Rehearsal, prompt: PromptBatch, step: Step) -> list[Step]:
    """Return steps whose passes hold less, the largest first; arguments as in `smaller_parts`.

    First fewer questions, then fewer completions of one question. Limits that lead to the same
    passes are one.
    """
    steps = [replace(step, micro_batch=count) for count in range(step.micro_batch - 1, 0, -1)]
    for completions in range(step.group_size - 1, 0, -1):
        tokens = rehearsal.tokens_read(prompt, step, completions)
        if step.micro_batch_tokens is None or tokens < step.micro_batch_tokens:
            steps.append(replace(step, micro_batch=1, micro_batch_tokens=tokens))
    found, last = [], rehearsal.passes(prompt, step)
    for smaller in steps:
        passes = rehearsal.passes(prompt, smaller)
        if passes != last:
            found.append(smaller)
        last = passes
    return found
