"""From a query of several clauses to the one vector that a gallery is searched with, and relevance feedback on it.

Whatever the clauses, there is one vector (`combine`), so every index of a gallery serves every query:

    text   = unit(e(t_1, …, t_m) + unit(sum_i w_i e(t_i)))      e(t_1, …, t_m): all positive texts as one sentence
    look   = unit(w text + sum_j w_j e(image_j))                w: sum of the texts' weights; one text is e(t_1) itself
    vector = unit(look - NOT_WEIGHT sum_k w_k e(negated_k))

The constants are chosen on the validation split of the drawn corpus against other formulas by
`python -m benchmarks.queries`; the figures are in LOG.md. Relevance feedback is Rocchio's (The SMART Retrieval System,
1971, ch. 14), with unit vectors and wrong pictures seen from the gallery's mean.

Dimensions: C clauses, R pictures marked right, R' marked wrong, D embedding width.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from ivt.retrieval.embedding import embed_images, embed_texts
from processing.pictures import read_picture

from .queries import Query

NOT_WEIGHT = 0.25  # of a negated clause of weight 1, beside the positive clauses together
RIGHT_WEIGHT, WRONG_WEIGHT = 1.0, 0.25  # of the mean right and the mean wrong picture, beside the query


def combine(query: Query, clause_embeds: torch.Tensor, joint_embed: torch.Tensor | None = None) -> torch.Tensor:
    """Turn the embeddings of a query's clauses into the one vector that the gallery is searched with.

    Args:
        query: the query.
        clause_embeds: unit-length embeddings of its clauses (C, D).
        joint_embed: unit-length embedding of `query.joint_text` (D,), needed if two or more texts are not negated.

    Returns:
        The vector (D,) of unit length, by the formula in the module's docstring.

    Raises:
        ValueError: if there are not as many embeddings as clauses, the joint one is missing, or the clauses cancel.
    """
    if len(clause_embeds) != len(query.clauses):
        raise ValueError(
            f"got {len(clause_embeds)} embeddings for {len(query.clauses)} clauses; embed each clause once"
        )
    negated = torch.tensor([clause.negated for clause in query.clauses])
    is_text = torch.tensor([clause.image is None for clause in query.clauses])
    weights = torch.tensor([clause.weight for clause in query.clauses])
    weighted = weights[:, None] * clause_embeds  # (C, D)
    texts = is_text & ~negated  # (C,)
    text = weighted[texts].sum(dim=0)  # (D,)
    if query.joint_text:
        if joint_embed is None:
            raise ValueError(f"several texts are asked for at once; pass the embedding of {query.joint_text!r} too")
        text = weights[texts].sum() * normalize(joint_embed + normalize(text, dim=0), dim=0)
    look = text + weighted[~is_text & ~negated].sum(dim=0)
    unwanted = weighted[negated].sum(dim=0)
    vector = normalize(look, dim=0) - NOT_WEIGHT * unwanted  # (D,)
    if vector.norm() < 1e-6:
        raise ValueError(f"the clauses of {str(query)!r} cancel each other; lower the weight of what is under NOT")
    return normalize(vector, dim=0)


def refine(
    vector: torch.Tensor,
    right: torch.Tensor,
    wrong: torch.Tensor,
    gallery_mean: torch.Tensor,
    right_weight: float = RIGHT_WEIGHT,
    wrong_weight: float = WRONG_WEIGHT,
) -> torch.Tensor:
    """Move a query towards pictures that were marked right and away from those marked wrong.

    unit(vector + right_weight unit(mean of right) - wrong_weight (mean of wrong - mean of gallery)). From the
    gallery's mean, because all pictures share a large part of their embedding, which says nothing against a query.

    Args:
        vector: the query (D,) of unit length.
        right: embeddings (R, D) of pictures marked right, R may be 0.
        wrong: embeddings (R', D) of pictures marked wrong, R' may be 0.
        gallery_mean: mean embedding of the gallery (D,).
        right_weight: how far towards the right ones.
        wrong_weight: how far away from the wrong ones.

    Returns:
        The refined query (D,) of unit length.
    """
    refined = vector
    if len(right):
        refined = refined + right_weight * normalize(right.mean(dim=0), dim=0)
    if len(wrong):
        refined = refined - wrong_weight * (wrong.mean(dim=0) - gallery_mean)
    return normalize(refined, dim=0)


@dataclass(frozen=True)
class EmbeddedQuery:
    """A query with its embeddings.

    Attributes:
        query: what was asked.
        clause_embeds: unit-length embeddings of its clauses (C, D).
        vector: what the gallery is searched with (D,), of unit length.
    """

    query: Query
    clause_embeds: torch.Tensor
    vector: torch.Tensor


def _open_picture(image: Any) -> Any:
    if not isinstance(image, str | os.PathLike):
        return image
    name = f"{os.fspath(image)!r}, a picture of the query,"
    if not os.path.isfile(image):
        raise ValueError(f"{name} is no file; pass the path of a picture")
    return read_picture(image, name)


def embed_queries(model: torch.nn.Module, processor: Any, queries: Sequence[Query]) -> list[EmbeddedQuery]:
    """Embed queries, each text and picture once however many queries hold it.

    Args:
        model: an `IVTModel`.
        processor: its processor.
        queries: the queries.

    Raises:
        ValueError: if the clauses of a query cancel each other, or the picture of a clause cannot be read.
    """
    clauses = [clause for query in queries for clause in query.clauses]
    joint_texts = [query.joint_text for query in queries if query.joint_text]
    texts = list(dict.fromkeys([clause.text for clause in clauses if clause.text] + joint_texts))
    images = list({id(clause.image): clause.image for clause in clauses if clause.image is not None}.values())
    pictures = [_open_picture(image) for image in images]
    embeds: dict[Any, torch.Tensor] = {}
    if texts:
        embeds |= zip(texts, embed_texts(model, processor, texts, progress=False), strict=True)
    if images:
        embeds |= zip(map(id, images), embed_images(model, processor, pictures, progress=False), strict=True)
    found = []
    for query in queries:
        of_clauses = torch.stack([embeds[clause.text or id(clause.image)] for clause in query.clauses])  # (C, D)
        vector = combine(query, of_clauses, embeds.get(query.joint_text))
        found.append(EmbeddedQuery(query, of_clauses, vector))
    return found
