"""Searching a gallery by clauses, with marks, in groups, and the answer "no match"."""

import itertools
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


def test_statistics_follow_conditions_and_rows_that_come_and_go(
    tmp_path: Path, make_crops: Callable[..., Path], checkpoint: str
) -> None:
    """Each is compared with the vectors that are there, after it was asked for before they changed."""
    people = Gallery(tmp_path / "people.lance", checkpoint)
    folder = make_crops(*(f"{number:02}.png" for number in range(12)))

    def check(size: int, size_of_few: int) -> None:
        names, vectors = table(people)
        few = vectors[[name < "04.png" for name in names]]
        for where, rows, expected in (  # the same first and last, in case that one is remembered
            (None, vectors, size),
            ("image_id < '04.png'", few, size_of_few),
            (None, vectors, size),
        ):
            found = people.statistics(where)
            assert found.size == len(rows) == expected
            torch.testing.assert_close(found.mean, rows.mean(dim=0))
            torch.testing.assert_close(found.covariance, torch.cov(rows.T, correction=0), atol=1e-6, rtol=1e-4)
        assert people.statistics("false") is None

    people.add(folder, progress=False)
    check(12, 4)
    people.remove("image_id IN ('00.png', '05.png')")
    check(10, 3)
    Gallery(people.store.uri).remove(image_ids=["01.png"])  # by another process
    check(9, 2)
    people.add(make_crops("01.png", seed=1), progress=False)  # and what was removed comes back
    check(12, 4)
    people.add(make_crops("02.png", seed=2), progress=False)  # as many rows, one of another content
    check(12, 4)


def test_scores_follow_rows_that_are_removed(tmp_path: Path, make_crops: Callable[..., Path], checkpoint: str) -> None:
    people = Gallery(tmp_path / "people.lance", checkpoint)
    people.add(make_crops(*(f"{number}.png" for number in range(8))), progress=False)
    gone = names_of(people.search("a coat", k=8))[:4]
    people.remove(image_ids=gone)
    results = people.search("a coat", k=8)
    scores = [score for result in results for score in result.clause_scores.values()]
    assert len(scores) == 4 and np.mean(scores) == pytest.approx(0, abs=0.01)  # the average of those that are left
    assert np.std(scores) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("where", "size", "drawn"), [(None, 14, 9), ("camera = 'north'", 7, 4)])
def test_large_gallery_is_measured_by_a_sample_that_is_always_the_same(
    gallery: Gallery, where: str | None, size: int, drawn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_module, "SAMPLE_ROWS", drawn)
    once, again = (Gallery(gallery.store.uri).statistics(where) for _ in range(2))
    assert once.size == again.size == size
    assert torch.equal(once.mean, again.mean) and torch.equal(once.covariance, again.covariance)
    vectors = table(gallery)[1]
    rows = [number for number in range(NUM_PICTURES) if where is None or number % 2]
    samples = list(map(list, itertools.combinations(rows, drawn)))
    means = torch.stack([vectors[sample].mean(dim=0) for sample in samples])
    distance, place = (means - once.mean).norm(dim=1).min(dim=0)
    sample = samples[place]
    assert distance < 1e-6  # so many rows of those asked for, each once
    assert sample != rows[:drawn]  # and not the oldest
    torch.testing.assert_close(once.covariance, torch.cov(vectors[sample].T, correction=0), atol=1e-6, rtol=1e-4)


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


def test_no_match_is_said_below_the_threshold_of_the_curve(calibrated) -> None:
    people = calibrated(text=curve(bias=-2.0, no_match_below=0.2), image=curve(bias=2.0, no_match_below=0.2))
    absent, present = people.search("a coat"), people.search(draw(0))
    assert absent.no_match and len(absent) == 10 and not present.no_match
    assert absent[:3].no_match and not present[:3].no_match
    assert "\nno match: the person is in the gallery with a probability of 12 %; the closest are\n" in repr(absent)
    assert "\nthe person is in the gallery with a probability of 88 %\n" in repr(present)


@pytest.mark.parametrize(
    ("bias", "no_match_below", "no_match"),
    [(-2.0, 0.11, False), (-2.0, 0.13, True), (2.0, 0.87, False), (2.0, 0.89, True), (0.0, 0.5, False)],
)
def test_each_kind_of_query_has_a_threshold_of_its_own(
    calibrated, bias: float, no_match_below: float, no_match: bool
) -> None:
    """Probabilities of 12, 88 and 50 %, the last no less than its threshold."""
    others = dict.fromkeys(("image", "clauses", "mixed"), curve(bias=bias, no_match_below=0.5))
    people = calibrated(text=curve(bias=bias, no_match_below=no_match_below), **others)
    assert people.search("a coat").no_match == no_match
    assert people.search(draw(0)).no_match == people.search(QUERY).no_match == (bias < 0)


@pytest.mark.parametrize(
    ("bias", "said"),
    [
        (0.2, "\ntoo little to tell: the person is in the gallery with a probability of 55 %\n"),
        (-0.3, "\ntoo little to tell: the person is in the gallery with a probability of 43 %\n"),
        (0.6, "\nthe person is in the gallery with a probability of 65 %\n"),
        (-0.6, "\nthe person is in the gallery with a probability of 35 %\n"),
        (9.0, "of 99 %"),
        (-9.0, "of 1 %"),
    ],
)
def test_probability_is_put_into_words_without_ever_being_sure(calibrated, bias: float, said: str) -> None:
    assert said in repr(calibrated(text=curve(bias=bias)).search("a coat"))


def test_kinds_without_a_curve_and_marked_queries_have_no_probability(gallery: Gallery, calibrated) -> None:
    people = calibrated(text=curve())
    assert people.search("a coat").presence == pytest.approx(0.5)
    marked = people.search("a coat", right=["p00"]), people.search("a coat", wrong=["p00"])
    for results in (people.search(QUERY), *marked, gallery.search("a coat")):
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
