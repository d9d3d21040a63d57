"""What a candidate patch looks like by itself: edges, blur, colours, light from above."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from spatial_ssrl.core.errors import ConfigError

Pixels = npt.NDArray[np.uint8]
Vector = npt.NDArray[np.float32]

_SIDE = 64  # candidates are brought to this side, pixels
_DIRECTIONS = 12
_RINGS = 8


class Embedding(Protocol):
    """Turns the candidates of one question into features."""

    def __call__(self, candidates: list[Pixels]) -> Vector:
        """Return features, shape (A, D), of A candidates, each (h, w, 3) uint8."""


def appearance(candidates: list[Pixels]) -> Vector:
    """Describe each candidate by itself.

    Directions of edges are kept apart from their opposites, since light comes from above;
    frequencies are summed in rings, along and across, since blur and squeezing change them.

    Args:
        candidates: Each (h, w, 3), uint8.

    Returns:
        Shape (A, 171), float32, no fixed scale.
    """
    return np.stack([_describe(candidate) for candidate in candidates])


def shrunk(candidate: Pixels, side: int) -> npt.NDArray[np.float32]:
    """Return a candidate at a common size, shape (side, side, 3), range [0, 1]."""
    small = Image.fromarray(np.ascontiguousarray(candidate)).resize(
        (side, side), Image.Resampling.BILINEAR
    )
    return np.asarray(small, dtype=np.float32) / np.float32(255)


def _describe(candidate: Pixels) -> Vector:
    colour = shrunk(candidate, _SIDE)
    grey = colour.mean(axis=2)
    thumbnail = colour.reshape(4, _SIDE // 4, 4, _SIDE // 4, 3).mean(axis=(1, 3))
    parts = [
        thumbnail.ravel(),
        colour.reshape(-1, 3).std(axis=0),
        grey.reshape(8, -1).mean(axis=1),
        grey.reshape(_SIDE, 8, -1).mean(axis=(0, 2)),
        grey.reshape(8, -1).std(axis=1),
        grey.reshape(_SIDE, 8, -1).std(axis=(0, 2)),
        _frame(grey),
        _edges(grey),
        _frequencies(grey),
    ]
    return np.concatenate(parts).astype(np.float32)


def _frame(grey: Vector) -> Vector:
    """Return the darkest and brightest of each outermost row and column, and of the whole."""
    lines = [grey[0], grey[-1], grey[:, 0], grey[:, -1], grey.ravel()]
    return np.array([end for line in lines for end in (line.min(), line.max())], dtype=np.float32)


def _edges(grey: Vector) -> Vector:
    """Return the share of each edge direction in the whole and in quarters, and the strength."""
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)
    turn = (np.arctan2(down, right) / (2 * np.pi) * _DIRECTIONS + 0.5).astype(int) % _DIRECTIONS
    half = _SIDE // 2
    cells = (np.arange(_SIDE)[:, None] // half) * 2 + np.arange(_SIDE)[None, :] // half
    table = np.bincount(
        (cells * _DIRECTIONS + turn).ravel(), strength.ravel(), minlength=4 * _DIRECTIONS
    ).reshape(4, _DIRECTIONS)
    whole = table.sum(axis=0)
    quarters = table / (table.sum(axis=1, keepdims=True) + 1e-3)
    spread = np.log([strength.mean() + 1e-4, (strength**2).mean() + 1e-6])
    parts = [whole / (whole.sum() + 1e-3), quarters.ravel(), spread]
    return np.asarray(np.concatenate(parts), dtype=np.float32)


def _frequencies(grey: Vector) -> Vector:
    """Return the logarithm of the energy in rings of frequency, along and across."""
    window = np.hanning(_SIDE)
    power = np.abs(np.fft.rfft2((grey - grey.mean()) * window[:, None] * window)) ** 2
    down = np.abs(np.fft.fftfreq(_SIDE))[:, None]
    right = np.fft.rfftfreq(_SIDE)[None, :]
    ring = np.minimum((np.hypot(down, right) * 2 * _RINGS).astype(int), _RINGS - 1)
    along = (np.broadcast_to(down, ring.shape) > right).astype(int)
    energy = np.bincount((ring * 2 + along).ravel(), power.ravel(), minlength=2 * _RINGS)
    return np.asarray(np.log(energy + 1e-3), dtype=np.float32)


class TimmEmbedding:
    """Features of a timm model, for candidates that hand-made features do not tell apart.

    Args:
        model: Name of a model in timm; its weights are loaded from the hub or its cache.

    Raises:
        ConfigError: If timm has no such model or its weights cannot be had.
    """

    def __init__(self, model: str) -> None:
        import timm
        import torch

        try:
            self._net = timm.create_model(model, pretrained=True, num_classes=0).eval()
        except Exception as error:  # timm, the hub and the network each raise their own
            raise ConfigError(
                f"features: timm cannot load {model!r} ({' '.join(str(error).split())}); name a "
                "model whose weights are on this machine, or leave features out."
            ) from error
        config: dict[str, Any] = self._net.pretrained_cfg  # type: ignore[assignment]  # a dict
        self._side = int(config["input_size"][-1])
        self._mean = torch.tensor(config["mean"]).view(3, 1, 1)
        self._std = torch.tensor(config["std"]).view(3, 1, 1)

    def __call__(self, candidates: list[Pixels]) -> Vector:
        """Return the pooled features of each candidate, shape (A, D)."""
        import torch

        stacked = np.stack([shrunk(candidate, self._side) for candidate in candidates])
        pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2)
        with torch.inference_mode():
            features = self._net((pixels - self._mean) / self._std)
        return np.asarray(features.float().numpy(), dtype=np.float32)
