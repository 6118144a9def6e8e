"""A training that is killed, whose disk fills up or spoils a file, goes on as if nothing had happened.

The runs are processes of their own. They are forked from one that has imported everything, which saves seconds each.
"""

import json
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ivt.corpora.sharded import write_shards
from ivt.files import find_damage
from ivt.training.checkpoints import find_checkpoints
from train_tiny import load_tiny, train_streamed, train_until_killed, train_with_small_disk

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def start():
    """Run a function of this project in a process of its own; raises BrokenProcessPool if that was killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["train_tiny"])
    with pytest.MonkeyPatch.context() as patch:  # the server reads them when the first process is started
        patch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{ROOT / 'tests'}")
        patch.setenv("ACCELERATE_USE_CPU", "true")

        def start(function, *arguments: Any) -> Any:
            with ProcessPoolExecutor(1, mp_context=context) as pool:
                return pool.submit(function, *map(str, arguments[:2]), *arguments[2:]).result(timeout=120)

        yield start


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def whole(start, cache, tmp_path_factory):
    """A run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    start(train_until_killed, folder, cache)
    return folder


def outcome(folder: Path) -> dict[str, Any]:
    """What must not depend on how often a run was broken off: everything but times."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    record = json.loads((folder / "run.json").read_text())
    assert all(json.loads((folder / name / "run.json").read_text()) == record for name in ("best", "final"))
    return {
        "metrics": [{name: value for name, value in line.items() if name != "seconds"} for line in metrics],
        "record": {name: record[name] for name in ("recipe", "corpus", "steps", "epochs", "results", "finished")},
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*")),  # nothing is left over
    }


def assert_equal_runs(folder: Path, other: Path) -> None:
    assert outcome(folder) == outcome(other)
    for name in ("best", "final"):
        weights, others = (load_file(path / name / "model.safetensors") for path in (folder, other))
        assert weights.keys() == others.keys()
        assert all(torch.equal(weights[key], others[key]) for key in weights), name


KILLS = [
    ("open", "recipe.yaml.new", 1),  # there is nothing yet
    ("batch", "", 2),  # in the second step, before the first checkpoint
    ("open", "unfinished/random-00000.json", 1),  # while the first checkpoint is written
    ("os.rename", "checkpoints/unfinished", 1),  # it is written and has no name yet
    ("open", "metrics.jsonl", 4),  # step 3, after the checkpoint of step 2
    ("open", "best.new/config.json", 1),  # the checkpoint of step 3 is there, and its model is not the best yet
    ("os.rename", "run.json.new", 1),  # while resuming from it
    ("shutil.rmtree", "checkpoints/step-00000002", 1),  # while it is deleted for the one of step 4
    ("batch", "", 1),
    ("shutil.rmtree", "checkpoints/step-00000004", 1),  # when the one of step 7, the last, is there
    ("os.rename", "final.new", 1),
    ("open", "best/config.json", 1),  # in the test
    ("os.rename", "final/run.json.new", 1),  # results are written at one place and not at the other
]


def test_run_killed_again_and_again_ends_as_one_that_never_was(start, cache, whole, tmp_path):
    for die_at in KILLS:
        with pytest.raises(BrokenProcessPool):
            start(train_until_killed, tmp_path / "run", cache, die_at)
    start(train_until_killed, tmp_path / "run", cache)
    assert_equal_runs(tmp_path / "run", whole)
    steps = [line["step"] for line in outcome(tmp_path / "run")["metrics"] if "loss" in line]
    assert steps == [1, 2, 3, 4, 5, 6, 7]


@pytest.fixture(scope="module")
def broken(start, cache, tmp_path_factory):
    """A run that was killed in its sixth step; it has the checkpoints of steps 3 and 4."""
    folder = tmp_path_factory.mktemp("broken") / "run"
    with pytest.raises(BrokenProcessPool):
        start(train_until_killed, folder, cache, ("batch", "", 6))
    assert [path.name for path in find_checkpoints(folder)] == ["step-00000003", "step-00000004"]
    return folder


@pytest.mark.parametrize(
    "die_at",
    [
        ("os.rename", "best.new", 2),  # the best model of step 3 has been moved away, that of step 6 has no name yet
        ("open", "best.old", 1),  # the best model of step 6 is there, that of step 3 not yet deleted
    ],
)
def test_run_killed_while_best_is_replaced_leaves_one_best_model(start, cache, whole, broken, tmp_path, die_at):
    run = shutil.copytree(broken, tmp_path / "run")
    with pytest.raises(BrokenProcessPool):
        start(train_until_killed, run, cache, die_at)
    assert (run / "best.old").is_dir()
    start(train_until_killed, run, cache)
    assert_equal_runs(run, whole)


@pytest.mark.parametrize("too_large", ["model.safetensors", "optimizer.safetensors"])
def test_full_disk_leaves_the_last_checkpoint_and_says_what_to_do(start, cache, whole, broken, tmp_path, too_large):
    run = shutil.copytree(broken, tmp_path / "run")
    max_bytes = (run / "checkpoints/step-00000004" / too_large).stat().st_size - 1
    with pytest.raises(OSError, match="-00000006 could not be written.*make room.*--resume.*-00000004 is whole"):
        start(train_with_small_disk, run, cache, max_bytes)
    assert [(path.name, find_damage(path)) for path in find_checkpoints(run)] == [
        ("step-00000003", None),
        ("step-00000004", None),
    ]
    assert not (run / "checkpoints/unfinished").exists()
    start(train_until_killed, run, cache)
    assert_equal_runs(run, whole)


def test_run_with_a_spoilt_checkpoint_goes_on_from_the_one_before(start, cache, whole, broken, tmp_path):
    run = shutil.copytree(broken, tmp_path / "run")
    path = run / "checkpoints/step-00000004/optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # which a reader of the file would not notice
    path.write_bytes(content)
    start(train_until_killed, run, cache)
    shutil.rmtree(run / "checkpoints/step-00000004.damaged")  # set aside
    assert_equal_runs(run, whole)


# ---- streaming


def test_streamed_run_of_two_processes_goes_on_after_a_kill(start, cache, tmp_path, meeting_port):
    for split in ("train", "val"):
        write_shards(load_tiny(str(cache), "train"), tmp_path / "shards", split, rows_per_shard=5)

    def train_both(folder: Path, num_batches: int) -> list[Exception | None]:
        with ThreadPoolExecutor(2) as pool:
            runs = [
                pool.submit(start, train_streamed, folder, tmp_path / "shards", rank, meeting_port, num_batches)
                for rank in range(2)
            ]
            return [run.exception() for run in runs]

    assert train_both(tmp_path / "whole", 1000) == [None, None]
    assert all(isinstance(error, BrokenProcessPool) for error in train_both(tmp_path / "broken", 5))
    assert [path.name for path in find_checkpoints(tmp_path / "broken")] == ["step-00000003", "step-00000004"]
    assert train_both(tmp_path / "broken", 1000) == [None, None]
    runs = [load_file(tmp_path / name / "final/model.safetensors") for name in ("whole", "broken")]
    assert all(torch.equal(weight, runs[1][name]) for name, weight in runs[0].items())
    metrics = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "broken")
    ]
    losses = [[(line["step"], line["loss"]) for line in lines if "loss" in line] for lines in metrics]
    assert losses[0] == losses[1] and len(losses[0]) == 7
