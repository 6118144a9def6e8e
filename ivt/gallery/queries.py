"""Queries of several clauses: parsed from one string, turned into one search vector, refined, scored clause by clause.

    red coat AND black boots NOT backpack
    red coat^2 AND image:crop.jpg NOT "backpack AND cap"

A query is

    query  = [ "NOT" ] clause { ( "AND" | "NOT" | "AND NOT" ) clause }
    clause = ( words | '"' anything '"' | "image:" path | 'image:"' path '"' ) [ "^" weight ]

AND and NOT are operators in capital letters only, so a sentence is a query of one clause. A weight is a number above 0
(1 if it is left out); quotes keep AND, NOT, ^ and the word image: as they are.

Whatever the clauses, the gallery is searched with one vector (`combine`), so every index of it serves every query:

    text   = unit(e(t_1, …, t_m) + unit(sum_i w_i e(t_i)))      e(t_1, …, t_m): all positive texts as one sentence
    look   = unit(w text + sum_j w_j e(image_j))                w: sum of the texts' weights; one text is e(t_1) itself
    vector = unit(look - NOT_WEIGHT sum_k w_k e(negated_k))

The constants are chosen on the validation split of the embedded corpus against other formulas by
`python -m benchmarks.queries`; the figures are in LOG.md. Relevance feedback is Rocchio's (The SMART Retrieval System,
1971, ch. 14), with unit vectors and wrong pictures seen from the gallery's mean.

Dimensions: Q queries, C clauses, R results, D embedding width.
"""

import math
import os
import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import normalize

from ivt.retrieval.embedding import embed_images, embed_texts

NOT_WEIGHT = 0.25  # of a negated clause of weight 1, beside the positive clauses together
RIGHT_WEIGHT, WRONG_WEIGHT = 1.0, 0.25  # of the mean right and the mean wrong picture, beside the query
# 8 in 10 copies, cropped and made brighter, are closer, and 1 in 1000 pictures of other people
DUPLICATE_COSINE = 0.96
_TOKEN = re.compile(r"\s+|\S+")
_OPENING_QUOTE = re.compile(r'(?:image:)?"')
_NEEDS_QUOTES = re.compile(r"(?<!\S)(?:AND|NOT)(?!\S)|\^|^image:")


@dataclass(frozen=True)
class Clause:
    """One thing asked for: words or a picture.

    Attributes:
        text: the words, "" for a picture.
        image: a Pillow image or a path, None for words.
        weight: how much it counts beside the others, above 0.
        negated: whether the person must not look like this.
    """

    text: str = ""
    image: Any = None
    weight: float = 1.0
    negated: bool = False

    def __post_init__(self) -> None:
        if bool(self.text.strip()) == (self.image is not None):
            raise ValueError(f"a clause has text {self.text!r} and image {self.image!r}, expected one of the two")
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise ValueError(
                f"the weight of {self.label} is {self.weight}, expected a number above 0; "
                "for what is not wanted, negate the clause"
            )

    @property
    def label(self) -> str:
        """What to call the clause beside its scores; a picture goes by the name of its file."""
        is_path = isinstance(self.image, str | os.PathLike)
        name = self.text or f"image:{os.path.basename(self.image) if is_path else 'picture'}"
        return f"NOT {name}" if self.negated else name

    def __str__(self) -> str:
        content = self.text or str(self.image)
        if _NEEDS_QUOTES.search(content):
            content = f'"{content}"'
        weight = f"^{self.weight:g}" if self.weight != 1 else ""
        return ("NOT " if self.negated else "") + ("" if self.text else "image:") + content + weight


