"""Index a folder on a Ray cluster of two workers, one of which is killed half-way; started by test_scale.py.

python tests/gallery/index_on_ray.py FOLDER MODEL GALLERY

The workers take turns, so that whatever their speed the same happens: one writes two fragments, the other a third, and
is killed before anybody hears of it. Prints as JSON how many fragments were written by then and in the end, what the
indexing reported, and the same of a second run in which three pictures have changed.
"""

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # read when Ray is imported

import pyarrow as pa
import ray
from ray.cluster_utils import Cluster

from ivt import Gallery
from ivt.gallery import engine

ROWS_PER_TASK = 8
WRITTEN_WHEN_KILLED = 3
SECONDS = 300  # to wait for the other worker
WORKER = {"num_cpus": 1, "memory": 2**30, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def count_fragments(uri: str) -> int:
    return len(list(Path(uri, "data").glob("*.lance")))


def wait_until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        if time.monotonic() > end:
            raise TimeoutError("the other worker does not come")
        time.sleep(0.02)


def in_turns(write_rows: Callable[..., list], victim: str, uri: str) -> Callable[..., list]:
    """`write_rows` of the engine, for workers of which one is killed.

    Args:
        write_rows: what writes a fragment.
        victim: node of the worker that is killed, when it has written the last fragment before that.
        uri: the gallery; the file `uri.killed` stands beside it from then on.
    """

    def write_in_turn(crops: pa.Table, embedded: pa.StructArray, work: engine.Work) -> list[list[str] | None]:
        def is_victims_turn() -> bool:
            return count_fragments(uri) >= WRITTEN_WHEN_KILLED - 1

        if ray.get_runtime_context().get_node_id() == victim:
            wait_until(is_victims_turn)
            write_rows(crops, embedded, work)
            time.sleep(SECONDS)  # until death
        elif is_victims_turn():
            wait_until(Path(f"{uri}.killed").exists)
        return write_rows(crops, embedded, work)

    return write_in_turn


def main(folder: str, model: str, uri: str) -> None:
    engine.ROWS_PER_TASK = ROWS_PER_TASK
    cluster = Cluster(initialize_head=True, head_node_args=WORKER)  # the head is a worker too
    victim = cluster.add_node(**WORKER)
    engine.write_rows = in_turns(engine.write_rows, victim.node_id, uri)
    written = []

    def kill_half_way() -> None:
        wait_until(lambda: count_fragments(uri) >= WRITTEN_WHEN_KILLED)
        cluster.remove_node(victim, allow_graceful=False)  # SIGKILL
        written.append(count_fragments(uri))
        Path(f"{uri}.killed").touch()

    killer = threading.Thread(target=kill_half_way, daemon=True)
    killer.start()
    people = Gallery(uri, model)
    report = people.add(folder, runner="ray", address=cluster.address, progress=False)
    killer.join()
    written.append(count_fragments(uri))
    versions = people.store.dataset().version

    files = sorted(Path(folder).glob("*"))
    for file in files[:3]:
        file.write_bytes(file.read_bytes() + b"changed")
    files[3].rename(Path(folder, "renamed.png"))
    again = people.add(folder, runner="ray", sync=True, progress=False)
    outcome = {"written": written, "versions": versions, "report": asdict(report), "again": asdict(again)}
    print(json.dumps(outcome))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main(*sys.argv[1:])
