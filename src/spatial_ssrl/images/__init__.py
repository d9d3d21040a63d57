"""Where pictures come from: folders, image and depth pairs, drawn scenes, and caches of them."""

from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource
from spatial_ssrl.images.cached import CachedScenes
from spatial_ssrl.images.concat import ConcatSources
from spatial_ssrl.images.folder import ImageFolder
from spatial_ssrl.images.rgbd import RGBDPairs
from spatial_ssrl.images.synthetic import SyntheticScenes

__all__ = [
    "IMAGE_SOURCES",
    "CachedScenes",
    "ConcatSources",
    "ImageFolder",
    "ImageSource",
    "RGBDPairs",
    "SyntheticScenes",
]
