"""Re-ranking against naive loops, in evaluation, in galleries and on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from typer.testing import Result

from ivt.corpora import FEATURES
from ivt.gallery.gallery import Gallery
from ivt.metric.person_retrieval.person_retrieval import retrieval_metrics
from ivt.retrieval.evaluation import evaluate_reranked, evaluate_retrieval
from ivt.retrieval.models import load_processor
from ivt.retrieval.reranking import load_matcher, match_scores, rerank
from modeling_ivt import IVTConfig, IVTForPreTraining
from processing import IVTProcessor
from tests.gallery_parts import draw, save_checkpoint

TEXTS = ["a man in blue", "the woman with a red coat and a blue bag", "red bag", "a person"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint with a fusion encoder of random weights, and its processor."""
    save_checkpoint(tmp_path / "matcher", 3)
    config = IVTConfig.from_pretrained(tmp_path / "matcher", num_fusion_layers=2)
    IVTForPreTraining(config).save_pretrained(tmp_path / "matcher")
    return tmp_path / "matcher"


@pytest.fixture
def model(folder: Path) -> IVTForPreTraining:
    return load_matcher(str(folder))


@pytest.fixture
def processor(folder: Path) -> IVTProcessor:
    return load_processor(str(folder))


@pytest.fixture
def images() -> list[Image.Image]:
    return [draw(seed) for seed in range(5)]


def naive_score(model: IVTForPreTraining, processor: IVTProcessor, text: str, image: Image.Image) -> float:
    """The log-odds of one pair, by the forward pass of the model."""
    with torch.no_grad():
        logits = model(**processor(images=[image], text=[text], return_tensors="pt")).matching_logits[0]
    return float(logits[1] - logits[0])


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_scores_are_those_of_the_model_pair_by_pair(
    model: IVTForPreTraining, processor: IVTProcessor, images: list[Image.Image], batch_size: int
) -> None:
    pairs = torch.tensor([[3, 4], [1, 0], [0, 0], [2, 4], [1, 2], [1, 0]])
    loaded: list[int] = []

    def load(numbers: list[int]) -> list[Image.Image]:
        loaded.extend(numbers)
        return [images[number] for number in numbers]

    model.train()
    scores = match_scores(model, processor, TEXTS, load, pairs, batch_size, progress=False)
    assert model.training
    assert loaded == [0, 2, 4]  # each once, the others never
    model.eval()
    expected = [naive_score(model, processor, TEXTS[text], images[image]) for text, image in pairs.tolist()]
    torch.testing.assert_close(scores, torch.tensor(expected), atol=1e-4, rtol=1e-4)
    assert scores.unique().numel() == 5  # of six pairs one stands twice


def test_candidates_are_ordered_by_their_scores_and_equal_ones_stay() -> None:
    table = torch.tensor([[0.0, 3.0, 1.0, 1.0], [5.0, 5.0, 5.0, 9.0]])
    ordered = rerank(torch.tensor([[0, 3, 2], [2, 0, 3]]), lambda pairs: table[pairs[:, 0], pairs[:, 1]])
    assert ordered.tolist() == [[3, 2, 0], [3, 2, 0]]


