"""Pretext tasks: questions whose answers a program can check, made from a picture."""

from spatial_ssrl.tasks.base import TASKS, PretextTask
from spatial_ssrl.tasks.cropped_inpainting import CroppedInpainting
from spatial_ssrl.tasks.depth_order import DepthOrder
from spatial_ssrl.tasks.flipped_patch import FlippedPatch
from spatial_ssrl.tasks.relative_position import RelativePosition
from spatial_ssrl.tasks.shuffled_patches import ShuffledPatches

__all__ = [
    "TASKS",
    "CroppedInpainting",
    "DepthOrder",
    "FlippedPatch",
    "PretextTask",
    "RelativePosition",
    "ShuffledPatches",
]
