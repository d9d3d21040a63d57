"""Readers of pictures with depth, one for each layout that data sets come in."""

from spatial_ssrl.images.rgbd.base import RGBDFiles
from spatial_ssrl.images.rgbd.diode import DIODE
from spatial_ssrl.images.rgbd.hypersim import Hypersim
from spatial_ssrl.images.rgbd.kitti import KITTIDepth
from spatial_ssrl.images.rgbd.megadepth import MegaDepth
from spatial_ssrl.images.rgbd.nyu_labelled import NYUv2Labelled
from spatial_ssrl.images.rgbd.nyu_pairs import NYUv2Pairs
from spatial_ssrl.images.rgbd.nyu_raw import NYUv2Raw
from spatial_ssrl.images.rgbd.pairs import RGBDPairs
from spatial_ssrl.images.rgbd.pfm_disparity import PFMDisparity
from spatial_ssrl.images.rgbd.scannet import ScanNet
from spatial_ssrl.images.rgbd.sunrgbd import SUNRGBD
from spatial_ssrl.images.rgbd.tum import TUMRGBD

__all__ = [
    "DIODE",
    "SUNRGBD",
    "TUMRGBD",
    "Hypersim",
    "KITTIDepth",
    "MegaDepth",
    "NYUv2Labelled",
    "NYUv2Pairs",
    "NYUv2Raw",
    "PFMDisparity",
    "RGBDFiles",
    "RGBDPairs",
    "ScanNet",
]
