"""Index a folder into galleries and die of SIGKILL, each time at another point; started by test_gallery_killed.py.

python tests/retrieval/index_until_killed.py FOLDER MODEL OTHER_MODEL OUTPUT_DIR POINT...

A point is a time, a method of the store and a number, as in `before-upsert-2`: before, during or after the second
commit of rows. Galleries that are to die in `replace` are first indexed with MODEL and then converted to OTHER_MODEL.
Writes per point `POINT.lance` and `POINT.log`, which has a line per acknowledged batch.
"""

import logging
import os
import signal
import sys
import threading
import time

from ivt import Gallery
from ivt.gallery import indexing
from ivt.gallery.store import Store

ROWS_PER_BATCH = 4


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arrange_death(when: str, method: str, number: int) -> None:
    """Die at the call with this number, counted from 1, of a method of the store."""
    original, calls = getattr(Store, method), []

    def call_or_die(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) < number:
            return original(*arguments, **options)
        if when == "before":
            die()
        if when == "during":
            threading.Timer(0.005, die).start()  # a commit takes some 20 ms
        original(*arguments, **options)
        if when == "during":
            time.sleep(1)  # only if the commit was faster
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
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{point}: ended with status {status} instead of SIGKILL")


if __name__ == "__main__":
    main(*sys.argv[1:])
