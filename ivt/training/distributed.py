"""Several processes: what DDP, FSDP and DeepSpeed each ask for, and work that is shared out among them.

The recipe rules, not the launcher: batch, accumulation, precision and clipping are the same however a run is started.
Configurations for `accelerate launch` are in `ivt/recipes/accelerate/`.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, GradientAccumulationPlugin, ProjectConfiguration
from torch.distributed.fsdp import register_fsdp_forward_method

from .objectives import Objective
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
        log_with=paths.trackers or None,
        project_config=ProjectConfiguration(logging_dir=str(Path(paths.output_dir) / "tensorboard")),
    )
    if accelerator.distributed_type == DistributedType.FSDP and not accelerator.is_fsdp2:
        raise ValueError(
            "FSDP version 1 is not supported; set fsdp_version: 2, as in ivt/recipes/accelerate/fsdp.yaml"
        )
    if recipe.cached_chunk and accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise ValueError(
            f"cached_chunk embeds outside of the wrapped model, which {accelerator.distributed_type} does not allow; "
            "use DDP or gradient_checkpointing"
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        configure_deepspeed(accelerator.deepspeed_plugin.deepspeed_config, recipe)
    return accelerator


def configure_deepspeed(config: dict[str, Any], recipe: Recipe) -> None:
    """Let DeepSpeed do what the recipe says: it accumulates and clips by itself, and would clip to 1 if not told.

    Raises:
        ValueError: for ZeRO-3, and where DeepSpeed would keep averaged weights in half precision.
    """
    stage = config["zero_optimization"]["stage"]
    if stage > 2:
        raise ValueError(
            f"DeepSpeed ZeRO-{stage} is not supported: validation needs whole weights; set zero_stage: 2, or shard "
            "the weights with ivt/recipes/accelerate/fsdp.yaml"
        )
    if recipe.ema_decay and recipe.mixed_precision != "no":
        raise ValueError(
            f"ema_decay {recipe.ema_decay} needs weights in float32, with mixed_precision {recipe.mixed_precision} "
            "DeepSpeed keeps them in that; set mixed_precision no, or train with DDP or FSDP"
        )
    config["gradient_accumulation_steps"] = recipe.gradient_accumulation_steps
    config["gradient_clipping"] = recipe.max_grad_norm or 0.0  # 0: off


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
