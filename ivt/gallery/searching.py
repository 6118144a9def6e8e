"""Searching: what becomes of a query in a gallery, from its clauses to grouped results with a probability.

Dimensions: R rows found, C clauses, D embedding width.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from ivt.messages import check_choice, first_few
from ivt.retrieval.ranking import check_k
from ivt.retrieval.reranking import match_scores
from modeling_ivt import IVTForPreTraining

from .calibration import NUM_TOP, Calibration, PresenceCurve, presence_features
from .grouping import group_by_key, group_duplicates
from .queries import Query
from .query_vectors import EmbeddedQuery, embed_queries, refine
from .results import ROW_FIELDS, Result, SearchResults
from .scores import GalleryStatistics, clause_scores
from .store import any_of
from .table import GalleryTable, vectors_of

GROUPINGS = ("track", "duplicate")


def search(
    table: GalleryTable,
    encoder: tuple[torch.nn.Module, Any],
    calibration: Calibration | None,
    query: Query,
    k: int = 10,
    where: str | None = None,
    right: Sequence[str] = (),
    wrong: Sequence[str] = (),
    group_by: str | None = None,
    rerank: int = 0,
    matcher: IVTForPreTraining | None = None,
) -> SearchResults:
    """Search a gallery; see `Gallery.search`.

    Args:
        table: the gallery's rows.
        encoder: the model that made its vectors, and its processor.
        calibration: of this model, if there is one.
        query: what to look for.
        k: how many results.
        where: SQL condition on the columns.
        right: image ids of earlier results that show the person.
        wrong: image ids of earlier results that do not.
        group_by: one of `GROUPINGS`, or None.
        rerank: how many of the best pictures the matcher judges again.
        matcher: the same model with its fusion encoder, to re-rank.

    Raises:
        ValueError: if k is below 1, more than one sentence is to be re-ranked, there is no such grouping, a picture is
            marked both right and wrong or is not in the gallery, or the condition cannot be understood.
    """
    check_k(k)
    if group_by is not None:
        check_choice("group_by", group_by, GROUPINGS)
    if both := sorted(set(right) & set(wrong)):
        raise ValueError(f"marked both right and wrong: {first_few(both)}; a picture is one of the two")
    check_rerank(query, rerank)
    (embedded,) = embed_queries(*encoder, [query])
    statistics = table.statistics(where)
    if statistics is None:  # no rows
        return SearchResults(str(query), [], table.images)

    vector, condition = embedded.vector, where
    curve = calibration.curves.get(query.kind) if calibration else None
    if right or wrong:
        vector = _refined(table, vector, right, wrong, statistics)
        unmarked = f"NOT {any_of('image_id', [*right, *wrong])}"
        condition = f"({where}) AND {unmarked}" if where else unmarked
        curve = calibration = None  # it was not fitted on refined queries

    def ranked(rows: pa.Table) -> pa.Table:
        return _rerank(table, rows, rerank, matcher, encoder[1], query) if matcher else rows

    rows, groups = _ranked_groups(table, vector.numpy(), k, condition, group_by, rerank, ranked)
    presence, no_match, doubts = None, False, []
    if calibration:
        texts = [clause.text for clause in query.clauses if clause.text]
        doubts = calibration.doubts(query.kind, texts, query.num_words, statistics)
    if curve and not doubts:
        presence = _presence(curve, query, vector, rows, statistics)
        no_match = presence < curve.no_match_below
    results = _results(embedded, rows, groups[:k], statistics)
    return SearchResults(str(query), results, table.images, presence, no_match, doubts)


def check_rerank(query: Query, rerank: int) -> None:
    """Raise a ValueError if so many pictures cannot be re-ranked by a query."""
    if rerank < 0:
        raise ValueError(f"rerank is {rerank}, expected how many pictures to judge again, or 0 for none")
    if rerank and query.kind != "text":
        raise ValueError(
            f"re-ranking reads one sentence, and {str(query)!r} has several clauses or a picture; ask for one, or "
            "leave out rerank"
        )


def _rerank(
    table: GalleryTable, rows: pa.Table, number: int, matcher: IVTForPreTraining, processor: Any, query: Query
) -> pa.Table:
    """Put the first rows in the order of their matching, and add its probability as the column `match`."""
    number = min(number, len(rows))
    names = rows["image_id"].to_pylist()[:number]
    pairs = torch.stack([torch.zeros(number, dtype=torch.long), torch.arange(number)], dim=1)
    odds = match_scores(
        matcher,
        processor,
        [query.clauses[0].text],
        lambda places: table.images([names[place] for place in places]),
        pairs,
        progress=False,
    )
    order = odds.argsort(descending=True, stable=True)
    matches = [*odds[order].sigmoid().tolist(), *[None] * (len(rows) - number)]
    ordered = rows.take(pa.array([*order.tolist(), *range(number, len(rows))], pa.int64()))
    return ordered.append_column("match", pa.array(matches, pa.float64()))


def _refined(
    table: GalleryTable,
    vector: torch.Tensor,
    right: Sequence[str],
    wrong: Sequence[str],
    statistics: GalleryStatistics,
) -> torch.Tensor:
    """The vector (D,) of a query, moved by marked pictures."""
    nearer, farther = (table.vectors(names) if names else vector.new_empty(0, len(vector)) for names in (right, wrong))
    return refine(vector, nearer, farther, statistics.mean)


def _ranked_groups(
    table: GalleryTable,
    vector: np.ndarray,
    k: int,
    where: str | None,
    group_by: str | None,
    rerank: int,
    ranked: Callable[[pa.Table], pa.Table],
) -> tuple[pa.Table, list[list[int]]]:
    """The best rows, enough for k groups and for the features of the scores, and their groups of places.

    What `ranked` makes of the rows, their re-ranking, comes before they are grouped.
    """
    number = max(k if group_by is None else 4 * k, NUM_TOP, rerank)
    while True:
        rows = ranked(table.nearest(vector, number, where))
        if group_by == "track":
            groups = group_by_key(rows["track_id"].to_pylist())
        elif group_by == "duplicate":
            groups = group_duplicates(vectors_of(rows))
        else:
            groups = [[place] for place in range(len(rows))]
        if len(groups) >= k or len(rows) < number:
            return rows, groups
        number *= 4


def _presence(
    curve: PresenceCurve, query: Query, vector: torch.Tensor, rows: pa.Table, statistics: GalleryStatistics
) -> float:
    """Probability that the person is in the gallery, from the scores of the best rows and of the whole gallery."""
    scores = np.sort(rows["score"].to_numpy())[::-1]  # re-ranked rows are in another order
    top_scores = torch.from_numpy(scores[:NUM_TOP].copy())[None]
    counts = torch.tensor([statistics.size]), torch.tensor([query.num_words])
    return float(curve(presence_features(top_scores, *statistics.of_scores(vector[None]), *counts)))


def _results(
    embedded: EmbeddedQuery, rows: pa.Table, groups: list[list[int]], statistics: GalleryStatistics
) -> list[Result]:
    """A result for the best row of each group."""
    best = rows.take(pa.array([group[0] for group in groups], pa.int64()))
    names = rows["image_id"].to_pylist()
    scores = clause_scores(embedded.clause_embeds, vectors_of(best), statistics).tolist()  # (R, C)
    labels = embedded.query.labels
    fields = [*ROW_FIELDS, "match"] if "match" in rows.column_names else ROW_FIELDS
    return [
        Result(
            **row,
            clause_scores={label: round(score, 2) for label, score in zip(labels, of_row, strict=True)},
            others=[names[place] for place in group[1:]],
        )
        for row, of_row, group in zip(best.select(fields).to_pylist(), scores, groups, strict=True)
    ]
