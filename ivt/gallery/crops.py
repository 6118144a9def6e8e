"""Crops: folders, files, datasets and boxes in video frames -> the pictures of a gallery, one by one.

A picture that has a file of its own is named by it (`Crop.uri`) and read later, by whoever embeds it. Any other comes
with its pixels, encoded (`Crop.image`), which the gallery keeps, so that it can be shown later.
"""

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime
from itertools import chain
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

from processing.pictures import KINDS, PictureSource, read_picture

from .columns import DETAILS, Crop
from .folders import Listing, absolute, crops_of_files, folder_of, list_images
from .path_fields import PathFields, as_utc

JPEG_QUALITY = 95  # of crops cut from frames

Box = Sequence[float]  # (left, top, right, bottom) in pixels of the frame


class Frame(NamedTuple):
    """A frame of a video with the people that a detector found in it; a pair `(image, boxes)` will do, too.

    Attributes:
        image: Pillow image, array (height, width, 3) of uint8, the bytes of an image file, or a path.
        boxes: (left, top, right, bottom) of each person, in pixels.
        track_ids: of each box the track that a tracker gave it.
        time: when it was taken.
    """

    image: Any
    boxes: Sequence[Box]
    track_ids: Sequence[str | int] | None = None
    time: datetime | str | float | None = None


def crops_of_dataset(dataset: datasets.Dataset | datasets.IterableDataset) -> Iterator[Crop]:
    """Read crops from the columns `image` and, where there are any, image_id, camera, time, track_id, person_id.

    Raises:
        ValueError: if there is no column `image` of pictures.
    """
    if not isinstance((dataset.features or {}).get("image"), datasets.Image):
        raise ValueError(
            f"the dataset has the columns {', '.join(dataset.features or ())}, expected `image` of the type "
            "datasets.Image; rename or cast one"
        )
    for row in dataset.cast_column("image", datasets.Image(decode=False)):
        path, data = row["image"]["path"], row["image"]["bytes"]
        image_id = row.get("image_id") or path or hashlib.sha256(data).hexdigest()[:32]
        uri = absolute(path) if data is None else None
        yield Crop(str(image_id), uri, image=data, **_details_of(row))


def _details_of(row: dict[str, Any]) -> dict[str, Any]:
    details = {name: row.get(name) for name in DETAILS}
    return details | {"time": as_utc(details["time"]), "track_id": _as_text(details["track_id"])}


def _as_text(track_id: str | int | None) -> str | None:
    return None if track_id is None else str(track_id)


def crops_of_frames(frames: Iterable[Any], camera: str | None = None, time: Any = None) -> Iterator[Crop]:
    """Cut the boxes out of frames; a picture without boxes is a crop as it is.

    A crop is named by camera, time and a digest of its pixels, so the same frames give the same crops again.

    Args:
        frames: `Frame`s, pairs (image, boxes), or pictures of a person each.
        camera: name of the camera.
        time: when the pictures were taken, for frames without a time of their own.

    Raises:
        ValueError: if a frame cannot be read, a box is not four numbers or is outside its frame, or there are not as
            many track ids as boxes.
    """
    for number, item in enumerate(frames):
        frame = Frame(*item) if isinstance(item, tuple) else Frame(item, ())
        image = _read_frame(frame.image, number)
        boxes = frame.boxes if isinstance(item, tuple) else [(0, 0, *image.size)]
        track_ids = [None] * len(boxes) if frame.track_ids is None else frame.track_ids
        if len(track_ids) != len(boxes):
            raise ValueError(f"frame {number} has {len(boxes)} boxes and {len(track_ids)} track ids, expected as many")
        taken = as_utc(time if frame.time is None else frame.time)
        moment = taken.strftime("%Y%m%dT%H%M%S.%f") if taken else None
        for box, track_id in zip(boxes, track_ids, strict=True):
            left, top, right, bottom = _clip(box, image.size, number)
            data = encode_jpeg(image.crop((left, top, right, bottom)))
            image_id = "/".join(filter(None, (camera, moment, hashlib.sha256(data).hexdigest()[:16])))
            uri = None
            if isinstance(frame.image, str | os.PathLike):  # a media fragment: https://www.w3.org/TR/media-frags/
                uri = f"{absolute(frame.image)}#xywh={left},{top},{right - left},{bottom - top}"
            yield Crop(image_id, uri, camera, taken, _as_text(track_id), image=data)


def _read_frame(image: Any, number: int) -> Image.Image:
    if not isinstance(image, PictureSource):
        raise ValueError(
            f"item {number} is {type(image).__name__}, expected {KINDS}, or a pair of one of these and its boxes"
        )
    return read_picture(image, None if isinstance(image, str | os.PathLike) else f"the picture of item {number}")


def _clip(box: Box, size: tuple[int, int], number: int) -> tuple[int, int, int, int]:
    """Round a box to whole pixels inside a frame of `size` (width, height)."""
    corners = np.asarray(box, float)
    if corners.shape == (4,) and np.isfinite(corners).all():
        left, top, right, bottom = np.rint(corners.clip(0, [*size, *size])).astype(int).tolist()
        if left < right and top < bottom:
            return left, top, right, bottom
    raise ValueError(
        f"frame {number} has the box {box!r}, expected (left, top, right, bottom) in pixels with an area inside "
        f"{size[0]} x {size[1]}"
    )


def encode_jpeg(image: Image.Image) -> bytes:
    """Encode an RGB picture as a gallery stores it."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)  # colours of clothes matter
    return buffer.getvalue()


def find_crops(
    source: Any,
    boxes: Iterable[Sequence[Box]] | None = None,
    camera: str | None = None,
    time: datetime | None = None,
    path_fields: PathFields | None = None,
) -> Iterable[Crop]:
    """Crops of anything that `Gallery.add` takes, or of a `Listing`, with camera and time if they bring none.

    Raises:
        ValueError: if there is nothing, or `path_fields` is given for what has no paths.
    """
    crops: Iterable[Crop]
    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        crops = crops_of_dataset(source)
    elif boxes is not None:
        crops = crops_of_frames(zip(source, boxes, strict=True), camera, time)
    elif isinstance(source, Listing):
        crops = crops_of_files(source.images, source.folder)
    elif (folder := folder_of(source)) is not None:
        return find_crops(list_images(folder), None, camera, time, path_fields)
    else:
        items = iter([source] if isinstance(source, str | os.PathLike) else source)
        first = next(items, None)
        if first is None:
            raise ValueError("there are 0 pictures to add, expected at least one")
        is_file = isinstance(first, str | os.PathLike)
        crops = crops_of_files([first, *items]) if is_file else crops_of_frames(chain([first], items), camera, time)
    if isinstance(crops, list):
        crops = [replace(crop, camera=camera, time=time) for crop in crops]
        return path_fields.fill(crops) if path_fields else crops
    if path_fields:
        raise ValueError("camera and time are read from the paths of files, and the source has none")
    return (replace(crop, camera=crop.camera or camera, time=crop.time or time) for crop in crops)
