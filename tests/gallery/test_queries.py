"""Queries of several clauses: reading them, turning them into a vector, feedback, scores per clause, groups."""

import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch.nn.functional import normalize

from ivt.gallery import query_vectors
from ivt.gallery.grouping import group_by_key, group_duplicates
from ivt.gallery.queries import Clause, Query, parse_query
from ivt.gallery.query_vectors import NOT_WEIGHT, combine, embed_queries, refine
from ivt.gallery.scores import GalleryStatistics, clause_scores


def units(rows: int, width: int = 8) -> torch.Tensor:
    return normalize(torch.randn(rows, width), dim=1)


# reading


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a woman and a man, not tall", [Clause("a woman and a man, not tall")]),
        (
            "red coat AND black boots NOT backpack",
            [Clause("red coat"), Clause("black boots"), Clause("backpack", negated=True)],
        ),
        ("NOT cap AND red^2", [Clause("cap", negated=True), Clause("red", weight=2)]),
        ("a AND NOT b ^ .5", [Clause("a"), Clause("b", weight=0.5, negated=True)]),
        ('"black AND white^2"^3 AND b', [Clause("black AND white^2", weight=3), Clause("b")]),
        ("image:a.png AND cap", [Clause(image="a.png"), Clause("cap")]),
        (
            'image:"my crop.png"^0.5 NOT image:b.png',
            [Clause(image="my crop.png", weight=0.5), Clause(image="b.png", negated=True)],
        ),
        ('shirt with "AND" on it', [Clause('shirt with "AND" on it')]),
        ("  red\n coat\tAND  b ", [Clause("red  coat"), Clause("b")]),
        ("ANDROID shirt NOTHING", [Clause("ANDROID shirt NOTHING")]),
    ],
)
def test_query_is_read_as_the_grammar_says(text: str, expected: list[Clause]) -> None:
    assert list(parse_query(text).clauses) == expected


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("", 0, "before the end"),
        ("AND a", 0, "before AND"),
        ("a AND", 5, "before the end"),
        ("a AND AND b", 6, "before AND"),
        ("a NOT NOT b", 6, "before NOT"),
        ("a NOT AND b", 6, "before AND"),
        ("a AND ^2", 6, "expected words"),
        ("a AND image: NOT b", 6, "expected words or a picture"),
        ('a AND ""', 6, "expected words"),
        ('cap AND "b', 8, "never closed"),
        ('"a" b', 4, "expected AND, NOT"),
        ("red^2 coat", 3, "expected AND, NOT"),
        ("red^-1", 3, "expected AND, NOT"),
        ("red^0", 3, "above 0"),
        ("NOT a", 0, "what to look for"),
    ],
)
def test_error_points_at_the_place(text: str, place: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        parse_query(text)
    _, shown, pointer = str(caught.value).split("\n")
    assert shown == "  " + text and pointer.index("^") == place + 2


words = st.from_regex(r"[a-z][a-z]{0,3}( (AND|NOT|and|[a-z]{1,3}|image:x))?(\^)?", fullmatch=True)
weights = st.sampled_from((0.25, 1.0, 1.5, 20.0))
clauses = st.builds(Clause, text=words, weight=weights, negated=st.booleans()) | st.builds(
    Clause, image=words, weight=weights, negated=st.booleans()
)


@given(st.lists(clauses, min_size=1, max_size=5))
def test_what_a_query_is_printed_as_reads_as_the_same_query(parts: list[Clause]) -> None:
    if all(clause.negated for clause in parts):
        with pytest.raises(ValueError, match="nothing to look for"):
            Query(tuple(parts))
    else:
        query = Query(tuple(parts))
        assert parse_query(str(query)) == query


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected one of the two"),
        ({"text": " "}, "expected one of the two"),
        ({"text": "a", "image": "b.png"}, "expected one of the two"),
        ({"text": "a", "weight": 0.0}, "weight of a is 0.0"),
        ({"text": "a", "weight": math.nan}, "weight of a is nan"),
    ],
)
def test_clause_is_words_or_a_picture_of_positive_weight(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Clause(**arguments)


def test_kind_and_labels_say_what_a_query_is_made_of() -> None:
    picture = Image.new("RGB", (2, 2))
    assert parse_query("a red coat").kind == "text"
    assert parse_query("a red coat NOT cap").kind == "clauses"
    assert parse_query("a red coat^2 AND image:my crop.png NOT cap").num_words == 4
    assert Query((Clause(image=picture),)).kind == "image"
    assert Query((Clause("cap"), Clause(image=picture))).kind == "mixed"
    assert parse_query("image:a NOT image:b").kind == "mixed"
    assert parse_query("image:my/crop.png^2").labels == ["image:crop.png"]
    labels = Query((Clause("cap"), Clause("cap"), Clause(image=picture), Clause("cap", negated=True))).labels
    assert labels == ["cap", "cap (2)", "image:picture", "NOT cap"]


# the vector


def naive_vector(query: Query, embeds: torch.Tensor, joint: torch.Tensor) -> torch.Tensor:
    """The formula of the module's docstring, number by number."""

    def unit(numbers: list[float]) -> list[float]:
        length = math.sqrt(sum(number * number for number in numbers))
        return [number / length for number in numbers]

    width = embeds.shape[1]
    texts, look, unwanted, total, num_texts = [0.0] * width, [0.0] * width, [0.0] * width, 0.0, 0
    for clause, embed in zip(query.clauses, embeds.tolist(), strict=True):
        target = unwanted if clause.negated else texts if clause.text else look
        for i in range(width):
            target[i] += clause.weight * embed[i]
        if clause.text and not clause.negated:
            total, num_texts = total + clause.weight, num_texts + 1
    if num_texts > 1:
        mean = unit(texts)
        together = unit([joint[i].item() + mean[i] for i in range(width)])
        texts = [total * number for number in together]
    look = unit([look[i] + texts[i] for i in range(width)])
    return torch.tensor(unit([look[i] - NOT_WEIGHT * unwanted[i] for i in range(width)]))


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "a^3",
        "a NOT b",
        "NOT b^2 AND a NOT c",
        "a AND b^2 AND c NOT d^0.5",
        "image:x",
        "a AND image:x^2",
        "a AND b^3 AND image:x NOT image:y AND image:z",
    ],
)
def test_vector_follows_the_formula(text: str) -> None:
    query = parse_query(text)
    embeds, joint = units(len(query.clauses)), units(1)[0]
    torch.testing.assert_close(combine(query, embeds, joint), naive_vector(query, embeds, joint))


