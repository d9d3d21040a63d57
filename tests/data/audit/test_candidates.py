"""What guessers are told of candidate patches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from spatial_ssrl.core.errors import ConfigError
from spatial_ssrl.data.audit.candidates import TimmEmbedding, appearance
from spatial_ssrl.data.audit.relations import feature_sets, relations


def smooth(seed: int, side: int = 96) -> np.ndarray:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    return np.array(small.resize((side, side), Image.Resampling.BICUBIC))


def crop(image: np.ndarray, top: int, left: int, side: int, to: int = 48) -> np.ndarray:
    part = Image.fromarray(image[top : top + side, left : left + side])
    return np.array(part.resize((to, to), Image.Resampling.BICUBIC))


def test_appearance_tells_upright_from_turned_and_sharp_from_blurred() -> None:
    lit = np.repeat(np.linspace(255, 0, 48).astype(np.uint8)[:, None, None], 48, axis=1)
    lit = np.repeat(lit, 3, axis=2)
    patch = smooth(0, 48)
    blurred = np.array(Image.fromarray(patch).resize((8, 8)).resize((48, 48)))
    table = appearance([lit, np.rot90(lit, 2), patch, blurred])
    assert table.shape == (4, 171)
    assert table.dtype == np.float32
    assert np.isfinite(table).all()
    assert np.abs(table[0] - table[1]).max() > 0.5
    assert np.abs(table[2] - table[3]).max() > 0.5


def test_appearance_of_odd_candidates_is_finite() -> None:
    odd = [np.zeros((1, 1, 3), np.uint8), np.full((9, 200, 3), 255, np.uint8)]
    assert np.isfinite(appearance(odd)).all()
    assert np.isfinite(relations(odd)).all()


def part_columns(table: np.ndarray, size: int, turn: int) -> tuple[np.ndarray, np.ndarray]:
    """Return best likeness as the surroundings and as the part, (A,) each."""
    best = table[:, :48].reshape(len(table), 2, 6, 4)
    return best[:, 0, size, turn], best[:, 1, size, turn]


def test_a_zoomed_candidate_is_found_in_its_surroundings() -> None:
    image = smooth(1)
    whole, middle, elsewhere = crop(image, 0, 0, 64), crop(image, 16, 16, 32), smooth(9, 48)
    table = relations([whole, middle, elsewhere])
    assert table.shape == (3, 102)
    around, within = part_columns(table, size=2, turn=0)  # half the side, upright
    assert around[0] > 0.9
    assert within[1] > 0.9
    assert max(around[2], within[2]) < 0.9


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_turned_candidate_is_found(turns: int) -> None:
    patch = smooth(2, 48)
    table = relations([patch, np.rot90(patch, turns), smooth(5, 48)])
    around, _ = part_columns(table, size=5, turn=(4 - turns) % 4)  # the whole side
    assert around[0] > 0.95, "turned back, the second is the first"
    upright, _ = part_columns(table, size=5, turn=0)
    assert upright[0] < 0.9


def test_neighbours_overlap() -> None:
    image = smooth(3)
    table = relations([crop(image, 0, 0, 48), crop(image, 0, 24, 48), smooth(7, 48)])
    likeness, overlap = table[:, 96 + 1], table[:, 96 + 4]
    assert likeness[0] > 0.95
    assert overlap[0] == pytest.approx(0.5, abs=0.05)
    assert likeness[2] < 0.95


def test_features_of_a_model_are_one_more_set(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    assert list(feature_sets()) == ["candidates", "candidates and their relations"]
    create = timm.create_model
    asked = {}

    def without_weights(name: str, pretrained: bool, **settings: Any) -> Any:
        asked[name] = pretrained
        return create(name, pretrained=False, **settings)

    monkeypatch.setattr(timm, "create_model", without_weights)
    embed = feature_sets("test_vit")["candidates, test_vit"]
    assert asked == {"test_vit": True}
    one, other = embed([smooth(0), smooth(1)])
    assert one.shape == other.shape
    assert not np.array_equal(one, other)
    assert np.allclose(one, embed([smooth(0)])[0], atol=1e-5)


def test_a_model_that_cannot_be_had_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="features: timm cannot load 'no_such_model'"):
        TimmEmbedding("no_such_model")
