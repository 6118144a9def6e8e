"""Experiment trackers, through accelerate: tensorboard (a folder of the run), trackio (local), wandb (a service)."""

import importlib
from pathlib import Path
from typing import Any

from accelerate import Accelerator

PROJECT = "ivt"


def check_trackers(names: list[str]) -> None:
    """Raise a ValueError for a tracker that is not installed; accelerate would leave it out."""
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ValueError(
                f"report_to names {name}, which cannot be imported ({error}); pip install {name}, or all of them with "
                "pip install 'ivt-person-retrieval[tracking]'"
            ) from error


def start_trackers(accelerator: Accelerator, output_dir: Path, record: dict[str, Any], step: int) -> None:
    """Begin the accelerator's trackers, or go on with them.

    Args:
        accelerator: has the trackers' names.
        output_dir: gives the run its name, and takes the files of wandb.
        record: of the run, see `record.py`.
        step: steps that are done; what a tracker knows of later ones is about to come again.
    """
    fields = {**record["recipe"], **{f"model.{name}": value for name, value in record["recipe"]["model"].items()}}
    # trackers take plain values
    config = {k: v if isinstance(v, int | float | str) else str(v) for k, v in fields.items() if k != "model"}
    name = f"{output_dir} {record['id'][:8]}"
    options = {
        "tensorboard": {"purge_step": step + 1},
        "trackio": {"name": name, "resume": "allow"},
        "wandb": {"name": name, "id": record["id"], "resume": "allow", "dir": str(output_dir)},
    }
    accelerator.init_trackers(PROJECT, config, options)