def test_weight_of_a_lone_clause_and_order_of_clauses_change_nothing() -> None:
    embeds, joint = units(3), units(1)[0]
    torch.testing.assert_close(combine(parse_query("a^5"), embeds[:1]), embeds[0])
    forward = combine(parse_query("a AND b NOT c"), embeds, joint)
    torch.testing.assert_close(combine(parse_query("NOT c AND b AND a"), embeds.flip(0), joint), forward)


def test_more_weight_moves_the_vector_towards_the_clause_and_more_not_away() -> None:
    embeds, joint = units(3), units(1)[0]
    towards = [float(combine(parse_query(f"a AND b^{w} NOT c"), embeds, joint) @ embeds[1]) for w in (0.5, 1, 4)]
    away = [float(combine(parse_query(f"a AND b NOT c^{w}"), embeds, joint) @ embeds[2]) for w in (0.5, 1, 4)]
    assert towards == sorted(towards) and away == sorted(away, reverse=True)


@pytest.mark.parametrize(
    ("text", "rows", "message"),
    [("a AND b", 3, "3 embeddings for 2 clauses"), ("a AND b", 2, "embedding of 'a, b'")],
)
def test_missing_embeddings_are_named(text: str, rows: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        combine(parse_query(text), units(rows))


def test_clauses_that_cancel_are_refused() -> None:
    with pytest.raises(ValueError, match="cancel each other"):
        combine(parse_query(f"a NOT a^{1 / NOT_WEIGHT}"), units(1).expand(2, -1))


def test_each_text_and_picture_is_embedded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list] = []

    def embed(model: object, processor: object, items: list, progress: bool) -> torch.Tensor:
        seen.append(list(items))
        return torch.stack([table.setdefault(str(item), units(1)[0]) for item in items])

    table: dict[str, torch.Tensor] = {}
    monkeypatch.setattr(query_vectors, "embed_texts", embed)
    monkeypatch.setattr(query_vectors, "embed_images", embed)
    picture = Image.new("RGB", (2, 2))
    asked = [parse_query("a AND b NOT c"), Query((Clause("a"), Clause(image=picture))), parse_query("c AND a AND b")]
    found = embed_queries(SimpleNamespace(), None, asked)
    assert seen == [["a", "b", "c", "a, b", "c, a, b"], [picture]]
    for query, embedded in zip(asked, found, strict=True):
        rows = torch.stack([table[clause.text or str(picture)] for clause in query.clauses])
        assert torch.equal(embedded.clause_embeds, rows)
        assert torch.equal(embedded.vector, combine(query, rows, table.get(query.joint_text)))


