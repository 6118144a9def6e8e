"""Where a run stands, on disk: checkpoints to resume from, and models in Hub format. Nothing is ever half-written."""

import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml
from accelerate import Accelerator
from torch import nn

from processing import IVTProcessor

from .recipe import Recipe

# fields that change nothing about what is learnt, so a resumed run may have other ones
COMFORT_FIELDS = {"log_steps", "save_steps", "keep_checkpoints", "num_workers", "cache_images"}


@dataclass
class Progress:
    """Where a run stands; saved with every checkpoint (accelerate asks for `state_dict` and `load_state_dict`)."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimiser steps in all
    seconds: float = 0.0  # of training, over all resumed parts
    best: float = -1.0  # text-to-image R@1 of the best validation so far, in percent
    num_processes: int = 1  # a resumed run must share the batches out in the same way

    def state_dict(self) -> dict[str, Any]:
        """All fields."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over all fields."""
        self.__dict__.update(state)


def replace_folder(new: Path, folder: Path) -> None:
    """Put a finished folder in the place of an older one; after a power cut either is whole."""
    for path in (*new.rglob("*"), new):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def save_model(accelerator: Accelerator, objective: nn.Module, processor: IVTProcessor, folder: Path) -> None:
    """Save the evaluated model, processor and code in Hub format; `folder` is at no moment half-written."""
    state = accelerator.get_state_dict(objective)  # collective: gathers what FSDP and DeepSpeed keep apart
    if accelerator.is_main_process:
        new = folder.with_name(folder.name + ".new")
        shutil.rmtree(new, ignore_errors=True)
        unwrapped = accelerator.unwrap_model(objective)
        prefix = "model." if unwrapped.average is None else "average."
        weights = {name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)}
        unwrapped.evaluated_model.save_pretrained(new, state_dict=weights)
        processor.save_pretrained(new)
        replace_folder(new, folder)
    accelerator.wait_for_everyone()


def find_checkpoints(output_dir: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted((output_dir / "checkpoints").glob("step-????????"))


def save_checkpoint(accelerator: Accelerator, output_dir: Path, step: int, keep: int) -> None:
    """Save all that `--resume` needs; a checkpoint that bears its final name is complete, older ones go afterwards."""
    new = output_dir / "checkpoints" / "unfinished"
    if accelerator.is_main_process:
        shutil.rmtree(new, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(new))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        replace_folder(new, new.with_name(f"step-{step:08d}"))
        for old in find_checkpoints(output_dir)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def resume(accelerator: Accelerator, output_dir: Path, progress: Progress) -> None:
    """Load the newest checkpoint."""
    checkpoints = find_checkpoints(output_dir)
    if not checkpoints:
        raise ValueError(f"--resume found no checkpoint in {output_dir / 'checkpoints'}; start without --resume")
    accelerator.load_state(str(checkpoints[-1]))
    if progress.num_processes != accelerator.num_processes:
        raise ValueError(
            f"{checkpoints[-1]} was saved by {progress.num_processes} processes, these are "
            f"{accelerator.num_processes}; resume with as many, or start anew with --init {output_dir / 'best'}"
        )
    accelerator.print(f"resuming from {checkpoints[-1]}")


def open_output(output_dir: Path, recipe: Recipe, model_fields: dict[str, Any], resumed: bool) -> None:
    """Make the output folder and write the recipe to it; refuse to mix two runs, or two recipes in one."""
    found = find_checkpoints(output_dir)
    if found and not resumed:
        raise ValueError(f"{output_dir} holds a run (up to {found[-1].name}); pass --resume or another --output_dir")
    written, path = asdict(recipe) | {"model": model_fields}, output_dir / "recipe.yaml"
    if resumed and path.exists():
        before = yaml.safe_load(path.read_text())
        changed = [name for name in written if name not in COMFORT_FIELDS and written[name] != before.get(name)]
        if changed:
            differences = ", ".join(f"{name} {before.get(name)} -> {written[name]}" for name in changed)
            raise ValueError(
                f"the run in {output_dir} had another recipe ({differences}); resume it with its own, "
                f"--config {path}, or start a new one with --init {output_dir / 'best'}"
            )
    (output_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(written, sort_keys=False))
