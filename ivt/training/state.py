"""All that `--resume` brings back, in files from which no code can run: safetensors and JSON, never a pickle.

    state.json              progress, place in the accumulation of gradients, scale of fp16's losses
    model.safetensors       what is trained, and the average of the weights
    optimizer.safetensors   for each parameter, by its number, what the optimiser remembers
    random-00000.json       states of the random numbers, one file for each process

With FSDP each process keeps its shares in `model-00000.safetensors` and `optimizer-00000.safetensors`, by its number.
The optimiser's settings are the recipe's, so they are not saved.
"""

import json
import random
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.utils import DistributedType
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from ivt.files import MANIFEST


@dataclass
class Progress:
    """Where a run stands."""

    epoch: int = 0
    batch: int = 0  # batches of this epoch that are done
    step: int = 0  # optimiser steps in all
    seconds: float = 0.0  # of training and validation, over all resumed parts
    best: float = -1.0  # text-to-image R@1 of the best validation so far, in percent
    best_step: int = 0  # the step of that validation
    num_processes: int = 1  # a resumed run must share the batches out in the same way


@contextmanager
def reading(path: Path) -> Generator[None]:
    """Name the file of a checkpoint that does not hold what was written there.

    Raises:
        ValueError: instead of what libraries raise.
    """
    try:
        yield
    except (
        SafetensorError,
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise ValueError(
            f"{path} does not hold what this training saved ({error}); delete its folder to resume from the "
            "checkpoint before"
        ) from error


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """The share of this process, or the whole tensor where nothing is sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def stored(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors as safetensors takes them; tied ones, which share their memory, as one each."""
    seen: set[int] = set()
    taken = {}
    for name, tensor in tensors.items():
        part = own_part(tensor).detach().cpu().contiguous()
        taken[name] = part.clone() if part.data_ptr() in seen else part
        seen.add(part.data_ptr())
    return taken


def take_over(targets: dict[str, torch.Tensor], tensors: dict[str, torch.Tensor]) -> None:
    """Copy tensors into others of the same names, shapes and types.

    Raises:
        ValueError: naming what differs, before anything is copied.
    """
    if different := targets.keys() ^ tensors.keys():
        raise ValueError(f"{sorted(different)[0]} is missing there or unknown here")
    for name, target in targets.items():
        found, expected = tensors[name], own_part(target)
        if (found.shape, found.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"{name} is {found.dtype} {[*found.shape]}, not {expected.dtype} {[*expected.shape]}")
    for name, target in targets.items():
        own_part(target).copy_(tensors[name])


def like_parameter(tensor: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """What an optimiser remembers of a parameter, placed and sharded as that is; a count of steps is neither."""
    if tensor.ndim and tensor.shape != own_part(parameter).shape:
        raise ValueError(f"shape {[*tensor.shape]}, not the parameter's {[*own_part(parameter).shape]}")
    tensor = tensor.to(parameter.device)
    if not tensor.ndim or not isinstance(parameter, DTensor):
        return tensor
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(tensor, mesh, placements, shape=parameter.shape, stride=parameter.stride())


def random_states(device: torch.device) -> dict[str, Any]:
    """States of all random numbers of this process, as JSON has them."""
    name, keys, *rest = np.random.get_state(legacy=True)
    states = {
        "python": random.getstate(),
        "numpy": [name, np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state().tolist(),
    }
    if device.type != "cpu":
        states["device"] = torch.get_device_module(device).get_rng_state().tolist()
    return states


def set_random_states(states: dict[str, Any], device: torch.device) -> None:
    """Go on with random numbers where `random_states` was called; those of another kind of device are left out."""
    version, keys, gauss = states["python"]
    random.setstate((version, tuple(keys), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(torch.tensor(states["torch"], dtype=torch.uint8))
    if device.type != "cpu" and "device" in states:
        torch.get_device_module(device).set_rng_state(torch.tensor(states["device"], dtype=torch.uint8))


class TrainingState:
    """All that a checkpoint holds; every process has one, and all call its methods.

    Args:
        accelerator: of the run.
        objective: what is trained, prepared.
        optimizer: of the objective, prepared.
        progress: where the run stands; loading changes it.
    """

    def __init__(
        self, accelerator: Accelerator, objective: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress
    ):
        self.accelerator, self.progress = accelerator, progress
        self.module: nn.Module = accelerator.unwrap_model(objective)
        self.optimizer = optimizer.optimizer if isinstance(optimizer, AcceleratedOptimizer) else optimizer
        self.sharded = accelerator.distributed_type == DistributedType.FSDP

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All that the optimiser moves, in its order."""
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _file(self, kind: str) -> str:
        """Name of this process's file of weights; without shards all share one."""
        return f"{kind}-{self.accelerator.process_index:05d}.safetensors" if self.sharded else f"{kind}.safetensors"

    def save(self, folder: Path) -> None:
        """Write all to a folder that exists."""
        accelerator = self.accelerator
        if self.sharded or accelerator.is_main_process:
            remembered = {
                f"{number}.{name}": tensor
                for number, parameter in enumerate(self.parameters)
                for name, tensor in self.optimizer.state.get(parameter, {}).items()
            }
            save_file(stored(self.module.state_dict()), folder / self._file("model"))
            save_file(stored(remembered), folder / self._file("optimizer"))
        states = random_states(accelerator.device)
        (folder / f"random-{accelerator.process_index:05d}.json").write_text(json.dumps(states))
        if accelerator.is_main_process:
            scaler = accelerator.scaler.state_dict() if accelerator.scaler else None
            state = {"progress": asdict(self.progress), "accumulated": accelerator.step, "scaler": scaler}
            (folder / "state.json").write_text(json.dumps(state, indent=2) + "\n")

    def load(self, folder: Path) -> None:
        """Go on from what `save` wrote, with as many processes.

        Raises:
            ValueError: for a file that is not one of this training, or of another number of processes.
        """
        path = folder / "state.json"
        refuse_foreign_files(folder)
        with reading(path):
            state = json.loads(path.read_text())
            types = {field.name: type(field.default) for field in fields(Progress)}
            if {name: type(value) for name, value in state["progress"].items()} != types:
                raise ValueError(f"progress is {state['progress']}, not {', '.join(types)}")
            if not isinstance(state["accumulated"], int):
                raise ValueError(f"accumulated is {state['accumulated']!r}, not a number of batches")
        saved, now = state["progress"]["num_processes"], self.accelerator.num_processes
        if saved != now:
            raise ValueError(
                f"{folder} was saved by {saved} processes, these are {now}; resume with as many, or start anew with "
                f"--init {folder.parents[1] / 'best'}"
            )
        self._load_weights(folder)
        with reading(path):
            if self.accelerator.scaler:
                self.accelerator.scaler.load_state_dict(state["scaler"])
        path = folder / f"random-{self.accelerator.process_index:05d}.json"
        with reading(path):
            set_random_states(json.loads(path.read_text()), self.accelerator.device)
        self.accelerator.step = state["accumulated"]
        self.progress.__dict__.update(state["progress"])

    def _load_weights(self, folder: Path) -> None:
        path, parameters = folder / self._file("model"), self.parameters
        with reading(path), torch.no_grad():
            take_over(self.module.state_dict(), load_file(path))
        path = folder / self._file("optimizer")
        remembered: dict[nn.Parameter, dict[str, torch.Tensor]] = {}
        with reading(path), torch.no_grad():
            for key, tensor in load_file(path).items():
                number, _, name = key.partition(".")
                parameter = parameters[int(number)]
                remembered.setdefault(parameter, {})[name] = like_parameter(tensor, parameter)
        self.optimizer.state.clear()
        for parameter, tensors in remembered.items():
            self.optimizer.state[parameter] = tensors


def refuse_foreign_files(folder: Path) -> None:
    """Refuse a checkpoint with any file that `TrainingState` does not write, such as the pickles of older versions.

    Raises:
        ValueError: naming the file.
    """
    ours = ("state.json", MANIFEST, "random-*.json", "model*.safetensors", "optimizer*.safetensors")
    for path in sorted(folder.iterdir()):
        if path.is_dir() or not any(path.match(pattern) for pattern in ours):
            raise ValueError(
                f"checkpoint {folder} holds {path.name}, and only safetensors and JSON are read, since older "
                "checkpoints are pickles, which may run code; start a new run in another --output_dir with "
                f"--init {folder.parents[1] / 'best'}"
            )
