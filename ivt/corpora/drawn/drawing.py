"""Draws the pictures of the drawn corpus: `draw_sighting` turns a person and a sighting into a picture.

Bodies are in `figures.py`, what they wear and hold in `garments.py`, `heads.py` and `belongings.py`, backgrounds and
cameras in `scenes.py`. Everything is a function of the person and of `Sighting`, whatever was drawn before. Sizes of
pictures are (width, height) as in Pillow, arrays are (height, width).
"""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from .belongings import draw_bag_behind, draw_carried, draw_hand_bag, draw_hip_bag, draw_straps
from .canvas import NO_FOLD, SUPERSAMPLING, Canvas, Frame, Tube, scaled
from .figures import Figure
from .garments import (
    draw_boot_shaft,
    draw_hips,
    draw_scarf,
    draw_shoe,
    draw_skirt,
    draw_sleeve,
    draw_trouser_leg,
    draw_upper,
)
from .heads import draw_hair_behind, draw_head, draw_neck
from .people import PARTS, Person, Sighting
from .scenes import CAMERAS, develop, draw_scene, noise

DRAWING_VERSION = 4  # raise it whenever pictures change: it is part of the cache key of the corpus


@dataclass(frozen=True)
class Picture:
    """One crop of a person.

    Attributes:
        image: RGB.
        part_map: mode L, same size: i + 1 where `people.PARTS[i]` is the topmost visible part, 0 elsewhere.
        boxes: (left, top, right, bottom) of the visible pixels of each part, right and bottom exclusive.
    """

    image: Image.Image
    part_map: Image.Image
    boxes: dict[str, tuple[int, int, int, int]]


def _draw_legs(f: Figure) -> None:
    wears_skirt = f.person.lower.kind in ("skirt", "dress")
    for side in f.sides():
        is_far = f.view == "side" and side == f.far
        f.canvas.shape(f.leg(side).outline(), scaled(f.skin, 0.9 if is_far else 1.0))
        draw_shoe(f, side)
        if not wears_skirt:
            draw_trouser_leg(f, side)
        if f.person.shoes.kind == "boots":
            draw_boot_shaft(f, side)
    if wears_skirt:
        draw_skirt(f)
    else:
        draw_hips(f)


def _draw_arm(f: Figure, side: str) -> None:
    """An arm with its sleeve and hand, and what the hand holds."""
    shadow = 0.86 if f.view == "side" and side == f.far else 1.0
    skin = scaled(f.skin, shadow)
    f.canvas.shape(f.arm(side).outline(), skin)
    wrist, along = np.array(f.arms[side][2]), f.forearm_direction(side)
    hand = Tube.limb([wrist - 0.010 * along, wrist + 0.022 * along, wrist + 0.050 * along], [0.014, 0.019, 0.010], 8)
    f.canvas.shape(hand.outline(), skin, joined=True)
    if f.person.upper.length != "none":
        draw_sleeve(f, side, shadow)
    draw_carried(f, side)
    draw_hand_bag(f, side)


def _draw_figure(f: Figure) -> None:
    """The whole person, from what is furthest to what is nearest."""
    far, near = f.sides()
    if f.view == "side":
        behind, before = [far], [near]
    else:  # bent arms are in front of the trunk, so from the back behind it
        behind = [side for side in (far, near) if f.view == "back" and f.bend(side) > 0.5]
        before = [side for side in (far, near) if side not in behind]
    draw_bag_behind(f)
    draw_hair_behind(f)
    for side in behind:
        _draw_arm(f, side)
    _draw_legs(f)
    draw_upper(f)
    if f.view == "side":
        draw_straps(f)
    for side in before:
        _draw_arm(f, side)
    if f.view != "side":
        draw_straps(f)
    draw_hip_bag(f)
    draw_neck(f)
    if f.person.scarf:
        draw_scarf(f, f.person.scarf)
    draw_head(f)


