"""Whether the person is in the gallery at all: features, the fitted curve, its rates, the checkpoint's file."""

import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from hub_stand_in import HubStandIn
from torch.nn.functional import normalize

from ivt.gallery.calibration import FEATURES, Calibration, PresenceCurve, load_calibration, presence_features
from ivt.gallery.fitting import (
    MAX_NO_MATCH,
    MIN_DETECTION,
    PENALTY,
    choose_at_random,
    fit_curve,
    presence_cases,
    presence_rates,
)
from ivt.retrieval.models import DEFAULT_MODEL, find_version
from modeling_ivt import IVTModel

REPO = Path(__file__).parents[2]
CURVE = PresenceCurve((1.0, -2.0, 0.5, 0.0, 3.0, 0.25, 0.1, -0.2), -0.5, 0.2, (10, 40), 100)


def naive_features(scores: list[float], num_words: int) -> list[float]:
    ranked = sorted(scores, reverse=True)
    mean = sum(scores) / len(scores)
    deviation = math.sqrt(sum((score - mean) ** 2 for score in scores) / len(scores))
    second, tenth = ranked[min(1, len(ranked) - 1)], ranked[min(9, len(ranked) - 1)]
    of_words = [math.log(1 + num_words), ranked[0] * math.log(1 + num_words)]
    return [ranked[0], mean, deviation, ranked[0] - second, ranked[0] - tenth, math.log(len(scores)), *of_words]


@pytest.mark.parametrize("size", [1, 2, 9, 10, 40])
def test_features_equal_a_naive_computation(size: int) -> None:
    scores = torch.rand(1, size)
    top = scores.sort(descending=True).values
    moments = scores.mean(dim=1), scores.std(dim=1, correction=0)
    features = presence_features(top[:, :10], *moments, torch.tensor([size]), torch.tensor([7]))
    torch.testing.assert_close(features[0], torch.tensor(naive_features(scores[0].tolist(), 7)))
    assert features.shape[1] == len(FEATURES)


def cases() -> tuple[torch.Tensor, ...]:
    """Ten people with three pictures each, and a query for each picture that may ask for one or two people.

    Query i has i words.
    """
    people = torch.arange(10).repeat(3)
    embeds = normalize(torch.randn(10, 6)[people] + 0.3 * torch.randn(30, 6), dim=1)
    matches = torch.nn.functional.one_hot(people, 10).bool()
    matches[::4, 5] = True
    return embeds, matches, torch.arange(30), embeds, people


def test_cases_are_searches_with_and_without_the_wanted_people() -> None:
    queries, matches, words, images, people = cases()
    features, present = presence_cases(queries, matches, words, images, people, [10])
    assert len(features) == 60 and present.tolist() == [True] * 30 + [False] * 30
    for query in range(30):
        scores = (images @ queries[query]).tolist()
        without = [score for score, person in zip(scores, people.tolist(), strict=True) if not matches[query, person]]
        torch.testing.assert_close(features[30 + query], torch.tensor(naive_features(without, query)))
        assert features[query, 0] == pytest.approx(max(scores))  # the query's own picture


def test_galleries_with_and_without_the_person_are_equally_large() -> None:
    features, present = presence_cases(*cases(), [4, 7])
    sizes = features[:, FEATURES.index("log size")].exp().round()
    assert torch.equal(sizes[present], sizes[~present])
    assert set(sizes.tolist()) <= {6, 9, 15, 18}  # three pictures of 4 or 7 people, less one or two


def test_gaps_of_small_galleries_are_between_pictures_that_are_there() -> None:
    features, _ = presence_cases(*cases(), [3, 4, 5, 6])
    assert len(features[:, FEATURES.index("log size")].exp().round().unique()) > 2  # some have ten pictures, some not
    assert (features[:, FEATURES.index("gap to tenth")] <= 2).all()  # no two cosines differ by more


def test_the_picture_a_query_was_made_from_is_in_no_gallery() -> None:
    queries, matches, words, images, people = cases()
    features, present = presence_cases(queries, matches, words, images, people, [10], torch.arange(30))
    assert (features[present, 0] < 0.999).all()


def test_choice_takes_as_many_as_asked_for_and_each_equally_often() -> None:
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    generator = torch.Generator().manual_seed(0)
    chosen = torch.stack([choose_at_random(mask, torch.tensor([2, 5]), generator) for _ in range(600)])
    assert not (chosen & ~mask).any()
    assert (chosen[:, 0].sum(dim=1) == 2).all() and (chosen[:, 1] == mask[1]).all()
    torch.testing.assert_close(chosen[:, 0].float().mean(dim=0), torch.tensor([2, 0, 2, 2]) / 3, atol=0.08, rtol=0)


