"""Backgrounds and cameras of the drawn corpus.

Six cameras, each with its own scene, light, colour cast, contrast, blur, noise and viewing angle. `draw_scene` gives
what stands behind a person, `develop` turns a clean drawing into what the camera records. All images are RGB, arrays
are (height, width, channel).
"""

import functools
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Camera:
    """The character of a camera.

    Attributes:
        scene: where it hangs.
        gain: exposure of red, green and blue.
        contrast: about middle gray.
        lift: what black becomes (0 … 255).
        blur: radius in pixels.
        noise: standard deviation of 255.
        light: side the light comes from and its strength, -1 (left) … 1 (right).
        pitch: looking down, 0 … 0.2.
        lean: tilt of the picture.
        sharpness: share of the resolution that is kept.
    """

    scene: str
    gain: tuple[float, float, float]
    contrast: float
    lift: float
    blur: float
    noise: float
    light: float
    pitch: float
    lean: float
    sharpness: float = 1.0


CAMERAS = (
    Camera("street", (1.02, 1.00, 0.96), 1.08, 2, 0.5, 5, -0.9, 0.05, 0.00),
    Camera("lawn", (0.99, 1.04, 0.92), 1.00, 6, 0.8, 7, 0.8, 0.12, 0.02),
    Camera("shop", (1.12, 1.02, 0.82), 0.95, 12, 0.6, 8, -0.4, 0.10, -0.02),
    Camera("plaza", (0.92, 1.00, 1.14), 0.90, 24, 1.0, 6, 0.6, 0.08, 0.01),
    Camera("corridor", (0.84, 0.88, 0.85), 1.05, 6, 0.5, 10, 0.3, 0.15, 0.00, 0.75),
    Camera("car park", (1.06, 0.97, 1.02), 1.14, 0, 1.0, 9, -0.7, 0.03, -0.01, 0.6),
)

CLUTTER_COLOURS: tuple[Colour, ...] = (
    (190, 50, 45), (45, 85, 160), (230, 200, 70), (235, 235, 232), (40, 40, 44), (60, 125, 75),
    (150, 150, 152), (225, 130, 50), (120, 80, 55), (205, 190, 160), (120, 70, 140),
)  # fmt: skip
GROUND: dict[str, Colour] = {
    "street": (128, 128, 130),
    "lawn": (96, 132, 74),
    "shop": (188, 174, 156),
    "plaza": (176, 168, 160),
    "corridor": (150, 148, 142),
    "car park": (112, 112, 118),
}
WALL: dict[str, tuple[Colour, ...]] = {
    "street": ((168, 150, 136), (140, 96, 80), (176, 172, 166)),
    "lawn": ((92, 118, 84), (118, 134, 120), (74, 104, 66)),
    "shop": ((214, 204, 188), (196, 180, 166), (180, 190, 196)),
    "plaza": ((190, 190, 196), (164, 176, 190), (204, 196, 184)),
    "corridor": ((186, 188, 184), (164, 172, 176), (198, 190, 172)),
    "car park": ((140, 140, 142), (112, 118, 122), (160, 154, 148)),
}


