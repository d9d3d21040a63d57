"""What a drawn scene consists of, before it is seen by a camera."""

from __future__ import annotations

from dataclasses import dataclass

from spatial_ssrl.images.synthetic.camera import Camera
from spatial_ssrl.images.synthetic.solids import Solid
from spatial_ssrl.images.synthetic.textures import Colour, Material


@dataclass(frozen=True, slots=True)
class Patch:
    """A rectangle painted on a wall, such as a door or a picture.

    Args:
        along: Centre along the wall, in metres.
        height: Centre above the ground, in metres.
        half_width: Half of its width, in metres.
        half_height: Half of its height, in metres.
        colour: Its colour.
        frame: Colour of its border.
    """

    along: float
    height: float
    half_width: float
    half_height: float
    colour: Colour
    frame: Colour


@dataclass(frozen=True, slots=True)
class Wall:
    """An upright plane behind the objects.

    Args:
        normal: Right and forward components of the unit normal that points at the viewer.
        distance: From the camera's axis along the normal, in metres, positive.
        top: Height above the ground, in metres.
        rough: How far the top edge goes up and down, in metres; 0 for a straight edge.
        blob: Length of the ups and downs of the top edge, in metres.
        material: What it is painted with.
        patches: Rectangles on it.
    """

    normal: tuple[float, float]
    distance: float
    top: float
    rough: float
    blob: float
    material: Material
    patches: tuple[Patch, ...] = ()


@dataclass(frozen=True, slots=True)
class Light:
    """The sun or the lamp, the sky or the ceiling, and the air between.

    Args:
        sun: Unit vector towards the sun: right, up, forward.
        strength: Light that falls on a surface facing the sun.
        ambient: Light from everywhere, per colour.
        horizon: Colour of the sky at the horizon and of the haze.
        zenith: Colour of the sky at the top.
        haze: Depth at which 63 % of the light is haze, in metres.
        clouds: Share of the sky's brightness that clouds change, in [0, 1].
        vignette: Share of light lost in the corners, in [0, 1].
    """

    sun: tuple[float, float, float]
    strength: float
    ambient: Colour
    horizon: Colour
    zenith: Colour
    haze: float
    clouds: float
    vignette: float


@dataclass(frozen=True, slots=True)
class Layout:
    """Everything there is in a scene.

    Args:
        camera: Where it is seen from.
        light: What lights it.
        ground: What the ground, at height 0, is painted with.
        walls: Upright planes.
        ceiling: Height of the ceiling in metres, or None under the sky.
        ceiling_material: What the ceiling is painted with.
        solids: Objects.
        phase: Offset of clouds and grain.
    """

    camera: Camera
    light: Light
    ground: Material
    walls: tuple[Wall, ...]
    ceiling: float | None
    ceiling_material: Material
    solids: tuple[Solid, ...]
    phase: float