@dataclass(frozen=True)
class Query:
    """Clauses that hold at once, at least one of them not negated; `str` gives what `parse_query` reads."""

    clauses: tuple[Clause, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "clauses", tuple(self.clauses))
        if all(clause.negated for clause in self.clauses):
            raise ValueError(f"the query {str(self)!r} names nothing to look for; add a clause that is not negated")

    def __str__(self) -> str:
        parts = [str(self.clauses[0])] if self.clauses else []
        for clause in self.clauses[1:]:
            parts.append(str(clause) if clause.negated else f"AND {clause}")
        return " ".join(parts)

    @property
    def labels(self) -> list[str]:
        """What to call the clauses beside their scores, each name once."""
        names = [clause.label for clause in self.clauses]
        return [
            name if name not in names[:i] else f"{name} ({names[: i + 1].count(name)})" for i, name in enumerate(names)
        ]

    @property
    def joint_text(self) -> str | None:
        """All positive texts as one sentence; None if there are fewer than two."""
        texts = [clause.text for clause in self.clauses if clause.text and not clause.negated]
        return ", ".join(texts) if len(texts) > 1 else None

    @property
    def num_words(self) -> int:
        """Number of words in all clauses."""
        return sum(len(clause.text.split()) for clause in self.clauses)

    @property
    def kind(self) -> str:
        """What the query is made of, which decides how its scores are calibrated.

        "text" or "image" for a clause of words or a picture alone, "clauses" for several of words, else "mixed".
        """
        images = [clause.image is not None for clause in self.clauses]
        if len(images) == 1:
            return "image" if images[0] else "text"
        return "mixed" if any(images) else "clauses"


def _error(text: str, place: int, message: str) -> ValueError:
    return ValueError(f"the query is not understood: {message}\n  {text}\n  {' ' * place}^")


def _operators(text: str) -> list[tuple[int, int, str]]:
    """Start, end and name of every AND and NOT of a query that stands outside of quotes."""
    found, place = [], 0
    opens = True  # whether a quote here opens a clause
    while place < len(text):
        quote = _OPENING_QUOTE.match(text, place) if opens else None
        if quote:
            end = text.find('"', quote.end())
            if end < 0:
                raise _error(text, quote.end() - 1, "this quote is never closed")
            place, opens = end + 1, False
            continue
        token = _TOKEN.match(text, place)
        if token[0] in ("AND", "NOT"):
            found.append((*token.span(), token[0]))
            opens = True
        elif not token[0].isspace():
            opens = False
        place = token.end()
    return found


def _parse_clause(text: str, start: int, end: int, negated: bool) -> Clause:
    """The clause that stands at text[start:end], for error messages with its place in the whole query."""
    body = text[start:end]
    start += len(body) - len(body.lstrip())
    body = body.strip()
    found = re.fullmatch(r'(?P<image>image:)?"(?P<quoted>[^"]*)"\s*(?P<rest>.*)', body, re.DOTALL)
    if found:
        content, rest, rest_start = found["quoted"], found["rest"], start + found.start("rest")
    else:
        found = re.fullmatch(r"(?P<image>image:)?(?P<words>[^^]*)(?P<rest>.*)", body, re.DOTALL)
        content, rest, rest_start = found["words"].strip(), found["rest"], start + found.start("rest")
    if not content.strip():
        raise _error(text, start, "expected words or a picture here")
    weight = 1.0
    if rest:
        number = re.fullmatch(r"\^\s*(\d+(?:\.\d*)?|\.\d+)", rest)
        if not number:
            raise _error(text, rest_start, "expected AND, NOT, ^ and a number such as ^0.5, or the end here")
        weight = float(number[1])
        if weight == 0:
            raise _error(text, rest_start, "a weight is above 0; leave out the clause, or put NOT in front")
    words, image = ("", content) if found["image"] else (content, None)
    return Clause(words, image, weight, negated)


