"""Files and folders that are at no moment half-written, and the sums that show if they were spoilt later."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

MANIFEST = "manifest.json"  # size and SHA-256 of every other file of a folder


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of files, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


def check_empty(folder: Path) -> Path:
    """The whole path of a new or empty folder.

    Raises:
        ValueError: if it is something else.
    """
    folder = folder.resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; remove it or name another")
    return folder


@contextmanager
def new_folder(folder: Path | None) -> Generator[Path]:
    """Give a folder to write into, which becomes `folder` at the end of the block; after an error nothing is left.

    Args:
        folder: new or empty; with None what was written goes at the end of the block, too.

    Raises:
        ValueError: if `folder` is something else.
    """
    if folder is None:
        with tempfile.TemporaryDirectory() as temporary:
            yield Path(temporary)
        return
    folder = check_empty(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as staging:
        new = Path(staging) / folder.name
        new.mkdir()
        yield new
        os.replace(new, folder)


def replace_folder(new: Path, folder: Path) -> None:
    """Put a finished folder in the place of an older one; after a power cut either is whole."""
    for path in (*new.rglob("*"), new):
        flush_to_disk(path)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    flush_to_disk(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a file, or replace it."""
    new = path.with_name(path.name + ".new")
    new.write_text(text)
    flush_to_disk(new)
    new.replace(path)


def checksum(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path) -> None:
    """Note size and checksum of every file of a folder, in the folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    entries = {str(path.relative_to(folder)): [path.stat().st_size, checksum(path)] for path in files}
    (folder / MANIFEST).write_text(json.dumps(entries, indent=2) + "\n")


def find_damage(folder: Path) -> str | None:
    """Say where a folder differs from its manifest, or None."""
    try:
        for name, (size, expected) in json.loads((folder / MANIFEST).read_text()).items():
            path = folder / name
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes, {size} were written"
            if checksum(path) != expected:
                return f"{name} holds other bytes than were written"
    except FileNotFoundError as error:
        return f"{os.path.relpath(error.filename, folder)} is missing"  # a spoilt manifest may name any path
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last three: a manifest that is none
        return f"{MANIFEST} or a file it lists cannot be read ({error})"
    return None
