"""Where a run stands, on disk: checkpoints to resume from, and models in Hub format.

A checkpoint is written under another name, then its manifest, then it gets its name: what bears the name was written
whole, and the manifest shows whether it still is.
"""

import logging
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from safetensors import SafetensorError
from torch import nn

from ivt.files import find_damage, replace_folder, write_manifest, write_text
from processing import IVTProcessor

from .lock import lock_output
from .recipe import Recipe
from .record import read_record, write_record
from .state import Progress, TrainingState

logger = logging.getLogger(__name__)

# fields that change nothing about what is learnt, so a resumed run may have other ones
COMFORT_FIELDS = set("log_steps save_steps keep_checkpoints num_workers cache_images test_at_end protocol".split())


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints of a run that were written to their end, oldest first."""
    return sorted((output_dir / "checkpoints").glob("step-????????"))


@contextmanager
def saving(path: Path, output_dir: Path, unfinished: Path | None = None) -> Generator[None]:
    """Run a block that writes something; if it fails, say what is still good and what to do.

    Args:
        path: what the block writes.
        output_dir: of the run.
        unfinished: folder that is of no use, and in the way, where the block fails.

    Raises:
        OSError: instead of the many kinds that the libraries raise for a full disk.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if unfinished:
            shutil.rmtree(unfinished, ignore_errors=True)
        good = find_checkpoints(output_dir)
        raise OSError(
            f"{path} could not be written: {error}. If the disk is full, make room and give the same command with "
            f"--resume: {f'checkpoint {good[-1]} is whole' if good else 'there is no checkpoint yet'}"
        ) from error


def save_model(
    accelerator: Accelerator,
    objective: nn.Module,
    processor: IVTProcessor,
    folder: Path,
    record: dict[str, Any] | None,
) -> None:
    """Save the evaluated model, processor and code in Hub format; `folder` is at no moment half-written.

    Args:
        accelerator: of the run; all its processes must call.
        objective: holds the model.
        processor: the model's.
        folder: where to save.
        record: for `run.json` there; only the first process needs it.
    """
    state = accelerator.get_state_dict(objective)  # collective: gathers what FSDP keeps apart
    if accelerator.is_main_process:
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        unwrapped = accelerator.unwrap_model(objective)
        prefix = "model." if unwrapped.average is None else "average."
        weights = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
        for tied in unwrapped.evaluated_model.all_tied_weights_keys:  # FSDP gathers them twice
            del weights[tied]
        with saving(folder, folder.parent, new):
            unwrapped.evaluated_model.save_pretrained(new, state_dict=weights)
            processor.save_pretrained(new)
            assert record is not None  # the first process has one
            write_record(record, new)
            replace_folder(new, folder)
    accelerator.wait_for_everyone()


def best_is_saved(accelerator: Accelerator, output_dir: Path, progress: Progress) -> bool:
    """Whether `best` is the model of the best validation; a kill may have come between the two."""
    record = read_record(output_dir / "best") if accelerator.is_main_process else None
    return broadcast_object_list([record and record["results"]["validation"]["step"] == progress.best_step])[0]


def delete_replaced(output_dir: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep`, and a model whose place `best` has taken."""
    for old in find_checkpoints(output_dir)[:-keep]:
        shutil.rmtree(old)
    shutil.rmtree(output_dir / "best.old", ignore_errors=True)  # is there if a kill came before `replace_folder` ended


def save_checkpoint(accelerator: Accelerator, output_dir: Path, state: TrainingState, keep: int) -> None:
    """Save all that `--resume` needs; a checkpoint that bears its final name is complete, older ones go afterwards."""
    new = output_dir / "checkpoints" / "unfinished"
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    checkpoint = new.with_name(f"step-{state.progress.step:08d}")
    with saving(checkpoint, output_dir, new):
        if accelerator.is_main_process:
            new.mkdir(parents=True)
        accelerator.wait_for_everyone()
        state.save(new)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_manifest(new)
            replace_folder(new, checkpoint)
    if accelerator.is_main_process:
        delete_replaced(output_dir, keep)
    accelerator.wait_for_everyone()


def newest_whole_checkpoint(output_dir: Path) -> Path | None:
    """Find where to go on, None at the beginning; damaged checkpoints that are newer are named and set aside.

    Raises:
        ValueError: if there are checkpoints and all are damaged.
    """
    checkpoints, damaged = find_checkpoints(output_dir), {}
    while checkpoints and (damage := find_damage(checkpoints[-1])):
        damaged[checkpoints.pop()] = damage
    report = "; ".join(f"checkpoint {path} is damaged: {damage}" for path, damage in damaged.items())
    if damaged and not checkpoints:
        raise ValueError(
            f"{report}; no other is left. Begin anew with another --output_dir, from --init {output_dir / 'best'} if "
            "that still loads"
        )
    for path in damaged:
        aside = path.with_name(path.name + ".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        path.rename(aside)
    if damaged:
        logger.warning("%s; set aside, going on from the one before", report)
    return checkpoints[-1] if checkpoints else None


def resume(accelerator: Accelerator, output_dir: Path, state: TrainingState) -> None:
    """Load the newest checkpoint that is whole; a run that was killed before its first one starts anew.

    Raises:
        ValueError: if all checkpoints are damaged, or the newest is not of this training, or of other processes.
    """
    found = [newest_whole_checkpoint(output_dir) if accelerator.is_main_process else None]
    checkpoint = broadcast_object_list(found)[0]
    if checkpoint is None:
        accelerator.print(f"no checkpoint in {output_dir / 'checkpoints'} yet: starting from the beginning")
        return
    state.load(checkpoint)
    accelerator.print(f"resuming from {checkpoint}")


def open_output(output_dir: Path, recipe: Recipe, model_fields: dict[str, Any], resumed: bool) -> None:
    """Make the output folder and write the recipe to it; refuse to mix two runs, or two recipes in one.

    The folder belongs to this process until that ends.
    """
    with saving(output_dir, output_dir):
        lock_output(output_dir)
    found = find_checkpoints(output_dir)
    if found and not resumed:
        raise ValueError(f"{output_dir} holds a run (up to {found[-1].name}); pass --resume or another --output_dir")
    written, path = asdict(recipe) | {"model": model_fields}, output_dir / "recipe.yaml"
    if found and path.exists():
        before = yaml.safe_load(path.read_text())
        changed = [name for name in written if name not in COMFORT_FIELDS and written[name] != before.get(name)]
        if changed:
            differences = ", ".join(f"{name} {before.get(name)} -> {written[name]}" for name in changed)
            raise ValueError(
                f"the run in {output_dir} had another recipe ({differences}); resume it with its own, "
                f"--config {path}, or start a new one with --init {output_dir / 'best'}"
            )
    with saving(path, output_dir):
        (output_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_text(path, yaml.safe_dump(written, sort_keys=False))
