"""The one reader of pictures: a path, the bytes of a file, an array or a Pillow image -> an upright RGB picture.

Whatever is wrong with a picture becomes an `UnreadablePicture`, which names the picture and the reason.
"""

import io
import os
from collections.abc import Generator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from .image_processing_ivt import to_rgb

PictureSource = str | os.PathLike | bytes | np.ndarray | Image.Image
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


def read_picture(source: PictureSource, name: str | None = None) -> Image.Image:
    """Read a picture.

    Args:
        source: path, bytes of an image file, array (height, width, 3) of uint8, or Pillow image of any mode.
        name: of the picture, for messages; by default its path.

    Returns:
        An RGB image, EXIF orientation applied, transparency white.

    Raises:
        UnreadablePicture: if there is no such file, it cannot be decoded, or `source` is something else.
    """
    if isinstance(source, str | os.PathLike):
        name = name or repr(os.fspath(source))
        if not os.path.isfile(source):
            raise UnreadablePicture.of(name, "there is no such file")
    name = name or "the picture"
    with reading(name):
        if isinstance(source, Image.Image):
            return to_rgb(source)
        if isinstance(source, np.ndarray):
            return to_rgb(Image.fromarray(source))
        if isinstance(source, str | os.PathLike | bytes):
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                return to_rgb(image)
        raise UnreadablePicture.of(name, f"it is {type(source).__name__}, expected {KINDS}")
