from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import LoraSettings, families
from spatial_ssrl.policies.adapters import add_adapter
from support.tiny_models import FAMILIES, tiny_model, tiny_processor


def test_positions_of_other_families_count_real_tokens() -> None:
    mask = torch.tensor([[False, False, True, True], [True, True, True, True]])
    prompts = SimpleNamespace(attention_mask=mask, vision={}, input_ids=None)
    inner = torch.nn.Identity()
    positions, following = families.prompt_positions(inner, prompts)
    assert positions[0, 2:].tolist() == [0, 1]
    assert positions[1].tolist() == [0, 1, 2, 3]
    assert following.tolist() == [2, 4]
    later = torch.tensor([[True, True, False], [True, False, False]])
    assert families.next_positions(inner, following, later)[0, :2].tolist() == [2, 3]
    assert families.next_positions(inner, following, later)[1, 0] == 4


def test_qwen_positions_grow_by_the_longer_side_of_a_picture() -> None:
    processor = tiny_processor()
    inner = tiny_model(processor).model
    pad = processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")
    # Text, text, a picture of 2 x 3 tokens, text: the text after it counts on from 2 + 3.
    ids = torch.tensor([[5, 6, *[pad] * 6, 7]])
    prompts = SimpleNamespace(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        vision={
            "image_grid_thw": torch.tensor([[1, 4, 6]]),
            "mm_token_type_ids": (ids == pad).long(),
            "pixel_values": torch.zeros(24, 1176),
        },
    )
    positions, following = families.prompt_positions(inner, prompts)
    assert positions[:, 0].tolist() == [
        [0, 1, 2, 2, 2, 2, 2, 2, 5],
        [0, 1, 2, 2, 2, 3, 3, 3, 5],
        [0, 1, 2, 3, 4, 2, 3, 4, 5],
    ]
    assert following.tolist() == [6]
    later = families.next_positions(inner, following, torch.ones(1, 2, dtype=torch.bool))
    assert later.tolist() == [[[6, 7]]] * 3


# A part of each group, by hand; nothing else may be in the groups but more of the same kind.
GROUPS = {
    "gemma3": ("model.vision_tower", "model.multi_modal_projector", "model.language_model"),
    "idefics3": ("model.vision_model", "model.connector", "model.text_model"),
    "internvl": ("model.vision_tower", "model.multi_modal_projector", "model.language_model"),
    "llava": ("model.vision_tower", "model.multi_modal_projector", "model.language_model"),
    "llava_onevision": ("model.vision_tower", "model.image_newline", "model.language_model"),
    "qwen2_vl": ("model.visual.blocks", "model.visual.merger", "model.language_model"),
    "qwen2_5_vl": ("model.visual.patch_embed", "model.visual.merger", "model.language_model"),
    "qwen3_vl": ("model.visual.pos_embed", "model.visual.deepstack_merger_list", "lm_head"),
    "smolvlm": ("model.vision_model", "model.connector", "model.text_model"),
    "tiny_vlm": ("model.visual", "model.connector", "model.language_model"),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_parameter_is_in_one_freeze_group(family: str) -> None:
    network = tiny_model(tiny_processor(family), family)
    groups = families.freeze_groups(network)
    assert list(groups) == ["vision_tower", "projector", "language_model"]
    for (group, prefixes), part in zip(groups.items(), GROUPS[family], strict=True):
        assert part in prefixes, group
    assert "lm_head" in groups["language_model"]
    for name, _ in network.named_parameters(remove_duplicate=False):
        owners = [
            group
            for group, prefixes in groups.items()
            for prefix in prefixes
            if name == prefix or name.startswith(f"{prefix}.")
        ]
        assert len(owners) == 1, name
        text = "lm_head" in name or ".language_model." in name or ".text_model." in name
        projector = any(part in name for part in ("merger", "connector", "projector", "newline"))
        expected = "language_model" if text else "projector" if projector else "vision_tower"
        assert owners == [expected], name


def test_freeze_groups_stay_when_adapters_come_and_unknown_parts_are_named() -> None:
    network = tiny_model(tiny_processor())
    before = families.freeze_groups(network)
    add_adapter(network, LoraSettings(rank=2))
    assert families.freeze_groups(network) == before
    network.model.audio_tower = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match=r"'model.audio_tower' of Qwen2_5_VL.* no known part"):
        families.freeze_groups(network)


