"""The metric of text-based person retrieval: R@k, mAP and mINP from embeddings, as an `evaluate` module.

    evaluate.load("metric/person_retrieval").compute(
        predictions=query_embeddings, references=query_person_ids,
        gallery_embeddings=gallery_embeddings, gallery_person_ids=gallery_person_ids)

`retrieval_metrics` is the same computation as a plain function, without evaluate's temporary files. The file stands
alone (numpy, datasets, evaluate), since the folder is also a Space.

Sources: R@k and average precision as in the person re-identification literature (Zheng et al., ICCV 2015); mINP from
Ye et al., "Deep Learning for Person Re-identification: A Survey and Outlook", TPAMI 2021, sec. 4; the trapezoidal
average precision is the one of the Oxford Buildings evaluation (Philbin et al., CVPR 2007).

Dimensions: Q queries, G gallery items, D embedding width, M gallery items which match one query.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

AVERAGE_PRECISIONS = ("standard", "trapezoidal")
SCORE_DECIMALS = 12  # what a float64 cosine can tell apart; closer scores are ties
CHUNK_SCORES = 2**22  # scores held at a time: 32 MB, whatever the size of the gallery

DESCRIPTION = """\
Ranks a gallery for every query by the cosine of their embeddings and reports, in percent, R@k (queries with a right \
item among the first k), mAP (mean average precision) and mINP (mean inverse negative penalty).
"""

INPUTS_DESCRIPTION = """
Args:
    predictions: query embeddings (Q, D), of any length but zero.
    references: person ids of the queries (Q,), integers.
    gallery_embeddings: gallery embeddings (G, D).
    gallery_person_ids: person ids of the gallery (G,), integers.
    ks: the k of R@k, default (1, 5, 10).
    average_precision: "standard" (default) or "trapezoidal".

Returns:
    dict with "R@1", "R@5", "R@10" (one for each k), "mAP", "mINP" in percent, "num_queries" and
    "num_queries_without_match" (those are left out of the averages).
"""

CITATION = """\
@article{ye2021deep,
  title = {Deep Learning for Person Re-identification: A Survey and Outlook},
  author = {Ye, Mang and Shen, Jianbing and Lin, Gaojie and Xiang, Tao and Shao, Ling and Hoi, Steven C. H.},
  journal = {IEEE Transactions on Pattern Analysis and Machine Intelligence},
  year = {2021}
}
"""


def check_rows(name: str, embeddings: Any) -> np.ndarray:
    """Check that embeddings (n, D) have directions.

    Args:
        name: what to call the embeddings in an error message.
        embeddings: array-like (n, D).

    Raises:
        ValueError: if they are not (n, D) with n and D at least 1, or a row is not finite or has no direction.
    """
    embeddings = np.asarray(embeddings)
    if embeddings.ndim != 2 or 0 in embeddings.shape:
        raise ValueError(f"{name} embeddings have shape {embeddings.shape}, expected (n, D) with at least one row")
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(embeddings)} {name} embeddings hold NaN or infinity, the first in row {bad[0]}; "
            "expected finite numbers: look for a diverged model or an overflow in half precision"
        )
    bad = np.flatnonzero(squared_lengths(embeddings) == 0)
    if bad.size:
        raise ValueError(
            f"{bad.size} of {len(embeddings)} {name} embeddings have length zero, the first in row {bad[0]}; "
            "a cosine needs a direction: leave out rows which were never embedded"
        )
    return embeddings


def squared_lengths(embeddings: np.ndarray) -> np.ndarray:
    """Squared length of each row, (n,) float64."""
    return np.einsum("nd,nd->n", embeddings, embeddings, dtype=np.float64)


def scaled_rows(embeddings: np.ndarray, length: float = 1.0) -> np.ndarray:
    """A float64 copy of embeddings (n, D), every row scaled to a length."""
    return embeddings * (length / np.sqrt(squared_lengths(embeddings)))[:, None]


def match_ranks(scores: np.ndarray, matches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rank of every right gallery item of every query, counted from 1.

    A wrong item with the score of a right one stands before it, so a model that gives everything the same embedding
    earns nothing. Counting what stands before the few right items is faster than sorting all.

    Args:
        scores: similarity of the queries to the gallery items (Q, G); what they say of right items is overwritten.
        matches: which items are right (Q, G), bool.

    Returns:
        Ranks of all right items, query after query and best first, and where in them each query with any begins.
    """
    rows, columns = np.divmod(np.flatnonzero(matches), matches.shape[1])  # faster than nonzero()
    right = scores[rows, columns]
    scores[rows, columns] = -np.inf
    right = right[np.lexsort((-right, rows))]
    num_wrong_before = np.array(
        [np.count_nonzero(scores[row] >= score) for row, score in zip(rows, right, strict=True)], int
    )
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    num_right_before = np.arange(len(rows)) - np.repeat(starts, np.diff(starts, append=len(rows)))
    return num_wrong_before + num_right_before + 1, starts


def average_precisions_of(ranks: np.ndarray, starts: np.ndarray, kind: str = "standard") -> np.ndarray:
    """Average precision of each query, in [0, 1], from the ranks r_1 < ... < r_M of its right items.

    "standard": (1/M) sum_j p_j with the precision p_j = j / r_j at each right item.
    "trapezoidal": (1/M) sum_j (o_j + p_j) / 2 with o_j = (j - 1) / (r_j - 1), the precision just before the right
    item (1 at rank 1): the area under the precision-recall curve by trapezoids, as the IVT authors' code reports it.

    Args:
        ranks: see `match_ranks`.
        starts: likewise.
        kind: one of AVERAGE_PRECISIONS.
    """
    num_right = np.diff(starts, append=len(ranks))  # M of each query
    found = np.arange(len(ranks)) - np.repeat(starts, num_right) + 1  # j
    precision = found / ranks
    if kind == "trapezoidal":
        precision_before = np.where(ranks > 1, (found - 1) / np.maximum(ranks - 1, 1), 1.0)
        precision = (precision_before + precision) / 2
    return np.add.reduceat(precision, starts) / num_right


