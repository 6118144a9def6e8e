"""More than two thousand odd picture files, the same ones every time: whole, turned, broken, lying about themselves.

`python tests/odd_pictures.py FOLDER` writes them.
"""

import io
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, features

QUADRANTS = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
SIZE = (32, 48)  # width, height
ORIENTATION = 0x0112
# What a camera that was held so stores: the turn that undoes the one of the EXIF orientation.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}
# format -> (ending, modes)
FORMATS = {
    "JPEG": ("jpg", ("L", "RGB", "CMYK")),
    "PNG": ("png", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")),
    "WEBP": ("webp", ("L", "RGB", "RGBA")),
    "TIFF": ("tif", ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "LAB", "I;16", "I", "F")),
    "GIF": ("gif", ("1", "L", "P", "RGB", "RGBA")),
    "BMP": ("bmp", ("1", "L", "P", "RGB", "RGBA")),
    "TGA": ("tga", ("1", "L", "LA", "P", "RGB", "RGBA")),
    "PPM": ("ppm", ("1", "L", "RGB", "I")),
    "PCX": ("pcx", ("1", "L", "P", "RGB")),
    "SGI": ("sgi", ("L", "RGB", "RGBA")),
    "ICO": ("ico", ("L", "RGB", "RGBA")),
    "DDS": ("dds", ("L", "LA", "RGB", "RGBA")),
    "IM": ("im", ("1", "L", "P", "RGB", "CMYK", "YCbCr", "I", "F")),
}
if features.check("jpg_2000"):
    FORMATS["JPEG2000"] = ("jp2", ("L", "RGB", "RGBA"))
if features.check("avif"):
    FORMATS["AVIF"] = ("avif", ("L", "RGB", "RGBA"))
WITH_EXIF = tuple(kind for kind in ("JPEG", "PNG", "WEBP", "TIFF", "AVIF") if kind in FORMATS)
NUM_FLIPPED = 110  # files of each format with flipped bits


@dataclass(frozen=True)
class OddPicture:
    """A file.

    Attributes:
        name: unique, with the ending.
        kind: what is odd about it.
        data: its content.
        is_whole: whether it must be read, upright: red and lime at the top, blue and white below.
        in_colour: whether it holds colours; else only the brightness can be right.
    """

    name: str
    kind: str
    data: bytes
    is_whole: bool = False
    in_colour: bool = False


