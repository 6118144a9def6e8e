"""Crops: folders, files, datasets and boxes in video frames -> the pictures of a gallery, one by one.

A picture that has a file of its own is named by it (`Crop.uri`) and read later, by whoever embeds it. Any other comes
with its pixels, encoded (`Crop.image`), which the gallery keeps, so that it can be shown later.
"""

import hashlib
import io
import logging
import os
import posixpath
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain
from typing import Any, NamedTuple

import datasets
import numpy as np
from PIL import Image

from processing.image_processing_ivt import to_rgb

from .engine import load_daft

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
JPEG_QUALITY = 95  # of crops cut from frames
TIME_GROUPS = ("year", "month", "day", "hour", "minute", "second")

Box = Sequence[float]  # (left, top, right, bottom) in pixels of the frame


@dataclass(frozen=True)
class Crop:
    """A picture of a person, before it is embedded.

    Attributes:
        image_id: its name; a gallery gives it a longer one if another picture has that name already.
        uri: absolute path or URI of its file; None, or a remark, if `image` is given.
        image: the encoded picture, where it has no file of its own.
        camera: name of the camera.
        time: when it was taken, in UTC.
        track_id: track of a tracker it belongs to.
        person_id: identity, if known.
    """

    image_id: str
    uri: str | None = None
    image: bytes | None = None
    camera: str | None = None
    time: datetime | None = None
    track_id: str | None = None
    person_id: int | None = None


class Frame(NamedTuple):
    """A frame of a video with the people that a detector found in it; `(image, boxes)` alone will do.

    Attributes:
        image: Pillow image, array (height, width, 3) of uint8, or path.
        boxes: (left, top, right, bottom) of each person, in pixels.
        track_ids: of each box, what a tracker says.
        time: when it was taken.
    """

    image: Any
    boxes: Sequence[Box]
    track_ids: Sequence[str | int] | None = None
    time: datetime | str | float | None = None


def as_utc(time: datetime | str | float | None) -> datetime | None:
    """Read a time: a datetime or ISO 8601 text, which is UTC unless it names its zone, or UTC seconds since 1970."""
    if time is None:
        return None
    if isinstance(time, int | float):
        return datetime.fromtimestamp(time, UTC)
    try:
        time = datetime.fromisoformat(time) if isinstance(time, str) else time
    except ValueError:
        raise ValueError(f"time is {time!r}, expected ISO 8601 as in '2024-05-01T12:00:00'") from None
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)


class PathFields:
    """Reads camera and time out of paths with regular expressions.

    Args:
        camera: searched in the path below the indexed folder; its group `camera`, else its first group, else the whole
            match is the camera.
        time: the same for the time: named groups year, month, day and, if wanted, hour, minute, second; or a group
            `epoch` with UTC seconds; else group `time`, the first group or the whole match, read with `time_format`.
        time_format: of `datetime.strptime`; by default ISO 8601. Without a zone the time is UTC.

    Raises:
        ValueError: on what is no regular expression.
    """

    def __init__(self, camera: str | None = None, time: str | None = None, time_format: str | None = None) -> None:
        self.patterns = {"camera": _compile("camera", camera), "time": _compile("time", time)}
        self.time_format = time_format

    def fill(self, crops: Iterable[Crop]) -> list[Crop]:
        """Set camera and time of each crop whose `image_id` matches.

        Raises:
            ValueError: if a pattern matches no path at all, or what it finds is no time.
        """
        crops = list(crops)
        for field, pattern in self.patterns.items():
            if pattern is None:
                continue
            read = self._time if field == "time" else _camera
            matches = [pattern.search(crop.image_id) for crop in crops]
            unmatched = [crop.image_id for crop, match in zip(crops, matches, strict=True) if not match]
            if len(unmatched) == len(crops):
                raise ValueError(
                    f"{field}_from_path is {pattern.pattern!r}, which matches none of {len(crops)} paths; the first "
                    f"is {crops[0].image_id!r}"
                )
            if unmatched:
                logger.warning(
                    "%d of %d paths have no %s, as %r does not match them; the first is %r",
                    *(len(unmatched), len(crops), field, pattern.pattern, unmatched[0]),
                )
            crops = [
                replace(crop, **{field: read(match)}) if match else crop
                for crop, match in zip(crops, matches, strict=True)
            ]
        return crops

    def _time(self, match: re.Match[str]) -> datetime:
        groups = match.groupdict()
        try:
            if "year" in groups:
                return datetime(*(int(groups[name]) for name in TIME_GROUPS if groups.get(name)), tzinfo=UTC)
            if "epoch" in groups:
                return as_utc(float(groups["epoch"]))
            text = _main_group(match, "time")
            return as_utc(datetime.strptime(text, self.time_format) if self.time_format else text)
        except (ValueError, TypeError) as error:
            raise ValueError(f"path {match.string!r} holds no time: {error}") from error


def _compile(field: str, pattern: str | None) -> re.Pattern[str] | None:
    try:
        return None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{field}_from_path is {pattern!r}, which is no regular expression: {error}") from error


def _main_group(match: re.Match[str], name: str) -> str:
    return match[name if name in match.re.groupindex else min(1, match.re.groups)]


def _camera(match: re.Match[str]) -> str:
    return _main_group(match, "camera")