def retrieval_metrics(
    query_embeddings: Any,
    query_person_ids: Any,
    gallery_embeddings: Any,
    gallery_person_ids: Any,
    ks: Sequence[int] = (1, 5, 10),
    average_precision: str = "standard",
    first_items: Any | None = None,
) -> dict[str, float]:
    """Rank the gallery for every query by cosine and measure where the right people stand.

    With the ranks r_1 < ... < r_M of a query's M right items: R@k is the share of queries with r_1 <= k, mAP the mean
    of `average_precisions_of`, mINP the mean of M / r_M. A k beyond the gallery's size counts the whole gallery.
    Scores are float64 and equal to 12 decimals means equal: a tie, which goes against the query (see `match_ranks`).
    Queries nobody in the gallery matches are counted and left out of all averages.

    Args:
        query_embeddings: array-like (Q, D), of any length but zero.
        query_person_ids: array-like (Q,).
        gallery_embeddings: array-like (G, D).
        gallery_person_ids: array-like (G,).
        ks: the k of R@k.
        average_precision: "standard" or "trapezoidal".
        first_items: array-like (Q, n), numbers of the gallery items that stand before all others, best first, such as
            those that were re-ranked. None: cosines alone decide.

    Returns:
        "R@k" for each k, "mAP", "mINP" in percent; "num_queries" and "num_queries_without_match".

    Raises:
        ValueError: on an empty gallery or query set, shapes that do not fit, embeddings without direction or not
            finite, an unknown `average_precision`, a k below 1, or if no query has a match.
    """
    if average_precision not in AVERAGE_PRECISIONS:
        raise ValueError(f"average_precision is {average_precision!r}, expected one of {AVERAGE_PRECISIONS}")
    if len(ks) == 0 or any(k < 1 for k in ks):
        raise ValueError(f"ks is {tuple(ks)}, expected one or more whole numbers from 1")
    queries, gallery = check_rows("query", query_embeddings), check_rows("gallery", gallery_embeddings)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query embeddings have width {queries.shape[1]}, gallery embeddings {gallery.shape[1]}; "
            "embed both with the same model"
        )
    query_ids, gallery_ids = np.asarray(query_person_ids), np.asarray(gallery_person_ids)
    for name, ids, embeddings in (("query", query_ids, queries), ("gallery", gallery_ids, gallery)):
        if ids.shape != embeddings.shape[:1]:
            raise ValueError(
                f"{name} person ids have shape {ids.shape}, expected one per embedding, ({len(embeddings)},)"
            )

    gallery = scaled_rows(gallery)
    first_ranks, average_precisions, inverse_penalties = [], [], []
    chunk = max(1, CHUNK_SCORES // len(gallery))
    for start in range(0, len(queries), chunk):
        some = slice(start, start + chunk)
        scores = scaled_rows(queries[some], 10.0**SCORE_DECIMALS) @ gallery.T  # (chunk, G)
        np.rint(scores, out=scores)
        if first_items is not None:
            first = np.asarray(first_items)[some]
            places = np.arange(first.shape[1], 0, -1)
            np.put_along_axis(scores, first, 2 * 10.0**SCORE_DECIMALS + places, axis=1)  # cosines end at 1
        ranks, starts = match_ranks(scores, query_ids[some, None] == gallery_ids)
        if len(ranks):
            first_ranks.append(ranks[starts])
            average_precisions.append(average_precisions_of(ranks, starts, average_precision))
            lasts = np.append(starts[1:], len(ranks)) - 1
            inverse_penalties.append((lasts - starts + 1) / ranks[lasts])
    if not first_ranks:
        raise ValueError(
            f"none of the {len(queries)} queries has its person in the gallery of {len(gallery)}; "
            "check that both carry person ids of the same corpus and split"
        )
    first = np.concatenate(first_ranks)
    recalls = {f"R@{k}": 100 * float(np.mean(first <= k)) for k in ks}
    return recalls | {
        "mAP": 100 * float(np.mean(np.concatenate(average_precisions))),
        "mINP": 100 * float(np.mean(np.concatenate(inverse_penalties))),
        "num_queries": len(queries),
        "num_queries_without_match": len(queries) - len(first),
    }


class PersonRetrieval(evaluate.Metric):
    """`retrieval_metrics` behind the interface of `evaluate`; embeddings pass through it as float32."""

    def _info(self) -> evaluate.MetricInfo:
        info = evaluate.MetricInfo(
            description=DESCRIPTION,
            citation=CITATION,
            inputs_description=INPUTS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )
        # evaluate hands lists over as Python floats, 0.5 GB for 20,000 x 768, and refuses "numpy" in the constructor
        info.format = "numpy"
        return info

    def _compute(
        self,
        predictions: np.ndarray,
        references: np.ndarray,
        gallery_embeddings: Any,
        gallery_person_ids: Any,
        ks: Sequence[int] = (1, 5, 10),
        average_precision: str = "standard",
    ) -> dict[str, float]:
        return retrieval_metrics(
            predictions, references, gallery_embeddings, gallery_person_ids, ks, average_precision
        )
