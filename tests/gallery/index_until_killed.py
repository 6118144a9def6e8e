"""Index a folder into galleries and die of a signal, each time at another point; started by test_gallery_killed.py.

python tests/gallery/index_until_killed.py FOLDER MODEL OTHER_MODEL OUTPUT_DIR POINT...

A point is a time, a method of the store and a number, as in `before-upsert-2`: before or after the second commit of
rows, or in the middle of it, while Lance writes their data or then the transaction. Galleries that are to die in
`replace` are first indexed with MODEL and then converted to OTHER_MODEL. Writes per point `POINT.lance` and
`POINT.log`, which has a line per acknowledged batch.
"""

import logging
import os
import resource
import signal
import sys

from ivt import Gallery
from ivt.gallery import indexing
from ivt.gallery.store import Store

ROWS_PER_BATCH = 4
# Bytes of the file whose writing kills: a data file of 4 rows has 3.4 kB, its transaction, with a filter of the names
# in it, 33 kB, and is written after it.
LIMITS = {"data": 1_000, "transaction": 10_000}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_of_a_file(limit: int) -> None:
    """Die as soon as a file has more bytes; the kernel kills the thread that writes it, so there is no race."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


def arrange_death(when: str, method: str, number: int) -> None:
    """Die at the call with this number, counted from 1, of a method of the store."""
    original, calls = getattr(Store, method), []

    def call_or_die(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) < number:
            return original(*arguments, **options)
        if when == "before":
            die()
        if when in LIMITS:
            die_of_a_file(LIMITS[when])
        original(*arguments, **options)
        if when in LIMITS:
            os._exit(1)  # it wrote no file so large: this is no death in the middle
        die()

    setattr(Store, method, call_or_die)


def index(folder: str, models: list[str], output_dir: str, point: str) -> None:
    logging.basicConfig(filename=f"{output_dir}/{point}.log", format="%(message)s")
    indexing.logger.setLevel(logging.INFO)
    indexing.COMMIT_ROWS = ROWS_PER_BATCH
    when, method, number = point.split("-")
    arrange_death(when, method, int(number))
    uri, options = f"{output_dir}/{point}.lance", {"batch_size": ROWS_PER_BATCH, "progress": False}
    Gallery(uri, models[0]).add(folder, **options)
    Gallery.reembed(uri, models[1], **options)


def main(folder: str, model: str, other_model: str, output_dir: str, *points: str) -> None:
    for point in points:
        child = os.fork()
        if child == 0:
            index(folder, [model, other_model], output_dir, point)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        expected = signal.SIGXFSZ if point.split("-")[0] in LIMITS else signal.SIGKILL
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != expected:
            sys.exit(f"{point}: ended with status {status} instead of {expected.name}")


if __name__ == "__main__":
    main(*sys.argv[1:])
