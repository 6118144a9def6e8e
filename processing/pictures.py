"""The one reader of pictures: a path, the bytes of a file, an array or a Pillow image -> an upright RGB picture.

Whatever is wrong with a picture becomes an `UnreadablePicture`, which names the picture and the reason.
"""

import io
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from .image_processing_ivt import divisor_of, open_image, to_rgb

PictureSource = str | os.PathLike | bytes | np.ndarray | Image.Image
SHRUNK_PIXELS = 1_000_000  # that a picture keeps which is decoded to be resized
KINDS = "a Pillow image, an array (height, width, 3) of uint8, the bytes of a file, or a path"


class UnreadablePicture(ValueError):
    """A picture cannot be read.

    Attributes:
        reason: why, without the picture's name; only where it was raised, since worker processes hand on messages.
    """

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason

    @classmethod
    def of(cls, name: str, reason: str) -> "UnreadablePicture":
        """The error for the picture of a name."""
        return cls(f"{name} cannot be read: {reason}", reason)


@contextmanager
def reading(name: str) -> Generator[None]:
    """Turn what goes wrong in a block that reads a picture into `UnreadablePicture`.

    Args:
        name: of the picture, for the message.
    """
    try:
        yield
    except UnreadablePicture:
        raise
    except UnidentifiedImageError as error:
        raise UnreadablePicture.of(name, "UnidentifiedImageError: no image of a kind that Pillow reads") from error
    except Exception as error:  # Pillow's readers raise nearly anything on a broken file
        raise UnreadablePicture.of(name, f"{type(error).__name__}: {error}") from error


def read_picture(
    source: PictureSource | Mapping[str, Any], name: str | None = None, shrink: bool = False
) -> Image.Image:
    """Read a picture.

    Args:
        source: path, bytes of an image file, array (height, width, 3) of uint8, Pillow image of any mode, or what
            `datasets` stores of an image, `{"bytes": …, "path": …}`.
        name: of the picture, for messages; by default its path.
        shrink: halve, third, … a picture that is large for a model while it keeps a megapixel, a JPEG while it is
            decoded. For whoever resizes it anyway: a batch of photographs then takes no more memory than need be.

    Returns:
        An RGB image, EXIF orientation applied, transparency white, without metadata.

    Raises:
        UnreadablePicture: if there is no such file, it cannot be decoded, has more than `MAX_PIXELS`, or `source` is
            something else.
    """
    if isinstance(source, Mapping):
        name = name or (repr(source["path"]) if source["path"] else None)
        source = source["path"] if source["bytes"] is None else source["bytes"]
    if isinstance(source, str | os.PathLike):
        name = name or repr(os.fspath(source))
        if not os.path.isfile(source):
            raise UnreadablePicture.of(name, "there is no such file")
    name = name or "the picture"
    with reading(name):
        if isinstance(source, Image.Image):
            picture = to_rgb(source)
        elif isinstance(source, np.ndarray):
            picture = to_rgb(Image.fromarray(source))
        elif isinstance(source, str | os.PathLike | bytes):
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with open_image(file, SHRUNK_PIXELS if shrink else None) as image:
                picture = to_rgb(image)
        else:
            raise UnreadablePicture.of(name, f"it is {type(source).__name__}, expected {KINDS}")
    divisor = divisor_of(*picture.size, SHRUNK_PIXELS) if shrink else 1
    return picture.reduce(divisor) if divisor > 1 else picture
