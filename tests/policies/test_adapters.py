from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import PeftConfig, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.policies import HFVisionLanguagePolicy, LoraSettings, TinyVLM
from spatial_ssrl.policies.adapters import add_adapter, load_adapter
from spatial_ssrl.policies.freezing import freeze_parts
from support.oracles import plain_logprobs, random_completions, rollouts_of
from support.tiny_models import random_question, tiny_model, tiny_processor, write_tiny


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "lora.rank must be at least 1, got 0"),
        ({"alpha": 0}, "lora.alpha must be above 0, got 0"),
        ({"dropout": 1.0}, r"lora.dropout must be in \[0, 1\), got 1.0"),
        ({"target_modules": []}, "lora.target_modules is empty"),
    ],
)
def test_settings_out_of_range(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraSettings(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"target_modules": ["q_prjo"]}, "target_modules 'q_prjo' matches no module; .*q_proj"),
        ({"target_modules": r"nothing\d+"}, "target_modules .* matches no module"),
        ({"target_modules": "(q_proj"}, r"'\(q_proj' is no regular expression \(missing \)"),
        ({"modules_to_save": ["lm_haed"]}, "modules_to_save 'lm_haed' .*lm_head"),
    ],
)
def test_names_that_match_nothing_get_close_ones(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        add_adapter(tiny_model(tiny_processor()), LoraSettings(rank=2, **settings))


def test_unsupported_layer_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="LoRA could not be put on Qwen2_5_VL") as caught:
        add_adapter(tiny_model(tiny_processor()), LoraSettings(target_modules=["rotary_emb"]))
    assert "\n" not in str(caught.value)


