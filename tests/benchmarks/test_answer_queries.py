"""The demo's last step: free-text queries over the drawn corpus."""

import json

import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer

from benchmarks import answer_queries
from ivt.corpora.drawn.people import sample_person
from ivt.corpora.drawn.synthetic import NUM_PEOPLE, load_synthetic
from modeling_ivt import IVTModel
from processing import IVTImageProcessor, IVTProcessor


@pytest.mark.parametrize("query, is_right", answer_queries.QUERIES)
def test_some_people_of_the_test_split_are_right_and_few(query, is_right):
    people = [sample_person(0, "test", index).to_dict() for index in range(NUM_PEOPLE["test"])]
    assert 2 <= sum(map(is_right, people)) <= 0.1 * len(people)


@pytest.mark.parametrize(
    ("number", "looks", "is_right"),
    [
        (0, "man, dress black, skirt white", True),
        (0, "man, dress pink, skirt black", False),
        (0, "man, coat black, dress black", False),
        (1, "woman, shirt white, skirt black", True),
        (1, "man, shirt white, skirt black", False),
        (1, "woman, shirt black, skirt white", False),
        (1, "woman, shirt white, trousers black", False),
        (2, "man, shirt pink, skirt black", True),
        (2, "woman, shirt pink, skirt black", False),
        (2, "man, shirt black, skirt pink", False),
    ],
)
def test_whoever_lacks_one_thing_that_is_asked_for_is_no_right_answer(number, looks, is_right):
    gender, *garments = looks.split(", ")
    upper, lower = (dict(zip(("kind", "colour"), garment.split(), strict=True)) for garment in garments)
    assert answer_queries.QUERIES[number][1]({"gender": gender, "upper": upper, "lower": lower}) is is_right


def test_answers_are_printed_and_drawn(tiny_config, golden_tokenizer, tmp_path, monkeypatch, capsys):
    tiny_config.vocab_size = 211
    tiny_config.max_position_embeddings = 64
    checkpoint, sheet = tmp_path / "model", tmp_path / "answers.png"
    IVTModel(tiny_config).save_pretrained(checkpoint)
    size = dict(zip(("height", "width"), tiny_config.image_size, strict=True))
    IVTProcessor(IVTImageProcessor(size=size), AutoTokenizer.from_pretrained(golden_tokenizer)).save_pretrained(
        checkpoint
    )
    small = load_synthetic("test", tmp_path, num_people=4, images_per_person=3, num_proc=1)
    monkeypatch.setattr(answer_queries, "load_corpus", lambda *_: small)
    queries = (
        *answer_queries.QUERIES,
        ("A man.", lambda person: person["gender"] == "man"),
    )  # some of these are there
    monkeypatch.setattr(answer_queries, "QUERIES", queries)
    drawn, draw = [], answer_queries.draw_answers
    monkeypatch.setattr(answer_queries, "draw_answers", lambda *sheet: drawn.append(sheet) or draw(*sheet))
    answer_queries.main([str(checkpoint), str(sheet)])
    lines = capsys.readouterr().out.splitlines()
    ((sentences, answers, _),) = drawn
    assert sentences == [query for query, _ in queries]
    people = [json.loads(attributes)["person"] for attributes in small["attributes"]]
    model, processor = IVTModel.from_pretrained(checkpoint), AutoProcessor.from_pretrained(checkpoint)
    for (query, is_right), line, found in zip(queries, lines, answers, strict=False):
        with torch.no_grad():
            output = model(**processor(images=small["image"][:], text=[query], return_tensors="pt"))
        cosines = torch.cosine_similarity(output.image_embeds, output.text_embeds).tolist()
        best = sorted(range(12), key=lambda picture: -cosines[picture])[:10]
        assert [answer.score for answer in found] == pytest.approx([cosines[picture] for picture in best], abs=1e-5)
        assert [answer.image.tobytes() for answer in found] == [small[picture]["image"].tobytes() for picture in best]
        assert [answer.right for answer in found] == [is_right(people[picture]) for picture in best]
        num_right, in_gallery = sum(answer.right for answer in found), sum(map(is_right, people))
        assert line == (
            f"“{query}”: {num_right} of 10 answers are right; in the gallery {in_gallery} of the 12 pictures are"
        )
    assert sheet.stat().st_size > 10_000
