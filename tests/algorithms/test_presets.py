"""Presets: the same in Python and in YAML, and equal to the libraries they are named after."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser

from spatial_ssrl.algorithms import GRPO, PRESETS, Algorithm, grpo_preset
from spatial_ssrl.core.errors import ConfigError
from support.golden import feedback, loss_and_gradient

FOLDER = Path(__file__).parents[2] / "configs" / "algorithm"


@pytest.mark.parametrize("name", PRESETS)
def test_the_file_builds_the_same(name: str) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--algorithm", type=Algorithm)
    content = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    built = parser.instantiate(parser.parse_object({"algorithm": content})).algorithm
    assert type(built) is GRPO
    assert vars(built) == vars(grpo_preset(name))


def test_every_file_is_a_preset() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PRESETS)


@pytest.mark.parametrize(
    ("name", "loss", "norm"),
    [("verl", -0.14058045, 0.17022661), ("easyr1", -0.15970771, 0.17022661)],
)
def test_a_preset_gives_the_loss_of_its_library(name: str, loss: float, norm: float) -> None:
    value, gradient = loss_and_gradient(grpo_preset(name, kl_coefficient=0.0))
    assert value == pytest.approx(loss, abs=1e-8)
    assert gradient.norm().item() == pytest.approx(norm, abs=1e-8)


def test_the_preset_of_trl_differs_from_its_dapo_row_only_by_the_upper_clip() -> None:
    preset = PRESETS["trl"]
    algorithm = grpo_preset("trl", clip=type(preset["clip"])(low=0.2, high=0.28))
    assert loss_and_gradient(algorithm)[0] == pytest.approx(-0.09819770, abs=1e-8)


def test_a_group_of_one_keeps_its_reward_as_in_verl() -> None:
    grpo_preset("verl").check(1, {})
    rewards = torch.tensor([[0.7], [0.2]], dtype=torch.float64)
    given = feedback(rewards, mask=torch.ones(2, 1, dtype=torch.bool))
    assert torch.allclose(grpo_preset("verl").advantages(given), rewards, atol=1e-6)
    with pytest.raises(ConfigError, match="set group_size to 2 or more"):
        grpo_preset("trl").check(1, {})


def test_changes_win_and_unknown_names_are_told() -> None:
    assert grpo_preset("verl", kl_coefficient=0.5).kl_coefficient == 0.5
    with pytest.raises(ConfigError, match="no preset 'verll'; known: trl, verl"):
        grpo_preset("verll")
