"""Where pictures come from: folders, image and depth pairs, drawn scenes, and caches of them."""

from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource
from spatial_ssrl.images.synthetic import SyntheticScenes

__all__ = ["IMAGE_SOURCES", "ImageSource", "SyntheticScenes"]
