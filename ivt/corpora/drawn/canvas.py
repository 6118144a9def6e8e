"""The canvas of the drawn corpus and what people are drawn with: tubes of cloth or skin, colours and their shades.

Body coordinates are (x, y) in body heights: y is 0 at the crown and 1 at the soles, x is 0 on the body's axis and
grows to the right of the picture. People are drawn at `SUPERSAMPLING` times the final size and then reduced.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .people import PARTS

SUPERSAMPLING = 2
NO_FOLD = 128  # brightness of the canvas of folds where there are none
Colour = tuple[int, int, int]
Outline = Sequence[tuple[float, float] | np.ndarray] | np.ndarray  # points (n, 2)
Heights = Sequence[float] | np.ndarray  # numbers (n,)

PALETTE: dict[str, Colour] = {
    "black": (34, 34, 38),
    "white": (232, 232, 228),
    "gray": (132, 134, 138),
    "blue": (44, 82, 172),
    "red": (188, 34, 40),
    "green": (44, 122, 62),
    "yellow": (232, 196, 52),
    "orange": (232, 120, 34),
    "pink": (236, 142, 172),
    "purple": (112, 58, 148),
    "brown": (110, 72, 44),
    "beige": (206, 184, 146),
}
HAIR_PALETTE: dict[str, Colour] = {
    "black": (26, 23, 24),
    "dark brown": (62, 42, 32),
    "brown": (110, 72, 46),
    "blond": (216, 182, 112),
    "gray": (158, 156, 154),
    "red": (158, 72, 34),
}
SKIN_PALETTE: tuple[Colour, ...] = (
    (242, 208, 184),
    (232, 190, 160),
    (216, 168, 134),
    (184, 132, 98),
    (136, 92, 66),
    (92, 62, 48),
)
WHITE: Colour = (236, 236, 232)
DARK: Colour = (28, 28, 31)
METAL: Colour = (176, 172, 160)


def scaled(colour: Colour, factor: float) -> Colour:
    """A colour made darker (factor < 1) or lighter."""
    red, green, blue = (max(0, min(255, round(c * factor))) for c in colour)
    return red, green, blue


def mixed(colour: Colour, other: Colour, share: float) -> Colour:
    """The mixture that holds `share` (0 … 1) of the other colour."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(colour, other, strict=True))
    return red, green, blue


def shade_of(name: str, key: str, palette: dict[str, Colour] = PALETTE) -> Colour:
    """The shade of a named colour that belongs to `key`: the same key always has the same shade."""
    rng = random.Random(f"shade {key} {name}")
    light = rng.uniform(0.87, 1.12)
    red, green, blue = (max(0, min(255, round(c * light + rng.uniform(-7, 7)))) for c in palette[name])
    return red, green, blue


def _smooth(values: np.ndarray, rounds: int) -> np.ndarray:
    """Round off the corners of a polyline, its ends stay."""
    for _ in range(rounds):
        values[1:-1] = (values[:-2] + 2 * values[1:-1] + values[2:]) / 4
    return values


class Tube:
    """A band of cloth or skin between two edges, on which u runs across (-1 left … 1 right) and v along (0 … 1)."""

    def __init__(self, left: np.ndarray, right: np.ndarray):
        self.left, self.right = left, right  # (n, 2) each
        self._edges = np.concatenate([left, right], axis=1)  # (n, 4)

    @property
    def length(self) -> float:
        """Length of the middle line."""
        middle = (self.left + self.right) / 2
        return float(np.hypot(*(middle[1:] - middle[:-1]).T).sum())

    @property
    def width(self) -> float:
        """Mean distance between the edges."""
        return float(np.hypot(*(self.right - self.left).T).mean())

    @classmethod
    def limb(cls, joints: Outline, widths: list[float], samples: int = 15, rounds: int = 1) -> "Tube":
        """A limb through joints [(x, y), …] with half-widths evenly spread along it."""
        joints = np.asarray(joints, float)
        ends = np.concatenate([[0.0], np.cumsum(np.hypot(*(joints[1:] - joints[:-1]).T))])
        at = np.linspace(0.0, ends[-1], samples)
        centre = np.stack([np.interp(at, ends, joints[:, 0]), np.interp(at, ends, joints[:, 1])], axis=1)
        centre = _smooth(centre, rounds)
        along = np.gradient(centre, axis=0)
        along /= np.hypot(along[:, 0], along[:, 1])[:, None] + 1e-9
        half = _smooth(np.interp(at, np.linspace(0.0, ends[-1], len(widths)), widths), 1)[:, None]
        across = np.stack([-along[:, 1], along[:, 0]], axis=1) * half
        return cls(centre + across, centre - across)

    @classmethod
    def trunk(cls, y: Heights, left: Heights, right: Heights, samples: int = 20) -> "Tube":
        """An upright tube given by its left and right x at heights y."""
        at = np.linspace(y[0], y[-1], samples)
        edges = [np.stack([_smooth(np.interp(at, y, x), 1), at], axis=1) for x in (left, right)]
        return cls(*edges)

    def at(self, u: float | np.ndarray, v: float | np.ndarray) -> np.ndarray:
        """Points (…, 2) at the given places."""
        step = np.clip(v, 0.0, 1.0) * (len(self._edges) - 1)
        below = np.minimum(step.astype(np.intp), len(self._edges) - 2)
        edges = self._edges[below]
        edges = edges + (self._edges[below + 1] - edges) * (step - below)[..., None]
        share = (np.asarray(u)[..., None] + 1) / 2
        return edges[..., :2] * (1 - share) + edges[..., 2:] * share

    def outline(self) -> np.ndarray:
        """The closed outline (n, 2)."""
        return np.concatenate([self.left, self.right[::-1]])

    def band(self, v0: float, v1: float, u0: float = -1.0, u1: float = 1.0) -> np.ndarray:
        """The outline of the piece between two v and two u."""
        v = np.linspace(v0, v1, max(2, round(abs(v1 - v0) * 12)))
        return np.concatenate([self.at(u0, v), self.at(u1, v[::-1])])

    def cut(self, v0: float, v1: float, u0: float = -1.0, u1: float = 1.0) -> "Tube":
        """The piece between two v and two u."""
        v = np.linspace(v0, v1, 12)
        return Tube(self.at(u0, v), self.at(u1, v))


