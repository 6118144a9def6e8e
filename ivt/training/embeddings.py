"""The embeddings of a training batch, and gathering them from all processes.

Letters: B pairs, V views and T texts of a batch, D width, P patches of an image, L tokens of a text.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from modeling_ivt import IVTModel
from modeling_ivt.modeling_ivt import gather_tokens


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
class TokenStates:
    """What the token-wise loss compares.

    Attributes:
        patch_states: (V, P, D) last hidden states of the patches that were not hidden.
        token_states: (T, L, D) last hidden states of the texts.
        token_mask: (T, L), True for the words among them.
    """

    patch_states: torch.Tensor
    token_states: torch.Tensor
    token_mask: torch.Tensor

    @property
    def lengths(self) -> tuple[int, int]:
        """P and L."""
        return self.patch_states.shape[1], self.token_states.shape[1]

    def lengthened(self, num_patches: int, num_tokens: int) -> "TokenStates":
        """With padding that changes no score: the last patch once more, and tokens that are no words."""
        more_patches, more_tokens = num_patches - self.lengths[0], num_tokens - self.lengths[1]
        last_patch = self.patch_states[:, -1:].expand(-1, more_patches, -1)
        return TokenStates(
            patch_states=torch.cat([self.patch_states, last_patch], dim=1),
            token_states=nn.functional.pad(self.token_states, (0, 0, 0, more_tokens)),
            token_mask=nn.functional.pad(self.token_mask, (0, more_tokens)),
        )

    def gather(self) -> "TokenStates":
        """Those of all processes; how many tokens are hidden differs from process to process."""
        sizes = self.patch_states.new_tensor(self.lengths)
        torch.distributed.all_reduce(sizes, torch.distributed.ReduceOp.MAX)
        num_patches, num_tokens = map(int, sizes)
        return TokenStates(*map(GatherWithGradient.apply, self.lengthened(num_patches, num_tokens).tensors()))

    def tensors(self) -> list[torch.Tensor]:
        """All fields, in order."""
        return [self.patch_states, self.token_states, self.token_mask]

    @staticmethod
    def concatenate(parts: list["TokenStates"]) -> "TokenStates":
        """Put those of all parts one after the other."""
        patches, tokens = (max(lengths) for lengths in zip(*(part.lengths for part in parts), strict=True))
        rows = (part.lengthened(patches, tokens).tensors() for part in parts)
        return TokenStates(*map(torch.cat, zip(*rows, strict=True)))


@dataclass
class Embeddings:
    """What the losses compare.

    Attributes:
        image_embeds: (V, D).
        text_embeds: (T, D).
        person_ids: (V,).
        text_person_ids: (T,).
        tokens: only for the token-wise loss.
    """

    image_embeds: torch.Tensor
    text_embeds: torch.Tensor
    person_ids: torch.Tensor
    text_person_ids: torch.Tensor
    tokens: TokenStates | None = None

    def differentiable(self) -> list[torch.Tensor]:
        """The tensors that a gradient flows through."""
        states = self.tokens.tensors()[:2] if self.tokens else []
        return [self.image_embeds, self.text_embeds, *states]

    def whole(self) -> list[torch.Tensor]:
        """The fields but `tokens`, in order."""
        return [self.image_embeds, self.text_embeds, self.person_ids, self.text_person_ids]

    @staticmethod
    def concatenate(parts: list["Embeddings"]) -> "Embeddings":
        """Put the images of all parts one after the other, and their texts."""
        tokens = [part.tokens for part in parts if part.tokens]
        columns = zip(*(part.whole() for part in parts), strict=True)
        return Embeddings(*map(torch.cat, columns), tokens=TokenStates.concatenate(tokens) if tokens else None)

    def gather(self) -> "Embeddings":
        """The embeddings of all processes, with exact gradients."""
        return Embeddings(
            *map(GatherWithGradient.apply, self.whole()), tokens=self.tokens.gather() if self.tokens else None
        )


def embed_batch(model: IVTModel, batch: dict[str, Any], num_groups: int, with_tokens: bool) -> Embeddings:
    """Embed the views and texts of a batch.

    The texts are sorted by length and embedded in groups, each padded to its own longest: words and phrases are
    short, and padding all texts to the longest sentence would be most of the work.

    Args:
        model: in training it hides tokens, see `IVTConfig.bmm_ratio`.
        batch: what `Run.prepared` gives, or a part of it.
        num_groups: groups of texts.
        with_tokens: keep the states of patches and tokens too, for the token-wise loss.
    """
    lengths, order = batch["attention_mask"].sum(dim=1).sort(descending=True)
    longest_of_groups = torch.stack([group[0] for group in lengths.chunk(num_groups)]).tolist()  # a GPU is waited for
    images = model.get_image_features(batch["pixel_values"], cls_only=not with_tokens)
    text_embeds, token_states, token_masks = [], [], []
    for rows, longest in zip(order.chunk(num_groups), longest_of_groups, strict=True):
        mask = batch["attention_mask"][rows, :longest]
        texts = model.get_text_features(batch["input_ids"][rows, :longest], mask, cls_only=not with_tokens)
        text_embeds.append(texts.pooler_output.float())
        if with_tokens:
            words, keep = _word_mask(mask), texts.keep_positions
            token_states.append(texts.last_hidden_state.float())
            token_masks.append(words if keep is None else gather_tokens(words, keep))
    tokens = None
    if with_tokens:
        patch_states = images.last_hidden_state[:, 1:].float()
        tokens = TokenStates(patch_states, _pad_tokens(token_states), _pad_tokens(token_masks))
    return Embeddings(
        images.pooler_output.float(),
        torch.cat(text_embeds),
        batch["person_ids"],
        batch["text_person_ids"][order],
        tokens,
    )


def _word_mask(attention_mask: torch.Tensor) -> torch.Tensor:
    """(T, L) bool: True for tokens but [CLS], which comes first, and [SEP], which comes last."""
    words = nn.functional.pad(attention_mask[:, 1:], (0, 1)).bool()  # those with a successor
    words[:, 0] = False
    return words


def _pad_tokens(groups: list[torch.Tensor]) -> torch.Tensor:
    """Groups (T_g, L_g, …) to one tensor (T, L, …), with zeros behind the tokens."""
    sequences = [sequence for group in groups for sequence in group]
    return nn.utils.rnn.pad_sequence(sequences, batch_first=True)