def test_items_put_first_stand_before_all_others() -> None:
    queries, gallery = np.array([[1.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    metrics = retrieval_metrics(queries, [7], gallery, [1, 2, 3, 7], (1, 2, 3), first_items=[[2, 3]])
    assert [metrics[f"R@{k}"] for k in (1, 2, 3)] == [0.0, 100.0, 100.0]
    plain = retrieval_metrics(queries, [7], gallery, [1, 2, 3, 7], (1, 2, 3))
    assert [plain[f"R@{k}"] for k in (1, 2, 3)] == [0.0, 0.0, 0.0]
    same = retrieval_metrics(queries, [2], gallery, [1, 2, 3, 7], (1, 2), first_items=[[0]])
    assert same == retrieval_metrics(queries, [2], gallery, [1, 2, 3, 7], (1, 2))


def rows_of(images: list[Image.Image]) -> Dataset:
    rows = [
        {"image": image, "image_id": f"{number}.png", "person_id": number // 2, "captions": captions}
        for number, (image, captions) in enumerate(
            zip(images, [TEXTS[:2], TEXTS[2:3], TEXTS[3:], ["red coat"], ["blue bag"]], strict=True)
        )
    ]
    return Dataset.from_list(rows, features=FEATURES)


def test_a_gallery_that_is_judged_whole_is_ranked_by_matching_alone(
    model: IVTForPreTraining, processor: IVTProcessor, images: list[Image.Image]
) -> None:
    rows = rows_of(images)
    captions = [caption for of_image in rows["captions"] for caption in of_image]
    persons = [person for row in rows for person in [row["person_id"]] * len(row["captions"])]
    scores = np.array([[naive_score(model, processor, text, image) for image in images] for text in captions])
    found = evaluate_reranked(model, processor, rows, 100, batch_size=2, ks=(1, 2), progress=False)
    for direction, of_direction, askers, asked in (
        ("text_to_image", scores, persons, rows["person_id"]),
        ("image_to_text", scores.T, rows["person_id"], persons),
    ):
        first = [asked[place] for place in of_direction.argmax(axis=1)]
        right = [one == other for one, other in zip(askers, first, strict=True)]
        assert found[direction]["R@1"] == pytest.approx(100 * np.mean(right))
    plain = evaluate_retrieval(model, processor, rows, batch_size=2, ks=(1, 2), progress=False)
    assert evaluate_reranked(model, processor, rows, 1, ks=(1, 2), progress=False) == plain


def test_checkpoints_without_a_fusion_encoder_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is IVTModel, without the fusion encoder that re-ranking needs"):
        load_matcher(save_checkpoint(tmp_path / "plain", 0))


def test_gallery_puts_the_best_matches_first(
    folder: Path, model: IVTForPreTraining, processor: IVTProcessor, images: list[Image.Image], tmp_path: Path
) -> None:
    crops = tmp_path / "crops"
    crops.mkdir()
    for number, image in enumerate(images):
        image.save(crops / f"{number}.png")
    people = Gallery(tmp_path / "people.lance", str(folder), device="cpu")
    people.add(crops, progress=False)
    plain, found = (people.search(TEXTS[1], k=5, rerank=number) for number in (0, 3))
    assert [result.match for result in plain] == [None] * 5
    judged = [result.image_id for result in plain[:3]]
    odds = {name: naive_score(model, processor, TEXTS[1], images[int(name[0])]) for name in judged}
    assert [result.image_id for result in found[:3]] == sorted(judged, key=lambda name: -odds[name])
    assert [result.match is None for result in found] == [False] * 3 + [True] * 2
    for result in found[:3]:  # half precision where the machine is fast in it
        assert result.match == pytest.approx(1 / (1 + np.exp(-odds[result.image_id])), abs=0.02)
    assert [result.image_id for result in found[3:]] == [result.image_id for result in plain[3:]]
    assert {result.image_id: result.score for result in found} == {result.image_id: result.score for result in plain}
    assert "score  match" in repr(found)
    with pytest.raises(ValueError, match="re-ranking reads one sentence"):
        people.search("red coat AND blue bag", rerank=2)
    with pytest.raises(ValueError, match="rerank is -1"):
        people.search("red coat", rerank=-1)


def test_gallery_of_a_model_without_a_fusion_encoder_says_so(tmp_path: Path, images: list[Image.Image]) -> None:
    images[0].save(tmp_path / "0.png")
    people = Gallery(tmp_path / "people.lance", save_checkpoint(tmp_path / "plain", 0), device="cpu")
    people.add(tmp_path / "0.png", progress=False)
    with pytest.raises(ValueError, match="without the fusion encoder"):
        people.search("red coat", rerank=2)


def test_commands_rerank(
    ivt: Callable[..., Result],
    folder: Path,
    images: list[Image.Image],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ivt.retrieval.report.load_corpus", lambda *_, **__: rows_of(images))
    printed = ivt("evaluate", folder, "--corpus", "synthetic", "--rerank", 2, "--output", tmp_path / "r.json").output
    assert "the first 2 of each query re-ranked by image-text matching" in printed
    written = json.loads((tmp_path / "r.json").read_text())["reranked"]
    assert written["candidates"] == 2
    assert written["text_to_image"].keys() == written["image_to_text"].keys()
    with pytest.raises(ValueError, match="the standard protocol"):
        ivt("evaluate", folder, "--corpus", "synthetic", "--rerank", 2, "--protocol", "reference")
    images[0].save(tmp_path / "0.png")
    people = tmp_path / "people.lance"
    ivt("index", tmp_path / "0.png", "--gallery", people, "--model", folder)
    (result,) = json.loads(ivt("search", "red coat", "--gallery", people, "--rerank", 2, "--json").output)["results"]
    assert 0 < result["match"] < 1
