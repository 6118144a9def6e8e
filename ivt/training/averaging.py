"""A moving average of the weights, which validation, `best` and `final` use where the recipe has `ema_decay`."""

import copy
from typing import TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


def averaged_copy(model: Model) -> Model:
    """A copy that begins the average; no gradient flows into it."""
    return copy.deepcopy(model).requires_grad_(False)


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Move the average towards the model's weights.

    Args:
        average: from `averaged_copy`.
        model: what is trained.
        decay: share of the average that stays; it warms up, so the first weights are soon forgotten.
        step: number of optimiser steps that are done.
    """
    decay = min(decay, (1 + step) / (10 + step))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
