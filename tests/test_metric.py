import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ivt.metric.person_retrieval import person_retrieval
from ivt.metric.person_retrieval.person_retrieval import retrieval_metrics

FOLDER = Path(person_retrieval.__file__).parent


def signs_and_ids(most: int) -> st.SearchStrategy[tuple[list[list[float]], list[int]]]:
    """Vectors of four +1 and -1, whose cosines are exact in floating point, so that ties are true; few people."""
    vector = st.lists(st.sampled_from((-1.0, 1.0)), min_size=4, max_size=4)
    rows = st.lists(st.tuples(vector, st.integers(0, 3)), min_size=1, max_size=most)
    return rows.map(lambda pairs: ([vector for vector, _ in pairs], [person for _, person in pairs]))


def naive_average_precision(ranked: list[bool], kind: str) -> float:
    """Walk down the ranking and add up the area under the precision-recall curve."""
    area, found, recall, precision = 0.0, 0, 0.0, 1.0
    for rank, right in enumerate(ranked, start=1):
        found += right
        new_recall, new_precision = found / sum(ranked), found / rank
        height = new_precision if kind == "standard" else (precision + new_precision) / 2
        area += (new_recall - recall) * height
        recall, precision = new_recall, new_precision
    return area


def naive_metrics(queries: list, query_ids: list, gallery: list, gallery_ids: list, ks: tuple, kind: str) -> dict:
    hits: dict[int, list[bool]] = {k: [] for k in ks}
    average_precisions, inverse_penalties = [], []
    for query, person in zip(queries, query_ids, strict=True):
        scored = []
        for item, other in zip(gallery, gallery_ids, strict=True):
            dot = sum(a * b for a, b in zip(query, item, strict=True))
            cosine = dot / sum(a * a for a in query) ** 0.5 / sum(b * b for b in item) ** 0.5
            scored.append((-cosine, other == person))  # sorts wrong before right where cosines are equal
        ranked = [right for _, right in sorted(scored)]
        if not any(ranked):
            continue
        for k in ks:
            hits[k].append(any(ranked[:k]))
        average_precisions.append(naive_average_precision(ranked, kind))
        inverse_penalties.append(sum(ranked) / (len(ranked) - ranked[::-1].index(True)))
    counted = len(average_precisions)
    return {f"R@{k}": 100 * sum(hits[k]) / counted for k in ks} | {
        "mAP": 100 * sum(average_precisions) / counted,
        "mINP": 100 * sum(inverse_penalties) / counted,
        "num_queries": len(queries),
        "num_queries_without_match": len(queries) - counted,
    }


@settings(deadline=None, max_examples=300)
@given(queries=signs_and_ids(6), gallery=signs_and_ids(12), kind=st.sampled_from(person_retrieval.AVERAGE_PRECISIONS))
def test_metric_equals_a_naive_loop_with_ties(queries: tuple, gallery: tuple, kind: str) -> None:
    arguments = (*queries, *gallery, (1, 2, 5, 20))
    if not set(queries[1]) & set(gallery[1]):
        with pytest.raises(ValueError, match="none of the"):
            retrieval_metrics(*arguments, kind)
    else:
        assert retrieval_metrics(*arguments, kind) == pytest.approx(naive_metrics(*arguments, kind), rel=1e-12)


@pytest.mark.parametrize("kind", person_retrieval.AVERAGE_PRECISIONS)
def test_metric_of_random_embeddings_equals_a_naive_loop(kind: str) -> None:
    generator = np.random.default_rng(0)
    queries, gallery = generator.standard_normal((40, 8)), generator.standard_normal((70, 8))
    query_ids, gallery_ids = generator.integers(0, 12, 40), generator.integers(2, 14, 70)
    arguments = (queries, query_ids, gallery, gallery_ids, (1, 5, 10))
    expected = naive_metrics(*arguments, kind)
    assert expected["num_queries_without_match"] > 0
    assert retrieval_metrics(*arguments, kind) == pytest.approx(expected, rel=1e-12)


def ranks_to_arguments(ranks: list[int], size: int) -> tuple:
    """One query of person 1 whose right items stand at `ranks` of a gallery of `size`."""
    angles = np.arange(1, size + 1) / size
    gallery = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return [[1.0, 0.0]], [1], gallery, [int(rank in ranks) for rank in range(1, size + 1)]


