"""From a batch to its loss: embedding images and texts, and comparing them over all processes.

Letters: I images, T texts, D width, P patches of an image, L tokens of a text.
"""

import copy
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import nn

from modeling_ivt import IVTModel, cmpm_loss, itc_loss, sdm_loss, tokenwise_loss
from modeling_ivt.modeling_ivt import gather_tokens, sample_keep_positions

from .recipe import Recipe

LEAST_TEMPERATURE = 0.01  # a learned temperature stays above, as in CLIP: sharper softmaxes make training unstable


class GatherWithGradient(torch.autograd.Function):
    """(B, …) of every process to (processes * B, …) on each, with the exact gradient.

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


@dataclass
class Embeddings:
    """What the losses compare.

    Attributes:
        image_embeds: (I, D).
        text_embeds: (T, D).
        person_ids: (I,).
        text_person_ids: (T,).
        patch_states: (I, P, D) last hidden states of the patches that were not hidden, only for the token-wise loss.
        token_states: (T, L, D) last hidden states of the texts, likewise.
        token_mask: (T, L), True for the words among them.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    person_ids: torch.Tensor
    text_person_ids: torch.Tensor
    patch_states: torch.Tensor | None = None
    token_states: torch.Tensor | None = None
    token_mask: torch.Tensor | None = None

    def differentiable(self) -> list[torch.Tensor]:
        """The tensors that a gradient flows through."""
        tensors = (self.image_embeds, self.text_embeds, self.patch_states, self.token_states)
        return [tensor for tensor in tensors if tensor is not None]

    @staticmethod
    def concatenate(parts: list["Embeddings"]) -> "Embeddings":
        """Put the images of all parts one after the other, and their texts."""
        if parts[0].patch_states is not None:
            sizes = [(part.patch_states.shape[1], part.token_states.shape[1]) for part in parts]
            parts = [part.lengthened(*map(max, zip(*sizes, strict=True))) for part in parts]
        columns = zip(*(part.tensors() for part in parts), strict=True)
        return Embeddings(*(None if column[0] is None else torch.cat(column) for column in columns))

    def gather(self) -> "Embeddings":
        """The embeddings of all processes, with exact gradients."""
        embeddings = self
        if self.patch_states is not None:  # how many tokens are hidden differs from process to process
            sizes = self.patch_states.new_tensor([self.patch_states.shape[1], self.token_states.shape[1]])
            torch.distributed.all_reduce(sizes, torch.distributed.ReduceOp.MAX)
            embeddings = self.lengthened(*map(int, sizes))
        return Embeddings(*(None if rows is None else GatherWithGradient.apply(rows) for rows in embeddings.tensors()))

    def lengthened(self, num_patches: int, num_tokens: int) -> "Embeddings":
        """With padding that changes no score: the last patch once more, and tokens that are no words."""
        more_patches = num_patches - self.patch_states.shape[1]
        more_tokens = num_tokens - self.token_states.shape[1]
        return replace(
            self,
            patch_states=torch.cat([self.patch_states, self.patch_states[:, -1:].expand(-1, more_patches, -1)], dim=1),
            token_states=nn.functional.pad(self.token_states, (0, 0, 0, more_tokens)),
            token_mask=nn.functional.pad(self.token_mask, (0, more_tokens)),
        )

    def tensors(self) -> list[torch.Tensor | None]:
        """All fields, in order."""
        return [getattr(self, field.name) for field in fields(self)]


