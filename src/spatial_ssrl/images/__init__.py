"""Where pictures come from: folders, image and depth pairs, drawn scenes, and caches of them."""

from spatial_ssrl.images.base import IMAGE_SOURCES, ImageSource
from spatial_ssrl.images.cached import CachedScenes
from spatial_ssrl.images.coco import CocoImages
from spatial_ssrl.images.concat import ConcatSources
from spatial_ssrl.images.folder import ImageFolder
from spatial_ssrl.images.hub import HubImages
from spatial_ssrl.images.hub_rows import HubColumns, PictureFit
from spatial_ssrl.images.rgbd import (
    DIODE,
    SUNRGBD,
    TUMRGBD,
    Hypersim,
    KITTIDepth,
    MegaDepth,
    NYUv2Labelled,
    NYUv2Pairs,
    NYUv2Raw,
    PFMDisparity,
    RGBDPairs,
    ScanNet,
)
from spatial_ssrl.images.synthetic import SyntheticScenes

__all__ = [
    "DIODE",
    "IMAGE_SOURCES",
    "SUNRGBD",
    "TUMRGBD",
    "CachedScenes",
    "CocoImages",
    "ConcatSources",
    "HubColumns",
    "HubImages",
    "Hypersim",
    "ImageFolder",
    "ImageSource",
    "KITTIDepth",
    "MegaDepth",
    "NYUv2Labelled",
    "NYUv2Pairs",
    "NYUv2Raw",
    "PFMDisparity",
    "PictureFit",
    "RGBDPairs",
    "ScanNet",
    "SyntheticScenes",
]
