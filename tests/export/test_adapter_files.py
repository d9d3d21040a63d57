"""An adapter alone: the bits that were trained, without computing with its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.export import adapter_files, export_run
from spatial_ssrl.policies.adapters import save_adapter
from support.saved_runs import write_adapter, write_run

WEIGHTS = "adapter_model.safetensors"


def half_precision(base: Path, folder: Path) -> Path:
    """Save a base in bfloat16, as those on a hub are."""
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    for file in base.iterdir():
        if not (folder / file.name).exists():
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.parametrize(
    ("dtype", "saved", "loaded"),
    [
        ("auto", None, torch.bfloat16),
        (
            "float32",
            ["merger", "lm_head"],
            torch.bfloat16,
        ),  # Trained ones are in float32 all the same.
    ],
)
def test_the_base_stays_as_it_was_trained_and_the_bits_are_those_trained(
    dtype: str,
    saved: list[str] | None,
    loaded: torch.dtype,
    tiny_qwen_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base = half_precision(tiny_qwen_folder, tmp_path / "base")
    policy = {"model": str(base), "lora": {"rank": 4}, "dtype": dtype}
    run = write_run(tmp_path / "run", policy)
    write_adapter(tiny_qwen_folder, run / "policy", modules_to_save=saved)
    seen: list[torch.dtype] = []
    real = adapter_files.write_adapter

    def watched(model: PeftModel, *rest: Any) -> int:
        seen.append(model.get_base_model().dtype)
        return real(model, *rest)

    monkeypatch.setattr("spatial_ssrl.export.folder.write_adapter", watched)
    done = export_run(run, tmp_path / "out", "adapter")
    assert seen == [loaded]
    before, after = (load_file(folder / WEIGHTS) for folder in (run / "policy", tmp_path / "out"))
    assert before.keys() == after.keys()
    assert done.tensors == len(before) > 10
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
        assert tensor.dtype == after[name].dtype == torch.float32
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert f"all {done.tensors} tensors of these files are those that were trained" in card


@pytest.mark.parametrize("fault", ["flipped", "missing", "rounded"])
def test_files_that_do_not_hold_what_was_trained_leave_nothing(
    fault: str, tiny_qwen_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = write_run(tmp_path / "run", {"model": str(tiny_qwen_folder), "lora": {"rank": 4}})
    write_adapter(tiny_qwen_folder, run / "policy")

    def save_wrongly(model: PeftModel, folder: Path) -> None:
        save_adapter(model, folder)
        tensors = load_file(folder / WEIGHTS)
        name = sorted(tensors)[3]
        if fault == "missing":
            del tensors[name]
        elif fault == "rounded":
            tensors[name] = tensors[name].bfloat16()
        else:
            tensors[name].view(torch.int32).view(-1)[0] ^= 1
        save_file(tensors, folder / WEIGHTS)

    monkeypatch.setattr(adapter_files, "save_adapter", save_wrongly)
    with pytest.raises(ConfigError, match=r"The files would not hold .*1 of \d+ tensors are other"):
        export_run(run, tmp_path / "out", "adapter")
    assert not (tmp_path / "out").exists()


def test_an_adapter_that_is_not_a_number_is_named(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"model": str(tiny_qwen_folder), "lora": {"rank": 4}})
    model = write_adapter(tiny_qwen_folder, run / "policy")
    with torch.no_grad():
        next(p for p in model.parameters() if p.requires_grad)[0] = float("nan")
    model.save_pretrained(str(run / "policy"))
    with pytest.raises(ConfigError, match="of the adapter holds NaN or infinite numbers"):
        export_run(run, tmp_path / "out", "adapter")
    assert not (tmp_path / "out").exists()
