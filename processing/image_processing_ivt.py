"""Image processor of IVT: any picture of a person -> `pixel_values`.

Settings of Shu et al., "See Finer, See More", arXiv 2208.08608, sec. 4.1: 384 x 128 pixels (height x width), values in
[-1, 1]. Runs on Pillow and numpy alone (no torchvision). This file ships to the model repositories.

Letters: H height, W width; arrays are (3, H, W), sizes (height, width).
"""

import math
import os
from typing import IO, Any

import numpy as np
from PIL import Image
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, ImageInput, PILImageResampling, infer_channel_dimension_format
from transformers.utils import is_torch_tensor

MAX_PIXELS = 50_000_000  # of a picture that is decoded: 150 MB; a file of 22 kB can ask for 500 MB
ORIENTATION = 0x0112  # EXIF
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def open_image(file: str | os.PathLike | IO[bytes], least_pixels: int | None = None) -> Image.Image:
    """Open an image file, without decoding it.

    Args:
        file: path or open file.
        least_pixels: a JPEG will be decoded at a half, a quarter or an eighth of its height and width where so many
            pixels are left.

    Raises:
        ValueError: if it has more than `MAX_PIXELS`.
        OSError: if it cannot be opened, or is no image.
    """
    image = Image.open(file)
    width, height = image.size
    if least_pixels and (divisor := divisor_of(width, height, least_pixels)) > 1:
        image.draft(None, (width // divisor, height // divisor))
        width, height = image.size
    if width * height > MAX_PIXELS:
        image.close()
        raise ValueError(
            f"it has {width} x {height} pixels, at most {MAX_PIXELS:,} in all are decoded; make it smaller"
        )
    return image


def divisor_of(width: int, height: int, least_pixels: int) -> int:
    """By what number a picture's width and height can be divided so that so many pixels are left."""
    return max(1, math.isqrt(width * height // least_pixels))


def upright(image: Image.Image) -> Image.Image:
    """Turn a picture as its EXIF orientation says; nothing is turned where EXIF cannot be read."""
    image.load()  # which turns a TIFF
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION))
    except Exception:  # Pillow raises nearly anything on broken EXIF
        turn = None
    return image if turn is None else image.transpose(turn)


def to_rgb(image: Image.Image) -> Image.Image:
    """Turn a Pillow image of any mode upright and into RGB, transparency becoming white.

    Args:
        image: any Pillow image; it is not changed.

    Returns:
        An RGB image, EXIF orientation applied and gone, as is all other metadata.

    Raises:
        ValueError: where Pillow has no conversion from the image's mode to RGB ("La").
    """
    image = upright(image)
    if image.mode.startswith("I"):
        image = _grey_of_sixteen_bits(image)
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, (255, 255, 255, 255))
            image = Image.alpha_composite(white, image)
        image = image.convert("RGB")  # a copy
    except ValueError as error:
        raise ValueError(
            f"image has mode {image.mode!r}, which Pillow cannot turn into RGB; convert it first"
        ) from error
    image.info = {}
    return image


def _grey_of_sixteen_bits(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255: Pillow's own conversion clips at 255 and leaves a white picture."""
    values = np.asarray(image).astype(np.int64)
    if image.mode == "I" and values.max(initial=0) <= 255:  # 32-bit mode that holds plain grey
        return Image.fromarray(values.astype(np.uint8))
    return Image.fromarray(np.clip((values + 128) // 257, 0, 255).astype(np.uint8))


class IVTImageProcessor(PilBackend):
    """Resize to 384 x 128 (height x width), scale to [0, 1], normalise with mean and std 0.5.

    Accepts what `transformers` calls an image (Pillow image of any mode, numpy array, torch tensor, path, URL), alone,
    in a list or as a batch (N, …). Arrays hold 0..255 (uint8, int, float), 0..65535 (uint16) or floats 0..1, channels
    first or last, with one (grey), three or four (transparent) channels or none (grey).
    """

    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True
    size = {"height": 384, "width": 128}
    resample = PILImageResampling.BICUBIC
    rescale_factor = 1 / 255
    image_mean = [0.5, 0.5, 0.5]
    image_std = [0.5, 0.5, 0.5]

    def fetch_images(self, image_url_or_urls: Any) -> Any:
        """Open paths and URLs, keeping lists as they are nested."""
        if isinstance(image_url_or_urls, str | os.PathLike) and os.path.isfile(image_url_or_urls):
            with open_image(image_url_or_urls) as image:  # transformers' own way would drop transparency and 16 bits
                image.load()
                return image
        try:
            return super().fetch_images(image_url_or_urls)
        except TypeError as error:
            raise ValueError(
                f"got {type(image_url_or_urls).__name__}, expected an image (Pillow image, numpy array, torch tensor, "
                "path or URL) or a list of images"
            ) from error

    def _prepare_images_structure(self, images: ImageInput, expected_ndims: int = 3) -> list[Any]:
        """Flatten nested lists and batches (N, …) to a flat list of single images."""
        flat = _flatten(self.fetch_images(images))
        if not flat:
            raise ValueError("got an empty list of images, expected at least one")
        return flat

    def process_image(
        self,
        image: Any,
        do_convert_rgb: bool | None = None,
        do_rescale: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Bring one image to a (C, H, W) array, of uint8 wherever `do_rescale` follows."""
        if isinstance(image, Image.Image):
            image = np.asarray(to_rgb(image) if do_convert_rgb else upright(image))
            image = image[..., None] if image.ndim == 2 else image
            return np.moveaxis(image, -1, 0)
        if is_torch_tensor(image):
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()
        if image.ndim == 2:
            image = image[None]
        elif ChannelDimension(input_data_format or _channel_axis(image)) == ChannelDimension.LAST:
            image = np.moveaxis(image, -1, 0)
        if do_rescale:
            image = _to_uint8(image)
        return self.convert_to_rgb(image, input_data_format=ChannelDimension.FIRST) if do_convert_rgb else image


def _channel_axis(image: np.ndarray) -> ChannelDimension:
    return infer_channel_dimension_format(image, num_channels=(1, 3, 4))


def _flatten(images: Any) -> list[Any]:
    if isinstance(images, list | tuple):
        return [image for item in images for image in _flatten(item)]
    if isinstance(images, Image.Image) or images.ndim in (2, 3):
        return [images]
    if images.ndim == 4:
        return list(images)
    raise ValueError(
        f"array of shape {tuple(images.shape)} is no image; expected (H, W), (C, H, W), (H, W, C) or (N, …)"
    )


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """Read an array's value range from its type: see the class docstring."""
    if image.dtype == np.uint8:
        return image
    if image.dtype == np.uint16:
        return ((image.astype(np.int64) + 128) // 257).astype(np.uint8)
    low, high = float(image.min(initial=0)), float(image.max(initial=0))
    if not (low >= 0 and high <= 255):  # written so that NaN fails too
        raise ValueError(
            f"image array has values from {low:g} to {high:g}, expected 0..255 or 0..1; "
            "for an array that is normalised already pass do_rescale=False, do_normalize=False and do_resize=False"
        )
    is_unit_range = image.dtype == bool or (np.issubdtype(image.dtype, np.floating) and high <= 1)
    return np.rint(image * 255.0 if is_unit_range else image).astype(np.uint8)
