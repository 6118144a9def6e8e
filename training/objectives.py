"""From a batch to its loss: embedding images and texts, and comparing them over all processes.

Letters: I images, T texts, D width, P patches of an image, L tokens of a text.
"""

import copy
import math
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

    def gather(self) -> "Embeddings":
        """The embeddings of all processes, with exact gradients; one process keeps its own."""
        if not torch.distributed.is_initialized():
            return self
        gathered = self
        if self.patch_states is not None:  # how many tokens are hidden differs from process to process
            sizes = torch.tensor(
                [self.patch_states.shape[1], self.token_states.shape[1]], device=self.patch_states.device
            )
            torch.distributed.all_reduce(sizes, torch.distributed.ReduceOp.MAX)
            gathered = self.lengthened(*sizes.tolist())
        tensors = (getattr(gathered, field.name) for field in fields(gathered))
        return Embeddings(*(None if tensor is None else GatherWithGradient.apply(tensor) for tensor in tensors))

    def lengthened(self, num_patches: int, num_tokens: int) -> "Embeddings":
        """With padding that changes no score: the last patch once more, and tokens that are no words."""
        more_patches = num_patches - self.patch_states.shape[1]
        more_tokens = num_tokens - self.token_states.shape[1]
        patches = torch.cat([self.patch_states, self.patch_states[:, -1:].expand(-1, more_patches, -1)], dim=1)
        tokens = nn.functional.pad(self.token_states, (0, 0, 0, more_tokens))
        mask = nn.functional.pad(self.token_mask, (0, more_tokens))
        return replace(self, patch_states=patches, token_states=tokens, token_mask=mask)


class Objective(nn.Module):
    """What is trained: a batch to its loss.

    It holds the model and what training alone needs: the learned temperature and the averaged weights.

    Args:
        model: the model to train.
        recipe: the losses and their weights.
    """

    def __init__(self, model: IVTModel, recipe: Recipe):
        super().__init__()
        self.model, self.recipe = model, recipe
        if recipe.sdm_weight:
            self.log_temperature = nn.Parameter(torch.tensor(math.log(recipe.sdm_temperature)))
        self.average = copy.deepcopy(model).requires_grad_(False) if recipe.ema_decay else None

    @property
    def evaluated_model(self) -> IVTModel:
        """The model that validation, `best` and `final` use: the average of the weights where there is one."""
        return self.model if self.average is None else self.average

    @torch.no_grad()
    def update_average(self, step: int) -> None:
        """Move the averaged weights towards the model's; the decay warms up, so the first ones are soon forgotten.

        Args:
            step: number of optimiser steps that are done.
        """
        if self.average is not None:
            decay = min(self.recipe.ema_decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)

    def forward(self, batch: dict[str, Any]) -> torch.Tensor:
        """The loss over the embeddings of all processes, so that each is a negative for all others."""
        embeddings = self.embed(batch)
        with torch.autocast(embeddings.image_embeds.device.type, enabled=False):
            return self.compare(embeddings.gather())

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
        """The weighted sum of the recipe's losses."""
        recipe = self.recipe
        ids = (embeddings.person_ids, embeddings.text_person_ids)
        embeds = (embeddings.image_embeds, embeddings.text_embeds, *ids)
        losses = []
        if recipe.cmpm_weight:
            losses.append(recipe.cmpm_weight * cmpm_loss(*embeds))
        if recipe.itc_weight:
            losses.append(recipe.itc_weight * itc_loss(*embeds))
        if recipe.sdm_weight:
            temperature = self.log_temperature.exp().clamp(min=LEAST_TEMPERATURE)
            losses.append(recipe.sdm_weight * sdm_loss(*embeds, temperature=temperature))
        if recipe.token_weight:
            states = (embeddings.patch_states, embeddings.token_states, embeddings.token_mask)
            losses.append(recipe.token_weight * tokenwise_loss(*states, *ids))
        return torch.stack(losses).sum()

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
