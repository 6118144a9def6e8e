"""Index a folder on a Ray cluster of two workers, one of which is killed half-way; started by test_scale.py.

python tests/gallery/index_on_ray.py FOLDER MODEL GALLERY

Prints as JSON how many fragments were written when the worker was killed, what the indexing reported, and the same of
a second run in which three pictures have changed.
"""

import json
import logging
import os
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path

os.environ |= {"RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}  # read when Ray is imported

import ray
from ray.cluster_utils import Cluster

from ivt import Gallery
from ivt.gallery import engine

ROWS_PER_TASK = 8
WRITTEN_WHEN_KILLED = 3
WORKER = {"num_cpus": 1, "memory": 2**30, "object_store_memory": 80 * 2**20, "include_dashboard": False}


def main(folder: str, model: str, uri: str) -> None:
    engine.ROWS_PER_TASK = ROWS_PER_TASK
    cluster = Cluster(initialize_head=True, head_node_args=WORKER)  # the head is a worker too
    victim = cluster.add_node(**WORKER)
    written = []

    def kill_half_way() -> None:
        while len(list(Path(uri, "data").glob("*"))) < WRITTEN_WHEN_KILLED:
            time.sleep(0.02)
        cluster.remove_node(victim, allow_graceful=False)  # SIGKILL
        written.append(len(list(Path(uri, "data").glob("*"))))

    killer = threading.Thread(target=kill_half_way, daemon=True)
    killer.start()
    people = Gallery(uri, model)
    report = people.add(folder, runner="ray", address=cluster.address, progress=False)
    killer.join()
    versions = people.store.dataset().version

    files = sorted(Path(folder).glob("*"))
    for file in files[:3]:
        file.write_bytes(file.read_bytes() + b"changed")
    files[3].rename(Path(folder, "renamed.png"))
    again = people.add(folder, runner="ray", sync=True, progress=False)
    outcome = {"written": written[0], "versions": versions, "report": asdict(report), "again": asdict(again)}
    print(json.dumps(outcome))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    logging.disable(logging.INFO)
    main(*sys.argv[1:])
