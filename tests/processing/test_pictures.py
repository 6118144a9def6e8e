"""The one reader of pictures: whatever form a picture comes in, and whatever is wrong with it."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from processing.pictures import UnreadablePicture, read_picture, reading


def sideways() -> bytes:
    """A PNG of 3 x 2 pixels, red at its left end, that a camera held sideways took: red is up."""
    image = Image.new("RGB", (3, 2), "blue")
    image.paste("red", (0, 0, 1, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turn it by 90 degrees clockwise
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


def test_picture_of_every_form_is_upright_and_rgb(tmp_path: Path) -> None:
    data = sideways()
    path = tmp_path / "picture.png"
    path.write_bytes(data)
    expected = np.full((3, 2, 3), (0, 0, 255), np.uint8)
    expected[0] = (255, 0, 0)
    for source in (data, path, str(path), Image.open(path), expected):
        found = read_picture(source)
        assert found.mode == "RGB"
        np.testing.assert_array_equal(found, expected)


def test_transparency_becomes_white_and_the_image_given_stays_as_it_is() -> None:
    image = Image.new("RGBA", (2, 2), (255, 0, 0, 0))
    assert read_picture(image).getpixel((0, 0)) == (255, 255, 255)
    assert image.mode == "RGBA" and image.getpixel((0, 0)) == (255, 0, 0, 0)


def test_file_is_closed_after_reading(tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(sideways())
    read_picture(path)  # an open file would warn, and warnings are errors
    path.unlink()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        (b"no picture", "UnidentifiedImageError: no image of a kind that Pillow reads"),
        (b"", "UnidentifiedImageError: no image of a kind that Pillow reads"),
        (sideways()[:60], "[a-zA-Z]+: .+"),
    ],
)
def test_file_that_is_no_picture_is_named_with_the_reason(tmp_path: Path, content: bytes | None, reason: str) -> None:
    path = tmp_path / "broken.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadablePicture, match=rf"broken.png' cannot be read: {reason}$") as caught:
        read_picture(path)
    assert str(caught.value).endswith(caught.value.reason)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (3, "it is int, expected a Pillow image, an array"),
        (None, "it is NoneType, expected"),
        (np.zeros((2, 2, 7)), "TypeError: "),
        (b"no picture", "UnidentifiedImageError"),
    ],
)
def test_what_is_no_picture_goes_by_the_name_given(source: object, reason: str) -> None:
    with pytest.raises(UnreadablePicture, match=f"^frame 7 cannot be read: {reason}"):
        read_picture(source, "frame 7")


def test_whatever_a_decoder_raises_is_an_unreadable_picture() -> None:
    with pytest.raises(UnreadablePicture, match="^frame 7 cannot be read: IndexError: spoilt$"), reading("frame 7"):
        raise IndexError("spoilt")


def test_error_keeps_its_message_on_the_way_from_a_worker_process() -> None:
    error = UnreadablePicture.of("frame 7", "spoilt")
    assert str(pickle.loads(pickle.dumps(error))) == str(type(error)(str(error))) == "frame 7 cannot be read: spoilt"
