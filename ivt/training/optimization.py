"""Optimiser of a recipe, length of its run, and the learning rate on the way."""

import math
import re
from dataclasses import dataclass

import torch
from torch import nn

from .recipe import Recipe

REFERENCE_START, REFERENCE_LEAST = 0.01, 1e-5  # share of the rate in the first epoch, and the rate at the end


def layers_above(name: str, num_layers: int) -> int:
    """How far from the output a weight is: 0 for the last norm and what is not the model's, 1 for the last block."""
    block = re.search(r"\blayers\.(\d+)\.", name)
    if block:
        return num_layers - int(block[1])
    return num_layers + 1 if "embeddings" in name else 0


def build_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD as in the paper, or AdamW; biases have a rate of their own, they and norms do not decay with AdamW.

    With `layer_lr_decay` every block learns at so many times the rate of the one above it, the embeddings slowest
    (Clark et al., "ELECTRA", 2020): what a pre-trained network knows at its lower end is worth keeping.
    """
    names = " ".join(name for name, _ in model.named_parameters())
    num_layers = 1 + max(map(int, re.findall(r"\blayers\.(\d+)", names)))
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        is_bias = name.endswith(".bias")
        decays = not name.endswith("log_temperature") and (
            recipe.optimizer == "sgd" or (parameter.ndim > 1 and "embeddings" not in name)
        )
        factor = recipe.layer_lr_decay ** layers_above(name, num_layers) * (recipe.bias_lr_factor if is_bias else 1.0)
        key = (factor, recipe.weight_decay if decays else 0.0)
        groups.setdefault(key, []).append(parameter)
    parameters = [
        {
            "params": params,
            "lr": recipe.learning_rate * factor,
            "initial_lr": recipe.learning_rate * factor,
            "weight_decay": decay,
        }
        for (factor, decay), params in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(parameters, momentum=recipe.momentum)
    return torch.optim.AdamW(parameters, betas=(0.9, 0.98), fused=True)


def learning_rate_factor(step: int, warmup_steps: int, progress: float, min_lr_ratio: float) -> float:
    """Linear warm-up times a cosine over the whole run: 1 at its best, `min_lr_ratio` where `progress` reaches 1."""
    warmup = min(1.0, (step + 1) / max(warmup_steps, 1))
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))
    return warmup * (min_lr_ratio + (1.0 - min_lr_ratio) * cosine)


def reference_rate(recipe: Recipe, progress: float) -> tuple[float, float]:
    """The schedule of IVT's authors: it changes once an epoch.

    The rates grow from 1 % in the epochs of the warm-up; then a cosine over all epochs goes down to 1e-5, for every
    group the same.

    Args:
        recipe: gives the epochs of the run and of its warm-up.
        progress: share of the run that is over.

    Returns:
        See `learning_rate`.
    """
    epoch = math.floor(min(progress, 1.0) * recipe.epochs + 1e-6)
    if epoch < recipe.warmup_epochs:
        return REFERENCE_START + (1.0 - REFERENCE_START) * epoch / recipe.warmup_epochs, 0.0
    cosine = 0.5 * (1.0 + math.cos(math.pi * epoch / recipe.epochs))
    return cosine, (1.0 - cosine) * REFERENCE_LEAST


def learning_rate(recipe: Recipe, step: int, warmup_steps: int, progress: float) -> tuple[float, float]:
    """Factor and floor of the next step: a group whose own rate is r learns at `factor * r + floor`."""
    if recipe.schedule == "reference":
        return reference_rate(recipe, progress)
    return learning_rate_factor(step, warmup_steps, progress, recipe.min_lr_ratio), 0.0


@dataclass
class Schedule:
    """How long a run lasts, in batches of each process, optimiser steps and seconds."""

    batches_per_step: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    time_limit: float  # seconds, or infinity

    @classmethod
    def of(cls, recipe: Recipe, batches_per_epoch: int) -> "Schedule":
        """The schedule of a recipe."""
        steps_per_epoch = math.ceil(batches_per_epoch / recipe.gradient_accumulation_steps)
        return cls(
            batches_per_step=recipe.gradient_accumulation_steps,
            steps_per_epoch=steps_per_epoch,
            total_steps=recipe.max_steps or recipe.epochs * steps_per_epoch,
            warmup_steps=round(recipe.warmup_epochs * steps_per_epoch),
            time_limit=60 * recipe.max_minutes if recipe.max_minutes else math.inf,
        )

    def share_done(self, step: int, seconds: float) -> float:
        """The share of the run that is over, 1 or more at its end, whether steps or seconds end it."""
        return max(step / self.total_steps, seconds / self.time_limit)
