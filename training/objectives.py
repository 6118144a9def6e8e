"""From a batch to its loss: embedding images and texts, and comparing them over all processes."""

from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from modeling_ivt import cmpm_loss, itc_loss

from .recipe import Recipe


class GatherWithGradient(torch.autograd.Function):
    """(B, D) of every process to (processes * B, D) on each, with the exact gradient.

    Every process computes the same loss over the whole batch; the gradients that all of them send to a process's rows
    are summed here, and DDP's mean over the processes then gives the gradient of that one loss.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor) -> torch.Tensor:
        """Concatenate the rows of all processes in the order of their ranks."""
        ctx.batch_size = len(rows)
        parts = [torch.empty_like(rows) for _ in range(torch.distributed.get_world_size())]
        torch.distributed.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        """Sum over the processes, and keep the part of this process's rows."""
        gradient = gradient.contiguous()
        torch.distributed.all_reduce(gradient)
        return gradient[ctx.batch_size * torch.distributed.get_rank() :][: ctx.batch_size]


def embed_batch(model: nn.Module, batch: dict[str, Any], text_groups: int) -> tuple[torch.Tensor, ...]:
    """Embed images (V*B, D) and texts (T*B, D), and give the person ids of both.

    The texts are sorted by length and embedded in groups, each padded to its own longest: words and phrases are short,
    and padding all texts to the longest sentence would be most of the work.
    """
    lengths = batch["attention_mask"].sum(dim=1)
    order = lengths.argsort(descending=True)
    groups = []
    for rows in order.chunk(text_groups):
        longest = int(lengths[rows[0]])
        groups.append({name: batch[name][rows, :longest] for name in ("input_ids", "attention_mask")})
    output = model(pixel_values=batch["pixel_values"], **groups[0], cls_only=True)
    text_embeds = [output.text_embeds, *(model(**group, cls_only=True).text_embeds for group in groups[1:])]
    return output.image_embeds, torch.cat(text_embeds), batch["person_ids"], batch["text_person_ids"][order]


def gathered_loss(accelerator: Accelerator, model: nn.Module, batch: dict[str, Any], recipe: Recipe) -> torch.Tensor:
    """The loss over the embeddings of all processes, so that each is a negative for all others."""
    image_embeds, text_embeds, *person_ids = embed_batch(model, batch, recipe.text_groups)
    embeds = [image_embeds.float(), text_embeds.float()]
    if accelerator.num_processes > 1:
        embeds = [GatherWithGradient.apply(rows) for rows in embeds]
        person_ids = [accelerator.gather(ids) for ids in person_ids]
    losses = ((recipe.cmpm_weight, cmpm_loss), (recipe.itc_weight, itc_loss))
    return sum(weight * loss(*embeds, *person_ids) for weight, loss in losses if weight)
