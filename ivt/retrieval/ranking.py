"""Ranking: the k gallery items closest to each query by cosine.

Dimensions: Q queries, G gallery items, D embedding width.
"""

import torch
from torch.nn.functional import normalize

SCORE_DECIMALS = 6  # what a float32 cosine can tell apart; closer scores are ties
CHUNK_SCORES = 2**22  # scores held at a time: 16 MB, whatever the size of the gallery


def check_k(k: int) -> None:
    """Raise a ValueError if k, how many are wanted, is below 1."""
    if k < 1:
        raise ValueError(f"k is {k}, expected at least 1")


def unit_length(name: str, embeds: torch.Tensor) -> torch.Tensor:
    """Check embeddings (n, D) and scale every row to unit length, in float32.

    Args:
        name: what to call the embeddings in an error message.
        embeds: tensor (n, D).

    Raises:
        ValueError: if they are not (n, D), or a row is not finite or has length zero.
    """
    if embeds.ndim != 2:
        raise ValueError(
            f"{name} embeds have shape {tuple(embeds.shape)}, expected (n, D); for one, pass embeds[None]"
        )
    embeds = embeds.float()
    usable = embeds.isfinite().all(dim=1) & embeds.any(dim=1)
    if not usable.all():
        first = int((~usable).nonzero()[0])
        raise ValueError(
            f"{int((~usable).sum())} of {len(embeds)} {name} embeds are not finite or have length zero, the first in "
            f"row {first}; expected directions: look for a diverged model or rows which were never embedded"
        )
    return normalize(embeds, dim=1)


def top_k(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k largest of each row, largest first, equal scores in the order of their columns.

    `torch.topk` leaves the order and choice of equal scores open, and a stable sort of whole rows is slow.

    Args:
        scores: (Q, G).
        k: how many, at most G.

    Returns:
        Scores (Q, k) and their columns (Q, k), int64.
    """
    kth = scores.topk(k, dim=1).values[:, -1:]  # (Q, 1)
    above, level = scores > kth, scores == kth  # (Q, G)
    chosen = above | (level & (level.cumsum(dim=1) <= k - above.sum(dim=1, keepdim=True)))  # exactly k in each row
    columns = chosen.nonzero()[:, 1].view(len(scores), k)  # increasing in each row
    values, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return values, columns.gather(1, order)


@torch.no_grad()
def rank_gallery(
    query_embeds: torch.Tensor, gallery_embeds: torch.Tensor, k: int = 10
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find the k gallery items closest to each query by cosine, best first.

    Cosines are rounded to 6 decimals, and equal ones come in gallery order, so copies of one picture always come in
    the same order.

    Args:
        query_embeds: (Q, D), of any length but zero.
        gallery_embeds: (G, D), on the same device.
        k: how many to return; a gallery with fewer items is returned whole.

    Returns:
        Cosines (Q, k) in float32 and gallery indices (Q, k) in int64, with k at most G.

    Raises:
        ValueError: on an empty gallery, k below 1, shapes that do not fit, or embeddings without direction.
    """
    check_k(k)
    if len(gallery_embeds) == 0:
        raise ValueError("the gallery is empty, expected at least one embedding; embed some images first")
    queries, gallery = unit_length("query", query_embeds), unit_length("gallery", gallery_embeds)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query embeds have width {queries.shape[1]}, gallery embeds {gallery.shape[1]}; embed both with one model"
        )
    k = min(k, len(gallery))
    ranked = [
        top_k((chunk @ gallery.T).round(decimals=SCORE_DECIMALS), k)
        for chunk in queries.split(max(1, CHUNK_SCORES // len(gallery)))
    ]
    return torch.cat([scores for scores, _ in ranked]), torch.cat([indices for _, indices in ranked])
