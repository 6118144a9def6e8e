"""Folders and lists of image files -> crops, named by their paths."""

import os
import posixpath
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image

from ivt.messages import has_half_character

from .columns import Crop
from .runner import load_daft

# Pillow knows these by their first bytes, but needs another program to draw them, or cannot
NOT_DRAWN = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"}
NOT_UTF_8 = "its name is not UTF-8, so no gallery can hold it; rename the file"


@dataclass(frozen=True)
class Listing:
    """What a folder holds.

    Attributes:
        folder: its absolute path or URI.
        images: absolute paths or URIs of the image files, sorted.
        left_out: files that are none by their ending: number of each ending, "" of those without.
        bad: path -> what is wrong, of image files that no gallery can hold.
    """

    folder: str
    images: list[str]
    left_out: dict[str, int]
    bad: dict[str, str]


@cache
def image_suffixes() -> frozenset[str]:
    """The endings of files that Pillow reads, in small letters; plug-ins of Pillow that are loaded add theirs."""
    known = Image.registered_extensions()
    return frozenset(ending for ending, kind in known.items() if kind in Image.OPEN and kind not in NOT_DRAWN)


def absolute(path: str | os.PathLike[str]) -> str:
    """Make a path absolute; a URI stays as it is."""
    path = os.fspath(path).removeprefix("file://")
    return path if "://" in path else os.path.abspath(path)


def folder_of(source: Any) -> str | None:
    """The absolute path or URI of a folder, None if something else is given."""
    is_folder = isinstance(source, str | os.PathLike) and not os.path.isfile(source)
    return absolute(source) if is_folder else None


def list_images(folder: str) -> Listing:
    """Find the image files in a folder and below, by their endings, without hidden ones.

    Linked folders are followed, each once; what a link finds in `folder` itself is there already.

    Args:
        folder: path, or URI of an object storage.

    Raises:
        ValueError: if there is no such folder, or no image in it.
    """
    folder = absolute(folder)
    paths = _list_storage(folder) if "://" in folder else _list_disk(folder)
    images, bad, left_out = [], {}, Counter()
    for path in paths:
        below = path[len(folder) :]
        if any(part.startswith(".") for part in below.split("/") if part not in ("", ".", "..")):
            continue  # hidden
        ending = posixpath.splitext(path)[1].lower()
        if ending not in image_suffixes():
            left_out[ending] += 1
        elif has_half_character(path):
            bad[os.fsencode(below.lstrip("/")).decode(errors="backslashreplace")] = NOT_UTF_8
        else:
            images.append(path)
    if not images:
        others = f"; there are {sum(left_out.values())} other files" if left_out else ""
        raise ValueError(
            f"{folder!r} holds no images, expected files that end in .jpg, .png or what else Pillow reads{others}"
        )
    return Listing(folder, sorted(images), dict(left_out.most_common()), bad)


def _list_storage(folder: str) -> list[str]:
    daft = load_daft()
    try:
        return daft.from_glob_path(folder.rstrip("/") + "/**").select("path").to_pydict()["path"]
    except (OSError, daft.exceptions.DaftCoreException) as error:
        raise ValueError(f"{folder!r} cannot be listed, expected a folder that holds images: {error}") from error


def _list_disk(folder: str) -> Iterator[str]:
    if not os.path.isdir(folder):
        raise ValueError(f"{folder!r} is no folder, expected one that holds images")
    followed = [os.path.realpath(folder)]
    for parent, folders, names in os.walk(folder, onerror=_raise, followlinks=True):
        folders.sort()
        for link in [name for name in folders if os.path.islink(posixpath.join(parent, name))]:
            target = os.path.realpath(posixpath.join(parent, link))
            if any(os.path.commonpath([target, other]) == other for other in followed):
                folders.remove(link)
            else:
                followed.append(target)
        yield from (posixpath.join(parent, name) for name in names)


def _raise(error: OSError) -> None:
    raise error  # a folder that cannot be read must not look as if its images were gone


def crops_of_files(files: Iterable[str | os.PathLike[str]], root: str | None = None) -> list[Crop]:
    """Name files by their path below `root`, or below the folder that holds them all; each file once."""
    uris = list(dict.fromkeys(absolute(path) for path in files))
    if not uris:
        raise ValueError("there are 0 files, expected at least one")
    root = posixpath.commonpath([posixpath.dirname(uri) for uri in uris]) if root is None else absolute(root)
    return [Crop(uri[len(root.rstrip("/")) + 1 :], uri) for uri in uris]