@functools.cache
def _noise_tile(size: int, grain: int) -> np.ndarray:
    """A tile (size, size) of smooth noise with unit spread, its features about `grain` pixels wide."""
    rng = np.random.Generator(np.random.PCG64(1000 * size + grain))
    values = rng.standard_normal((size // grain + 2, size // grain + 2)).astype(np.float32)
    if grain > 1:
        image = Image.fromarray(values).resize((size, size), Image.Resampling.BICUBIC)
        values = np.asarray(image)
    values = values[:size, :size]
    return (values - values.mean()) / values.std()


def noise(shape: tuple[int, int], grain: int, rng: random.Random) -> np.ndarray:
    """A random piece (height, width) of smooth noise with unit spread."""
    tile = _noise_tile(512, grain)
    top, left = rng.randrange(512 - shape[0]), rng.randrange(512 - shape[1])
    return tile[top : top + shape[0], left : left + shape[1]]


def _vary(colour: Colour, rng: random.Random, by: float = 16) -> Colour:
    light = rng.uniform(-by, by)
    red, green, blue = (max(0, min(255, round(c + light + rng.uniform(-by, by) / 2))) for c in colour)
    return red, green, blue


def _draw_tree(pen: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: random.Random) -> None:
    trunk = _vary((92, 72, 54), rng)
    pen.rectangle((x - size * 0.06, base - size * 0.8, x + size * 0.06, base), fill=trunk)
    leaves = _vary((64, 104, 52), rng, 22)
    for _ in range(9):
        cx, cy, r = (
            x + rng.uniform(-0.4, 0.4) * size,
            base - size * rng.uniform(0.7, 1.3),
            size * rng.uniform(0.16, 0.3),
        )
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=_vary(leaves, rng, 14))


def _draw_car(pen: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: random.Random) -> None:
    body = _vary(rng.choice(CLUTTER_COLOURS), rng)
    high = size * 0.42
    pen.rounded_rectangle((x - size / 2, base - high * 0.72, x + size / 2, base - high * 0.12), high * 0.16, fill=body)
    roof = [(x - size * 0.34, base - high * 0.7), (x - size * 0.22, base - high), (x + size * 0.2, base - high)]
    pen.polygon([*roof, (x + size * 0.34, base - high * 0.7)], fill=body)
    glass = [(x - size * 0.27, base - high * 0.71), (x - size * 0.19, base - high * 0.94)]
    pen.polygon(
        [*glass, (x + size * 0.17, base - high * 0.94), (x + size * 0.27, base - high * 0.71)], fill=(70, 82, 92)
    )
    for wheel in (-0.3, 0.3):
        r = size * 0.085
        pen.ellipse((x + wheel * size - r, base - 2 * r, x + wheel * size + r, base), fill=(30, 30, 32))
    pen.rectangle((x + size * 0.44, base - high * 0.55, x + size * 0.5, base - high * 0.45), fill=(240, 230, 190))


def _draw_passer_by(pen: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: random.Random) -> None:
    upper, lower = (_vary(rng.choice(CLUTTER_COLOURS), rng) for _ in range(2))
    step = size * rng.uniform(0.02, 0.09)
    for side in (-1, 1):
        hip, foot = x + side * size * 0.04, x + side * (step + size * 0.03)
        pen.line((hip, base - size * 0.5, foot, base), fill=lower, width=max(1, round(size * 0.075)))
        hand = x + side * size * 0.13
        pen.line(
            (x + side * size * 0.1, base - size * 0.8, hand, base - size * 0.46),
            fill=upper,
            width=max(1, round(size * 0.055)),
        )
    pen.rounded_rectangle(
        (x - size * 0.11, base - size * 0.84, x + size * 0.11, base - size * 0.46), size * 0.05, fill=upper
    )
    head = size * 0.06
    pen.ellipse((x - head, base - size, x + head, base - size * 0.85), fill=_vary((196, 156, 128), rng, 30))
    pen.chord((x - head, base - size, x + head, base - size * 0.86), 180, 360, fill=_vary((60, 46, 38), rng))


def _draw_post(pen: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: random.Random) -> None:
    grey = _vary((110, 112, 116), rng, 24)
    pen.rectangle((x - size * 0.025, 0 if rng.random() < 0.5 else base - size, x + size * 0.025, base), fill=grey)


def _draw_sign(pen: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: random.Random) -> None:
    wide, high = size * rng.uniform(0.2, 0.45), size * rng.uniform(0.15, 0.35)
    top = base - size * rng.uniform(0.8, 1.3)
    plate = _vary(rng.choice(CLUTTER_COLOURS), rng)
    pen.rectangle((x - wide / 2, top, x + wide / 2, top + high), fill=plate)
    for line in (0.3, 0.6):
        y = top + high * line
        pen.line(
            (x - wide * 0.35, y, x + wide * 0.35, y),
            fill=_vary((235, 235, 230) if sum(plate) < 400 else (50, 50, 54), rng),
            width=2,
        )


def _draw_door(pen: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: random.Random) -> None:
    wide = size * rng.uniform(0.45, 0.6)
    frame = _vary((120, 104, 90), rng, 40)
    pen.rectangle((x - wide / 2, base - size * 1.25, x + wide / 2, base), fill=frame)
    glass = _vary((84, 98, 108), rng, 30)
    pen.rectangle((x - wide * 0.38, base - size * 1.15, x - wide * 0.04, base - size * 0.1), fill=glass)
    pen.rectangle((x + wide * 0.04, base - size * 1.15, x + wide * 0.38, base - size * 0.1), fill=_vary(glass, rng))


def _draw_shelf(pen: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: random.Random) -> None:
    wide = size * 0.9
    pen.rectangle((x - wide / 2, base - size * 1.2, x + wide / 2, base), fill=_vary((120, 110, 100), rng))
    for row in range(5):
        y = base - size * (1.16 - row * 0.24)
        for column in range(7):
            left = x - wide * 0.46 + column * wide * 0.132
            pen.rectangle(
                (left, y + size * 0.04, left + wide * 0.11, y + size * 0.18),
                fill=_vary(rng.choice(CLUTTER_COLOURS), rng),
            )


def _draw_bench(pen: ImageDraw.ImageDraw, x: float, base: float, size: float, rng: random.Random) -> None:
    wood = _vary((128, 92, 60), rng)
    for y in (0.34, 0.26, 0.18):
        pen.rectangle((x - size * 0.4, base - size * y, x + size * 0.4, base - size * (y - 0.05)), fill=wood)
    for leg in (-0.34, 0.34):
        pen.rectangle((x + leg * size - 2, base - size * 0.3, x + leg * size + 2, base), fill=(50, 50, 52))


# what may stand in a scene: drawing function and weight
CLUTTER = {
    "street": (
        (_draw_car, 3),
        (_draw_tree, 2),
        (_draw_post, 2),
        (_draw_sign, 2),
        (_draw_passer_by, 3),
        (_draw_door, 2),
    ),
    "lawn": ((_draw_tree, 5), (_draw_bench, 2), (_draw_passer_by, 2), (_draw_post, 1)),
    "shop": ((_draw_shelf, 4), (_draw_sign, 3), (_draw_door, 1), (_draw_passer_by, 2)),
    "plaza": ((_draw_passer_by, 4), (_draw_door, 2), (_draw_tree, 1), (_draw_sign, 2), (_draw_bench, 1)),
    "corridor": ((_draw_door, 4), (_draw_sign, 2), (_draw_passer_by, 2)),
    "car park": ((_draw_car, 5), (_draw_post, 3), (_draw_sign, 1), (_draw_passer_by, 1)),
}


def _draw_ground(
    pen: ImageDraw.ImageDraw, scene: str, size: tuple[int, int], horizon: float, rng: random.Random
) -> None:
    """Tiles, lanes or grass, with lines that run to a vanishing point."""
    width, height = size
    ground = _vary(GROUND[scene], rng, 14)
    pen.rectangle((0, horizon, width, height), fill=ground)
    dark = tuple(c - 14 for c in ground)
    if scene in ("shop", "plaza", "corridor"):
        vanish = width * rng.uniform(0.2, 0.8)
        for i in range(-9, 10):
            pen.line((vanish + i * width * 0.07, horizon, vanish + i * width * 0.42, height), fill=dark)
        y, step = horizon, 5.0
        while y < height:
            pen.line((0, y, width, y), fill=dark)
            y, step = y + step, step * 1.35
    elif scene == "lawn":
        y = horizon + (height - horizon) * rng.uniform(0.3, 0.7)
        path = _vary((168, 158, 140), rng)
        pen.polygon([(0, y), (width, y + rng.uniform(-20, 20)), (width, y + 90), (0, y + 70)], fill=path)
    else:
        for _ in range(rng.randrange(1, 4)):
            x, y = rng.uniform(-0.3, 1.0) * width, rng.uniform(horizon + 20, height)
            wide, high, skew = rng.uniform(20, 60), rng.uniform(6, 16), rng.uniform(-25, 25)
            marking = _vary((218, 216, 206), rng, 10)
            pen.polygon([(x, y), (x + wide, y), (x + wide + skew, y + high), (x + skew, y + high)], fill=marking)
        kerb = horizon + rng.uniform(0, 30)
        pen.rectangle((0, kerb, width, kerb + 4), fill=tuple(c + 30 for c in ground))


def _draw_backdrop(
    pen: ImageDraw.ImageDraw, scene: str, size: tuple[int, int], horizon: float, rng: random.Random
) -> None:
    """What a scene always has above the ground, over its wall."""
    width, height = size
    if scene in ("street", "plaza"):  # facade with windows
        glass = _vary((100, 112, 124), rng)
        for i in range(3):
            left = width * (i * 0.42 + rng.uniform(-0.1, 0.1))
            pen.rectangle((left, horizon * 0.1, left + width * 0.2, horizon * 0.5), fill=_vary(glass, rng, 8))
    elif scene == "lawn":  # sky or a house behind a hedge
        back = _vary(rng.choice(((178, 192, 206), (170, 142, 122), (196, 188, 172))), rng)
        pen.rectangle((0, 0, width, horizon * rng.uniform(0.2, 0.8)), fill=back)
        pen.rectangle((0, horizon * 0.86, width, horizon), fill=_vary((58, 86, 52), rng))
    elif scene == "car park":  # pillars and a pipe
        for x in (rng.uniform(-0.2, 0.3), rng.uniform(0.7, 1.1)):
            pillar = _vary((150, 148, 146), rng)
            pen.rectangle((x * width, 0, x * width + 0.14 * width, horizon + 6), fill=pillar)
            pen.rectangle((x * width, horizon - 26, x * width + 0.14 * width, horizon - 10), fill=(206, 176, 60))
        pen.rectangle((0, height * 0.06, width, height * 0.09), fill=_vary((96, 98, 102), rng))
    else:  # indoors: skirting board and a stripe of light
        pen.rectangle((0, horizon - 8, width, horizon), fill=_vary((110, 104, 98), rng))
        pen.rectangle((0, 0, width, height * 0.05), fill=(236, 236, 226))


def draw_scene(camera: Camera, size: tuple[int, int], rng: random.Random) -> Image.Image:
    """What stands behind a person, in clean colours."""
    width, height = size
    image = Image.new("RGB", size, _vary(rng.choice(WALL[camera.scene]), rng, 14))
    pen = ImageDraw.Draw(image)
    horizon = height * rng.uniform(0.42, 0.66)
    _draw_backdrop(pen, camera.scene, size, horizon, rng)
    _draw_ground(pen, camera.scene, size, horizon, rng)
    draws, weights = zip(*CLUTTER[camera.scene], strict=True)
    for draw in rng.choices(draws, weights, k=rng.randrange(2, 5)):
        x = rng.uniform(-0.1, 1.1) * width
        base = horizon + rng.uniform(0.0, 0.22) * (height - horizon)
        draw(pen, x, base, height * rng.uniform(0.3, 0.55), rng)
    image = image.filter(ImageFilter.BoxBlur(rng.uniform(1.0, 2.4)))
    texture = noise((height, width), 2, rng) * 4 + noise((height, width), 16, rng) * 5
    return Image.fromarray(np.clip(np.asarray(image, np.float32) + texture[..., None], 0, 255).astype(np.uint8))


def develop(clean: np.ndarray, camera: Camera, rng: random.Random) -> Image.Image:
    """What the camera records of a clean picture (H, W, 3) in 0 … 255."""
    height, width, _ = clean.shape
    gain = np.array(camera.gain, np.float32) * rng.uniform(0.92, 1.08)
    gain *= np.array([rng.uniform(0.98, 1.02) for _ in range(3)], np.float32)
    picture = (clean * gain - 128) * (camera.contrast * rng.uniform(0.95, 1.05)) + 128
    picture = picture * ((255 - camera.lift) / 255) + camera.lift
    image = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
    if camera.sharpness < 1:
        small = (round(width * camera.sharpness), round(height * camera.sharpness))
        image = image.resize(small, Image.Resampling.BILINEAR).resize((width, height), Image.Resampling.BILINEAR)
    image = image.filter(ImageFilter.BoxBlur(camera.blur * rng.uniform(0.7, 1.4)))
    grain = noise((height, width), 1, rng)[..., None] * 0.6
    colour_grain = np.stack([noise((height, width), 2, rng) for _ in range(3)], axis=-1) * 0.25
    picture = np.asarray(image, np.float32) + (grain + colour_grain) * camera.noise
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))