def test_average_precision_has_its_closed_form() -> None:
    arguments = ranks_to_arguments([1, 3, 6], size=9)
    standard = (1 / 1 + 2 / 3 + 3 / 6) / 3
    trapezoidal = ((1 + 1) / 2 + (1 / 2 + 2 / 3) / 2 + (2 / 5 + 3 / 6) / 2) / 3
    assert retrieval_metrics(*arguments)["mAP"] == pytest.approx(100 * standard)
    assert retrieval_metrics(*arguments, average_precision="trapezoidal")["mAP"] == pytest.approx(100 * trapezoidal)
    assert retrieval_metrics(*arguments)["mINP"] == pytest.approx(100 * 3 / 6)


@pytest.mark.parametrize("rank", [2, 5])
def test_single_match_gives_the_inverse_rank(rank: int) -> None:
    arguments = ranks_to_arguments([rank], size=7)
    assert retrieval_metrics(*arguments)["mAP"] == pytest.approx(100 / rank)
    assert retrieval_metrics(*arguments)["mINP"] == pytest.approx(100 / rank)
    assert retrieval_metrics(*arguments, average_precision="trapezoidal")["mAP"] == pytest.approx(100 / (2 * rank))
    recalls = retrieval_metrics(*arguments, ks=range(1, 8))
    assert [recalls[f"R@{k}"] for k in range(1, 8)] == [0] * (rank - 1) + [100] * (8 - rank)


def test_perfect_embeddings_score_100() -> None:
    ids = np.repeat(np.arange(5), 3)
    metrics = retrieval_metrics(np.eye(5), np.arange(5), np.eye(5)[ids], ids)
    assert metrics == {"R@1": 100, "R@5": 100, "R@10": 100, "mAP": 100, "mINP": 100} | {
        "num_queries": 5,
        "num_queries_without_match": 0,
    }


@pytest.mark.parametrize("noise", [0, 1e-7])  # what batches of another size change in a float32 embedding
def test_constant_embedding_gets_no_credit(noise: float) -> None:
    generator = np.random.default_rng(0)
    constant = generator.standard_normal(768)
    ids = np.repeat(np.arange(267), 3)
    gallery = constant * (1 + noise * generator.standard_normal((801, 768)))
    metrics = retrieval_metrics(constant[None].repeat(9, axis=0), ids[:9], gallery.astype(np.float32), ids)
    assert metrics["R@1"] == metrics["R@10"] == 0
    assert metrics["mAP"] == pytest.approx(100 * (1 / 799 + 2 / 800 + 3 / 801) / 3)


def test_length_of_embeddings_does_not_change_the_metric() -> None:
    generator = np.random.default_rng(1)
    queries, gallery, ids = generator.standard_normal((20, 6)), generator.standard_normal((20, 6)), np.arange(20) // 2
    scaled = gallery * np.logspace(-5, 5, 20)[:, None]
    assert retrieval_metrics(queries, ids, gallery, ids) == retrieval_metrics(3 * queries, ids, scaled, ids)


def test_chunks_of_queries_do_not_change_the_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(2)
    arguments = (
        generator.standard_normal((11, 6)),
        np.arange(11) % 4,
        generator.standard_normal((9, 6)),
        np.arange(9) % 5,
    )
    whole = retrieval_metrics(*arguments)
    monkeypatch.setattr(person_retrieval, "CHUNK_SCORES", 1)
    assert retrieval_metrics(*arguments) == pytest.approx(whole)


def test_queries_without_match_are_counted_and_left_out() -> None:
    queries, gallery = np.eye(3), np.eye(3)
    metrics = retrieval_metrics(queries, [0, 7, 8], gallery, [0, 1, 2])
    assert (metrics["num_queries"], metrics["num_queries_without_match"]) == (3, 2)
    assert metrics["R@1"] == metrics["mAP"] == 100


def test_k_beyond_the_gallery_counts_the_whole_gallery() -> None:
    assert retrieval_metrics(*ranks_to_arguments([4], size=4), ks=(3, 4, 50)) | {"mAP": 0, "mINP": 0} == {
        "R@3": 0,
        "R@4": 100,
        "R@50": 100,
        "mAP": 0,
        "mINP": 0,
        "num_queries": 1,
        "num_queries_without_match": 0,
    }