@dataclass(frozen=True)
class Frame:
    """How body coordinates come into the picture (pixels of the final size).

    `pitch` > 0 looks from above (upper body larger), `lean` tilts the picture, `mirror` is -1 to look to the left.
    """

    width: int
    height: int
    centre: float
    top: float
    scale: float
    pitch: float = 0.0
    lean: float = 0.0
    mirror: int = 1

    def to_pixels(self, points: Outline) -> np.ndarray:
        """Map body coordinates (…, 2) to pixels."""
        points = np.asarray(points, float)
        x, y = points[..., 0], points[..., 1]
        pixels = np.empty(points.shape)
        pixels[..., 0] = self.centre + self.scale * (x * self.mirror + self.lean * (y - 0.5))
        pixels[..., 1] = self.top + self.scale * (y + self.pitch * y * (1 - y))
        return pixels


class Canvas:
    """Draws shapes to the colours, the layers (which shape is on top, hence the part map) and the folds at once."""

    def __init__(self, background: Image.Image, frame: Frame):
        size = (frame.width * SUPERSAMPLING, frame.height * SUPERSAMPLING)
        self.frame = frame
        self.colours = background.resize(size, Image.Resampling.NEAREST)
        self.layers = Image.new("L", size)
        self.folds = Image.new("L", size, NO_FOLD)
        self._pens = [ImageDraw.Draw(image) for image in (self.colours, self.layers, self.folds)]
        self.part_of_layer = [0]

    def _pixels(self, points: Outline) -> list[float]:
        return (self.frame.to_pixels(points) * SUPERSAMPLING).ravel().tolist()

    def _thick(self, width: float) -> int:
        return max(1, round(width * self.frame.scale * SUPERSAMPLING))

    def shape(self, points: Outline, colour: Colour, part: str | None = None, joined: bool = False) -> None:
        """Draw a filled polygon of a part; `joined` goes on with the shape before, without an edge between them."""
        if not joined:
            self.part_of_layer.append(PARTS.index(part) + 1 if part else 0)
        pixels = self._pixels(points)
        for pen, fill in zip(self._pens, (colour, len(self.part_of_layer) - 1, NO_FOLD), strict=True):
            pen.polygon(pixels, fill=fill)

    def paint(self, points: Outline, colour: Colour) -> None:
        """Colour a polygon of what is there already."""
        self._pens[0].polygon(self._pixels(points), fill=colour)

    def line(self, points: Outline, colour: Colour, width: float) -> None:
        """Colour a line (width in body heights) on what is there already."""
        self._pens[0].line(self._pixels(points), fill=colour, width=self._thick(width), joint="curve")

    def fold(self, points: Outline, depth: float, width: float = 0.008) -> None:
        """Darken (depth > 0) or lighten a soft line on what is there already."""
        fill = round(NO_FOLD - 100 * depth)
        self._pens[2].line(self._pixels(points), fill=fill, width=self._thick(width), joint="curve")


_ANGLES = np.linspace(0, 2 * np.pi, 20)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)


def ellipse(x: float, y: float, wide: float, high: float) -> np.ndarray:
    """The outline of an ellipse with half axes `wide` and `high`."""
    return _CIRCLE * (wide, high) + (x, y)


def box(x: float, y: float, wide: float, high: float) -> np.ndarray:
    """The outline of a box with half sides `wide` and `high`."""
    return np.array([(x - wide, y - high), (x + wide, y - high), (x + wide, y + high), (x - wide, y + high)])


def both_sides(half: Outline) -> np.ndarray:
    """The closed outline of a shape that is the same on both sides of the body's axis, from its half."""
    half = np.asarray(half)
    return np.concatenate([half, half[::-1] * (-1, 1)])
