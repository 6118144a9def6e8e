"""What is trained: the model, and what turns a batch into its loss.

Letters: V views, T texts, D width.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from modeling_ivt import IVTModel

from .averaging import averaged_copy, move_average
from .embeddings import Embeddings, embed_batch
from .losses import weighted_losses
from .recipe import Recipe


class Objective(nn.Module):
    """Computes the loss of a batch.

    It holds the model and what training alone needs: the temperature and the classifier of losses that learn one, and
    the average of the weights. Checkpoints keep the names of its parameters. `losses` are those of the last batch by
    name, each times its weight.

    Args:
        model: the model to train.
        recipe: the losses and their weights.
        person_ids: those of all training images, repeated or not; only identity classification needs them.

    Raises:
        ValueError: if the recipe classifies persons and there are none.
    """

    def __init__(self, model: IVTModel, recipe: Recipe, person_ids: Iterable[int] = ()):
        super().__init__()
        self.model, self.recipe = model, recipe
        self.losses: dict[str, torch.Tensor] = {}
        self.register_parameter("log_temperature", None)
        self.register_buffer("persons", None, persistent=False)
        self.classifier = None
        if recipe.sdm_weight:
            # one element and not a scalar, which FSDP cannot shard
            self.log_temperature = nn.Parameter(torch.tensor([math.log(recipe.sdm_temperature)]))
        if recipe.identity_weight:
            self._add_classifier(sorted(set(person_ids)))
        self.average = averaged_copy(model) if recipe.ema_decay else None

    def _add_classifier(self, persons: list[int]) -> None:
        if not persons:
            raise ValueError("identity_weight needs to know all persons before; pass person_ids, or set it to 0")
        self.persons = torch.tensor(persons)  # ascending, so that searchsorted finds the class of a person
        self.classifier = nn.Linear(self.model.config.hidden_size, len(persons))
        nn.init.normal_(self.classifier.weight, std=0.001)  # begins with equal scores for all
        nn.init.zeros_(self.classifier.bias)

    def forward(
        self, batch: dict[str, Any], compare: Callable[[Embeddings], torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The loss of a batch.

        Args:
            batch: what `Run.prepared` gives, or a part of it.
            compare: computes another scalar from the embeddings; gradient caching needs one.

        Returns:
            Scalar tensor, float32.
        """
        return (compare or self.compare)(self.embed(batch))

    def embed(self, batch: dict[str, Any]) -> Embeddings:
        """Embed the views and texts of a batch; each text level is about as long as itself, so they are the groups."""
        return embed_batch(self.model, batch, len(self.recipe.levels), with_tokens=bool(self.recipe.token_weight))

    def compare(self, embeddings: Embeddings) -> torch.Tensor:
        """The weighted sum of the recipe's losses.

        Every embedding of every process is a negative for all others, or with `gather: none` only for its process's.
        """
        if self.gathers:
            embeddings = embeddings.gather()
        with torch.autocast(embeddings.image_embeds.device.type, enabled=False):
            return self.total(
                weighted_losses(embeddings, self.recipe, self.log_temperature, self.classifier, self.persons)
            )

    @property
    def gathers(self) -> bool:
        """Whether the embeddings of all processes are compared."""
        return self.recipe.gather == "all" and torch.distributed.is_initialized()

    def total(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """The sum of some losses, which are kept one by one for the log."""
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        return torch.stack(list(losses.values())).sum()

    def own_parameters(self) -> list[nn.Parameter]:
        """What is learnt beside the model's weights."""
        named = self.named_parameters()
        return [weight for name, weight in named if weight.requires_grad and not name.startswith("model.")]

    def update_average(self, step: int) -> None:
        """Move the averaged weights, if there are any, after `step` optimiser steps."""
        if self.average is not None:
            move_average(self.average, self.model, self.recipe.ema_decay, step)

    @property
    def evaluated_model(self) -> IVTModel:
        """The model that validation, `best` and `final` use: the average of the weights where there is one."""
        return self.model if self.average is None else self.average

    # With sharded weights only the methods of the wrapped module put them together, so it embeds like a model.

    @property
    def device(self) -> torch.device:
        """Of the evaluated model."""
        return self.evaluated_model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the evaluated model."""
        return self.evaluated_model.dtype

    def get_image_features(self, pixel_values: torch.Tensor, cls_only: bool = False) -> Any:
        """Those of the evaluated model; the arguments are named, since callers look for them."""
        return self.evaluated_model.get_image_features(pixel_values, cls_only=cls_only)

    def get_text_features(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, cls_only: bool = False
    ) -> Any:
        """Those of the evaluated model, likewise."""
        return self.evaluated_model.get_text_features(input_ids, attention_mask, cls_only=cls_only)
