"""On a cluster that loses a machine nothing is lost and nothing comes twice."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from gallery_parts import draw
from index_on_ray import ROWS_PER_TASK, WRITTEN_WHEN_KILLED

from ivt import Gallery, embed_images
from ivt.retrieval.models import find_version, load_model

REPO = Path(__file__).parents[2]
NUM_TASKS = 12


def test_killed_worker_loses_nothing_and_writes_nothing_twice(
    tmp_path: Path, checkpoint: str, run_python: Callable
) -> None:
    folder, uri = tmp_path / "crops", tmp_path / "people.lance"
    folder.mkdir()
    names = [f"{number:03}.png" for number in range(NUM_TASKS * ROWS_PER_TASK)]
    for number, name in enumerate(names):  # large, so that a task takes a while
        draw(number, width=400, height=1000).save(folder / name, compress_level=1)
    files = [folder / name for name in names]
    expected = embed_images(*load_model(find_version(checkpoint)), files, progress=False)

    script = Path(__file__).with_name("index_on_ray.py")
    done = run_python(script, folder, checkpoint, uri, cwd=tmp_path, python_path=REPO)
    assert done.returncode == 0, done.stderr
    (outcome,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert outcome["written"] == [WRITTEN_WHEN_KILLED, NUM_TASKS + 1]  # what nobody heard of was written again
    assert outcome["versions"] == 2  # the empty table, and one commit of all rows
    nothing = {"added": 0, "changed": 0, "unchanged": 0, "removed": 0, "bad": {}, "left_out": {}}
    assert outcome["report"] == nothing | {"added": len(names)}
    # the second run: three pictures changed, one renamed, in one more commit, and the old name removed
    assert outcome["again"] == nothing | {"added": 1, "changed": 3, "unchanged": len(names) - 4, "removed": 1}

    people = Gallery(uri, checkpoint)
    assert people.verify() == {}
    rows = people.store.dataset().to_table().sort_by("image_id")
    assert rows["image_id"].to_pylist() == [*names[:3], *names[4:], "renamed.png"]
    order = [*range(3), *range(4, len(names)), 3]
    np.testing.assert_allclose(np.stack(rows["vector"].to_numpy()), expected[order], atol=1e-6)
