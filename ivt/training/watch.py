"""What stops a run before it saves nonsense: losses or weights that are not finite."""

import math
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn
from torch.distributed.tensor import DTensor

from .checkpoints import find_checkpoints


class LossWatch:
    """The losses since the last look at them, each with its step and its images.

    Reading a loss waits for the GPU. So losses stay where they are and are read together: when a line is logged, and
    before anything is saved.

    Args:
        accelerator: of the run.
        output_dir: of the run, to name its last good checkpoint.
    """

    def __init__(self, accelerator: Accelerator, output_dir: Path):
        self.accelerator, self.output_dir = accelerator, output_dir
        self.seen: list[tuple[int, torch.Tensor, list[str]]] = []
        self.parts: list[dict[str, torch.Tensor]] = []

    def add(self, step: int, loss: torch.Tensor, parts: dict[str, torch.Tensor], image_ids: list[str]) -> None:
        """Keep a loss for later.

        Args:
            step: number of the optimiser step it belongs to, from 1.
            loss: scalar, the same in all processes.
            parts: the losses it is the sum of, by name, of this process.
            image_ids: of the batch.
        """
        self.seen.append((step, loss, image_ids))
        self.parts.append(parts)

    def mean(self) -> tuple[float, dict[str, float]]:
        """Mean of the losses since the last call, and of the parts of each; all processes must call it.

        Raises:
            FloatingPointError: if one is not finite.
        """
        losses, seen, self.seen = torch.stack([loss for _, loss, _ in self.seen]).tolist(), self.seen, []
        for loss, (step, _, image_ids) in zip(losses, seen, strict=True):
            if not math.isfinite(loss):
                images = " ".join(gather_object(image_ids))
                self.stop(f"the loss is {loss} at step {step}; the images of this batch: {images}")
        parts, self.parts = self.parts, []
        means = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
        means = self.accelerator.reduce(means, reduction="mean")
        return sum(losses) / len(losses), {name: mean.item() for name, mean in means.items()}

    def check_weights(self, objective: nn.Module, step: int) -> None:
        """Raise a FloatingPointError if a weight is not finite: a loss may be, and its gradient not."""
        names, weights = zip(*objective.named_parameters(), strict=True)
        parts = [weight.to_local() if isinstance(weight, DTensor) else weight.detach() for weight in weights]
        finite = torch.stack([part.isfinite().all() for part in parts]).float()
        finite = self.accelerator.reduce(finite, reduction="mean").tolist()  # with FSDP each process has its part
        bad = [name for name, share in zip(names, finite, strict=True) if share < 1]
        if bad:
            self.stop(f"{len(bad)} of {len(names)} weights are not finite after step {step}, the first is {bad[0]}")

    def stop(self, problem: str) -> None:
        """Raise a FloatingPointError that names the problem, where to go back to, and remedies."""
        good = find_checkpoints(self.output_dir)
        raise FloatingPointError(
            f"{problem}. Last good checkpoint: {good[-1] if good else 'none yet'}. If the data are right, start a new "
            "run with a lower learning_rate, with max_grad_norm, or without mixed_precision"
        )
