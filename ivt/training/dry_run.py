"""What a run would cost, measured on a few of its steps before anything starts."""

import itertools
import math
import resource
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from .optimization import Schedule

# the first ones, in which libraries set themselves up, are not timed; on a GPU that takes several, and each is short
UNTIMED_BATCHES, MEASURED_BATCHES = (5, 20) if torch.accelerator.is_available() else (1, 3)
ATTENTION_ON_CPU = {  # what torch's own counter leaves out; shapes of query, key and value come first
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda *shapes, **_: sdpa_flop_count(*shapes[:3]),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda *shapes, **_: sdpa_backward_flop_count(*shapes[:4])
    ),
}


def measure_batches(
    batches: Iterable[dict[str, Any]], train_on_batch: Callable[[dict[str, Any]], torch.Tensor]
) -> tuple[int, float]:
    """Train on a few batches.

    Args:
        batches: those of an epoch, gone through again if they are few.
        train_on_batch: gives the loss of a batch.

    Returns:
        For one batch: floating-point operations of matrix products, convolutions and attention, forward and backward
        (a multiply-add is two), and seconds, loading included.
    """
    batches = itertools.chain.from_iterable(itertools.repeat(batches))
    with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
        train_on_batch(next(batches)).item()  # .item() waits for the GPU
    for _ in range(1, UNTIMED_BATCHES):
        train_on_batch(next(batches)).item()
    started = time.perf_counter()
    for _ in range(MEASURED_BATCHES):
        loss = train_on_batch(next(batches))
    loss.item()
    return counter.get_total_flops(), (time.perf_counter() - started) / MEASURED_BATCHES


def peak_memory(device: torch.device) -> tuple[int, str]:
    """Most bytes in use so far, and of what: an accelerator's memory, or on the CPU this process."""
    if device.type != "cpu":
        return torch.get_device_module(device).max_memory_allocated(device), f"of {device}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak, "of this process, corpus and libraries included"


def bytes_of(values: Iterable[Any]) -> int:
    """Bytes of the tensors among some values."""
    return sum(value.nbytes for value in values if isinstance(value, torch.Tensor))


def duration(seconds: float) -> str:
    """Seconds as people say them: `40 s`, `12 min`, `7 h 05 min`."""
    minutes = round(seconds / 60)
    if minutes < 2:
        return f"{math.ceil(seconds)} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02} min"


def estimate_cost(
    accelerator: Accelerator,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[dict[str, Any]],
    train_on_batch: Callable[[dict[str, Any]], torch.Tensor],
    schedule: Schedule,
    validation_seconds: float,
) -> str:
    """Train on a few batches, and tell what a step and the whole run cost.

    Args:
        accelerator: of the run; all its processes must call.
        objective: what is trained.
        optimizer: of the run.
        batches: those of an epoch.
        train_on_batch: gives the loss of a batch.
        schedule: of the run.
        validation_seconds: of all validations together.

    Returns:
        A few lines of text.
    """
    flops, seconds = measure_batches(batches, train_on_batch)
    flops, seconds = schedule.batches_per_step * flops, schedule.batches_per_step * seconds
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    state = itertools.chain.from_iterable(values.values() for values in optimizer.state.values())
    megabytes = [bytes_of(tensors) / 1e6 for tensors in (objective.parameters(), trained, state)]
    peak, where = peak_memory(accelerator.device)

    training_seconds = schedule.total_steps * seconds
    share = schedule.time_limit / (training_seconds + validation_seconds)
    run = f"{schedule.total_steps:,} steps {duration(training_seconds)}, validations {duration(validation_seconds)}"
    if share < 1:
        run += f"; max_minutes ends it near step {share * schedule.total_steps:,.0f}"
    return "\n".join(
        [
            f"step: {flops / 1e9:,.1f} GFLOP per process in {seconds:.3f} s, {flops / seconds / 1e9:,.0f} GFLOP/s",
            "memory: weights {:,.1f} MB, gradients {:,.1f} MB, optimiser {:,.1f} MB".format(*megabytes),
            f"memory at its peak: {peak / 1e9:,.2f} GB {where}",
            f"run: {run}",
        ]
    )
