"""A calibration says when it cannot know: unknown words, few words, galleries of other sizes and pictures."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from ivt.gallery.calibrate import measure_domain
from ivt.gallery.calibration import FEATURES, Calibration, PresenceCurve
from ivt.gallery.results import SearchResults
from ivt.gallery.scores import GalleryStatistics

CURVE = PresenceCurve((0.0,) * len(FEATURES), 0.0, 0.2, (20, 100), 1000, fewest_words=2)


@pytest.fixture
def embeds() -> torch.Tensor:
    return normalize(torch.randn(400, 16) + 1.0, dim=-1)


@pytest.fixture
def calibration(embeds: torch.Tensor) -> Calibration:
    words = ("a", "coat", "red", "t-shirt")
    return Calibration("tiny", "sha256:0", "synthetic", {"text": CURVE}, measure_domain(embeds, 20), words)


def test_other_people_of_the_same_kind_raise_no_doubt(calibration: Calibration, embeds: torch.Tensor) -> None:
    for size in (20, 50, 100):
        others = normalize(torch.randn(size, 16) + 1.0, dim=-1)
        assert calibration.doubts("text", ["A red t-shirt."], 3, GalleryStatistics.of(others)) == []


@pytest.mark.parametrize("change", [lambda e: -e, lambda e: e.mean(dim=0).expand_as(e), lambda e: e.roll(1, 1) * 0.2])
def test_pictures_that_are_spread_otherwise_raise_a_doubt(
    calibration: Calibration, embeds: torch.Tensor, change
) -> None:
    statistics = GalleryStatistics.of(change(embeds[:50]))
    (doubt,) = calibration.doubts("text", ["red coat"], 2, statistics)
    assert doubt == "the gallery's pictures are unlike those that the model was calibrated on"


def test_each_reason_is_named(calibration: Calibration, embeds: torch.Tensor) -> None:
    known = replace(calibration, domain=None)
    fitting, large = (GalleryStatistics.of(embeds[:50], size) for size in (50, 101))
    assert known.doubts("text", ["an elephant in a red coat"], 6, fitting) == [
        "the model does not know: an, elephant, in"
    ]
    assert known.doubts("text", ["红"], 2, fitting) == ["the model does not know: 红"]
    assert known.doubts("text", ["red coat"], 2, large) == ["the gallery has 101 pictures, calibrated were 20 to 100"]
    assert known.doubts("text", ["coat"], 1, fitting) == ["the query has 1 words, calibrated were 2 and more"]
    assert known.doubts("clauses", ["elephant"], 1, large) == []  # there is no curve, so nothing is said anyway


def test_results_show_the_doubt_in_the_place_of_a_probability() -> None:
    results = SearchResults("elephant", [], lambda _: [], doubts=["the model does not know: elephant"])
    assert "no probability: the model does not know: elephant" in repr(results[:1])