class Objective(nn.Module):
    """What is trained: a batch to its loss.

    It holds the model and what training alone needs: the temperature and the classifier of losses that learn one, and
    the averaged weights.

    Args:
        model: the model to train.
        recipe: the losses and their weights.
        person_ids: those of all training images, repeated or not; only identity classification needs them.
    """

    def __init__(self, model: IVTModel, recipe: Recipe, person_ids: Iterable[int] = ()):
        super().__init__()
        self.model, self.recipe = model, recipe
        if recipe.sdm_weight:
            # one element and not a scalar, which FSDP cannot shard
            self.log_temperature = nn.Parameter(torch.tensor([math.log(recipe.sdm_temperature)]))
        if recipe.identity_weight:
            # ascending, so that searchsorted finds the class of a person
            self.register_buffer("persons", torch.tensor(sorted(set(person_ids))), persistent=False)
            if len(self.persons) == 0:
                raise ValueError("identity_weight needs to know all persons before; pass person_ids, or set it to 0")
            self.classifier = nn.Linear(model.config.hidden_size, len(self.persons))
            nn.init.normal_(self.classifier.weight, std=0.001)  # begins with equal scores for all
            nn.init.zeros_(self.classifier.bias)
        self.average = copy.deepcopy(model).requires_grad_(False) if recipe.ema_decay else None

    def own_parameters(self) -> list[nn.Parameter]:
        """What is learnt beside the model's weights."""
        named = self.named_parameters()
        return [weight for name, weight in named if weight.requires_grad and not name.startswith("model.")]

    @property
    def evaluated_model(self) -> IVTModel:
        """The model that validation, `best` and `final` use: the average of the weights where there is one."""
        return self.model if self.average is None else self.average

    @property
    def device(self) -> torch.device:
        """Where the weights lie, as embedding asks any model."""
        return self.evaluated_model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, likewise."""
        return self.evaluated_model.dtype

    def get_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """Those of the evaluated model: sharded weights are put together for the methods of what was sharded."""
        return self.evaluated_model.get_image_features(*args, **kwargs)

    def get_text_features(self, *args: Any, **kwargs: Any) -> Any:
        """Those of the evaluated model."""
        return self.evaluated_model.get_text_features(*args, **kwargs)

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the averaged weights towards the model's; the decay warms up, so the first ones are soon forgotten.

        Args:
            step: number of optimiser steps that are done.
        """
        if self.average is not None:
            decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def forward(
        self,
        batch: dict[str, Any],
        gradients: list[torch.Tensor] | None = None,
        own_gradients: list[torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """The loss of a batch, or for gradient caching a number whose gradient is the loss's.

        Args:
            batch: what `PairCollator` gives, or a part of it.
            gradients: those of the loss with respect to `embed(batch).differentiable()`, if they are known.
            own_gradients: those with respect to `own_parameters()`.

        Returns:
            Scalar tensor, float32.
        """
        embeddings = self.embed(batch)
        if gradients is None:
            return self.compare(embeddings)
        pairs = [*zip(embeddings.differentiable(), gradients, strict=True)]
        if own_gradients:
            pairs += zip(self.own_parameters(), own_gradients, strict=True)
        return torch.stack([(tensor * gradient).sum() for tensor, gradient in pairs]).sum()

    def embed(self, batch: dict[str, Any]) -> Embeddings:
        """Embed images and texts.

        The texts are sorted by length and embedded in groups, each padded to its own longest: words and phrases are
        short, and padding all texts to the longest sentence would be most of the work.
        """
        tokenwise = bool(self.recipe.token_weight)
        images = self.model.get_image_features(batch["pixel_values"], cls_only=not tokenwise)
        lengths = batch["attention_mask"].sum(dim=1)
        order = lengths.argsort(descending=True)
        text_embeds, token_states, token_masks = [], [], []
        for rows in order.chunk(self.recipe.text_groups):
            longest = int(lengths[rows[0]])
            mask = batch["attention_mask"][rows, :longest]
            keep = self._keep_positions(mask)
            texts = self.model.get_text_features(
                batch["input_ids"][rows, :longest], mask, keep_positions=keep, cls_only=not tokenwise
            )
            text_embeds.append(texts.pooler_output.float())
            if tokenwise:
                words = _word_mask(mask) if keep is None else gather_tokens(_word_mask(mask), keep)
                token_states.append(texts.last_hidden_state.float())
                token_masks.append(words)
        embeddings = Embeddings(
            images.pooler_output.float(), torch.cat(text_embeds), batch["person_ids"], batch["text_person_ids"][order]
        )
        if tokenwise:
            embeddings.patch_states = images.last_hidden_state[:, 1:].float()
            embeddings.token_states, embeddings.token_mask = _pad_tokens(token_states), _pad_tokens(token_masks)
        return embeddings

    def compare(self, embeddings: Embeddings) -> torch.Tensor:
        """The weighted sum of the recipe's losses.

        Every embedding of every process is a negative for all others, or with `gather: none` only for its process's.
        """
        if self.recipe.gather == "all" and torch.distributed.is_initialized():
            embeddings = embeddings.gather()
        with torch.autocast(embeddings.image_embeds.device.type, enabled=False):
            return torch.stack(self._weighted_losses(embeddings)).sum()

    def _weighted_losses(self, embeddings: Embeddings) -> list[torch.Tensor]:
        recipe, losses = self.recipe, []
        ids = (embeddings.person_ids, embeddings.text_person_ids)
        embeds = (embeddings.image_embeds, embeddings.text_embeds)
        if recipe.cmpm_weight:
            losses.append(recipe.cmpm_weight * cmpm_loss(*embeds, *ids))
        if recipe.itc_weight:
            losses.append(recipe.itc_weight * itc_loss(*embeds, *ids))
        if recipe.sdm_weight:
            temperature = self.log_temperature.exp().clamp(min=LEAST_TEMPERATURE)
            losses.append(recipe.sdm_weight * sdm_loss(*embeds, *ids, temperature))
        if recipe.token_weight:
            states = (embeddings.patch_states, embeddings.token_states, embeddings.token_mask)
            losses.append(recipe.token_weight * tokenwise_loss(*states, *ids))
        if recipe.identity_weight:  # one classifier for both, so that both look alike to it
            for side, person_ids in zip(embeds, ids, strict=True):
                classes = torch.searchsorted(self.persons, person_ids)
                losses.append(recipe.identity_weight * nn.functional.cross_entropy(self.classifier(side), classes))
        return losses

    def _keep_positions(self, attention_mask: torch.Tensor) -> torch.Tensor | None:
        """Positions of text tokens that are not hidden; drawn here because the token-wise loss must know them."""
        config = self.model.config
        if not self.training or config.bmm_ratio == 0:
            return None
        batch_size, length = attention_mask.shape
        batch_size = batch_size if config.bmm_per_sample else None
        return sample_keep_positions(length, config.bmm_ratio, batch_size, attention_mask.device)


def _word_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """(T, L) bool: True for tokens but [CLS], which comes first, and [SEP], which comes last."""
    words = nn.functional.pad(attention_mask[:, 1:], (0, 1)).bool()  # those with a successor
    words[:, 0] = False
    return words


def _pad_tokens(groups: list[torch.Tensor]) -> torch.Tensor:
    """Groups (T_g, L_g, …) to one tensor (T, L, …), with zeros behind the tokens."""
    sequences = [sequence for group in groups for sequence in group]
    return nn.utils.rnn.pad_sequence(sequences, batch_first=True)
