"""A whole GRPO step of ours against one of TRL's GRPOTrainer: seconds and peak memory.

    python benchmarks/vs_trl.py                     # both prompt lengths, results in vs_trl.json
    python benchmarks/vs_trl.py --images 1 --repeats 2 --out /tmp/quick.json
    python benchmarks/vs_trl.py --kl 0.01           # with a reference policy on both sides
    python benchmarks/vs_trl.py --recompute trl     # TRL recomputes activations: its default

Both sides train LoRA r16 on every linear layer of the same random Qwen2.5-VL of 4 M parameters in
float32, with AdamW, on the same 4 questions of G = 8 completions of exactly 64 tokens. Each side is
a fresh process that waits while the other one works; steps alternate, the first ones are left out.

A step is sampling, rewards, scoring and update, from the questions to the new weights. TRL prepares
pictures inside its step and we in the data loader, so the seconds of our collator are added to
ours. Memory is the largest resident size from the first step on, and that less the size just before
the first step; TRL needs 13 GB at five pictures.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import small_qwen
from grpo_sides import SIDES, Settings, compare

RESULTS = Path(__file__).with_suffix(".json")


def _machine() -> dict[str, Any]:
    names = ("torch", "transformers", "trl", "peft", "lightning")
    return {
        "date": datetime.date.today().isoformat(),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, no GPU used",
        "load_average": os.getloadavg(),
        "versions": {name: importlib.metadata.version(name) for name in names},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1, 5], help="pictures a question")
    parser.add_argument("--repeats", type=int, default=7, help="steps of each side that count")
    parser.add_argument("--warm-up", type=int, default=2, help="steps of each side before them")
    parser.add_argument("--kl", type=float, default=0.0, help="weight of the divergence")
    parser.add_argument("--recompute", choices=("none", "ours", "trl", "both"), default="none")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--sides", choices=SIDES, nargs="+", default=list(SIDES))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        small_qwen.write(Path(folder))
        for images in options.images:
            settings = Settings(
                folder,
                images,
                kl=options.kl,
                recompute=options.recompute,
                threads=options.threads,
                steps=options.warm_up + options.repeats + 1,
            )
            found = compare(settings, options.warm_up, options.repeats, options.sides)
            name = f"{images} images, kl {options.kl}, recompute {options.recompute}"
            ran = asdict(replace(settings, model="random Qwen2.5-VL, benchmarks/small_qwen.py"))
            ran |= {"warm_up": options.warm_up, "repeats": options.repeats}
            known[name] = {**_machine(), "settings": ran, **found}
            print(json.dumps({name: found}, indent=2), flush=True)
            _write(options.out, known)


def _write(path: Path, content: dict[str, Any]) -> None:
    from spatial_ssrl.core.files import write_json

    write_json(path, content)


if __name__ == "__main__":
    main()
