"""Searching a gallery by clauses, with marks, in groups, and the answer "no match"."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from gallery_parts import draw

from ivt import Clause, Gallery, Query, parse_query
from ivt.gallery import table as table_module
from ivt.gallery.calibration import FEATURES, Calibration, PresenceCurve
from ivt.gallery.query_vectors import embed_queries, refine
from ivt.gallery.table import vectors_of
from ivt.retrieval.models import find_version, load_model

QUERY = "red coat AND blue bag^2 NOT woman"
NUM_PICTURES = 14
NO_WEIGHTS = (0.0,) * len(FEATURES)


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory, checkpoint: str) -> Gallery:
    """Pictures p00 … p13 of two cameras, on tracks of three pictures each but the last two, which have none."""
    rows = [
        {
            "image": draw(number),
            "image_id": f"p{number:02}",
            "camera": "north" if number % 2 else "south",
            "track_id": f"track {number // 3}" if number < 12 else None,
        }
        for number in range(NUM_PICTURES)
    ]
    features = datasets.Features(
        {"image": datasets.Image()} | {name: datasets.Value("string") for name in ("image_id", "camera", "track_id")}
    )
    made = Gallery(tmp_path_factory.mktemp("gallery") / "people.lance", checkpoint)
    made.add(datasets.Dataset.from_list(rows, features=features), progress=False)
    return made


def table(gallery: Gallery) -> tuple[list[str], torch.Tensor]:
    """Names and vectors of all pictures, in the order of the names."""
    rows = gallery.store.dataset().to_table().sort_by("image_id")
    return rows["image_id"].to_pylist(), vectors_of(rows)


def ranked_by_hand(gallery: Gallery, vector: torch.Tensor) -> list[str]:
    names, vectors = table(gallery)
    scores = {name: float(row @ vector) for name, row in zip(names, vectors, strict=True)}
    return sorted(names, key=lambda name: -scores[name])


def embedded(gallery: Gallery, query: str | Query) -> tuple[torch.Tensor, torch.Tensor]:
    """Search vector and clause embeddings."""
    query = parse_query(query) if isinstance(query, str) else query
    (found,) = embed_queries(*load_model(gallery.model_version), [query])
    return found.vector, found.clause_embeds


def names_of(results: object) -> list[str]:
    return [result.image_id for result in results]


@pytest.mark.parametrize("query", ["a red coat", QUERY, draw(3), Query((Clause("coat"), Clause(image=draw(5))))])
def test_ranking_is_that_of_the_combined_vector(gallery: Gallery, query: object) -> None:
    asked = query if isinstance(query, str | Query) else Query((Clause(image=query),))
    expected = ranked_by_hand(gallery, embedded(gallery, asked)[0])
    results = gallery.search(query, k=9)
    assert names_of(results) == expected[:9]
    assert names_of(gallery.search(query, k=99)) == expected


def test_path_is_a_picture(gallery: Gallery, tmp_path: Path) -> None:
    draw(3).save(tmp_path / "look.png")
    assert names_of(gallery.search(tmp_path / "look.png", k=5)) == names_of(gallery.search(draw(3), k=5))


def test_each_clause_is_scored_against_the_whole_gallery(gallery: Gallery) -> None:
    names, vectors = table(gallery)
    _, clauses = embedded(gallery, QUERY)
    for result in gallery.search(QUERY, k=3):
        assert list(result.clause_scores) == ["red coat", "blue bag", "NOT woman"]
        for clause, score in zip(clauses, result.clause_scores.values(), strict=True):
            cosines = (vectors @ clause).tolist()
            mean = sum(cosines) / NUM_PICTURES
            deviation = math.sqrt(sum((cosine - mean) ** 2 for cosine in cosines) / NUM_PICTURES)
            assert score == pytest.approx((cosines[names.index(result.image_id)] - mean) / deviation, abs=0.02)


def test_conditions_choose_the_gallery_that_scores_are_compared_with(gallery: Gallery) -> None:
    results = gallery.search(QUERY, k=99, where="camera = 'north'")
    assert sorted(names_of(results)) == [f"p{number:02}" for number in range(1, NUM_PICTURES, 2)]
    means = np.mean([list(result.clause_scores.values()) for result in results], axis=0)
    np.testing.assert_allclose(means, 0, atol=0.01)


def test_marks_refine_the_query_and_are_not_found_again(gallery: Gallery) -> None:
    names, vectors = table(gallery)
    first = names_of(gallery.search(QUERY, k=4))
    right, wrong = [first[1]], [first[0], first[3]]
    rows = [vectors[[names.index(name) for name in marked]] for marked in (right, wrong)]
    vector = refine(embedded(gallery, QUERY)[0], *rows, vectors.mean(dim=0))
    expected = [name for name in ranked_by_hand(gallery, vector) if name not in right + wrong]
    assert names_of(gallery.search(QUERY, k=99, right=right, wrong=wrong)) == expected
    left = gallery.search(QUERY, k=99, where="camera = 'north' OR false", wrong=["p03"])
    assert sorted(names_of(left)) == [f"p{number:02}" for number in range(1, NUM_PICTURES, 2) if number != 3]


@pytest.mark.parametrize(
    ("marks", "message"),
    [
        ({"right": ["p00"], "wrong": ["p00", "p01"]}, "both right and wrong: p00"),
        ({"right": ["p00", "nobody"]}, "no pictures named nobody"),
        ({"group_by": "tracks"}, "did you mean 'track'"),
    ],
)
def test_marks_and_groupings_that_make_no_sense_are_named(gallery: Gallery, marks: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gallery.search("coat", **marks)


def test_each_track_is_found_once_by_its_best_picture(gallery: Gallery) -> None:
    ranked = ranked_by_hand(gallery, embedded(gallery, "coat")[0])
    tracks: dict[str, list[str]] = {}
    for name in ranked:
        number = int(name[1:])
        tracks.setdefault(f"track {number // 3}" if number < 12 else name, []).append(name)
    expected = list(tracks.values())
    results = gallery.search("coat", k=99, group_by="track")
    assert [[result.image_id, *result.others] for result in results] == expected
    assert names_of(gallery.search("coat", k=2, group_by="track")) == [group[0] for group in expected[:2]]


def test_groups_are_filled_however_many_pictures_they_take(tmp_path: Path, checkpoint: str) -> None:
    """40 copies of one picture come first; the second group stands far behind."""
    for number in range(40):
        draw(0).save(tmp_path / f"{number:02}.png")
    draw(1).save(tmp_path / "other.png")
    people = Gallery(tmp_path / "people.lance", checkpoint)
    people.add(sorted(tmp_path.glob("*.png")), progress=False)
    results = people.search(draw(0), k=2, group_by="duplicate")
    assert [len(result.others) for result in results] == [39, 0] and results[1].image_id.endswith("other.png")
    assert "and 39 more like it" in repr(results)


def test_statistics_follow_conditions_and_removed_rows(
    tmp_path: Path, make_crops: Callable[..., Path], checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = Gallery(tmp_path / "people.lance", checkpoint)
    people.add(make_crops(*(f"{number:02}.png" for number in range(12))), progress=False)
    people.remove("image_id IN ('00.png', '05.png')")
    names, vectors = table(people)
    whole = people.statistics()
    assert whole.size == 10
    torch.testing.assert_close(whole.mean, vectors.mean(dim=0))
    few = people.statistics("image_id < '04.png'")
    assert few.size == 3  # 01, 02 and 03
    torch.testing.assert_close(few.mean, vectors[:3].mean(dim=0))
    torch.testing.assert_close(few.covariance, torch.cov(vectors[:3].T, correction=0), atol=1e-6, rtol=1e-4)
    assert people.statistics("false") is None
    monkeypatch.setattr(table_module, "SAMPLE_ROWS", 4)
    for where, size in ((None, 10), ("image_id < '09.png'", 7)):
        sampled = Gallery(people.store.uri).statistics(where)
        assert sampled.size == size and torch.linalg.matrix_rank(sampled.covariance, atol=1e-5) <= 3  # of 4 vectors


def test_gallery_without_rows_finds_nobody(gallery: Gallery) -> None:
    results = gallery.search(QUERY, where="camera = 'east'")
    assert len(results) == 0 and results.presence is None and not results.no_match
    everybody = [f"p{number:02}" for number in range(NUM_PICTURES)]
    assert len(gallery.search(QUERY, wrong=everybody)) == 0


@pytest.fixture
def calibrated(gallery: Gallery, checkpoint: str, tmp_path: Path) -> Callable[..., Gallery]:
    """The gallery with the same model and a calibration.json of these curves beside it."""

    def calibrate(**curves: PresenceCurve) -> Gallery:
        folder = shutil.copytree(checkpoint, tmp_path / "model", dirs_exist_ok=True)
        Calibration("tiny", find_version(str(folder)).revision, "synthetic", curves).save(folder)
        return Gallery(gallery.store.uri, str(folder))

    return calibrate


def curve(weights: tuple[float, ...] = NO_WEIGHTS, bias: float = 0.0, no_match_below: float = 0.0) -> PresenceCurve:
    return PresenceCurve(weights, bias, no_match_below, (10, 20), 100)


def test_presence_is_the_curve_of_the_scores_over_the_gallery(gallery: Gallery, calibrated) -> None:
    weights = (2.0, -1.0, 3.0, 0.5, -0.7, 0.2, 0.3, -0.4)
    results = calibrated(clauses=curve(weights, -0.3)).search(QUERY, k=2)
    cosines = sorted((table(gallery)[1] @ embedded(gallery, QUERY)[0]).tolist(), reverse=True)
    mean = sum(cosines) / NUM_PICTURES
    deviation = math.sqrt(sum((cosine - mean) ** 2 for cosine in cosines) / NUM_PICTURES)
    features = [cosines[0], mean, deviation, cosines[0] - cosines[1], cosines[0] - cosines[9], math.log(NUM_PICTURES)]
    features += [math.log(1 + 5), cosines[0] * math.log(1 + 5)]  # five words in QUERY
    logit = sum(weight * feature for weight, feature in zip(weights, features, strict=True)) - 0.3
    assert results.presence == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-4)
    assert not results.no_match and results[:1].presence == results.presence


def test_no_match_is_said_below_the_threshold(calibrated) -> None:
    people = calibrated(text=curve(bias=-2.0, no_match_below=0.2), image=curve(bias=2.0, no_match_below=0.2))
    absent, present = people.search("a coat"), people.search(draw(0))
    assert absent.no_match and len(absent) == 10 and not present.no_match
    assert "\nno match: the person is in the gallery with a probability of 12 %; the closest are\n" in repr(absent)
    assert "\nthe person is in the gallery with a probability of 88 %\n" in repr(present)


@pytest.mark.parametrize(
    ("bias", "said"), [(0.2, "too little to tell: the person is"), (9.0, "of 99 %"), (-9.0, "of 1 %")]
)
def test_probability_is_put_into_words_without_ever_being_sure(calibrated, bias: float, said: str) -> None:
    assert said in repr(calibrated(text=curve(bias=bias)).search("a coat"))


def test_kinds_without_a_curve_and_marked_queries_have_no_probability(gallery: Gallery, calibrated) -> None:
    people = calibrated(text=curve())
    assert people.search("a coat").presence == pytest.approx(0.5)
    for results in (people.search(QUERY), people.search("a coat", right=["p00"]), gallery.search("a coat")):
        assert results.presence is None and not results.no_match and "probability" not in repr(results)


def test_table_and_sheet_name_the_clauses_if_there_are_several(gallery: Gallery, tmp_path: Path) -> None:
    several, one = gallery.search(QUERY, k=2), gallery.search("red coat", k=2)
    heading, first = repr(several).split("\n")[1:3]
    assert heading.split("  ")[-3:] == ["red coat", "blue bag", "NOT woman"]
    assert first.split()[2:5] == [f"{score:+.1f}" for score in several[0].clause_scores.values()]
    assert len(repr(one).split("\n")) == 3
    assert several.to_pandas()["clause_scores"][0] == several[0].clause_scores
    heights = [results.show(tmp_path / "sheet.png").height for results in (several, one)]
    assert heights[0] == heights[1]  # notes lie within the sheet
