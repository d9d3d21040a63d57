"""GRPO steps of 3B and 7B models on one card: seconds, memory, and the ratio to TRL.

    python benchmarks/gpu_step.py --models /tmp/models 3b-lora          # all sides
    python benchmarks/gpu_step.py --models /tmp/models 7b-qlora --sides never --cap-gib 16
    python benchmarks/gpu_step.py --models /tmp/models small --device cpu      # only that it runs

Real configurations, random weights, real pictures' sizes; LoRA r16 on every linear layer of a
base in bfloat16 or NF4, AdamW, G = 8, completions of exactly the given length. Sides are ours with
each value of `rollout.cuda_graphs`, and TRL's. Each runs in a process of its own; that without CUDA
graphs and TRL take steps in turns, as in vs_trl.py, the others come after them, one at a time, so
that a card need not hold four models. What "measured" finds is said in its first step, which does
not count, and `replayed_tokens` shows what came of it. Decoding is compared with its bound: the
bytes of weights that a token has to read, by the bandwidth given with --gb-per-s.

Results are added to gpu_step.json one by one, so that what was measured is kept when time is up.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import real_sizes
import small_qwen
import torch
from grpo_sides import Settings, compare

from spatial_ssrl.core.files import write_json

RESULTS = Path(__file__).with_suffix(".json")
GRAPHS = ("never", "always", "measured")


@dataclass(frozen=True)
class Case:
    """What is trained.

    Args:
        model: Hub id of the configuration; None for the small model of vs_trl.py.
        four_bits: Whether the base is kept in NF4.
    """

    model: str | None
    four_bits: bool = False


CASES = {
    "small": Case(None),
    "3b-lora": Case("Qwen/Qwen2.5-VL-3B-Instruct"),
    "3b-qlora": Case("Qwen/Qwen2.5-VL-3B-Instruct", four_bits=True),
    "7b-lora": Case("Qwen/Qwen2.5-VL-7B-Instruct"),
    "7b-qlora": Case("Qwen/Qwen2.5-VL-7B-Instruct", four_bits=True),
}


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Return the medians of each side that was asked for."""
    folder = options.models / (case.model or "small").replace("/", "--")
    if case.model is None:
        small_qwen.write(folder)
    else:
        real_sizes.write(folder, case.model, options.device)
        if options.device == "cuda":
            torch.cuda.empty_cache()
    settings = Settings(
        str(folder),
        options.images,
        questions=options.questions,
        tokens=options.tokens,
        recompute=options.recompute,
        steps=options.warm_up + options.repeats + 1,
        device=options.device,
        dtype="bfloat16" if options.device == "cuda" else "float32",
        four_bits=case.four_bits,
        cap_gib=options.cap_gib,
    )
    found = {"settings": asdict(replace(settings, model=case.model or "small"))}
    del found["settings"]["graphs"]  # Each side says by its name.
    names = {"never": "ours", "trl": "trl"}
    if sides := [names[side] for side in names if side in options.sides]:
        found |= compare(settings, options.warm_up, options.repeats, sides)
    if "ours" in found:
        found["never"] = found.pop("ours")
    for graphs in GRAPHS[1:]:
        if graphs in options.sides:
            chosen = replace(settings, graphs=graphs)
            found[graphs] = compare(chosen, options.warm_up, options.repeats, ["ours"])["ours"]
    _add_decoding(found, folder, case, options)
    return found


def _add_decoding(
    found: dict[str, Any], folder: Path, case: Case, options: argparse.Namespace
) -> None:
    """Say how fast rows decode, and how fast they could."""
    said = options.questions * 8 * options.tokens
    for side in (*GRAPHS, "trl"):
        if "sample" in found.get(side, {}):
            found[side]["tokens_per_s"] = round(said / found[side]["sample"], 1)
    if options.gb_per_s and case.model is not None:
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        read = weights / 4 if case.four_bits else weights
        bound = options.questions * 8 * options.gb_per_s * 1e9 / read
        found["bound_tokens_per_s"] = round(bound, 1)


def _machine(device: str) -> dict[str, Any]:
    names = ("torch", "transformers", "trl", "peft", "lightning", "bitsandbytes")
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    card = torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, no GPU"
    return {"date": datetime.date.today().isoformat(), "device": card, "versions": versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--models", type=Path, required=True, help="where models are written to")
    parser.add_argument("--sides", nargs="+", choices=(*GRAPHS, "trl"))
    parser.add_argument("--images", type=int, default=5, help="pictures a question; 5: 964 tokens")
    parser.add_argument("--questions", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=256, help="tokens of each completion")
    parser.add_argument("--recompute", choices=("none", "ours", "trl", "both"), default="both")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=1)
    parser.add_argument("--cap-gib", type=float, help="most memory a side may take of the card")
    parser.add_argument("--gb-per-s", type=float, help="memory bandwidth of the card")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    options.sides = options.sides or [*GRAPHS, "trl"]
    if "measured" in options.sides and options.warm_up < 1:
        parser.error("--warm-up must be at least 1: the first step of 'measured' measures.")
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name in options.cases:
        found = measure(CASES[name], options)
        known[f"{name}, {options.images} images, {options.tokens} tokens"] = {
            **_machine(options.device),
            **found,
        }
        print(json.dumps({name: found}, indent=2), flush=True)
        write_json(options.out, known)


if __name__ == "__main__":
    main()
