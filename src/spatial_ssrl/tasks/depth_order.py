"""Depth order: order marked regions from near to far."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import numpy.typing as npt

from spatial_ssrl.core.errors import ConfigError, SceneRejected
from spatial_ssrl.core.questions import Question, Scene
from spatial_ssrl.tasks import regions
from spatial_ssrl.tasks.apart import draw_apart
from spatial_ssrl.tasks.base import TASKS, PretextTask
from spatial_ssrl.tasks.depth_words import order_explanation, order_prompt, place_in_words
from spatial_ssrl.tasks.markers import draw_marker, marker_radius
from spatial_ssrl.tasks.wording import Wording, check_wording

_GAP = 0.05  # between neighbouring bands of normalised depth
_MOST_GAP = 0.5  # of normalised depth may lie between bands, all gaps together
_DRAWS = 256  # sets of regions tried for markers that do not overlap, before a full search


@TASKS.register("depth_order")
class DepthOrder(PretextTask):
    """Order numbered regions of a picture from the nearest to the farthest.

    Depth is normalised between its 0.5 and 99.5 percentiles and split into one band a region,
    with gaps between them, wide enough that the sensor's noise cannot turn the order. One region
    comes from each band, drawn uniformly from all sets of regions whose markers do not overlap;
    the numbers are dealt at random, so that every order is equally likely.

    `meta`: `regions`, the centres as (row, column) in pixels, in the order of the markers 1, 2,
    ...; `depths`, the depth at each centre in the scene's unit, in the same order.

    Departures from the reference:
        1. A region lies wholly inside its band, so that regions never overlap in depth.
        2. Windows scale with the picture: 25 and 11 pixels of 480 become fractions of its
           shorter side, with at least 5 and 3 pixels.
        3. The gaps grow with the sensor's noise where a scene is shallow for its distance.

    Args:
        count: How many regions, 2 to 6.
        scale: Whether depth is split into bands linearly or by its logarithm.
        window: Side of a region relative to the picture's shorter side.
        fallback_window: The same, for pictures where some band holds no such region.
        variation: Largest range of normalised depth inside a region.
        fallback_variation: The same, for fallback regions.
        noise: Share of a depth by which it may be off, in [0, 0.25]; gaps between bands are at
            least twice that share of the farthest depth.
        wording: Whether questions and worked answers are worded in many ways or one short way.

    References:
        Spatial-SSRL, arXiv:2510.27606, regional depth ordering.
    """

    needs_depth = True

    def __init__(
        self,
        count: int = 3,
        scale: Literal["linear", "log"] = "linear",
        window: float = 25 / 480,
        fallback_window: float = 11 / 480,
        variation: float = 0.15,
        fallback_variation: float = 0.20,
        noise: float = 0.01,
        wording: Wording = "varied",
    ) -> None:
        if not 2 <= count <= 6:
            raise ConfigError(f"count must be from 2 to 6 regions, got {count}.")
        regions.check_noise(noise)
        check_wording(wording)
        self.count = count
        self.scale = scale
        self.window = window
        self.fallback_window = fallback_window
        self.variation = variation
        self.fallback_variation = fallback_variation
        self.noise = noise
        self.wording = wording

    def make(self, scene: Scene, rng: np.random.Generator) -> Question:
        """Mark regions of `scene`; see `PretextTask.make`."""
        depth = regions.known_depth(scene)
        centres = self._pick(depth, rng)
        dealt = rng.permutation(self.count)  # marker m + 1 goes to the region of band dealt[m]
        order = (np.argsort(dealt) + 1).tolist()
        marked = [(int(row), int(column)) for row, column in centres[dealt]]
        picture = scene.image.copy()
        radius = marker_radius(*picture.shape[:2])
        for number, (row, column) in enumerate(marked, start=1):
            draw_marker(picture, number, row, column, radius)
        words = rng if self.wording == "varied" else None
        prompt = order_prompt(self.count, words)
        places = [place_in_words(*place, *depth.shape) for place in marked]
        return Question(
            uid=self.uid(scene, marked),
            task=TASKS.key_of(self),
            images=(picture,),
            prompt=prompt,
            answer=",".join(map(str, order)),
            answer_kind="order",
            chance=1 / math.factorial(self.count),
            explanation=order_explanation(order, places, words),
            meta={"regions": marked, "depths": [float(depth[place]) for place in marked]},
        )

    def _normalise(self, depth: regions.Depth) -> tuple[regions.Depth, float]:
        """Return normalised depth, and what noise needs between two bands of it."""
        if self.scale == "log":
            depth = np.log(depth)
            near, far = regions.depth_range(depth, 0.5, 99.5)
            return regions.normalise(depth, near, far), 2 * self.noise / (far - near)
        near, far = regions.depth_range(depth, 0.5, 99.5)
        return regions.normalise(depth, near, far), 2 * self.noise * far / (far - near)

    def _pick(self, depth: regions.Depth, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return the (row, column) of one region per band, near to far, shape (count, 2)."""
        scaled, least_gap = self._normalise(depth)
        if least_gap * (self.count - 1) > _MOST_GAP:
            raise SceneRejected("depths too close for the sensor's noise")
        bands = depth_bands(self.count, max(_GAP, least_gap))
        height, width = depth.shape
        radius = marker_radius(height, width)
        attempts = (
            (regions.window_side(self.window, height, width), self.variation),
            (regions.window_side(self.fallback_window, height, width, 3), self.fallback_variation),
        )
        reason = ""
        for window, variation in attempts:
            found = regions.steady_regions(scaled, window, variation, margin=radius)
            places = np.stack([found.rows, found.columns], axis=-1)
            groups = [
                np.flatnonzero((found.low >= start) & (found.high <= stop)) for start, stop in bands
            ]
            empty = [band for band, group in enumerate(groups) if not len(group)]
            if empty:
                reason = f"no steady region in {_name(empty[0], self.count)}"
                continue
            chosen = _draw_set([places[group] for group in groups], 2 * radius + 1, rng)
            if chosen is not None:
                return chosen
            reason = "the markers would overlap"
        raise SceneRejected(reason)


def depth_bands(count: int, gap: float = _GAP) -> list[tuple[float, float]]:
    """Split [0, 1] into `count` equal bands with gaps: [0, .30], [.35, .65], [.70, 1] for 3."""
    width = (1 - (count - 1) * gap) / count
    return [(band * (width + gap), band * (width + gap) + width + 1e-6) for band in range(count)]


def _draw_set(
    groups: list[npt.NDArray[np.int64]], distance: int, rng: np.random.Generator
) -> npt.NDArray[np.int64] | None:
    """Draw one place of each group, uniformly from all sets that keep `distance`, if any."""
    # Nearly always some of a few random sets will do, and the first is uniform among those.
    drawn = np.stack([group[rng.integers(len(group), size=_DRAWS)] for group in groups])
    fitting = _keep_apart(drawn, distance)
    if fitting.any():
        return np.asarray(drawn[:, int(fitting.argmax())])
    return draw_apart(groups, distance, rng)


def _keep_apart(places: npt.NDArray[np.int64], distance: float) -> npt.NDArray[np.bool_]:
    """Return which draws keep all centres `distance` apart; places (k, n, 2), result (n,)."""
    first, second = np.triu_indices(len(places), k=1)
    squared = ((places[first] - places[second]) ** 2).sum(axis=-1)
    return np.asarray((squared >= distance**2).all(axis=0))


def _name(band: int, count: int) -> str:
    ends = {0: "the nearest band of depth", count - 1: "the farthest band of depth"}
    return ends.get(band, "a middle band of depth")