def quadrants() -> Image.Image:
    """Red and lime above blue and white."""
    image = Image.new("RGB", SIZE)
    width, height = SIZE[0] // 2, SIZE[1] // 2
    for place, colour in enumerate(QUADRANTS):
        image.paste(
            colour, (place % 2 * width, place // 2 * height, (place % 2 + 1) * width, (place // 2 + 1) * height)
        )
    return image


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """The picture in any of Pillow's modes, its greys spread over the range of the mode."""
    if mode in ("I;16", "I"):
        values = np.asarray(image.convert("L")).astype(np.uint16) * 257
        return Image.fromarray(values if mode == "I;16" else values.astype(np.int32))
    if mode == "LAB":
        from PIL import ImageCms

        transform = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB"
        )
        return ImageCms.applyTransform(image, transform)
    return image.convert(mode)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    """The content of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def whole() -> Iterator[OddPicture]:
    """Every mode in every format that has it."""
    for kind, (ending, modes) in FORMATS.items():
        for mode in modes:
            data = encode(in_mode(quadrants(), mode), kind)
            in_colour = mode in ("RGB", "RGBA", "P", "CMYK", "YCbCr", "LAB")
            is_whole = mode not in ("1", "F")  # black and white dots, and numbers without a range
            yield OddPicture(f"{kind}-{mode.replace(';', '')}.{ending}", "mode", data, is_whole, in_colour)


def turned() -> Iterator[OddPicture]:
    """Every EXIF orientation in every format that has it, and broken EXIF."""
    rng = np.random.default_rng(1)
    for kind in WITH_EXIF:
        ending = FORMATS[kind][0]
        for orientation, turn in STORED.items():
            exif = Image.Exif()
            exif[ORIENTATION] = orientation
            image = quadrants() if turn is None else quadrants().transpose(turn)
            name = f"{kind}-orientation-{orientation}.{ending}"
            yield OddPicture(name, "orientation", encode(image, kind, exif=exif), True, True)
        if kind in ("TIFF", "AVIF"):  # TIFF is its EXIF, and the AVIF writer parses what it is given
            continue
        header = b"Exif\0\0"
        broken = [b"", header, header + b"garbage!" * 3, b"b'Exif\\x00\\x00II*'", header + b"II*\0\xff\xff\xff\xff"]
        broken += [header + b"MM\0*\0\0\0\x08" + rng.bytes(int(length)) for length in rng.integers(1, 200, 25)]
        for number, exif in enumerate(broken):
            name = f"{kind}-broken-exif-{number}.{ending}"
            # random bytes may by chance be a whole EXIF that turns the picture
            yield OddPicture(name, "broken EXIF", encode(quadrants(), kind, exif=exif), number < 5, True)


def damaged() -> Iterator[OddPicture]:
    """Files cut off at every tenth of their length, with flipped bits, with zeros, and with nothing in them."""
    rng = np.random.default_rng(2)
    for kind, (ending, modes) in FORMATS.items():
        data = encode(in_mode(quadrants(), "RGB" if "RGB" in modes else modes[0]), kind)
        for tenth in range(10):
            name = f"{kind}-cut-at-{tenth}.{ending}"
            yield OddPicture(name, "cut off", data[: len(data) * tenth // 10])
        for number in range(NUM_FLIPPED):
            flipped = np.frombuffer(data, np.uint8).copy()
            places = rng.integers(0, len(data), 1 + number % 8)
            flipped[places] ^= (1 << rng.integers(0, 8, len(places))).astype(np.uint8)
            yield OddPicture(f"{kind}-flipped-{number}.{ending}", "flipped bits", flipped.tobytes())
        start = len(data) // 3
        zeros = data[:start] + bytes(len(data) - start)
        yield OddPicture(f"{kind}-zeros.{ending}", "zeros", zeros)
        yield OddPicture(f"{kind}-empty.{ending}", "empty", b"")
        yield OddPicture(f"{kind}-text.{ending}", "text", b"This is no picture.\n" * 9)
        yield OddPicture(f"{kind}-only-zeros.{ending}", "zeros", bytes(400))


def shaped() -> Iterator[OddPicture]:
    """Smallest and longest pictures, animations, and endings of another format."""
    frames = [quadrants(), quadrants().transpose(Image.Transpose.ROTATE_180)]
    for kind in ("GIF", "WEBP", "PNG"):
        data = encode(frames[0], kind, save_all=True, append_images=frames[1:], duration=100)
        yield OddPicture(f"{kind}-animated.{FORMATS[kind][0]}", "animated", data, True, True)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"):
        ending = FORMATS[kind][0]
        for size in ((1, 1), (1, 2000), (2000, 1), (1, 16_000)):
            data = encode(Image.new("RGB", size, "red"), kind)
            yield OddPicture(f"{kind}-{size[0]}x{size[1]}.{ending}", "shape", data)
        for other in ("jpg", "png", "webp"):
            data = encode(quadrants(), kind)
            yield OddPicture(f"{kind}-called.{other}", "wrong ending", data, True, True)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG file."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bombs() -> Iterator[OddPicture]:
    """Small files of pictures that would take gigabytes."""
    for side in (7_100, 13_300, 60_000):
        header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        compressor = zlib.compressobj(9)
        rows = b"".join(compressor.compress(bytes(1 + side // 8 + 1)) for _ in range(min(side, 14_000)))
        content = png_chunk(b"IHDR", header) + png_chunk(b"IDAT", rows + compressor.flush()) + png_chunk(b"IEND", b"")
        yield OddPicture(f"bomb-{side}.png", "bomb", b"\x89PNG\r\n\x1a\n" + content)
    for side in (9_000, 65_000):
        gif = b"GIF89a" + struct.pack("<HH", side, side) + b"\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0"
        gif += struct.pack("<HH", side, side) + b"\0\x02\x02\x44\x01\0;"
        yield OddPicture(f"bomb-{side}.gif", "bomb", gif)
        bmp = bytearray(encode(quadrants(), "BMP"))
        bmp[18:26] = struct.pack("<ii", side, side)
        yield OddPicture(f"bomb-{side}.bmp", "bomb", bytes(bmp))


def named() -> Iterator[OddPicture]:
    """Whole pictures whose names are odd."""
    data = encode(quadrants(), "PNG")
    for name in (
        "🧍.png",
        "two\nlines.png",
        "a b'c\"d.png",
        "<b>bold<b>.png",
        "-rf.png",
        "מצלמה.png",
        "x" * 200 + ".png",
    ):
        yield OddPicture(name, "name", data, True, True)


def odd_pictures() -> list[OddPicture]:
    """All of them."""
    return [*whole(), *turned(), *damaged(), *shaped(), *bombs(), *named()]


def write_odd_pictures(folder: Path) -> dict[str, OddPicture]:
    """Write all of them to a folder, and return them by their names."""
    pictures = {picture.name: picture for picture in odd_pictures()}
    folder.mkdir(parents=True)
    for name, picture in pictures.items():
        (folder / name).write_bytes(picture.data)
    return pictures


if __name__ == "__main__":
    write_odd_pictures(Path(sys.argv[1]))
