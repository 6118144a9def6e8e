"""Augmented views of a picture for multi-level alignment (MLA): one decode and one resize, then V uint8 views.

Pad, random crop, horizontal flip and random erasing (Zhong et al., "Random Erasing Data Augmentation", AAAI 2020,
arXiv 1708.04896) as in Shu et al., arXiv 2208.08608, sec. 4.1. All work is on uint8 pixels; `batches.PairCollator`
normalises a whole batch at once.

Letters: V views, H height, W width; pixel arrays are (3, H, W).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from .image_processing_ivt import IVTImageProcessor, to_rgb


def resized_pixels(
    image: Image.Image, image_processor: IVTImageProcessor, resample: Image.Resampling | None = None
) -> np.ndarray:
    """Resize a picture as the image processor does, without normalising it.

    Args:
        image: a Pillow image of any mode.
        image_processor: gives size and resampling filter.
        resample: another filter than the image processor's.

    Returns:
        uint8 pixels, contiguous (3, H, W).
    """
    size = (image_processor.size["width"], image_processor.size["height"])  # Pillow's order
    filter_ = image_processor.resample if resample is None else resample
    resized = to_rgb(image).resize(size, filter_)
    return np.ascontiguousarray(np.asarray(resized).transpose(2, 0, 1))


@dataclass(frozen=True)
class TrainingViews:
    """Make V independently augmented views of one resized picture.

    `TrainingViews(num_views=1, padding=0, flip=0.0, erase=0.0)` gives the picture itself.

    Attributes:
        num_views: V.
        padding: black pixels added on each side before a crop of the original size.
        flip: probability of a left-right flip. Captions that name a side ("in her left hand") then no longer fit;
            the paper flips all the same, `TrainingPairs(flip_words=True)` swaps the sides in the texts.
        erase: probability of erasing a rectangle.
        erase_area: least and greatest share of the picture that is erased.
        erase_aspect: least and greatest height / width of the rectangle.
        erase_log: draw the aspect uniformly in its logarithm, so that tall and wide rectangles are as likely.
        erase_fill: value per channel of erased pixels; mid grey is zero after normalisation.
        erase_noise: standard deviation per channel of normal noise around `erase_fill`, drawn for every pixel; views
            are float32 then, since such values go beyond 0 and 255.
    """

    num_views: int = 3
    padding: int = 10
    flip: float = 0.5
    erase: float = 0.5
    erase_area: tuple[float, float] = (0.02, 0.4)
    erase_aspect: tuple[float, float] = (0.3, 3.3)
    erase_log: bool = False
    erase_fill: tuple[float, float, float] = (127, 127, 127)
    erase_noise: tuple[float, float, float] | None = None

    def __call__(self, pixels: np.ndarray, rng: np.random.Generator, mirrored: bool | None = None) -> np.ndarray:
        """Augment.

        Args:
            pixels: uint8 (3, H, W), from `resized_pixels`; not changed.
            rng: the only source of randomness.
            mirrored: whether all views are flipped; None draws it for each view.

        Returns:
            (V, 3, H, W), uint8, or float32 with `erase_noise`.
        """
        _, height, width = pixels.shape
        pad = self.padding
        padded = np.zeros((3, height + 2 * pad, width + 2 * pad), np.uint8)
        padded[:, pad : pad + height, pad : pad + width] = pixels
        views = np.empty((self.num_views, *pixels.shape), np.float32 if self.erase_noise else np.uint8)
        for view in views:
            top, left = rng.integers(0, 2 * pad + 1, size=2)
            crop = padded[:, top : top + height, left : left + width]
            flips = rng.random() < self.flip if mirrored is None else mirrored
            view[:] = crop[:, :, ::-1] if flips else crop
            if rng.random() < self.erase:
                rows, columns = self._rectangle(height, width, rng)
                view[:, rows, columns] = np.array(self.erase_fill, views.dtype)[:, None, None]
                if self.erase_noise:
                    noise = rng.standard_normal(view[:, rows, columns].shape, np.float32)
                    view[:, rows, columns] += noise * np.array(self.erase_noise, np.float32)[:, None, None]
        return views

    def _rectangle(self, height: int, width: int, rng: np.random.Generator) -> tuple[slice, slice]:
        for _ in range(100):  # rejection: tall or wide rectangles often do not fit a picture of 3 : 1
            area = rng.uniform(*self.erase_area) * height * width
            aspect = self._aspect(rng)
            rows, columns = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if rows < height and columns < width:
                top, left = rng.integers(0, height - rows), rng.integers(0, width - columns)
                return slice(top, top + rows), slice(left, left + columns)
        return slice(0), slice(0)

    def _aspect(self, rng: np.random.Generator) -> float:
        if self.erase_log:
            return float(np.exp(rng.uniform(*np.log(self.erase_aspect))))
        return rng.uniform(*self.erase_aspect)
