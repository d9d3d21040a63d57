"""Configs of runs small enough for any test of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml


def small_run(folder: Path) -> dict[str, Any]:
    """Return a config of two RL steps with a tiny policy on drawn scenes."""
    return {
        "seed_everything": 0,
        "trainer": {
            "accelerator": "cpu",
            "devices": 1,
            "max_steps": 2,
            "default_root_dir": str(folder / "run"),
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder / "run")}},
            "limit_val_batches": 0,
            "enable_model_summary": False,
            "enable_progress_bar": False,
            "enable_checkpointing": False,
        },
        "model": {
            "class_path": "RLModule",
            "init_args": {
                "policy": {"class_path": "TinyVLM", "init_args": {"image_size": 64}},
                "algorithm": "GRPO",
                "verifier": "support.tiny_training.DigitShare",
                "group_size": 4,
                "sampling": {"max_new_tokens": 4},
            },
        },
        "data": {
            "class_path": "PretextDataModule",
            "init_args": {
                "images": [
                    {"class_path": "SyntheticScenes", "init_args": {"count": 64, "size": 64}}
                ],
                "tasks": ["FlippedPatch", "DepthOrder"],
                "batch_size": 4,
            },
        },
    }


class RunFile:
    """A config on disk that tests change before they run it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "run.yaml"
        self.content = small_run(folder)

    def set(self, key: str, value: object) -> None:
        """Set one value by its dotted key."""
        *parents, name = key.split(".")
        node = self.content
        for parent in parents:
            node = node[parent]
        node[name] = value

    def write(self) -> str:
        """Write the file and return its path."""
        self.path.write_text(yaml.safe_dump(self.content), encoding="utf-8")
        return str(self.path)


def run_of_a_model(model: str | Path) -> dict[str, Any]:
    """Return a config of a step with LoRA of a model, on two cards and pictures that are not here.

    For what looks at a run without starting it.
    """
    folder = {"class_path": "ImageFolder", "init_args": {"folder": "nowhere", "size": 96}}
    policy = {"model": str(model), "lora": {"rank": 4}}
    return {
        "data": {
            "class_path": "PretextDataModule",
            "init_args": {"images": [folder], "tasks": ["FlippedPatch"], "batch_size": 4},
        },
        "model": {
            "class_path": "RLModule",
            "init_args": {
                "policy": {"class_path": "HFVisionLanguagePolicy", "init_args": policy},
                "algorithm": "GRPO",
                "group_size": 4,
                "sampling": {"max_new_tokens": 64},
                "update": {"micro_batch_size": 4},
            },
        },
        "trainer": {
            "max_steps": 1,
            "accelerator": "gpu",
            "devices": 2,
            "strategy": "ddp",
            "default_root_dir": "out",
        },
    }
