"""What is frozen has no adapter, no gradient, and the same bits after real steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, TinyVLM
from spatial_ssrl.policies.freezing import FrozenParts, check_groups, freeze_parts
from spatial_ssrl.training import SFTModule, UpdateSettings
from support.tiny_models import tiny_model, tiny_processor
from support.tiny_training import tiny_data, tiny_rl, tiny_trainer

# Where each group lies, said by hand.
WHERE = {
    "vision_tower": r"model\.visual\.(?!merger)",
    "projector": r"model\.(visual\.merger|connector)\.",
    "language_model": r"(model\.language_model|lm_head)\.",
}

PARTS = FrozenParts(("vision_tower",), ("model.visual.blocks", "model.visual.pos", "lm_head"))


@pytest.mark.parametrize(
    ("name", "inside"),
    [
        ("model.visual.blocks", True),
        ("model.visual.blocks.0.attn.qkv", True),
        ("model.visual.blocks_too", False),
        ("model.visual", False),
        ("model.visual.merger", False),
        ("lm_head", True),
        ("model.lm_head", False),
        ("", False),
    ],
)
def test_a_name_is_frozen_by_whole_parts(name: str, inside: bool) -> None:
    assert (name in PARTS) is inside
    assert bool(re.fullmatch(PARTS.pattern(), name)) is inside
    assert PARTS.touches(name) is (inside or name == "model.visual")


def test_nothing_frozen_excludes_nothing() -> None:
    assert FrozenParts().pattern() is None
    assert freeze_parts(tiny_model(tiny_processor()), []) == FrozenParts()


@pytest.mark.parametrize(
    ("freeze", "message"),
    [
        (["vision_towr"], "no group 'vision_towr', only .* Did you mean vision_tower?"),
        (["everything"], "no group 'everything', only vision_tower, projector and language_model"),
        (["projector", "vision_tower", "language_model"], "leaves nothing to train"),
    ],
)
def test_groups_that_cannot_be_meant_are_refused(freeze: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HFVisionLanguagePolicy("x", freeze=tuple(freeze))
    with pytest.raises(ConfigError, match=message):
        check_groups(freeze)


def test_a_group_the_model_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from spatial_ssrl.policies import families

    groups = {"vision_tower": ("model.visual",), "projector": (), "language_model": ("lm_head",)}
    monkeypatch.setattr(families, "freeze_groups", lambda network: groups)
    with pytest.raises(
        ConfigError, match="has no projector, only vision_tower and language_model; leave"
    ):
        freeze_parts(tiny_model(tiny_processor()), ["projector"])


def test_weights_shared_with_a_frozen_module_are_frozen() -> None:
    policy = TinyVLM(image_size=32, hidden_size=32, layers=1, heads=2, freeze=("language_model",))
    policy.load()
    head = policy.network.lm_head.weight
    assert head is policy.network.model.language_model.embed_tokens.weight
    assert not head.requires_grad


def bits(policy: HFVisionLanguagePolicy) -> dict[str, Tensor]:
    """Return parameters and buffers, batch statistics included, by the model's own names."""
    tensors = [*policy.named_parameters(), *policy.named_buffers()]
    return {
        name.removeprefix("_model.")
        .removeprefix("base_model.model.")
        .replace(".base_layer.", "."): tensor.detach().clone()
        for name, tensor in tensors
    }


@pytest.mark.parametrize(
    ("kind", "freeze", "lora"),
    [
        ("qwen", ("vision_tower",), LoraSettings(rank=2, target_modules="all-linear")),
        ("qwen", ("projector", "language_model"), None),
        ("tiny", ("vision_tower",), None),
        ("tiny", ("projector", "language_model"), LoraSettings(rank=2)),
    ],
)
def test_frozen_groups_keep_every_bit(
    kind: str,
    freeze: tuple[str, ...],
    lora: LoraSettings | None,
    tiny_qwen_folder: Path,
    tmp_path: Path,
) -> None:
    if lora is not None and kind == "tiny":  # Its vision tower has convolutions only.
        lora = LoraSettings(rank=2, target_modules=r".*(_proj|inward|outward|score|conv\d?)")
    settings: dict[str, Any] = {"lora": lora, "freeze": freeze}
    if kind == "qwen":
        policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), **settings)
    else:
        policy = TinyVLM(image_size=32, hidden_size=32, layers=1, heads=2, **settings)
    policy.load()
    frozen = re.compile("|".join(WHERE[group] for group in freeze))
    trained = {name: t for name, t in bits(policy).items() if not frozen.match(name)}
    before = {name: t for name, t in bits(policy).items() if frozen.match(name)}
    assert before
    assert not any("lora_" in name for name in before)
    assert all(
        not parameter.requires_grad
        for name, parameter in policy.network.named_parameters()
        if frozen.match(name)
    )

    # The cold start trains in train mode, in which batch statistics would move.
    how: dict[str, Any] = {
        "optimizer": lambda params: torch.optim.AdamW(params, lr=1e-2),
        "update": UpdateSettings(self_check=False),
    }
    tiny_trainer(tmp_path, 2).fit(SFTModule(policy, **how), tiny_data())
    tiny_trainer(tmp_path, 2).fit(tiny_rl(policy, **how), tiny_data())

    after = bits(policy)
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name
    moved = [name for name, tensor in trained.items() if not torch.equal(after[name], tensor)]
    groups = {next((g for g, w in WHERE.items() if re.match(w, name)), None) for name in moved}
    assert groups - {None} == set(WHERE) - set(freeze)
    if lora is not None:
        assert all("lora_" in name for name in moved)
