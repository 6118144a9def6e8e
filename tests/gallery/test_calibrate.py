"""Calibrating a checkpoint: whom the queries are about, and the file beside the weights."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from typer.testing import Result

from ivt.corpora import load_corpus
from ivt.corpora.drawn.attributes import AttributeQuery
from ivt.gallery import calibrate
from ivt.gallery.calibrate import (
    clauses_of,
    cut_every_other,
    embed_split,
    gallery_sizes,
    next_images,
    split_cases,
    with_pictures,
)
from ivt.gallery.calibration import FEATURES, load_calibration
from ivt.retrieval.models import find_version, load_model

NUM_PEOPLE = 8


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("corpus"))


@pytest.fixture
def split(converted: tuple[Path, str], cache: str) -> calibrate.EmbeddedSplit:
    dataset = load_corpus("synthetic", cache, "val", num_people=NUM_PEOPLE, num_proc=1)
    return embed_split(*load_model(find_version(str(converted[0]))), dataset.select(range(len(dataset) - 1)))


def test_embedded_split_says_who_is_who(split: calibrate.EmbeddedSplit) -> None:
    assert split.people.tolist() == [image // 4 for image in range(4 * NUM_PEOPLE - 1)]
    assert split.text_images.tolist() == [text // 2 for text in range(2 * (4 * NUM_PEOPLE - 1))]
    assert len(split.attributes) == split.num_people == NUM_PEOPLE
    assert len(split.image_embeds) == len(split.people) and len(split.text_embeds) == len(split.text_images)


def test_next_picture_is_another_of_the_same_person() -> None:
    people = torch.tensor([2, 0, 2, 1, 0, 2, 1])
    assert next_images(people).tolist() == [2, 4, 5, 6, 1, 0, 3]
    assert next_images(torch.tensor([5])).tolist() == [0]  # there is no other


def test_attribute_queries_are_asked_as_clauses() -> None:
    query = AttributeQuery(("red coat", "boots"), ("backpack", "hat"), (True,))
    assert str(clauses_of(query)) == "red coat AND boots NOT backpack NOT hat"


def test_words_and_picture_lie_between_the_two(split: calibrate.EmbeddedSplit) -> None:
    shown = next_images(split.people)[split.text_images]
    vectors = with_pictures(split.text_embeds, split.image_embeds[shown], weight=2.0)
    expected = split.text_embeds + 2 * split.image_embeds[shown]
    torch.testing.assert_close(vectors, expected / expected.norm(dim=1, keepdim=True))


def test_every_kind_of_query_searches_with_and_without_the_person(
    converted: tuple[Path, str], split: calibrate.EmbeddedSplit
) -> None:
    model = load_model(find_version(str(converted[0])))
    cases = split_cases(*model, split, split.texts, [NUM_PEOPLE])
    assert set(cases) == {"text", "image", "mixed", "clauses"}
    for features, present in cases.values():
        assert present.sum() == (~present).sum() > 0 and len(features) == len(present)
    images, texts = len(split.people), len(split.text_images)
    assert [len(cases[kind][1]) for kind in ("image", "text", "mixed")] == [2 * images, 2 * texts, 2 * texts]
    assert (cases["image"][0][:, 0] < 1 - 1e-6).all()  # no picture finds itself


def test_every_other_caption_is_cut_to_its_first_words(split: calibrate.EmbeddedSplit) -> None:
    texts = cut_every_other(split)
    assert texts[::2] == split.texts[::2] and texts != cut_every_other(split, seed=1)
    for cut, whole in zip(texts[1::2], split.texts[1::2], strict=True):
        words = cut.split()
        assert 2 <= len(words) and words == whole.split()[: len(words)]
    assert sum(map(len, texts[1::2])) < 0.8 * sum(map(len, split.texts[1::2]))


def test_words_of_a_cut_caption_count(converted: tuple[Path, str], split: calibrate.EmbeddedSplit) -> None:
    texts = ["red coat"] * len(split.texts)
    features, _ = split_cases(*load_model(find_version(str(converted[0]))), split, texts, [NUM_PEOPLE])["text"]
    log_words = features[:, FEATURES.index("log words")]
    torch.testing.assert_close(log_words, torch.full_like(log_words, math.log(3)))
    tops = features[:, 0]
    assert len(set(tops.tolist())) <= 2 * NUM_PEOPLE  # of galleries without one person each


@pytest.mark.parametrize(("least", "kinds"), [(0.0, {"text", "image", "mixed", "clauses"}), (1.1, set())])
def test_calibration_is_written_beside_the_weights_for_kinds_that_say_enough(
    least: float,
    kinds: set[str],
    converted: tuple[Path, str],
    cache: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ivt: Callable[..., Result],
) -> None:
    monkeypatch.setattr(calibrate, "NUM_PEOPLE", NUM_PEOPLE)
    monkeypatch.setattr(calibrate, "MIN_AUROC", least)
    folder = shutil.copytree(converted[0], tmp_path / "model")
    done = ivt("calibrate", folder, "--corpus-root", cache)
    calibration = load_calibration(find_version(str(folder)))
    assert calibration is not None and set(calibration.curves) == kinds
    assert (calibration.model, calibration.corpus) == ("model", f"synthetic, val, {NUM_PEOPLE} people")
    assert done.stdout.count("AUROC") == 4 and done.stdout.count("left out") == 4 - len(kinds)
    assert done.stdout.endswith(f"written to {folder / 'calibration.json'}\n")


def test_a_corpus_without_attributes_gives_no_curve_for_clauses(
    ivt: Callable[..., Result],
    converted: tuple[Path, str],
    cache: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = load_corpus("synthetic", cache, "val", num_people=NUM_PEOPLE, num_proc=1).remove_columns("attributes")
    asked = []
    monkeypatch.setattr(calibrate, "load_corpus", lambda *names, **options: asked.append((*names, options)) or rows)
    monkeypatch.setattr(calibrate, "MIN_AUROC", 0.0)
    monkeypatch.chdir(shutil.copytree(converted[0], tmp_path / "model"))
    ivt("calibrate", ".", "--corpus", "rstpreid", "--corpus-root", "data")
    assert asked == [("rstpreid", "data", "val", {})]
    calibration = load_calibration(find_version("."))
    assert (calibration.model, calibration.corpus) == ("model", f"rstpreid, val, {NUM_PEOPLE} people")
    assert calibration.curves.keys() == {"text", "image", "mixed"}


def test_a_hub_name_is_no_folder_to_write_to(ivt: Callable[..., Result]) -> None:
    with pytest.raises(ValueError, match="download the model first"):
        ivt("calibrate", "org/ivt")


def test_gallery_sizes_halve_and_hold_three_people() -> None:
    assert gallery_sizes(400) == [25, 50, 100, 200, 400]
    assert gallery_sizes(5) == [3, 5]
