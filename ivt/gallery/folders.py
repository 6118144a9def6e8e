"""Folders and lists of image files -> crops, named by their paths."""

import os
import posixpath
from collections.abc import Iterable
from typing import Any

from .columns import Crop
from .runner import load_daft

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")


def absolute(path: str | os.PathLike[str]) -> str:
    """Make a path absolute; a URI stays as it is."""
    path = os.fspath(path).removeprefix("file://")
    return path if "://" in path else os.path.abspath(path)


def folder_of(source: Any) -> str | None:
    """The absolute path or URI of a folder, None if something else is given."""
    is_folder = isinstance(source, str | os.PathLike) and not os.path.isfile(source)
    return absolute(source) if is_folder else None


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
    paths = _list_storage(folder) if "://" in folder else _list_disk(folder)
    images = [path for path in paths if _is_image(path[len(folder) :])]
    if not images:
        raise ValueError(f"{folder!r} holds no images, expected files that end in {', '.join(IMAGE_SUFFIXES)}")
    return sorted(images)


def _list_storage(folder: str) -> list[str]:
    daft = load_daft()
    try:
        return daft.from_glob_path(folder.rstrip("/") + "/**").select("path").to_pydict()["path"]
    except (OSError, daft.exceptions.DaftCoreException) as error:
        raise ValueError(f"{folder!r} cannot be listed, expected a folder that holds images: {error}") from error


def _list_disk(folder: str) -> list[str]:
    if not os.path.isdir(folder):
        raise ValueError(f"{folder!r} is no folder, expected one that holds images")
    walk = os.walk(folder, onerror=_raise)
    return [posixpath.join(parent, name) for parent, _, names in walk for name in names]


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
