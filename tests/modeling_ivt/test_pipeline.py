"""Laws of the pipeline `text-to-person-retrieval`; that it loads from the Hub is tested in test_shipping.py."""

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from modeling_ivt import IVTConfig, TextToPersonRetrievalPipeline
from modeling_ivt.pipeline_ivt import TASK, CustomPipelines

QUERIES = ["a woman with an orange coat", "a man", "the bag and the striped shirt"]
WIDTH = 64  # of the golden checkpoint


@pytest.fixture(scope="module")
def search(converted: tuple[Path, str]) -> TextToPersonRetrievalPipeline:
    return pipeline(TASK, model=str(converted[0]))


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.effect_noise((30 + i, 80), 20 * i + 10).convert("RGB") for i in range(5)]


@pytest.fixture(scope="module")
def gallery(search: TextToPersonRetrievalPipeline, pictures: list[Image.Image]) -> torch.Tensor:
    return search.embed_images(pictures)


def test_the_ranking_is_that_of_a_naive_loop(
    search: TextToPersonRetrievalPipeline, pictures: list[Image.Image], gallery: torch.Tensor
) -> None:
    for query in QUERIES:
        inputs = search.processor(text=query, return_tensors="pt")
        with torch.no_grad():
            text = search.model.get_text_features(**inputs).pooler_output[0]
        cosines = [float(torch.cosine_similarity(text, image, dim=0)) for image in gallery]
        answers = search(query, images=pictures, top_k=3)
        assert [answer["index"] for answer in answers] == sorted(range(5), key=lambda i: -cosines[i])[:3]
        for answer in answers:
            assert answer["score"] == pytest.approx(cosines[answer["index"]], abs=2e-6)
            assert answer["image"] is pictures[answer["index"]]


def test_one_sentence_gives_a_list_and_several_a_list_of_lists(
    search: TextToPersonRetrievalPipeline, gallery: torch.Tensor
) -> None:
    several = search(QUERIES, gallery=gallery)
    assert several == [search(query, gallery=gallery) for query in QUERIES]
    assert several == list(search((query for query in QUERIES), gallery=gallery))
    for answers, in_batches in zip(several, search(QUERIES, gallery=gallery, batch_size=2), strict=True):
        scores = {answer["index"]: answer["score"] for answer in answers}
        assert {answer["index"]: answer["score"] for answer in in_batches} == pytest.approx(scores, abs=2e-6)
    assert len(several[0]) == len(gallery)  # fewer than top_k: all of them


def test_a_gallery_may_be_an_array_a_list_or_of_any_length(
    search: TextToPersonRetrievalPipeline, gallery: torch.Tensor
) -> None:
    wanted = search("a man", gallery=gallery)
    for same in (gallery.numpy(), gallery.tolist(), 3 * gallery, gallery.double()):
        found = search("a man", gallery=same)
        assert [answer["index"] for answer in found] == [answer["index"] for answer in wanted]
        assert [answer["score"] for answer in found] == pytest.approx([answer["score"] for answer in wanted], abs=2e-6)


def test_equal_scores_keep_the_order_of_the_gallery(
    search: TextToPersonRetrievalPipeline, gallery: torch.Tensor
) -> None:
    answers = search("a man", gallery=gallery[[1, 0, 1, 1]], top_k=4)
    assert [answer["index"] for answer in answers if answer["index"] != 1] == [0, 2, 3]


def test_pictures_may_be_paths_and_batches_change_nothing(
    search: TextToPersonRetrievalPipeline, pictures: list[Image.Image], gallery: torch.Tensor, tmp_path: Path
) -> None:
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    torch.testing.assert_close(search.embed_images(iter(paths), batch_size=2), gallery)
    assert search("a man", images=paths[0]) == [search("a man", images=paths[:1])[0]]
    assert search("a man", images=paths[0])[0]["image"] == paths[0]


def test_half_precision_embeds_too(converted: tuple[Path, str], pictures: list[Image.Image]) -> None:
    half = pipeline(TASK, model=str(converted[0]), dtype=torch.bfloat16)
    answers = half("a man", images=pictures)
    assert half.model.dtype == torch.bfloat16 and len(answers) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either images or a gallery"),
        ({"images": ["a.jpg"], "gallery": torch.ones(1, WIDTH)}, "either images or a gallery"),
        ({"images": []}, "there are 0 images"),
        ({"gallery": torch.ones(WIDTH)}, r"shape \(\d+,\), expected \(G, \d+\)"),
        ({"gallery": torch.ones(0, WIDTH)}, "with at least one row"),
        ({"gallery": torch.ones(2, WIDTH + 1)}, "embed_images"),
        ({"gallery": torch.zeros(2, WIDTH)}, "2 of 2 gallery rows are not finite or have length zero"),
        ({"gallery": torch.tensor([[1.0] * WIDTH, [float("nan")] * WIDTH])}, "the first is row 1"),
        ({"gallery": torch.ones(2, WIDTH), "top_k": 0}, "top_k is 0, expected at least 1"),
    ],
)
def test_what_cannot_be_searched_is_named(
    search: TextToPersonRetrievalPipeline, arguments: dict[str, Any], message: str
) -> None:
    assert search.model.config.hidden_size == WIDTH
    with pytest.raises(ValueError, match=message):
        search("a man", **arguments)


@pytest.mark.parametrize("query", ["", " ", 3])
def test_an_empty_query_is_an_error(search: TextToPersonRetrievalPipeline, gallery: torch.Tensor, query: Any) -> None:
    with pytest.raises(ValueError, match="text 0 is"):
        search(query, gallery=gallery)


def test_a_registered_task_is_no_custom_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = IVTConfig().custom_pipelines
    assert list(tasks) == [TASK] and TASK not in tasks and "other" not in tasks
    monkeypatch.delitem(PIPELINE_REGISTRY.supported_tasks, TASK)
    assert TASK in tasks and "other" not in tasks


def test_what_is_written_into_an_entry_is_not_saved() -> None:
    tasks = CustomPipelines({"a": {"pt": ["AutoModel"]}})
    tasks["a"]["pt"] = (torch.nn.Module,)
    assert tasks["a"] == {"pt": ["AutoModel"]}
