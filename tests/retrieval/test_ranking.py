import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ivt.retrieval import ranking
from ivt.retrieval.ranking import rank_gallery


def signs(rows: int, columns: int) -> st.SearchStrategy[torch.Tensor]:
    """Vectors of +1 and -1: with 4 or 16 columns their cosines are exact in floating point, so ties are true ties."""
    row = st.lists(st.sampled_from((-1.0, 1.0)), min_size=columns, max_size=columns)
    return st.lists(row, min_size=1, max_size=rows).map(torch.tensor)


def naive_ranking(query: torch.Tensor, gallery: torch.Tensor, k: int) -> list[tuple[float, int]]:
    cosines = [
        float(query.double() @ item.double() / query.double().norm() / item.double().norm()) for item in gallery
    ]
    order = sorted(range(len(gallery)), key=lambda index: (-cosines[index], index))
    return [(cosines[index], index) for index in order[:k]]


@settings(deadline=None)  # the first call also starts torch
@given(queries=signs(5, 4), gallery=signs(12, 4), k=st.integers(1, 15))
def test_ranking_equals_a_sorted_loop_with_ties_in_gallery_order(
    queries: torch.Tensor, gallery: torch.Tensor, k: int
) -> None:
    scores, indices = rank_gallery(queries, gallery, k)
    expected = [naive_ranking(query, gallery, k) for query in queries]
    assert indices.tolist() == [[index for _, index in row] for row in expected]
    torch.testing.assert_close(scores, torch.tensor([[score for score, _ in row] for row in expected]))


def test_ranking_of_random_embeddings_equals_a_sorted_loop() -> None:
    queries, gallery = torch.randn(7, 24), torch.randn(50, 24)
    _, indices = rank_gallery(queries, gallery, 10)
    for query, found in zip(queries, indices, strict=True):
        assert found.tolist() == [index for _, index in naive_ranking(query, gallery, 10)]


@pytest.mark.parametrize("chunk_scores", [40, 7])  # two queries at a time, the last alone; fewer than a gallery has
def test_chunks_of_queries_do_not_change_the_ranking(chunk_scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    queries, gallery = torch.randn(9, 16), torch.randn(20, 16)
    whole = rank_gallery(queries, gallery, 5)
    monkeypatch.setattr(ranking, "CHUNK_SCORES", chunk_scores)
    chunked = rank_gallery(queries, gallery, 5)
    assert torch.equal(whole[1], chunked[1])
    torch.testing.assert_close(whole[0], chunked[0])


def test_length_of_embeddings_does_not_change_the_ranking() -> None:
    queries, gallery = torch.randn(3, 16), torch.randn(20, 16)
    lengths = torch.logspace(-3, 3, 20)[:, None]
    assert torch.equal(rank_gallery(queries, gallery)[1], rank_gallery(7 * queries, lengths * gallery)[1])


def test_copies_of_one_item_come_in_gallery_order() -> None:
    gallery = torch.randn(1, 768).expand(801, 768)
    assert rank_gallery(torch.randn(3, 768), gallery, 20)[1].tolist() == [list(range(20))] * 3


def test_half_precision_gives_float32_scores() -> None:
    scores, _ = rank_gallery(torch.randn(2, 8, dtype=torch.bfloat16), torch.randn(4, 8, dtype=torch.bfloat16))
    assert scores.dtype == torch.float32


def test_ranking_of_what_is_being_trained_keeps_no_graph() -> None:
    scores, _ = rank_gallery(torch.randn(2, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True))
    assert not scores.requires_grad


def test_small_gallery_is_returned_whole() -> None:
    scores, indices = rank_gallery(torch.randn(2, 8), torch.randn(3, 8), k=10)
    assert scores.shape == indices.shape == (2, 3)
    assert sorted(indices[0].tolist()) == [0, 1, 2]


def test_no_queries_give_no_rows() -> None:
    scores, indices = rank_gallery(torch.empty(0, 8), torch.randn(5, 8), k=2)
    assert scores.shape == indices.shape == (0, 2)


@pytest.mark.parametrize(
    ("queries", "gallery", "k", "message"),
    [
        (torch.ones(2, 8), torch.empty(0, 8), 10, "gallery is empty"),
        (torch.ones(2, 8), torch.ones(3, 9), 10, "width 8, gallery embeds 9"),
        (torch.ones(8), torch.ones(3, 8), 10, r"shape \(8,\)"),
        (torch.ones(2, 8), torch.ones(3, 8), 0, "k is 0"),
        (torch.ones(2, 8), torch.tensor([[1.0], [0.0], [0.0]]).expand(3, 8), 10, "2 of 3 gallery.*row 1"),
        (torch.full((2, 8), torch.nan), torch.ones(3, 8), 10, "2 of 2 query.*row 0"),
    ],
)
def test_what_cannot_be_ranked_is_named(queries: torch.Tensor, gallery: torch.Tensor, k: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rank_gallery(queries, gallery, k)
