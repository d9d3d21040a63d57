"""Scores exports with transformers and peft alone; run as a script, in a process of its own.

Reads a file of jobs (`torch.save`): what to load, a chat turn with its pictures, and the tokens
that follow it. Writes their log-probabilities. Nothing of spatial_ssrl may be imported.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from peft import PeftModel
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def scores(job: dict[str, Any]) -> torch.Tensor:
    """Return the log-probability of each token of a job, shape (K,)."""
    folder, base = job["folder"], job["base"]
    model = AutoModelForImageTextToText.from_pretrained(base or folder)
    if base:
        model = PeftModel.from_pretrained(model, folder)
    processor = AutoProcessor.from_pretrained(folder)
    text = processor.apply_chat_template(job["chat"], add_generation_prompt=True, tokenize=False)
    pictures = [Image.fromarray(picture) for picture in job["pictures"]]
    inputs = dict(processor(text=[text], images=[pictures], return_tensors="pt"))
    tokens = job["tokens"]
    if "mm_token_type_ids" in inputs:
        types = inputs["mm_token_type_ids"]
        inputs["mm_token_type_ids"] = torch.cat([types, types.new_zeros(1, len(tokens))], dim=1)
    ids = torch.cat([inputs.pop("input_ids"), tokens[None]], dim=1)
    inputs["attention_mask"] = torch.ones_like(ids)
    with torch.no_grad():
        logits = model.eval()(input_ids=ids, **inputs).logits[0, -len(tokens) - 1 : -1]
    logits[:, job["banned"]] = float("-inf")
    return logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0]


if __name__ == "__main__":
    source, target = sys.argv[1:]
    found = {name: scores(job) for name, job in torch.load(source, weights_only=False).items()}
    assert "spatial_ssrl" not in sys.modules
    torch.save(found, target)
