"""Asking a trained policy, or any vision-language model, a question about pictures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Question
from spatial_ssrl.export.folder import RECORD
from spatial_ssrl.export.runs import ADAPTER, is_run, open_run, trained_policy
from spatial_ssrl.images.pictures import open_picture
from spatial_ssrl.policies import HFVisionLanguagePolicy, QuantSettings, SamplingSettings
from spatial_ssrl.policies.collate import PLACEHOLDER
from spatial_ssrl.prompts import last_boxed, split_think
from spatial_ssrl.rollout import InProcess

# What a character is decoded to of which not all bytes have been said.
_INCOMPLETE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said.

    Args:
        text: All of it.
        think: The reasoning, or None when there is none.
        rest: What follows the reasoning.
        boxed: The answer in the last box, or None when there is none.
        truncated: Whether the length limit cut it off.
    """

    text: str
    think: str | None
    rest: str
    boxed: str | None
    truncated: bool


def open_policy(
    model: str,
    adapter: Path | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
    quantization: QuantSettings | None = None,
) -> HFVisionLanguagePolicy:
    """Load a policy to ask, on the GPU if there is one.

    Args:
        model: Folder of a run, of an export or of a saved policy or model; or a hub id.
        adapter: Folder of an adapter to put on it.
        revision: Branch, tag or commit of the hub repository.
        trust_remote_code: Run code that comes with the model. Only for authors you trust.
        quantization: Load the base weights in 4 bits; None loads them as they are, those of a
            run as it was trained.

    Raises:
        ConfigError: If there is no such model, it does not read pictures, the adapter does not
            fit it, or this machine or model cannot do with 4 bits.
    """
    folder = Path(model).expanduser()
    if is_run(folder):
        if adapter is not None:
            raise ConfigError(
                f"adapter: the run in {model!r} has an adapter or weights of its own; name the "
                "base model as model instead."
            )
        policy = trained_policy(open_run(folder), full_precision=False, quantization=quantization)
    else:
        policy = _named_policy(model, adapter, revision, trust_remote_code)
        # Set here: its constructor takes what is trained, and only adapters beside 4-bit weights
        # can be.
        policy.quantization = quantization
        policy.load()
    return policy.to("cuda" if torch.cuda.is_available() else "cpu")


def read_pictures(paths: Sequence[Path]) -> tuple[npt.NDArray[np.uint8], ...]:
    """Return picture files as arrays, shape (H, W, 3), upright.

    Raises:
        ConfigError: If there is no file of that name.
        SceneUnreadable: If a file cannot be decoded.
    """
    for path in paths:
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "not there"
            raise ConfigError(f"images: {str(path)!r} is {kind}; name picture files.")
    return tuple(np.array(open_picture(path)[0]) for path in paths)


def question_for(
    policy: HFVisionLanguagePolicy,
    images: Sequence[npt.NDArray[np.uint8]],
    text: str,
    sampling: SamplingSettings,
) -> Question:
    """Return a question that a policy can read, its pictures scaled down if they must be.

    Args:
        policy: The policy, loaded.
        images: Pictures, each (H, W, 3), uint8; shown before the text unless it has a placeholder
            "<image>" for each.
        text: The question, without the instruction on the form of the answer.
        sampling: Says how long the answer may be, which the model's context must hold too.

    Raises:
        ConfigError: If the text has placeholders, but not one for each picture, or the prompt
            does not fit `max_prompt_tokens` or the context.
    """
    shown = text if PLACEHOLDER in text else PLACEHOLDER * len(images) + text
    question = Question("chat", "chat", tuple(images), shown, answer="", answer_kind="text")
    try:
        return policy.preparer(new_tokens=sampling.max_new_tokens)(question)
    except SceneRejected as error:
        raise ConfigError(
            f"the question cannot be asked: {error.reason}. A shorter question or fewer pictures "
            "may do as well."
        ) from error


def ask(
    policy: HFVisionLanguagePolicy,
    question: Question,
    sampling: SamplingSettings,
    seed: int = 0,
    listener: Callable[[str], None] | None = None,
) -> Reply:
    """Ask one question with the prompt of training.

    Args:
        policy: The policy, loaded.
        question: Made by `question_for`.
        sampling: Length limit and temperature; 0 is greedy.
        seed: Names the random draws.
        listener: Told each piece of text as soon as it is sampled; the pieces add up to the reply.
    """
    device = next(policy.parameters()).device
    prompts = policy.collator()([question]).to(device)
    engine = InProcess() if listener is None else _Speaking(policy, listener)
    said = engine.sample(policy, prompts, 1, sampling, seed)
    if isinstance(engine, _Speaking):
        engine.finish(said.texts[0])
    think, rest = split_think(said.texts[0])
    return Reply(said.texts[0], think, rest, last_boxed(rest), bool(said.truncated[0]))


class _Speaking(InProcess):
    """Tells what is said while it is being sampled; for a single completion.

    Args:
        policy: The policy that is sampled from.
        listener: Told each piece of text.
    """

    def __init__(self, policy: HFVisionLanguagePolicy, listener: Callable[[str], None]) -> None:
        super().__init__()
        self._policy, self._listener = policy, listener
        self._tokens: list[int] = []
        self._told = ""

    def choose(self, scores: Tensor, row: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        """Draw the next token, and tell what became readable by it."""
        tokens, logprobs = super().choose(scores, row, *rest)
        self._tokens.append(int(tokens[0]))
        said = torch.tensor([self._tokens])
        (text,) = self._policy.decode(said, torch.ones_like(said, dtype=torch.bool))
        if not text.endswith(_INCOMPLETE):
            self._tell(text)
        return tokens, logprobs

    def finish(self, text: str) -> None:
        """Tell what is left of the whole text."""
        self._tell(text)

    def _tell(self, text: str) -> None:
        if text.startswith(self._told) and text != self._told:
            self._listener(text[len(self._told) :])
            self._told = text


def _named_policy(
    model: str, adapter: Path | None, revision: str | None, trust_remote_code: bool
) -> HFVisionLanguagePolicy:
    folder = Path(model).expanduser()
    bounds = _bounds(folder if adapter is None else adapter)
    if (folder / ADAPTER).is_file():
        if adapter is not None:
            raise ConfigError(f"adapter: {model!r} is an adapter itself; name one of the two.")
        settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        model, adapter = str(settings.get("base_model_name_or_path") or ""), folder
        revision = revision or settings.get("revision")
        if not model:
            raise ConfigError(
                f"model: the adapter in {str(folder)!r} does not name its base model; give that as "
                "model and the folder as adapter."
            )
    return HFVisionLanguagePolicy(
        model,
        adapter=adapter,
        revision=revision,
        trust_remote_code=trust_remote_code,
        min_pixels=bounds.get("min_pixels"),
        max_pixels=bounds.get("max_pixels"),
        max_prompt_tokens=bounds.get("max_prompt_tokens"),
    )


def _bounds(folder: Path) -> Mapping[str, int | None]:
    """Return what an export says of its training, among it the bounds of pictures and prompts."""
    if not (folder / RECORD).is_file():
        return {}
    record: dict[str, int | None] = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record
