"""What a run was, in `run.json`: what it takes to believe its figures, or to repeat them.

    id            for trackers
    recipe        every field; those of the model that were given under "model"
    seeds         of this run
    corpus        name, that of the one it is "evaluated" on; sizes (people, images, captions) and hash of each split
    versions      of Python and the libraries
    git           commit, and the files that differ from it; null outside of a checkout
    hardware      device, processes, threads of each
    parameters    of the model
    resumed       step, versions and git of each continuation
    steps, epochs, wall_seconds    how long it trained so far, its validations included
    results       "validation": the best one, with its step; "test": "best" and "final" on the test split, or null
    finished      false while a run goes on, or if it was broken off

What several seeds of a recipe came to is in `seeds.json`.
"""

import hashlib
import json
import platform
import statistics
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Image
from torch import nn

from ivt.corpora.sharded import ShardedRows
from ivt.files import write_text

from .recipe import Recipe

ROOT = Path(__file__).parents[2]
LIBRARIES = ("torch", "transformers", "datasets", "accelerate", "numpy", "pillow")
SHOWN = ("R@1", "R@5", "R@10", "mAP")


def describe_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that a result depends on."""
    return {"python": platform.python_version()} | {name: version(name) for name in LIBRARIES}


def describe_git(root: Path = ROOT) -> dict[str, Any] | None:
    """Commit of the code and its files that differ from it; None if `root` is no checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root.resolve():  # that of something around it
            return None
        return {"commit": git("rev-parse", "HEAD"), "changed": git("diff", "--name-only", "HEAD").splitlines()}
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, no commit
        return None


def describe_hardware(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Device, and how many processes and threads share the work."""
    name = "cpu" if device.type == "cpu" else torch.get_device_module(device).get_device_name(device)
    return {"device": name, "num_processes": num_processes, "threads_per_process": torch.get_num_threads()}


def describe_sizes(rows: Dataset | ShardedRows) -> dict[str, int]:
    """Numbers of people, images and captions."""
    if isinstance(rows, ShardedRows):
        return rows.sizes()
    num_captions = sum(map(len, rows["captions"][:]))
    return {"people": len(set(rows["person_id"][:])), "images": len(rows), "captions": num_captions}


def hash_rows(rows: Dataset | ShardedRows) -> str:
    """SHA-256 of image ids, person ids and captions in their order, and of the pictures of a drawn corpus.

    Pictures that lie in files count by their `image_id`. A corpus that is streamed is not read for this, see
    `ShardedRows.digest`.
    """
    if isinstance(rows, ShardedRows):
        return rows.digest()
    digest, columns = hashlib.sha256(), ["image_id", "person_id", "captions"]
    for row in rows.select_columns([*columns, "image"]).cast_column("image", Image(decode=False)):
        digest.update(json.dumps([row[name] for name in columns]).encode())
        digest.update(row["image"]["bytes"] or b"")
    return digest.hexdigest()


def start_record(
    recipe: Recipe,
    model_fields: dict[str, Any],
    model: nn.Module,
    splits: dict[str, Dataset | ShardedRows],
    device: torch.device,
    num_processes: int,
) -> dict[str, Any]:
    """What is known of a run when it begins.

    Args:
        recipe: of the run.
        model_fields: fields of `IVTConfig` that were given.
        model: to count its parameters.
        splits: name of each split that was read, and its rows.
        device: of this process.
        num_processes: that train together.
    """
    return {
        "id": uuid.uuid4().hex,
        "recipe": asdict(recipe) | {"model": model_fields},
        "seeds": [recipe.seed],
        "corpus": {
            "name": recipe.corpus,
            "evaluated": recipe.eval_corpus or recipe.corpus,
            "sizes": {split: describe_sizes(rows) for split, rows in splits.items()},
            "hash": {split: hash_rows(rows) for split, rows in splits.items()},
        },
        "versions": describe_versions(),
        "git": describe_git(),
        "hardware": describe_hardware(device, num_processes),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "resumed": [],
        "steps": 0,
        "epochs": 0,
        "wall_seconds": 0.0,
        "results": {"validation": None, "test": None},
        "finished": False,
    }


def write_record(record: dict[str, Any], *folders: Path) -> None:
    """Write `run.json` into the folders."""
    for folder in folders:
        write_text(folder / "run.json", json.dumps(record, indent=2) + "\n")


def read_record(folder: Path) -> dict[str, Any] | None:
    """Read the `run.json` of a folder; None if it has none."""
    path = folder / "run.json"
    return json.loads(path.read_text()) if path.is_file() else None


def resume_record(output_dir: Path, step: int) -> dict[str, Any] | None:
    """The record of a run that goes on after some steps, None if it begins."""
    record = read_record(output_dir) if step else None
    if record:
        record["resumed"].append({"step": step, "versions": describe_versions(), "git": describe_git()})
    return record


def is_finished(output_dir: Path, test_at_end: bool) -> bool:
    """Whether the run in a folder came to its end, its test included if that is wanted."""
    record = read_record(output_dir)
    return record is not None and record["finished"] and (record["results"]["test"] is not None or not test_at_end)


def over_runs(reduce: Callable[[list[float]], float], results: list[Any]) -> Any:
    """Reduce every number of nested dictionaries of one shape; what a run lacks is None."""
    if None in results:
        return None
    if isinstance(results[0], dict):
        return {name: over_runs(reduce, [result[name] for result in results]) for name in results[0]}
    return reduce(results)


def _at(path: tuple[str, ...], results: Any) -> Any:
    """What is at a path of nested dictionaries; None where the path ends early."""
    for key in path:
        results = results and results[key]
    return results


def summarise_seeds(output_dir: Path, folders: dict[int, Path]) -> str:
    """Write mean and standard deviation of the results of several seeds to `seeds.json`.

    Args:
        output_dir: where to write.
        folders: seed -> folder of its finished run; two or more.

    Returns:
        A table of the text-to-image figures in percent: mean ± standard deviation, that of a sample (n - 1).
    """
    results = [record["results"] for folder in folders.values() if (record := read_record(folder))]
    mean, std = over_runs(statistics.fmean, results), over_runs(statistics.stdev, results)
    summary = {"seeds": list(folders), "mean": mean, "std": std, "results": results}
    write_text(output_dir / "seeds.json", json.dumps(summary, indent=2) + "\n")
    lines = [f"{f'{len(folders)} seeds, text to image':<24}" + "".join(f"{name:>15}" for name in SHOWN)]
    for path in (("validation",), ("test", "best"), ("test", "final")):
        means, stds = (_at(path, part) for part in (mean, std))
        if means:
            figures = (f"{means['text_to_image'][name]:.2f} ± {stds['text_to_image'][name]:.2f}" for name in SHOWN)
            lines.append(f"{', '.join(path):<24}" + "".join(f"{figure:>15}" for figure in figures))
    return "\n".join(lines)
