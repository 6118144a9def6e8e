"""The demo's last step: free-text queries over the embedded corpus."""

import json

import pytest
from transformers import AutoTokenizer

from benchmarks import answer_queries
from ivt.corpora.drawn.people import sample_person
from ivt.corpora.drawn.synthetic import NUM_PEOPLE, load_synthetic
from modeling_ivt import IVTModel
from processing import IVTImageProcessor, IVTProcessor


@pytest.mark.parametrize("query, is_right", answer_queries.QUERIES)
def test_some_people_of_the_test_split_are_right_and_few(query, is_right):
    people = [sample_person(0, "test", index).to_dict() for index in range(NUM_PEOPLE["test"])]
    assert 2 <= sum(map(is_right, people)) <= 0.1 * len(people)


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
    answer_queries.main([str(checkpoint), str(sheet)])
    lines = capsys.readouterr().out.splitlines()
    for (query, is_right), line in zip(answer_queries.QUERIES, lines, strict=False):
        in_gallery = sum(is_right(json.loads(attributes)["person"]) for attributes in small["attributes"])
        assert line.startswith(f"“{query}”: ") and line.endswith(f"in the gallery {in_gallery} of the 12 pictures are")
    assert sheet.stat().st_size > 10_000
