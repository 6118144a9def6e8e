"""Output folders that appear when they are complete, or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_output(output_dir: Path) -> Path:
    """The whole path of a new or empty folder.

    Raises:
        ValueError: if it is something else.
    """
    output_dir = output_dir.resolve()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise ValueError(f"{output_dir} exists and is not an empty folder; remove it or choose another OUTPUT_DIR")
    return output_dir


@contextmanager
def new_folder(output_dir: Path) -> Iterator[Path]:
    """Give a folder to write into; at the end of the block it becomes `output_dir`, after an error it is removed.

    Raises:
        ValueError: if `output_dir` exists and is not an empty folder.
    """
    output_dir = check_output(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}.") as staging:
        folder = Path(staging) / output_dir.name
        folder.mkdir()
        yield folder
        os.replace(folder, output_dir)
