"""Writing an adapter alone, and that its files hold what was trained."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel, get_peft_model_state_dict, load_peft_weights
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.core.files import write_json
from spatial_ssrl.export.base_model import BaseModel
from spatial_ssrl.export.runs import ADAPTER
from spatial_ssrl.policies.adapters import save_adapter


def write_adapter(model: PeftModel, folder: Path, origin: BaseModel) -> int:
    """Write an adapter so that plain PEFT loads it, and make sure that it does.

    The base is not computed with, so its weights may lie in any precision. Its adapters come off.

    Args:
        model: The trained model.
        folder: An empty folder.
        origin: The base, which the adapter is to name.

    Returns:
        How many tensors were compared: each is in the files bit for bit, and where plain PEFT
        puts it when it loads them.

    Raises:
        ConfigError: If a tensor is not, or is not finite.
    """
    trained = {name: tensor.cpu().clone() for name, tensor in _tensors(model).items()}
    if odd := [name for name, tensor in trained.items() if not tensor.isfinite().all()]:
        raise ConfigError(
            f"run: {odd[0]!r} of the adapter holds NaN or infinite numbers; export an earlier "
            "checkpoint with --checkpoint. Nothing was written."
        )
    save_adapter(model, folder)
    settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = origin.name
    settings["revision"] = origin.revision or None
    write_json(folder / ADAPTER, settings)
    _check("The files", load_peft_weights(str(folder), device="cpu"), trained)
    with warnings.catch_warnings():
        # PEFT asks a transformers model by a former name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated")
        again = PeftModel.from_pretrained(model.unload(), str(folder))
    loaded = {name: tensor.cpu() for name, tensor in _tensors(again).items()}
    # What is trained in full takes the precision of the base it is put on.
    rounded = {
        name: tensor.to(loaded[name].dtype) if name in loaded else tensor
        for name, tensor in trained.items()
    }
    _check("Plain PEFT", loaded, rounded)
    return len(trained)


def _tensors(model: PeftModel) -> dict[str, Tensor]:
    found: dict[str, Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return found


def _check(what: str, found: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
    names = sorted(found.keys() | trained.keys())
    wrong = [
        name
        for name in names
        if name not in found
        or name not in trained
        or found[name].dtype != trained[name].dtype
        or not torch.equal(found[name], trained[name])
    ]
    if wrong:
        raise ConfigError(
            f"{what} would not hold the trained adapter: {len(wrong)} of {len(names)} tensors are "
            f"others, the first {wrong[0]!r}. Nothing was written."
        )
