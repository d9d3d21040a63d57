"""Regions of steady depth, found for a whole picture at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Scene

Depth = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Regions:
    """Square windows of steady depth, M of them, in reading order.

    Args:
        rows: Row of each centre, shape (M,), int64, pixels.
        columns: Column of each centre, shape (M,), int64, pixels.
        low: Smallest normalised depth inside each window, shape (M,), float32.
        high: Largest normalised depth inside each window, shape (M,), float32.
    """

    rows: npt.NDArray[np.int64]
    columns: npt.NDArray[np.int64]
    low: Depth
    high: Depth

    def __len__(self) -> int:
        return len(self.rows)


def known_depth(scene: Scene) -> Depth:
    """Return the depth of a scene, NaN where it is unknown, infinite or not above 0.

    Raises:
        SceneRejected: If the scene has no depth, none that is known or above 0, or depth of
            another size than its picture.
    """
    depth = scene.depth
    if depth is None:
        raise SceneRejected("no depth")
    if depth.shape != scene.image.shape[:2]:
        raise SceneRejected("depth and picture differ in size")
    known = np.isfinite(depth)
    if not known.any():
        raise SceneRejected("no known depth")
    known &= depth > 0
    if known.all():
        return depth
    if not known.any():
        raise SceneRejected("no depth above zero")
    return np.where(known, depth, np.float32(np.nan))


def depth_range(depth: Depth, lower: float = 0.0, upper: float = 100.0) -> tuple[float, float]:
    """Return two percentiles of the known depth, in its unit.

    Args:
        depth: Shape (H, W), NaN where unknown.
        lower: Percentile of the nearer end, in [0, 100].
        upper: Percentile of the farther end, in [0, 100].

    Raises:
        SceneRejected: If the two are equal, up to rounding.
    """
    near, far = _percentiles(depth[~np.isnan(depth)], lower, upper)
    if not far - near > 1e-5 * max(abs(near), abs(far)):
        raise SceneRejected("constant depth")
    return near, far


def normalise(depth: Depth, near: float, far: float) -> Depth:
    """Map depth linearly so that `near` becomes 0 and `far` 1, and clip.

    Args:
        depth: Shape (H, W), NaN where unknown.
        near: Depth that becomes 0.
        far: Depth that becomes 1, larger than `near`.

    Returns:
        Shape (H, W), float32, range [0, 1], NaN where unknown.
    """
    scaled = (depth - np.float32(near)) / np.float32(far - near)
    return np.clip(scaled, 0.0, 1.0, out=scaled)


def check_noise(noise: float) -> None:
    """Raise `ConfigError` unless `noise` is a share of depth that leaves an order at all."""
    if not 0 <= noise <= 0.25:
        raise ConfigError(f"noise must be in [0, 0.25], a share of the depth, got {noise}.")


def window_side(fraction: float, height: int, width: int, smallest: int = 5) -> int:
    """Return the odd side of a window in pixels, a fraction of the picture's shorter side.

    Args:
        fraction: Of the shorter side, in (0, 1).
        height: Of the picture, pixels.
        width: Of the picture, pixels.
        smallest: Lower bound in pixels, odd: fewer do not show whether depth is steady.
    """
    return max(smallest, 2 * (round(fraction * min(height, width)) // 2) + 1)


def steady_regions(depth: Depth, window: int, variation: float, margin: int) -> Regions:
    """Find every window that is wholly known and whose depth varies little.

    Args:
        depth: Normalised, shape (H, W), NaN where unknown.
        window: Side of a window, odd, pixels.
        variation: Largest difference of depth inside a window, normalised.
        margin: Least distance of a centre from the edge of the picture, pixels.
    """
    half = window // 2
    low, high = window_extremes(depth, window)
    inset = max(0, margin - half)
    low = low[inset : low.shape[0] - inset, inset : low.shape[1] - inset]
    high = high[inset : high.shape[0] - inset, inset : high.shape[1] - inset]
    # A window with an unknown pixel has NaN extremes, and NaN compares false.
    steady = np.flatnonzero(high - low <= variation)
    rows, columns = np.divmod(steady, max(1, low.shape[1]))
    offset = half + inset
    return Regions(rows + offset, columns + offset, low.ravel()[steady], high.ravel()[steady])


def window_extremes(values: Depth, window: int) -> tuple[Depth, Depth]:
    """Return minimum and maximum of every window, each (H - window + 1, W - window + 1).

    NaN anywhere in a window makes both NaN. The work is logarithmic in the window.

    Raises:
        SceneRejected: If the picture is smaller than the window.
    """
    if min(values.shape) < window:
        raise SceneRejected("the picture is smaller than a region")
    low, high = values, values
    span = 1
    while span < window:
        step = min(span, window - span)
        low = np.minimum(low[:-step], low[step:])
        high = np.maximum(high[:-step], high[step:])
        low = np.minimum(low[:, :-step], low[:, step:])
        high = np.maximum(high[:, :-step], high[:, step:])
        span += step
    return low, high


def _percentiles(values: Depth, lower: float, upper: float) -> tuple[float, float]:
    """Return two percentiles with linear interpolation, without sorting everything."""
    if (lower, upper) == (0.0, 100.0):
        return float(values.min()), float(values.max())
    places = [percent / 100 * (values.size - 1) for percent in (lower, upper)]
    below = [int(place) for place in places]
    above = [min(index + 1, values.size - 1) for index in below]
    ranked = np.partition(values, sorted({*below, *above}))
    near, far = (
        float(ranked[under]) + (place - under) * (float(ranked[over]) - float(ranked[under]))
        for place, under, over in zip(places, below, above, strict=True)
    )
    return near, far