def list_images(folder: str) -> list[str]:
    """Find the image files in a folder and below, by their endings, sorted; without hidden ones and linked folders.

    Args:
        folder: path, or URI of an object storage.

    Returns:
        Absolute paths or URIs.

    Raises:
        ValueError: if there is no such folder, or no image in it.
    """
    folder = absolute(folder)
    if "://" in folder:
        daft = load_daft()
        try:
            paths = daft.from_glob_path(folder.rstrip("/") + "/**").select("path").to_pydict()["path"]
        except (OSError, daft.exceptions.DaftCoreException) as error:
            raise ValueError(f"{folder!r} cannot be listed, expected a folder that holds images: {error}") from error
    else:
        if not os.path.isdir(folder):
            raise ValueError(f"{folder!r} is no folder, expected one that holds images")
        walk = os.walk(folder, onerror=_raise)
        paths = [posixpath.join(parent, name) for parent, _, names in walk for name in names]
    images = [path for path in paths if _is_image(path[len(folder) :])]
    if not images:
        raise ValueError(f"{folder!r} holds no images, expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return sorted(images)


def _raise(error: OSError) -> None:
    raise error  # a folder that cannot be read must not look as if its images were gone


def _is_image(path: str) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/") if part not in ("", ".", ".."))
    return path.lower().endswith(IMAGE_SUFFIXES) and not hidden


def crops_of_files(files: Iterable[str | os.PathLike[str]], root: str | None = None) -> list[Crop]:
    """Name files by their path below `root`, or below the folder that holds them all; each file once."""
    uris = list(dict.fromkeys(absolute(path) for path in files))
    if not uris:
        raise ValueError("there are 0 files, expected at least one")
    root = posixpath.commonpath([posixpath.dirname(uri) for uri in uris]) if root is None else absolute(root)
    return [Crop(uri[len(root.rstrip("/")) + 1 :], uri) for uri in uris]


def absolute(path: str | os.PathLike[str]) -> str:
    """Make a path absolute; a URI stays as it is."""
    path = os.fspath(path).removeprefix("file://")
    return path if "://" in path else os.path.abspath(path)


def folder_of(source: Any) -> str | None:
    """The absolute path or URI of a folder, None if something else is given."""
    is_folder = isinstance(source, str | os.PathLike) and not os.path.isfile(source)
    return absolute(source) if is_folder else None


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
        place = {"image": data} if data is not None else {"uri": absolute(path)}
        yield Crop(str(image_id), **place, **_known_fields(row))


def _known_fields(row: dict[str, Any]) -> dict[str, Any]:
    fields = {name: row[name] for name in ("camera", "person_id") if row.get(name) is not None}
    if row.get("track_id") is not None:
        fields["track_id"] = str(row["track_id"])
    return fields | {"time": as_utc(row.get("time"))}


def crops_of_frames(frames: Iterable[Any], camera: str | None = None, time: Any = None) -> Iterator[Crop]:
    """Cut the boxes out of frames; a picture without boxes is a crop as it is.

    A crop is named by camera, time and a digest of its pixels, so the same frames give the same crops again.

    Args:
        frames: `Frame`s, pairs (image, boxes), or pictures of a person each.
        camera: name of the camera.
        time: when the pictures were taken, for frames without a time of their own.

    Raises:
        ValueError: if a box is not four numbers or lies outside its frame, or track ids do not fit the boxes.
    """
    for number, item in enumerate(frames):
        frame = Frame(*item) if isinstance(item, tuple) else Frame(item, ())
        image = _open(frame.image, number)
        boxes = frame.boxes if isinstance(item, tuple) else [(0, 0, *image.size)]
        track_ids = [None] * len(boxes) if frame.track_ids is None else frame.track_ids
        if len(track_ids) != len(boxes):
            raise ValueError(f"frame {number} has {len(boxes)} boxes and {len(track_ids)} track ids, expected as many")
        taken = as_utc(time if frame.time is None else frame.time)
        for box, track_id in zip(boxes, track_ids, strict=True):
            left, top, right, bottom = _clip(box, image.size, number)
            data = encode_jpeg(image.crop((left, top, right, bottom)))
            moment = taken and taken.strftime("%Y%m%dT%H%M%S.%f")
            image_id = "/".join(filter(None, (camera, moment, hashlib.sha256(data).hexdigest()[:16])))
            uri = None
            if isinstance(frame.image, str | os.PathLike):  # a media fragment: https://www.w3.org/TR/media-frags/
                uri = f"{absolute(frame.image)}#xywh={left},{top},{right - left},{bottom - top}"
            yield Crop(image_id, uri, data, camera, taken, None if track_id is None else str(track_id))


def _open(image: Any, number: int) -> Image.Image:
    if isinstance(image, str | os.PathLike):
        image = Image.open(image)
    elif isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(
            f"item {number} is {type(image).__name__}, expected a Pillow image, an array (height, width, 3) of uint8, "
            "a path, or a pair of one of these and its boxes"
        )
    return to_rgb(image)


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
    """Crops of whatever `Gallery.add` takes, with camera and time where they do not bring their own.

    Raises:
        ValueError: if there is nothing, or `path_fields` is given for what has no paths.
    """
    crops: Iterable[Crop]
    if isinstance(source, datasets.Dataset | datasets.IterableDataset):
        crops = crops_of_dataset(source)
    elif boxes is not None:
        crops = crops_of_frames(zip(source, boxes, strict=True), camera, time)
    elif (folder := folder_of(source)) is not None:
        crops = crops_of_files(list_images(folder), folder)
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
