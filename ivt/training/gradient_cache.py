"""The loss of a batch and its gradient: in one go, or with gradient caching in the memory of a chunk.

Gradient caching is that of Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup",
2021 (arXiv 2101.06983): the losses compare all pairs of a batch, but an embedding depends on its own image or text
alone. So the chunks of a batch are embedded without a graph, the loss and its gradient with respect to the embeddings
are computed on the whole batch, and every chunk is embedded once more, now with a graph that takes its embeddings'
gradient on to the weights. It costs one more forward pass.
"""

from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from .embeddings import Embeddings


def backward(
    accelerator: Accelerator, objective: nn.Module, batch: dict[str, Any], chunk_size: int | None = None
) -> torch.Tensor:
    """Add the gradient of a batch's loss to the weights.

    Args:
        accelerator: scales the loss, and averages gradients over the processes where it accumulates no more.
        objective: a prepared `Objective`.
        batch: what `Run.prepared` gives.
        chunk_size: pairs whose graph is held in memory at a time; None: all.

    Returns:
        The loss without a graph, the same on all processes.
    """
    if chunk_size is None:
        loss = objective(batch)
        accelerator.backward(loss)
    else:
        loss = _cached_backward(accelerator, objective, batch, chunk_size)
    return accelerator.reduce(loss.detach(), "mean")  # a process of its own has a loss of its own with gather: none


def _cached_backward(
    accelerator: Accelerator, objective: nn.Module, batch: dict[str, Any], chunk_size: int
) -> torch.Tensor:
    """Embed by chunks without a graph, differentiate the loss by the embeddings, then embed again with a graph."""
    whole = accelerator.unwrap_model(objective)
    chunks = [slice(start, start + chunk_size) for start in range(0, len(batch["image_ids"]), chunk_size)]
    seed = int(torch.randint(2**62, ()))  # with it both passes hide the same tokens and drop the same numbers
    parts = []
    for i, pairs in enumerate(chunks):
        torch.manual_seed(seed + i)
        with torch.no_grad(), accelerator.autocast():
            parts.append(whole.embed(take_pairs(batch, pairs)))
    leaves = [[tensor.requires_grad_() for tensor in part.differentiable()] for part in parts]
    own = whole.own_parameters()
    loss = whole.compare(Embeddings.concatenate(parts))
    inputs = [*sum(leaves, []), *own]
    gradients = iter(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))
    chunk_gradients = [[next(gradients) for _ in part] for part in leaves]
    own_gradients = list(gradients)
    for i, (pairs, cached) in enumerate(zip(chunks, chunk_gradients, strict=True)):
        torch.manual_seed(seed + i)
        is_last = i == len(chunks) - 1
        # the objective's own parameters come with the last chunk, when DDP expects every gradient
        known = [*cached, *own_gradients] if is_last else cached
        with nullcontext() if is_last else accelerator.no_sync(objective):
            compare = partial(_with_gradients, own=own if is_last else [], gradients=known)
            accelerator.backward(objective(take_pairs(batch, pairs), compare))
    return loss


def _with_gradients(embeddings: Embeddings, own: list[nn.Parameter], gradients: list[torch.Tensor]) -> torch.Tensor:
    """A number whose gradients with respect to the embeddings and to `own` parameters are the ones given."""
    tensors = [*embeddings.differentiable(), *own]
    products = [(tensor * gradient).sum() for tensor, gradient in zip(tensors, gradients, strict=True)]
    return torch.stack(products).sum()


def take_pairs(batch: dict[str, Any], pairs: slice) -> dict[str, Any]:
    """Some of the B pairs of a batch, each with all its views and texts."""
    num_pairs = len(batch["image_ids"])
    rows = {
        name: tensor.unflatten(0, (-1, num_pairs))[:, pairs].flatten(0, 1)  # row k * B + b belongs to pair b
        for name, tensor in batch.items()
        if name != "image_ids"
    }
    return rows | {"image_ids": batch["image_ids"][pairs]}
