"""Asking a trained policy, or any vision-language model, a question about pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.questions import Question
from spatial_ssrl.export.folder import RECORD
from spatial_ssrl.export.runs import ADAPTER, is_run, open_run, trained_policy
from spatial_ssrl.images.pictures import open_picture
from spatial_ssrl.policies import HFVisionLanguagePolicy, SamplingSettings
from spatial_ssrl.policies.collate import PLACEHOLDER
from spatial_ssrl.prompts import last_boxed, split_think
from spatial_ssrl.rollout import InProcess


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
) -> HFVisionLanguagePolicy:
    """Load a policy to ask, on the GPU if there is one.

    Args:
        model: Folder of a run, of an export or of a saved policy or model; or a hub id.
        adapter: Folder of an adapter to put on it.
        revision: Branch, tag or commit of the hub repository.
        trust_remote_code: Run code that comes with the model. Only for authors you trust.

    Raises:
        ConfigError: If there is no such model, it does not read pictures, or the adapter does not
            fit it.
    """
    folder = Path(model).expanduser()
    if is_run(folder):
        if adapter is not None:
            raise ConfigError(
                f"adapter: the run in {model!r} has an adapter or weights of its own; name the "
                "base model as model instead."
            )
        policy = trained_policy(open_run(folder), full_precision=False)
    else:
        policy = _named_policy(model, adapter, revision, trust_remote_code)
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


def ask(
    policy: HFVisionLanguagePolicy,
    images: Sequence[npt.NDArray[np.uint8]],
    text: str,
    sampling: SamplingSettings,
    seed: int = 0,
) -> Reply:
    """Ask one question with the prompt of training.

    Args:
        policy: The policy, loaded.
        images: Pictures, each (H, W, 3), uint8; shown before the text unless it has a placeholder
            "<image>" for each.
        text: The question, without the instruction on the form of the answer.
        sampling: Length limit and temperature; 0 is greedy.
        seed: Names the random draws.

    Raises:
        ConfigError: If the text has placeholders, but not one for each picture.
    """
    shown = text if PLACEHOLDER in text else PLACEHOLDER * len(images) + text
    question = Question("chat", "chat", tuple(images), shown, answer="", answer_kind="text")
    device = next(policy.parameters()).device
    prompts = policy.collator()([question]).to(device)
    said = InProcess().sample(policy, prompts, 1, sampling, seed)
    think, rest = split_think(said.texts[0])
    return Reply(said.texts[0], think, rest, last_boxed(rest), bool(said.truncated[0]))


def _named_policy(
    model: str, adapter: Path | None, revision: str | None, trust_remote_code: bool
) -> HFVisionLanguagePolicy:
    folder = Path(model).expanduser()
    least, most = _pixel_bounds(folder if adapter is None else adapter)
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
        min_pixels=least,
        max_pixels=most,
    )


def _pixel_bounds(folder: Path) -> tuple[int | None, int | None]:
    """Return the least and most pixels that an export says its pictures had in training."""
    if not (folder / RECORD).is_file():
        return None, None
    record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    return record["min_pixels"], record["max_pixels"]