def parse_query(text: str) -> Query:
    """Read a query such as `red coat AND black boots NOT backpack`; the module's docstring has the grammar.

    Args:
        text: the query, as typed.

    Raises:
        ValueError: if it does not follow the grammar; the message shows the place.
    """
    text = re.sub(r"\s", " ", text)  # so that an error can show the place on one line
    operators = _operators(text)
    clauses, negated, start = [], False, 0
    for number, (left, right, name) in enumerate([*operators, (len(text), len(text), "")]):
        if text[start:left].strip():
            clauses.append(_parse_clause(text, start, left, negated))
            negated = name == "NOT"
        elif name == "NOT" and not negated and (number == 0 or operators[number - 1][2] == "AND"):
            negated = True
        else:
            raise _error(text, left, f"expected words or a picture before {name or 'the end'}")
        start = right
    if all(clause.negated for clause in clauses):
        raise _error(text, 0, "everything is under NOT; say also what to look for, such as: person NOT backpack")
    return Query(tuple(clauses))


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
class GalleryStatistics:
    """How the embeddings of a gallery are spread, measured on all of them or on a sample.

    Attributes:
        size: number of pictures in the gallery.
        mean: their mean embedding (D,).
        covariance: of their embeddings (D, D).
    """

    size: int
    mean: torch.Tensor
    covariance: torch.Tensor

    @classmethod
    def of(cls, image_embeds: torch.Tensor, size: int | None = None) -> "GalleryStatistics":
        """Measure embeddings (n, D) that stand for a gallery of `size` pictures, n if it is None."""
        mean = image_embeds.mean(dim=0)
        centred = image_embeds - mean
        return cls(len(image_embeds) if size is None else size, mean, centred.T @ centred / len(image_embeds))

    def of_scores(self, query_embeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation (Q,) of the cosines that queries (Q, D) have over the gallery."""
        variance = torch.einsum("qd,de,qe->q", query_embeds, self.covariance, query_embeds)
        return query_embeds @ self.mean, variance.clamp(min=0).sqrt()


def clause_scores(
    clause_embeds: torch.Tensor, image_embeds: torch.Tensor, statistics: GalleryStatistics
) -> torch.Tensor:
    """Say how well each picture fits each clause, compared with the gallery it comes from.

    Cosines of different clauses do not compare: "black pants" may lie near every picture and "umbrella" near none. So
    a score is the cosine's distance from its mean over the gallery, in standard deviations: 0 is the gallery's average
    picture, and only a few in a hundred pictures reach 2. A negated clause is scored like any other: low is good.

    Args:
        clause_embeds: embeddings of the clauses (C, D).
        image_embeds: embeddings of the pictures (R, D).
        statistics: of the gallery.

    Returns:
        Scores (R, C); 0 for a clause in which the gallery's pictures do not differ.
    """
    mean, deviation = statistics.of_scores(clause_embeds)  # (C,)
    distances = image_embeds @ clause_embeds.T - mean  # (R, C)
    return torch.where(deviation > 1e-4, distances / deviation.clamp(min=1e-4), 0.0)


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
        near[0] = True  # whatever rounding says
        groups.append(alone[near].tolist())
        alone = alone[~near]
    return groups


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


def embed_queries(model: torch.nn.Module, processor: Any, queries: Sequence[Query]) -> list[EmbeddedQuery]:
    """Embed queries, each text and picture once however many queries hold it.

    Args:
        model: an `IVTModel`.
        processor: its processor.
        queries: the queries.

    Raises:
        ValueError: if the clauses of a query cancel each other, or the picture of a clause is not there.
    """
    clauses = [clause for query in queries for clause in query.clauses]
    joint_texts = [query.joint_text for query in queries if query.joint_text]
    texts = list(dict.fromkeys([clause.text for clause in clauses if clause.text] + joint_texts))
    images = list({id(clause.image): clause.image for clause in clauses if clause.image is not None}.values())
    for image in images:
        if isinstance(image, str | os.PathLike) and not os.path.isfile(image):
            raise ValueError(f"{os.fspath(image)!r}, a picture of the query, is no file; pass the path of a picture")
    embeds: dict[Any, torch.Tensor] = {}
    if texts:
        embeds |= zip(texts, embed_texts(model, processor, texts, progress=False), strict=True)
    if images:
        embeds |= zip(map(id, images), embed_images(model, processor, images, progress=False), strict=True)
    found = []
    for query in queries:
        of_clauses = torch.stack([embeds[clause.text or id(clause.image)] for clause in query.clauses])  # (C, D)
        vector = combine(query, of_clauses, embeds.get(query.joint_text))
        found.append(EmbeddedQuery(query, of_clauses, vector))
    return found
