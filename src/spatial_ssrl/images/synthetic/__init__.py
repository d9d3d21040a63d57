"""Drawn scenes with exact depth, from analytic ray casting in numpy."""

from spatial_ssrl.images.synthetic.source import SyntheticScenes

__all__ = ["SyntheticScenes"]
