"""The README's sheets of attention: whom they show, and that one command draws them."""

import json
from pathlib import Path

import pytest
from datasets import Dataset
from PIL import Image
from transformers import AutoTokenizer

from benchmarks import attention_sheets
from benchmarks.attention_sheets import NUM_PEOPLE, WORDS, first_people
from ivt.corpora.drawn.people import PARTS
from ivt.corpora.drawn.synthetic import load_synthetic
from modeling_ivt import IVTConfig, IVTModel
from processing import IVTImageProcessor, IVTProcessor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    root = tmp_path_factory.getbasetemp() / "corpus"
    return load_synthetic("test", root, num_people=12, images_per_person=2, num_proc=1)


@pytest.fixture
def checkpoint(tiny_config: IVTConfig, tmp_path: Path) -> str:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "ivt" / "recipes" / "tokenizer-synthetic", model_max_length=16)
    tiny_config.vocab_size = len(tokenizer)
    IVTModel(tiny_config).save_pretrained(tmp_path / "model")
    size = dict(zip(("height", "width"), tiny_config.image_size, strict=True))
    IVTProcessor(IVTImageProcessor(size=size), tokenizer).save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.mark.parametrize(("word", "part", "fits"), WORDS)
def test_the_first_people_who_show_the_thing_are_taken_once_each(rows: Dataset, word, part, fits) -> None:
    expected = {}
    for index, row in enumerate(rows):
        thing = json.loads(row["attributes"])["person"][part]
        if thing and fits(thing) and row["part_boxes"][PARTS.index(part)][0] >= 0 and row["person_id"] not in expected:
            expected[row["person_id"]] = index
    found = first_people(rows, part, fits, 100)
    assert found == list(expected.values()) and len(found) >= 2
    assert first_people(rows, part, fits, 2) == found[:2]


def test_both_sheets_are_drawn_by_one_command(rows: Dataset, checkpoint: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(attention_sheets, "load_corpus", lambda *_: rows)
    monkeypatch.setattr(attention_sheets, "NUM_PEOPLE", {"words": 3, "baseline": 2})
    attention_sheets.main([checkpoint, "--folder", str(tmp_path / "alone")])
    assert [path.name for path in (tmp_path / "alone").iterdir()] == ["attention_words.jpg"]
    attention_sheets.main([checkpoint, "--baseline", checkpoint, "--folder", str(tmp_path / "both")])
    sizes = []
    for name in ("both/attention_words.jpg", "both/attention_baseline.jpg", "alone/attention_words.jpg"):
        with Image.open(tmp_path / name) as sheet:
            sizes.append(sheet.size)
    assert sizes[0] == sizes[2]
    assert all(height > 2 * width for width, height in sizes)  # four rows of two or three people
    assert NUM_PEOPLE["words"] == 10  # of the paper's figure 6
