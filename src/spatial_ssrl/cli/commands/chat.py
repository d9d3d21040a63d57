"""`spatial-ssrl chat`: questions about pictures, asked of a checkpoint in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.text import Text

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.export import Reply, ask, open_policy, question_for, read_pictures
from spatial_ssrl.policies import QuantSettings, SamplingSettings

Picture: TypeAlias = npt.NDArray[np.uint8]


def chat(
    *,
    model: str,
    images: list[Path],
    question: str | None = None,
    adapter: Path | None = None,
    temperature: float = 0.0,
    max_new_tokens: int = 512,
    seed: int = 0,
    revision: str | None = None,
    trust_remote_code: bool = False,
    bits: Literal[4] | None = None,
) -> None:
    """Ask a model about pictures with the prompt of training.

    Args:
        model: Folder of a run, of an export or of a saved model; or a hub id.
        images: Picture files, shown in this order.
        question: What to ask; without it questions are read from the terminal, one a line.
        adapter: Folder of an adapter to put on the model.
        temperature: 0 picks the most likely token; higher values vary the answer.
        max_new_tokens: Length limit of an answer, in tokens.
        seed: Names the random draws; the same seed gives the same answer.
        revision: Branch, tag or commit of the hub repository.
        trust_remote_code: Run code that comes with the model. Only for authors you trust.
        bits: 4 loads the base weights in 4 bits, as for QLoRA, for models that are too large
            otherwise.
    """
    if not images:
        raise ConfigError("images: name at least one picture file.")
    sampling = SamplingSettings(max_new_tokens=max_new_tokens, temperature=temperature)
    pictures = read_pictures(images)
    if question is not None and not question.strip():
        raise ConfigError("question is empty.")
    quantization = None if bits is None else QuantSettings(bits=bits)
    policy = open_policy(model, adapter, revision, trust_remote_code, quantization)
    console = Console(soft_wrap=True)
    for asked in [question] if question is not None else _typed():
        fitting = question_for(policy, pictures, asked, sampling)
        _note_scaling(console, pictures, fitting.images)
        # Elsewhere than in a terminal nobody waits for the words.
        listener = partial(console.out, end="", highlight=False) if console.is_terminal else None
        _show(console, ask(policy, fitting, sampling, seed, listener), listener is not None)


def _note_scaling(console: Console, given: Sequence[Picture], shown: Sequence[Picture]) -> None:
    """Say in a line how pictures were scaled, if they were."""
    scaled = [
        f"{one.shape[1]} x {one.shape[0]} to {other.shape[1]} x {other.shape[0]}"
        for one, other in zip(given, shown, strict=True)
        if one.shape != other.shape
    ]
    if scaled:
        said = f"(scaled, for the prompt to fit: {', '.join(scaled)} pixels)"
        console.print(Text(said, style="yellow"))


def _typed() -> Iterator[str]:
    """Yield what is typed, line by line, until an empty line or the end of the input."""
    console = Console(stderr=True)
    asked = False
    while True:
        try:
            line = console.input("question> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            line = ""
        if not line:
            break
        asked = True
        yield line
    if not asked and not sys.stdin.isatty():
        raise ConfigError("there is no question; give one with --question.")


def _show(console: Console, reply: Reply, heard: bool) -> None:
    """Print a reply, or what is left to say if its text was printed as it was sampled."""
    if heard:
        console.print()
    elif reply.think is not None:
        console.print(Text(reply.think.strip(), style="dim"))
    if reply.rest.strip() and not heard:
        console.print(Text(reply.rest.strip()))
    if reply.truncated:
        console.print(Text("(cut off; --max-new-tokens allows more)", style="yellow"))
    console.print(Text(f"answer: {reply.boxed or 'none in a box'}", style="bold"))