def adapted(model: PeftModel) -> set[str]:
    """Return the names of the modules that have adapters."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default.weight")
        for name, _ in model.named_parameters()
        if name.endswith(".lora_A.default.weight")
    }


def test_all_linear_adapts_every_linear_layer_but_the_head() -> None:
    import torch

    network = tiny_model(tiny_processor())
    linear = {
        name
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear) and name != "lm_head"
    }
    model = add_adapter(network, LoraSettings(rank=2, target_modules="all-linear"))
    assert adapted(model) == linear
    assert all(("lora_" in name) == p.requires_grad for name, p in model.named_parameters())


def test_regular_expression_and_frozen_parts() -> None:
    network = tiny_model(tiny_processor())
    settings = LoraSettings(rank=2, target_modules=r".*(qkv|q_proj)")
    model = add_adapter(network, settings, freeze_parts(network, ["vision_tower"]))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(names) == 4
    assert all("language_model" in name and "q_proj" in name for name in names)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ["q_proj", "qkv"]},
            r"target_modules 'qkv' matches frozen modules only",
        ),
        (
            {"target_modules": r".*visual.*qkv"},
            r"target_modules .* frozen modules only, such as 'm",
        ),
        ({"modules_to_save": ["merger"]}, r"'merger' matches frozen modules only"),
        ({"modules_to_save": ["norm1"]}, r"'norm1' .* \(freeze: vision_tower, projector\)"),
        ({"modules_to_save": ["model"]}, r"'model' would train 'model', which freeze"),
    ],
)
def test_frozen_parts_cannot_be_asked_for(settings: dict[str, object], message: str) -> None:
    network = tiny_model(tiny_processor())
    frozen = freeze_parts(network, ["vision_tower", "projector"])
    with pytest.raises(ConfigError, match=message):
        add_adapter(network, LoraSettings(rank=2, **settings), frozen)


def test_no_linear_layer_outside_of_what_is_frozen() -> None:
    policy = TinyVLM(lora=LoraSettings(), freeze=("language_model", "projector"))
    with pytest.raises(ConfigError, match="'all-linear' matches frozen modules only"):
        policy.load()


def test_default_targets_follow_what_is_frozen() -> None:
    network = tiny_model(tiny_processor())
    frozen = freeze_parts(network, ["language_model", "projector"])
    found = adapted(add_adapter(network, LoraSettings(rank=2), frozen))
    assert found
    assert all(name.startswith("model.visual.blocks.") for name in found)
    with pytest.raises(ConfigError, match="'language-model' matches frozen modules only"):
        add_adapter(
            tiny_model(tiny_processor()), LoraSettings(target_modules="language-model"), frozen
        )


def test_default_targets_leave_room_for_modules_saved_elsewhere(
    tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    folder = saved(tiny_qwen_folder, tmp_path / "adapter", modules_to_save=["merger"])
    names = load_file(folder / "adapter_model.safetensors").keys()
    assert {name.rpartition(".lora_")[0] == "" for name in names if ".visual." in name} == {True}
    assert any(".visual.merger." in name for name in names)
    plain = AutoModelForImageTextToText.from_pretrained(tiny_qwen_folder)
    theirs = adapted(PeftModel.from_pretrained(plain, folder))
    assert len(theirs) == 14
    assert all(name.startswith("model.language_model.layers.") for name in theirs)


def saved(folder: Path, out: Path, **settings: object) -> Path:
    """Save a policy whose adapter has an effect; return the folder."""
    policy = HFVisionLanguagePolicy(str(folder), lora=LoraSettings(rank=4, **settings))
    policy.load()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape) * 0.1)
    policy.save(out)
    return out


VARIANTS: dict[str, dict[str, object]] = {
    "rank stabilised": {"rank_stabilized": True},
    "dora": {"dora": True},
    "both": {"dora": True, "rank_stabilized": True, "modules_to_save": ["lm_head", "norm"]},
    "saved": {"modules_to_save": ["merger", "lm_head"], "target_modules": ["q_proj", "v_proj"]},
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=list(VARIANTS))
def test_variants_are_peft_s_own_and_come_back(
    settings: dict[str, object], tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    folder = saved(tiny_qwen_folder, tmp_path / "adapter", **settings)
    ours = HFVisionLanguagePolicy(
        str(tiny_qwen_folder), lora=LoraSettings(rank=4, **settings), adapter=folder
    )
    ours.load()
    prompts = ours.collator()([random_question(2)])
    tokens, mask = random_completions(ours, 1)
    plain = AutoModelForImageTextToText.from_pretrained(tiny_qwen_folder)
    adapted = PeftModel.from_pretrained(plain, folder, is_trainable=True).eval().double()
    banned = [int(i) for i in torch.isinf(ours.logits(torch.zeros(1, 32)))[0].nonzero()]
    theirs = plain_logprobs(adapted, prompts, tokens[0, mask[0]], banned)
    got = ours.logprobs(prompts, rollouts_of(tokens, mask, 1))[0, mask[0]]
    torch.testing.assert_close(got, theirs, atol=1e-5, rtol=0)

    got.sum().backward()
    theirs.sum().backward()
    wanted = {n: p.grad.float() for n, p in adapted.named_parameters() if p.requires_grad}
    found = {n: p.grad for n, p in ours.model.named_parameters() if p.requires_grad}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(
            found[name], gradient, atol=1e-4 * float(gradient.abs().max()), rtol=1e-3
        )
    kinds = {kind for name in found for kind in ("magnitude", "modules_to_save") if kind in name}
    assert kinds == {
        *(["magnitude"] if settings.get("dora") else []),
        *(["modules_to_save"] if settings.get("modules_to_save") else []),
    }


def test_the_scale_of_rank_stabilised_adapters() -> None:
    for stable, scale in ((False, 12 / 9), (True, 12 / 3)):
        settings = LoraSettings(rank=9, alpha=12, rank_stabilized=stable)
        model = add_adapter(tiny_model(tiny_processor()), settings)
        (found,) = {m.scaling["default"] for m in model.modules() if hasattr(m, "lora_A")}
        assert found == pytest.approx(scale)


def test_dora_begins_as_the_base_and_learns_lengths(tiny_qwen_folder: Path) -> None:
    base = HFVisionLanguagePolicy(str(tiny_qwen_folder))
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2, dora=True))
    base.load()
    policy.load()
    prompts = policy.collator()([random_question(1)])
    read = policy.read(prompts).hidden
    torch.testing.assert_close(read, base.read(prompts).hidden, atol=1e-4, rtol=0)
    name = "model.language_model.layers.0.mlp.up_proj"
    weight = base.network.get_submodule(name).weight
    layer = policy.network.get_submodule(name)
    torch.testing.assert_close(layer.lora_magnitude_vector["default"].weight, weight.norm(dim=1))


def test_an_embedding_tied_to_the_head_is_trained_once(tmp_path: Path) -> None:
    policy = TinyVLM(
        image_size=32,
        hidden_size=32,
        layers=1,
        heads=2,
        lora=LoraSettings(rank=2, modules_to_save=["lm_head"]),
    )
    policy.load()
    assert policy.lora.modules_to_save == ["lm_head"]  # PEFT adds to the list it is given.
    (name,) = [name for name in policy.trainable_state() if "lora_" not in name]
    before = {n: p.detach().clone() for n, p in policy.named_parameters()}
    with torch.no_grad():
        policy.get_parameter("_model." + name).mul_(1.1)
    merged = policy.model.merge_and_unload()
    head, embedding = merged.lm_head.weight, merged.model.language_model.embed_tokens.weight
    assert torch.equal(head, embedding)
    assert torch.equal(head, before["_model." + name] * 1.1)


def test_the_adapter_names_its_base(
    tiny_qwen_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given as a relative path, it is found from anywhere.
    monkeypatch.chdir(tiny_qwen_folder.parent)
    folder = saved(Path(tiny_qwen_folder.name), tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    config = PeftConfig.from_pretrained(folder)
    assert Path(config.base_model_name_or_path) == tiny_qwen_folder
    plain = AutoModelForImageTextToText.from_pretrained(config.base_model_name_or_path)
    PeftModel.from_pretrained(plain, folder)


def test_another_base_of_the_same_shape_is_told(
    tiny_qwen_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = saved(tiny_qwen_folder, tmp_path / "adapter")
    same = HFVisionLanguagePolicy(str(tiny_qwen_folder), adapter=folder)
    same.load()
    assert not caplog.records
    other = write_tiny(tmp_path / "other")
    policy = HFVisionLanguagePolicy(str(other), adapter=folder)
    policy.load()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"trained on '{tiny_qwen_folder}' and is put on '{other}'" in record.getMessage()
    policy.save(tmp_path / "again")
    assert PeftConfig.from_pretrained(tmp_path / "again").base_model_name_or_path == str(other)


def test_a_loaded_adapter_stays_as_it_is_in_frozen_parts(
    tiny_qwen_folder: Path, tmp_path: Path
) -> None:
    folder = saved(tiny_qwen_folder, tmp_path / "adapter", modules_to_save=["merger"])
    freeze = ("vision_tower", "projector")
    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), adapter=folder, freeze=freeze)
    policy.load()
    assert policy.trainable_state()
    assert not any(".visual." in name for name in policy.trainable_state())
    policy.save(tmp_path / "again")
    first, second = (
        load_file(path / "adapter_model.safetensors") for path in (folder, tmp_path / "again")
    )
    assert first.keys() == second.keys()
    assert any("visual" in name for name in second)

    text_only = saved(tiny_qwen_folder, tmp_path / "text", target_modules=["q_proj"])
    with pytest.raises(ConfigError, match="adapts frozen groups only"):
        HFVisionLanguagePolicy(
            str(tiny_qwen_folder), adapter=text_only, freeze=("language_model",)
        ).load()


def test_adapter_folder_must_fit(tiny_qwen_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no adapter_config\.json"):
        load_adapter(tiny_model(tiny_processor()), tmp_path)

    policy = HFVisionLanguagePolicy(str(tiny_qwen_folder), lora=LoraSettings(rank=2))
    policy.load()
    policy.save(tmp_path / "adapter")
    for changed, told in (
        ({"rank": 4}, r"rank 2, alpha 32,.* asks for rank 4, alpha 32,"),
        ({"rank": 2, "dora": True}, r"dora false, but .* and dora true;"),
        ({"rank": 2, "rank_stabilized": True}, r"rank_stabilized false .* rank_stabilized true"),
    ):
        network = tiny_model(tiny_processor())
        with pytest.raises(ConfigError, match=told):
            load_adapter(network, tmp_path / "adapter", LoraSettings(**changed))
    # Their decoders have layers of the same names and shapes.
    other = r"does not fit LlavaFor\w+: it was trained on a Qwen2_5_VLForConditionalGeneration;"
    with pytest.raises(ConfigError, match=other):
        load_adapter(tiny_model(tiny_processor("llava"), "llava"), tmp_path / "adapter")
