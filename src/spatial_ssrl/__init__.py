"""Spatial-SSRL: self-supervised reinforcement learning of spatial understanding."""

__version__ = "0.1.0"
