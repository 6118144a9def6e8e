"""Several processes: what DDP and FSDP each ask for, and work that is shared out among them.

The recipe rules, not the launcher: batch, accumulation, precision and clipping are the same however a run is started.
Configurations for `accelerate launch` are in `ivt/recipes/accelerate/`.
"""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DistributedType, GradientAccumulationPlugin, ProjectConfiguration
from torch.distributed.fsdp import register_fsdp_forward_method

from .objective import Objective
from .recipe import Recipe, RunPaths


def build_accelerator(paths: RunPaths, recipe: Recipe) -> Accelerator:
    """The accelerator of a run, with its trackers.

    Raises:
        ValueError: for a way of sharding that cannot do what the recipe asks for.
    """
    # given as a plugin, the launcher's environment does not override it
    accumulation = GradientAccumulationPlugin(num_steps=recipe.gradient_accumulation_steps)
    accelerator = Accelerator(
        mixed_precision=recipe.mixed_precision,
        gradient_accumulation_plugin=accumulation,
        log_with=[*paths.trackers] or None,
        dataloader_config=DataLoaderConfiguration(non_blocking=True),
        project_config=ProjectConfiguration(logging_dir=str(Path(paths.output_dir) / "tensorboard")),
    )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError("FSDP 1 is not supported; set fsdp_version: 2, as in ivt/recipes/accelerate/fsdp.yaml")
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        raise ValueError("DeepSpeed is not supported; shard the weights with FSDP, ivt/recipes/accelerate/fsdp.yaml")
    if recipe.cached_chunk and accelerator.distributed_type == DistributedType.FSDP:
        raise ValueError(
            "cached_chunk embeds outside of the wrapped model, which FSDP does not allow; use DDP, or "
            "gradient_checkpointing instead"
        )
    if not accelerator.is_main_process:
        logging.disable(logging.WARNING)  # once is enough
    return accelerator


def prepare(accelerator: Accelerator, objective: Objective, *others: Any) -> tuple[Any, ...]:
    """`accelerator.prepare`, and sharded weights are put together for evaluation as well."""
    prepared = accelerator.prepare(objective, *others)
    for method in ("get_image_features", "get_text_features"):
        register_fsdp_forward_method(prepared[0], method)  # does nothing without FSDP
    return prepared


def embed_in_shares(accelerator: Accelerator, embed: Callable[[range], torch.Tensor], count: int) -> torch.Tensor:
    """Embed `count` items, each process an equal share, and give all of them to every process.

    The shares of the last processes overlap where `count` is no multiple of their number: with sharded weights, all
    must call the model equally often.

    Args:
        accelerator: of the run.
        embed: embeds the items of a range, (n, D) on any device.
        count: number of items, at least 1.

    Returns:
        (count, D) on the CPU, in the order of the items.
    """
    size = math.ceil(count / accelerator.num_processes)
    starts = [min(process * size, count - size) for process in range(accelerator.num_processes)]
    start = starts[accelerator.process_index]
    embeds = embed(range(start, start + size))
    shares = accelerator.gather(embeds.to(accelerator.device)).cpu().split(size)
    whole = embeds.new_empty(count, embeds.shape[1], device="cpu")
    for start, share in zip(starts, shares, strict=True):
        whole[start : start + size] = share
    return whole