def test_queries_that_nobody_or_everybody_matches_are_left_out() -> None:
    queries, matches, words, images, people = cases()
    matches[0], matches[1] = False, True
    features, _ = presence_cases(queries, matches, words, images, people, [10])
    assert len(features) == 2 * 28
    with pytest.raises(ValueError, match="gallery of 1, 2 people"):
        presence_cases(queries, matches, words, images, people, [1, 2])


def test_cases_are_drawn_alike_again_and_otherwise_with_another_seed() -> None:
    searches, drawn = cases(), []
    for seed in (3, 3, 4):
        torch.manual_seed(len(drawn))
        torch.rand(len(drawn) + 1)  # whatever else draws numbers
        drawn.append(presence_cases(*searches, [4, 7], seed=seed))
    (first, _), (again, _), (other, _) = drawn
    assert torch.equal(first, again)
    assert first.shape != other.shape or not torch.allclose(first, other)


def data(number: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    features = torch.randn(number, len(FEATURES)) * torch.tensor([1, 5, 0.1, 1, 1, 1, 1, 2]) + 3
    return features, torch.rand(number) < (features[:, 0] - 3 - 0.2 * (features[:, 1] - 3)).sigmoid()


@pytest.mark.parametrize(("number", "steepness", "offset"), [(400, 1, 0), (400, 9, -1), (20, 1, 0)])
def test_no_step_from_the_fitted_curve_makes_its_penalised_likelihood_larger(
    number: int, steepness: float, offset: float
) -> None:
    """Its slopes, written out in units of each feature's deviation, are zero; nothing but the weights is penalised."""
    features, _ = data(number)
    present = torch.rand(number) < (steepness * (features[:, 0] - 3 + offset)).sigmoid()
    curve = fit_curve(features, present)
    scale = features.double().std(dim=0)
    weights = (torch.tensor(curve.weights, dtype=torch.float64) * scale).requires_grad_()
    bias = torch.tensor(curve.bias, dtype=torch.float64, requires_grad=True)
    probability = ((features.double() / scale) @ weights + bias).sigmoid()
    likelihood = torch.where(present, probability, 1 - probability).log().mean()
    (likelihood - PENALTY / 2 * weights.square().sum()).backward()
    torch.testing.assert_close(weights.grad, torch.zeros_like(weights), atol=1e-9, rtol=0)
    assert float(bias.grad) == pytest.approx(0, abs=1e-9)


def test_curve_says_what_it_was_fitted_on() -> None:
    features, present = data(50)
    sizes = torch.randint(7, 5000, (50,))
    features[:, FEATURES.index("log size")] = sizes.log()
    curve = fit_curve(features, present)
    assert (curve.gallery_sizes, curve.num_cases) == ((int(sizes.min()), int(sizes.max())), 50)


def test_fitted_curve_is_calibrated() -> None:
    features, present = data(4000)
    probabilities = fit_curve(features, present)(features)
    assert float(probabilities.mean()) == pytest.approx(float(present.float().mean()), abs=1e-3)
    likely = probabilities > 0.7
    assert float(probabilities[likely].mean()) == pytest.approx(float(present[likely].float().mean()), abs=0.05)


@pytest.mark.parametrize("clear", [True, False])
def test_no_match_is_said_of_few_people_who_are_there_and_only_against_clear_odds(clear: bool) -> None:
    features, present = data(4000)
    if clear:  # people who are there are nearly all seen to be
        present = features[:, 0] + 0.3 * torch.randn(4000) > 3
    curve = fit_curve(features, present)
    kept = (curve(features)[present] >= curve.no_match_below).double().mean()
    if curve.no_match_below < MAX_NO_MATCH:
        assert float(kept) == pytest.approx(MIN_DETECTION, abs=0.002)
    else:
        assert curve.no_match_below == MAX_NO_MATCH and kept > MIN_DETECTION
    assert (curve.no_match_below < MAX_NO_MATCH) != clear


def test_feature_that_never_changes_gets_no_weight() -> None:
    features, present = data()
    features[:, 5] = 2.0
    assert fit_curve(features, present).weights[5] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("value", [True, False])
def test_one_answer_alone_cannot_be_fitted(value: bool) -> None:
    with pytest.raises(ValueError, match="expected both answers"):
        fit_curve(torch.randn(5, len(FEATURES)), torch.full((5,), value))


def test_rates_equal_naive_loops_with_ties() -> None:
    probabilities = (torch.rand(300) * 20).round() / 20
    present = torch.rand(300) < 0.3 + 0.4 * probabilities
    rates = presence_rates(probabilities, present, no_match_below=0.4)
    there, absent = probabilities[present].tolist(), probabilities[~present].tolist()
    wins = sum((p > q) + (p == q) / 2 for p in there for q in absent)
    assert rates["AUROC"] == pytest.approx(wins / len(there) / len(absent))
    for allowed in (1, 10):
        best = max(
            sum(p > t for p in there) / len(there)
            for t in [-1, *absent]
            if sum(q > t for q in absent) <= allowed / 100 * len(absent)
        )
        assert rates[f"detection at {allowed} %"] == pytest.approx(100 * best)
    assert rates["detection"] == pytest.approx(100 * sum(p >= 0.4 for p in torch.tensor(there)) / len(there))
    assert rates["false alarms"] == pytest.approx(100 * sum(q >= 0.4 for q in torch.tensor(absent)) / len(absent))


@pytest.fixture
def checkpoint(tiny_model: IVTModel, tmp_path: Path) -> Path:
    tiny_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_calibration_comes_back_from_its_folder(checkpoint: Path) -> None:
    assert load_calibration(find_version(str(checkpoint))) is None
    calibration = Calibration("tiny", find_version(str(checkpoint)).revision, "synthetic", {"text": CURVE})
    calibration.save(checkpoint)
    assert load_calibration(find_version(str(checkpoint))) == calibration


def test_calibration_of_another_version_is_not_used(
    checkpoint: Path, tiny_config, caplog: pytest.LogCaptureFixture
) -> None:
    revision = find_version(str(checkpoint)).revision
    Calibration("tiny", revision, "synthetic", {"text": CURVE}).save(checkpoint)
    torch.manual_seed(1)
    IVTModel(tiny_config).save_pretrained(checkpoint)  # trained further
    with caplog.at_level(logging.WARNING):
        assert load_calibration(find_version(str(checkpoint))) is None
    assert "belongs to another version" in caplog.text and "ivt calibrate" in caplog.text


def test_calibration_of_another_release_is_not_used(checkpoint: Path, caplog: pytest.LogCaptureFixture) -> None:
    version = find_version(str(checkpoint))
    path = Calibration("tiny", version.revision, "synthetic", {"text": CURVE}).save(checkpoint)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"features": ["top"]}))
    assert load_calibration(version) is None and "is of another release" in caplog.text