def test_picture_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="'nowhere.png', a picture of the query, is no file"):
        embed_queries(SimpleNamespace(), None, [parse_query("image:nowhere.png")])


# feedback


def test_refined_query_follows_the_formula() -> None:
    vector, right, wrong, mean = units(1)[0], units(3), units(2), 0.3 * torch.randn(8)
    centre = sum(right) / 3
    expected = vector + 2 * centre / centre.norm() - 0.7 * ((wrong[0] + wrong[1]) / 2 - mean)
    torch.testing.assert_close(refine(vector, right, wrong, mean, 2, 0.7), expected / expected.norm())


def test_marks_move_scores_the_way_they_say() -> None:
    vector, right, wrong = units(1)[0], units(1), units(1)
    none = units(0)
    assert refine(vector, right, none, torch.zeros(8)) @ right[0] > vector @ right[0]
    assert refine(vector, none, wrong, torch.zeros(8)) @ wrong[0] < vector @ wrong[0]
    torch.testing.assert_close(refine(vector, none, none, torch.zeros(8)), vector)


def test_wrong_picture_like_the_gallerys_average_says_nothing() -> None:
    vector, mean = units(1)[0], units(1)[0]
    torch.testing.assert_close(refine(vector, units(0), mean[None], mean), vector)


# scores per clause


@pytest.mark.parametrize("spread", [1.0, 0.003])  # of pictures that are far apart or nearly alike
def test_clause_scores_are_standard_scores_over_the_gallery(spread: float) -> None:
    gallery, asked = spread * units(40) + 0.2, units(3)
    scores = clause_scores(asked, gallery, GalleryStatistics.of(gallery))
    for c in range(3):
        cosines = [sum(a * b for a, b in zip(asked[c].tolist(), row, strict=True)) for row in gallery.tolist()]
        mean = sum(cosines) / 40
        deviation = math.sqrt(sum((cosine - mean) ** 2 for cosine in cosines) / 40)
        expected = torch.tensor([(cosine - mean) / deviation for cosine in cosines])
        torch.testing.assert_close(scores[:, c], expected, atol=1e-4 / spread, rtol=1e-4)


def test_clause_in_which_pictures_do_not_differ_scores_zero() -> None:
    gallery = units(1).expand(5, -1)
    assert torch.equal(clause_scores(units(2), gallery, GalleryStatistics.of(gallery)), torch.zeros(5, 2))


def test_deviation_that_rounding_makes_imaginary_is_zero() -> None:
    statistics = GalleryStatistics(5, torch.zeros(8), -1e-9 * torch.eye(8))
    assert torch.equal(statistics.of_scores(units(2))[1], torch.zeros(2))
    assert torch.equal(clause_scores(units(2), units(5), statistics), torch.zeros(5, 2))


def test_statistics_of_a_sample_stand_for_the_whole_gallery() -> None:
    statistics = GalleryStatistics.of(units(10), size=1000)
    assert statistics.size == 1000 and GalleryStatistics.of(units(10)).size == 10


# groups


def test_groups_by_key_keep_ranks_and_leave_unknown_tracks_alone() -> None:
    assert group_by_key(["a", None, "b", "a", None, "b", "a"]) == [[0, 3, 6], [1], [2, 5], [4]]
    assert group_by_key([]) == []


def naive_groups(rows: list[list[float]], least: float) -> list[list[int]]:
    groups: list[list[int]] = []
    for i, row in enumerate(rows):
        for group in groups:
            if sum(a * b for a, b in zip(row, rows[group[0]], strict=True)) >= least:
                group.append(i)
                break
        else:
            groups.append([i])
    return groups


def test_duplicates_join_the_first_group_whose_best_they_resemble() -> None:
    embeds = normalize(units(6).repeat(4, 1) + 0.15 * torch.randn(24, 8), dim=1)[torch.randperm(24)]
    groups = group_duplicates(embeds, 0.9)
    assert groups == naive_groups(embeds.tolist(), 0.9)
    assert 6 <= len(groups) < 24  # some are grouped, not all
    assert group_duplicates(torch.eye(3), 0.0) == [[0, 1, 2]]  # no less than that is enough
    assert group_duplicates(embeds, 1.1) == [[i] for i in range(24)]
    assert group_duplicates(units(0)) == []
