"""Groups of results: one for each track, or one for pictures that are nearly the same.

Dimensions: R results, D embedding width.
"""

from collections.abc import Hashable, Sequence

import torch

# 8 in 10 copies, cropped and made brighter, are closer, and 1 in 1000 pictures of other people
DUPLICATE_COSINE = 0.96


def group_by_key(keys: Sequence[Hashable | None]) -> list[list[int]]:
    """Group ranked results by a key such as their track.

    Args:
        keys: per result, best first; None belongs to no group and stays alone.

    Returns:
        Groups of places in `keys`, each best first, the groups in the order of their best.
    """
    groups: dict[Hashable, list[int]] = {}
    for place, key in enumerate(keys):
        groups.setdefault(("alone", place) if key is None else ("key", key), []).append(place)
    return list(groups.values())


def group_duplicates(image_embeds: torch.Tensor, min_cosine: float = DUPLICATE_COSINE) -> list[list[int]]:
    """Group ranked results that show nearly the same picture.

    A result joins the first group whose best picture it resembles; so a group never drifts away from its best.

    Args:
        image_embeds: unit-length embeddings (R, D), best result first.
        min_cosine: how close two pictures are to count as one.

    Returns:
        Groups of rows, each best first, the groups in the order of their best.
    """
    groups: list[list[int]] = []
    alone = torch.arange(len(image_embeds))
    while len(alone):
        near = image_embeds[alone] @ image_embeds[alone[0]] >= min_cosine
        near[0] = True  # a picture is like itself, in spite of rounding
        groups.append(alone[near].tolist())
        alone = alone[~near]
    return groups