# The layers of a decoder that get adapters unless a run says otherwise, and where it lies.
DECODER = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
DECODERS = {"idefics3": "model.text_model", "smolvlm": "model.text_model"}


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"tiny_vlm"}))
def test_adapters_go_to_every_layer_of_the_language_model_by_default(family: str) -> None:
    place = DECODERS.get(family, "model.language_model")
    expected = {
        f"{place}.layers.{layer}.{'self_attn' if name in DECODER[:4] else 'mlp'}.{name}"
        for layer in range(3 if family == "qwen3_vl" else 2)
        for name in DECODER
    }
    network = add_adapter(tiny_model(tiny_processor(family), family), LoraSettings(rank=2))
    assert adapted_by_default(network) == expected


def test_adapters_go_everywhere_in_a_model_trained_from_scratch() -> None:
    network = add_adapter(tiny_model(tiny_processor("tiny_vlm"), "tiny_vlm"), LoraSettings(rank=2))
    found = adapted_by_default(network)
    linear = {
        name.removeprefix("base_model.model.").removesuffix(".base_layer")
        for name, module in network.named_modules()
        if type(module) is torch.nn.Linear and ".lora_" not in name
    }
    assert found == linear - {"lm_head"}
    assert {name.split(".")[1] for name in found} >= {"connector", "language_model"}


def adapted_by_default(network: torch.nn.Module) -> set[str]:
    ending = ".lora_A.default.weight"
    return {
        name.removeprefix("base_model.model.").removesuffix(ending)
        for name, _ in network.named_parameters()
        if name.endswith(ending)
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_known_families_share_prompts_of_any_length(family: str) -> None:
    assert families.sharing_limit(tiny_model(tiny_processor(family), family)) == math.inf


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({"layer_types": ["full_attention"], "attention_chunk_size": 50}, math.inf),
        ({"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 9}, math.inf),
        ({"layer_types": ["chunked_attention"], "attention_chunk_size": 50}, 50),
        ({"use_bidirectional_attention": "vision"}, 0),
        ({"attn_logit_softcapping": 50.0}, 0),
    ],
)
def test_other_attention_limits_sharing(settings: dict[str, object], limit: float) -> None:
    network = tiny_model(tiny_processor())
    for name, value in settings.items():
        setattr(network.config.text_config, name, value)
    assert families.sharing_limit(network) == limit


def test_pictures_seen_both_ways_share_prompts_only_in_families_known_for_it() -> None:
    network = tiny_model(tiny_processor("gemma3"), "gemma3")
    assert families.sharing_limit(network) == math.inf
    network.config.model_type = "paligemma"
    assert families.sharing_limit(network) == 0


def test_tokens_of_one_picture_are_mutual() -> None:
    network = tiny_model(tiny_processor("gemma3"), "gemma3")
    types = torch.tensor([[0, 1, 1, 0, 1, 1], [1, 1, 0, 0, 1, 0]])
    prompts = SimpleNamespace(vision={"token_type_ids": types})
    expected = [[-1, 0, 0, -1, 1, 1], [0, 0, -1, -1, 1, -1]]
    assert families.mutual_tokens(network, prompts).tolist() == expected
    assert families.mutual_tokens(tiny_model(tiny_processor()), prompts) is None


def test_running_states_are_refused() -> None:
    network = tiny_model(tiny_processor())
    network.config.text_config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ConfigError, match="has linear_attention layers"):
        families.require_attention_only(network)


@pytest.mark.parametrize(
    ("token", "is_media"),
    [
        ("<image>", True),
        ("<|vision_start|>", True),
        ("<|image_1|>", True),
        ("[IMG_END]", True),
        ("<end_of_image>", True),
        ("<row_1_col_2>", True),
        ("<|im_end|>", False),
        ("<think>", False),
        ("</tool_call>", False),
        ("<|box_start|>", False),
    ],
)
def test_media_tokens_are_known_by_name(token: str, is_media: bool) -> None:
    processor = tiny_processor("llava")
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    network = tiny_model(tiny_processor("llava"), "llava")
    id_ = processor.tokenizer.convert_tokens_to_ids(token)
    network.config.image_token_index = network.config.image_token_id = 0
    processor.image_token_id = 0
    found = families.media_token_ids(network, processor, processor.tokenizer)
    assert (id_ in found) is is_media
    assert 0 in found
