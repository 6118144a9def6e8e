"""Searching: what becomes of a query in a gallery, from its clauses to grouped results with a probability.

Dimensions: R rows found, C clauses, D embedding width.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch
from PIL import Image

from ivt.messages import check_choice, first_few
from ivt.retrieval.models import load_model
from ivt.retrieval.ranking import check_k

from .calibration import NUM_TOP, presence_features
from .queries import (
    Clause,
    EmbeddedQuery,
    GalleryStatistics,
    Query,
    clause_scores,
    embed_queries,
    group_by_key,
    group_duplicates,
    parse_query,
    refine,
)
from .results import ROW_FIELDS, Result, SearchResults
from .store import any_of

if TYPE_CHECKING:
    from lancedb.table import Table

    from .gallery import Gallery

GROUPINGS = ("track", "duplicate")
SAMPLE_ROWS = 4096  # vectors that stand for a larger gallery: the error of a mean is 1 / 64 of the deviation


def as_query(query: str | Image.Image | os.PathLike[str] | Query) -> Query:
    """Read a text, take a picture or its path as a query of one clause, and leave a query as it is.

    Raises:
        ValueError: if the text does not follow the grammar.
    """
    if isinstance(query, Query):
        return query
    return parse_query(query) if isinstance(query, str) else Query((Clause(image=query),))


def vectors_of(rows: pa.Table) -> torch.Tensor:
    """The vectors (R, D) of rows of a gallery."""
    vectors = rows["vector"].combine_chunks()
    return torch.from_numpy(vectors.flatten().to_numpy().reshape(len(rows), vectors.type.list_size).copy())


def measure_gallery(table: "Table", where: str | None) -> GalleryStatistics:
    """Statistics of the rows for which a condition holds, from SAMPLE_ROWS of them drawn with a fixed seed.

    Args:
        table: the gallery's table, with at least one such row.
        where: SQL condition; None for all rows.
    """
    rng = np.random.default_rng(0)  # so that a search repeated gives the same scores
    if where is None:
        size = table.count_rows()
        drawn = rng.choice(size, min(size, SAMPLE_ROWS), replace=False)
        rows = table.take_offsets(np.sort(drawn).tolist()).select(["vector"]).to_arrow()
    else:
        ids = table.search().where(where).with_row_id(True).select(["_rowid"]).to_arrow()["_rowid"].to_numpy()
        size = len(ids)
        rows = table.take_row_ids(rng.choice(ids, min(size, SAMPLE_ROWS), replace=False).tolist()).select(["vector"])
        rows = rows.to_arrow()
    return GalleryStatistics.of(vectors_of(rows), size)


def search_gallery(
    gallery: "Gallery",
    query: Query,
    k: int,
    where: str | None,
    right: Sequence[str],
    wrong: Sequence[str],
    group_by: str | None,
) -> SearchResults:
    """Search as `Gallery.search` says."""
    check_k(k)
    if group_by is not None:
        check_choice("group_by", group_by, GROUPINGS)
    if both := sorted(set(right) & set(wrong)):
        raise ValueError(f"marked both right and wrong: {first_few(both)}; a picture is one of the two")
    (embedded,) = embed_queries(*load_model(gallery.model_version, gallery.device), [query])
    statistics = gallery.statistics(where)
    if statistics is None:  # no rows
        return SearchResults(str(query), [], gallery.images)
    vector, left, presence, no_match = embedded.vector, where, None, False
    if right or wrong:
        marked = (gallery.vectors(names) if names else vector.new_empty(0, len(vector)) for names in (right, wrong))
        vector = refine(vector, *marked, statistics.mean)
        unmarked = f"NOT {any_of('image_id', [*right, *wrong])}"
        left = f"({where}) AND {unmarked}" if where else unmarked
    rows, groups = _ranked_groups(gallery, vector.numpy(), k, left, group_by)
    curve = gallery.calibration and gallery.calibration.curves.get(query.kind)
    if curve and not (right or wrong):
        top_scores = torch.from_numpy(rows["score"].to_numpy()[:NUM_TOP].copy())[None]
        counts = torch.tensor([statistics.size]), torch.tensor([query.num_words])
        features = presence_features(top_scores, *statistics.of_scores(vector[None]), *counts)
        presence = float(curve(features))
        no_match = presence < curve.no_match_below
    results = _results(embedded, rows, groups[:k], statistics)
    return SearchResults(str(query), results, gallery.images, presence, no_match)


def _ranked_groups(
    gallery: "Gallery", vector: np.ndarray, k: int, where: str | None, group_by: str | None
) -> tuple[pa.Table, list[list[int]]]:
    """The best rows, enough for k groups and for the features of the scores, and their groups of places."""
    number = max(k if group_by is None else 4 * k, NUM_TOP)
    while True:
        rows = gallery.nearest(vector, number, where)
        if group_by == "track":
            groups = group_by_key(rows["track_id"].to_pylist())
        elif group_by == "duplicate":
            groups = group_duplicates(vectors_of(rows))
        else:
            groups = [[place] for place in range(len(rows))]
        if len(groups) >= k or len(rows) < number:
            return rows, groups
        number *= 4


def _results(
    embedded: EmbeddedQuery, rows: pa.Table, groups: list[list[int]], statistics: GalleryStatistics
) -> list[Result]:
    """A result for the best row of each group."""
    best = rows.take(pa.array([group[0] for group in groups], pa.int64()))
    names = rows["image_id"].to_pylist()
    scores = clause_scores(embedded.clause_embeds, vectors_of(best), statistics).tolist()  # (R, C)
    labels = embedded.query.labels
    return [
        Result(
            **fields,
            clause_scores={label: round(score, 2) for label, score in zip(labels, of_row, strict=True)},
            others=[names[place] for place in group[1:]],
        )
        for fields, of_row, group in zip(best.select(ROW_FIELDS).to_pylist(), scores, groups, strict=True)
    ]