def _relief(layers: np.ndarray, light: float) -> np.ndarray:
    """Brightness (H, W) that rounds every layer like a cylinder lit from one side (light < 0: left) and from above.

    A pixel is the brighter the further its layer goes on away from the light, and the darker the nearer its edges.
    """
    right, left, above = (np.zeros(layers.shape, np.int8) for _ in range(3))
    reach = (1, 2, 3, 4, 6, 8, 11)  # pixels
    for d in reach:
        same = (layers[:, d:] == layers[:, :-d]).view(np.int8)
        right[:, :-d] += same
        left[:, d:] += same
    for d in (1, 2, 4):
        other = (layers[d:] != layers[:-d]).view(np.int8)
        above[d:] += other
        above[:-d] -= other
    shade = 1 + (right - left) * np.float32(-0.20 * light / len(reach)) + above * np.float32(0.035)
    return shade + (right + left - 2 * len(reach)) * np.float32(0.17 / len(reach))


def _shade(canvas: Canvas, layers: np.ndarray, light: float, rng: random.Random) -> np.ndarray:
    """Brightness (H, W) of the person: relief, folds, weave and the light falling across the body; 1 elsewhere."""
    frame = canvas.frame
    folds = canvas.folds.reduce(SUPERSAMPLING).filter(ImageFilter.BoxBlur(1))
    across = (np.arange(frame.width, dtype=np.float32) - frame.centre) / (0.13 * frame.scale)
    cloth = 1 + (np.asarray(folds, np.float32) - NO_FOLD) / 90 + 0.018 * noise(layers.shape, 7, rng)
    cloth += 0.10 * light * np.clip(across, -1, 1)
    return np.where(layers > 0, _relief(layers, light) * cloth, 1)


def _frame(person: Person, sighting: Sighting, rng: random.Random) -> Frame:
    """Size of the crop and where the person stands in it."""
    camera = CAMERAS[sighting.camera]
    mirror = -1 if sighting.facing == "left" else 1
    is_side = sighting.facing in ("left", "right")
    strides = is_side and sighting.pose == "walking"
    height = rng.randrange(224, 289)
    width = round(height / (rng.uniform(2.15, 2.5) if strides else rng.uniform(2.5, 3.0)))
    scale = height * (0.895 + 0.3 * (person.height - 1.0)) * rng.uniform(0.975, 1.015)
    top = (height - scale) * rng.uniform(0.45, 0.62)
    # room for what is held in front or worn on the back, and for the foot behind
    ahead = is_side * ((person.carried is not None) - (person.bag is not None and person.bag.kind == "backpack"))
    centre = width * (rng.uniform(0.46, 0.54) - (0.07 * ahead - 0.04 * strides) * mirror)
    pitch, lean = camera.pitch + rng.uniform(-0.02, 0.02), camera.lean + rng.uniform(-0.015, 0.015)
    return Frame(width, height, centre, top, scale, pitch, lean, mirror)


def _cast_shadow(scene: Image.Image, frame: Frame, light: float) -> Image.Image:
    """Darken the ground under the feet, away from the light."""
    x = (np.arange(frame.width, dtype=np.float32) - frame.centre + 10 * light) / (0.19 * frame.scale)
    y = (np.arange(frame.height, dtype=np.float32) - frame.top - 0.992 * frame.scale) / (0.030 * frame.scale)
    dark = 1 - np.float32(0.55) * np.exp(-y * y)[:, None] * np.exp(-x * x)
    return Image.fromarray((np.asarray(scene) * dark[..., None]).astype(np.uint8))


def _boxes(part_map: np.ndarray) -> dict[str, tuple[int, int, int, int]]:
    boxes = {}
    for value, part in enumerate(PARTS, start=1):
        mask = part_map == value
        columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
        if len(rows):
            boxes[part] = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    return boxes


def draw_sighting(person: Person, sighting: Sighting) -> Picture:
    """Draw one picture of a person; the same arguments always give the same bytes."""
    rng = random.Random(sighting.seed)
    camera = CAMERAS[sighting.camera]
    frame = _frame(person, sighting, rng)
    scene = draw_scene(camera, (frame.width, frame.height), rng)
    canvas = Canvas(_cast_shadow(scene, frame, camera.light), frame)
    _draw_figure(Figure(canvas, person, sighting, rng))

    layers = np.asarray(canvas.layers)[::SUPERSAMPLING, ::SUPERSAMPLING]
    shade = _shade(canvas, layers, camera.light, rng)
    clean = np.asarray(canvas.colours.reduce(SUPERSAMPLING), np.float32) * shade[..., None]
    part_map = np.array(canvas.part_of_layer, np.uint8)[layers]
    return Picture(develop(clean, camera, rng), Image.fromarray(part_map), _boxes(part_map))
