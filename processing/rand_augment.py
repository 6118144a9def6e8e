"""RandAugment on uint8 pictures of persons: some operations at random, all of one strength, by Pillow alone.

Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", arXiv 1909.13719.
Captions name colours, so the operations that change them are left out: solarize, posterize, colour, and equalize,
which works on each channel alone.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Colour = tuple[int, int, int]

MOST_DEGREES, MOST_SHEAR, MOST_SHIFT, MOST_ENHANCEMENT = 30, 0.3, 0.3, 0.9  # at strength 1, as in the paper


def _transform(image: Image.Image, coefficients: tuple[float, ...], fill: Colour) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, coefficients, resample=Image.Resampling.BILINEAR, fillcolor=fill
    )


# each takes the picture, a strength in [-1, 1] and the colour of what comes in from outside
OPERATIONS: dict[str, Callable[[Image.Image, float, Colour], Image.Image]] = {
    "identity": lambda image, strength, fill: image,
    "autocontrast": lambda image, strength, fill: ImageOps.autocontrast(image, preserve_tone=True),
    "brightness": lambda image, strength, fill: ImageEnhance.Brightness(image).enhance(
        1 + MOST_ENHANCEMENT * strength
    ),
    "contrast": lambda image, strength, fill: ImageEnhance.Contrast(image).enhance(1 + MOST_ENHANCEMENT * strength),
    "sharpness": lambda image, strength, fill: ImageEnhance.Sharpness(image).enhance(1 + MOST_ENHANCEMENT * strength),
    "rotate": lambda image, strength, fill: image.rotate(
        MOST_DEGREES * strength, resample=Image.Resampling.BILINEAR, fillcolor=fill
    ),
    "shear_x": lambda image, strength, fill: _transform(image, (1, MOST_SHEAR * strength, 0, 0, 1, 0), fill),
    "shear_y": lambda image, strength, fill: _transform(image, (1, 0, 0, MOST_SHEAR * strength, 1, 0), fill),
    "translate_x": lambda image, strength, fill: _transform(
        image, (1, 0, MOST_SHIFT * strength * image.width, 0, 1, 0), fill
    ),
    "translate_y": lambda image, strength, fill: _transform(
        image, (1, 0, 0, 0, 1, MOST_SHIFT * strength * image.height), fill
    ),
}


def rand_augment(
    pixels: np.ndarray, num_operations: int, magnitude: float, fill: Colour, rng: np.random.Generator
) -> np.ndarray:
    """Change a picture by some operations, one after the other.

    Args:
        pixels: uint8 (3, H, W); not changed.
        num_operations: how many, drawn with repetition.
        magnitude: strength of all, from 0 (nearly nothing) to 1 (rotations by 30 degrees, shifts by 0.3 of the size).
        fill: colour of what comes in from outside the picture.
        rng: the only source of randomness.

    Returns:
        uint8 (3, H, W).
    """
    image = Image.fromarray(pixels.transpose(1, 2, 0))
    for name in rng.choice(list(OPERATIONS), size=num_operations):
        image = OPERATIONS[name](image, magnitude * rng.choice((-1, 1)), fill)
    return np.asarray(image).transpose(2, 0, 1)