def test_calibration_comes_with_a_hub_model(
    checkpoint: Path, hub: HubStandIn, run_python: Callable, tmp_path: Path
) -> None:
    Calibration("tiny", find_version(str(checkpoint)).revision, "synthetic", {"text": CURVE}).save(checkpoint)
    lines = f"""
from huggingface_hub import HfApi
from ivt.gallery.calibration import load_calibration
from ivt.retrieval.models import DEFAULT_MODEL, find_version

api = HfApi()
api.create_repo("tester/calibrated")
api.upload_folder(repo_id="tester/calibrated", folder_path={str(checkpoint)!r})
print(load_calibration(find_version("tester/calibrated")).curves["text"].num_cases)
api.delete_file("calibration.json", "tester/calibrated")
print(load_calibration(find_version("tester/calibrated")))
"""
    done = run_python("-c", lines, cwd=tmp_path, python_path=REPO, hub=hub)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [str(CURVE.num_cases), "None"]


@pytest.mark.parametrize(
    "change",
    [
        {"curves": {"text": {"bias": 1}}},
        {"curves": {"text": asdict(CURVE) | {"weights": [1]}}},
        {"curves": 3},
        None,
    ],
)
def test_file_that_is_no_calibration_is_named(checkpoint: Path, change: dict | None) -> None:
    version = find_version(str(checkpoint))
    path = Calibration("tiny", version.revision, "synthetic", {"text": CURVE}).save(checkpoint)
    fields = json.loads(path.read_text())
    path.write_text(json.dumps(fields | change) if change else "{")
    with pytest.raises(ValueError, match=r"calibration\.json is no calibration"):
        load_calibration(version)


def test_calibration_of_the_bundled_checkpoint_is_its_own() -> None:
    calibration = load_calibration(find_version(DEFAULT_MODEL))
    assert calibration is not None and {"text", "image", "mixed"} <= set(calibration.curves)