def with_value(row: int, value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(embeddings: np.ndarray) -> np.ndarray:
        embeddings[row] = value
        return embeddings

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gallery_embeddings": lambda e: e[:0], "gallery_person_ids": lambda i: i[:0]}, r"gallery.*shape \(0, 4\)"),
        ({"query_embeddings": lambda e: e[:0], "query_person_ids": lambda i: i[:0]}, r"query.*shape \(0, 4\)"),
        ({"query_embeddings": lambda e: e[0]}, r"query embeddings have shape \(4,\)"),
        ({"query_embeddings": lambda e: e[:, :3]}, "width 3, gallery embeddings 4"),
        ({"query_person_ids": lambda i: i[:-1]}, r"query person ids have shape \(2,\).*\(3,\)"),
        ({"gallery_person_ids": lambda i: i[:, None]}, r"gallery person ids have shape \(5, 1\)"),
        (
            {"query_embeddings": with_value(1, np.nan)},
            "1 of 3 query embeddings hold NaN or infinity, the first in row 1",
        ),
        ({"gallery_embeddings": with_value(4, np.inf)}, "1 of 5 gallery embeddings.*row 4"),
        ({"gallery_embeddings": with_value(2, 0)}, "1 of 5 gallery embeddings have length zero, the first in row 2"),
        ({"query_person_ids": lambda i: i + 100}, "none of the 3 queries has its person in the gallery of 5"),
        ({"ks": lambda _: ()}, r"ks is \(\)"),
        ({"ks": lambda _: (1, 0)}, r"ks is \(1, 0\)"),
        ({"average_precision": lambda _: "oxford"}, "average_precision is 'oxford', expected one of"),
    ],
)
def test_what_cannot_be_measured_is_named(changes: dict[str, Callable], message: str) -> None:
    arguments: dict[str, Any] = {
        "query_embeddings": np.ones((3, 4)),
        "query_person_ids": np.arange(3),
        "gallery_embeddings": np.ones((5, 4)),
        "gallery_person_ids": np.arange(5),
        "ks": (1,),
        "average_precision": "standard",
    }
    for name, change in changes.items():
        arguments[name] = change(arguments[name])
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**arguments)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the metric must not touch the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def test_evaluate_module_equals_the_function(offline: None, tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    queries, gallery = generator.standard_normal((2, 30, 16)).astype(np.float32)
    ids = generator.integers(0, 8, 30)
    metric = evaluate.load(str(FOLDER), cache_dir=str(tmp_path))
    for options in ({}, {"ks": (2, 3), "average_precision": "trapezoidal"}):
        computed = metric.compute(
            predictions=queries, references=ids, gallery_embeddings=gallery, gallery_person_ids=ids, **options
        )
        assert computed == retrieval_metrics(queries, ids, gallery, ids, **options)


def test_evaluate_module_can_be_fed_in_batches_of_plain_lists(offline: None, tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    queries, gallery = generator.standard_normal((2, 10, 4)).astype(np.float32)
    ids = np.arange(10) // 2
    metric = evaluate.load(str(FOLDER), cache_dir=str(tmp_path))
    for start in (0, 4, 8):
        chunk = slice(start, start + 4)
        metric.add_batch(predictions=queries[chunk].tolist(), references=ids[chunk].tolist())
    computed = metric.compute(gallery_embeddings=gallery.tolist(), gallery_person_ids=ids.tolist())
    assert computed == retrieval_metrics(queries, ids, gallery, ids)


def test_evaluate_module_still_works_after_an_error(offline: None, tmp_path: Path) -> None:
    metric = evaluate.load(str(FOLDER), cache_dir=str(tmp_path))
    arguments = {"predictions": np.eye(3), "references": np.arange(3), "gallery_embeddings": np.eye(3)}
    with pytest.raises(ValueError, match="none of the 3 queries"):
        metric.compute(**arguments, gallery_person_ids=[7, 8, 9])
    assert metric.compute(**arguments, gallery_person_ids=[0, 1, 2])["R@1"] == 100


def test_readme_names_every_figure_and_option() -> None:
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    metrics = retrieval_metrics(np.eye(2), [0, 1], np.eye(2), [0, 1])
    assert all(f'"{name}"' in readme for name in (*metrics, *person_retrieval.AVERAGE_PRECISIONS) if name != "R@k")
    assert f"equal to {person_retrieval.SCORE_DECIMALS} decimals" in readme
