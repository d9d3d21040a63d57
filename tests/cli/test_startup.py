"""What a command imports: each of these packages takes about as long as the rest together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"

# Runs a command in a process of its own and prints which packages it imported.
SCRIPT = """
import json, sys
from spatial_ssrl.cli.main import main
code = main()
roots = sorted({name.partition(".")[0] for name in sys.modules})
print("\\n" + json.dumps([code, roots]))
"""


def imported(*words: str) -> set[str]:
    """Return the packages that a command imports."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], capture_output=True, text=True, check=True
    )
    code, roots = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    return set(roots)


def test_a_page_of_help_needs_none_of_the_libraries() -> None:
    heavy = {"torch", "lightning", "transformers", "peft", "numpy", "jsonargparse"}
    assert not heavy & imported("--help")


@pytest.mark.parametrize(
    ("command", "config"),
    [("fit", "rl_qwen25vl_lora.yaml"), ("fit", "sft_qwen25vl_lora.yaml")],
)
def test_a_config_is_printed_without_what_only_models_need(command: str, config: str) -> None:
    """Lightning needs torchmetrics, and with it torchvision, transformers and scipy."""
    found = imported(command, "-c", str(CONFIGS / config), "--print_config")
    assert not {"peft", "bitsandbytes", "timm", "trl", "ray", "vllm", "datasets"} & found
