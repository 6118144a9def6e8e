"""The README's sheets of attention: whom they show, and that one command draws them."""

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image
from transformers import AutoTokenizer

from benchmarks import attention_sheets
from benchmarks.attention_sheets import CAPTION_METHOD, NUM_PEOPLE, WORDS, first_people
from ivt.choices import DEFAULT_METHOD
from ivt.corpora.drawn.people import PARTS
from ivt.corpora.drawn.synthetic import load_synthetic
from ivt.corpora.drawn.words import COLOUR_WORDS
from ivt.explanations.pixels import pixel_maps
from ivt.explanations.texts import encode_texts
from ivt.retrieval.models import find_version, load_model
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


@pytest.mark.parametrize(
    ("word", "kind", "may_be_called_so"),
    [("backpack", "backpack", True), ("backpack", "handbag", False), ("shoes", "sneakers", True)]
    + [("shoes", "boots", False), ("shoes", "sandals", False)],
)
def test_only_what_may_be_called_so_is_shown(word: str, kind: str, may_be_called_so: bool) -> None:
    (fits,) = (fits for name, _, fits in WORDS if name == word)
    assert fits({"kind": kind}) is may_be_called_so


def test_sheets_show_the_maps_of_their_texts_and_models_and_frame_the_right_place(
    rows: Dataset, checkpoint: str, tiny_config: IVTConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baseline = shutil.copytree(checkpoint, tmp_path / "baseline")
    tiny_config.vocab_size = load_model(find_version(checkpoint))[0].config.vocab_size
    IVTModel(tiny_config).save_pretrained(baseline)  # other random weights
    drawn, look_once = [], partial(pixel_maps, shifts=1)
    monkeypatch.setattr(attention_sheets, "pixel_maps", look_once)
    monkeypatch.setattr(attention_sheets, "draw_rows", lambda sheet: drawn.append(sheet) or Image.new("RGB", (4, 3)))
    monkeypatch.setattr(attention_sheets, "load_corpus", lambda *_: rows)
    monkeypatch.setattr(attention_sheets, "NUM_PEOPLE", {"words": 2, "baseline": 2})
    attention_sheets.main([checkpoint, "--baseline", str(baseline), "--folder", str(tmp_path)])

    def map_of(folder: str, picture: int, text: str, method: str) -> np.ndarray:
        model, processor = load_model(find_version(str(folder)))
        pixel_values = processor(images=[rows[picture]["image"]], return_tensors="pt")["pixel_values"]
        return look_once(model, pixel_values, encode_texts(model, processor, [[text]]), method)[0, 0].numpy()

    words, compared = drawn
    assert len(words) == 2 * len(WORDS) and len(compared) == 4
    for number, (word, part, fits) in enumerate(WORDS):
        for title, overlays in words[2 * number : 2 * number + 2]:
            assert title.startswith(f"“{word}”, ")
            for picture, overlay in zip(first_people(rows, part, fits, 2), overlays, strict=True):
                assert overlay.image.tobytes() == rows[picture]["image"].tobytes()
                assert overlay.box == rows[picture]["part_boxes"][PARTS.index(part)]
                colour = json.loads(rows[picture]["attributes"])["person"][part]["colour"]
                asked = overlay.title.removesuffix(f" {word}")
                assert asked in COLOUR_WORDS.get(colour, (colour,)) or title.endswith("the likeliest shown")
                expected = map_of(checkpoint, picture, overlay.title, DEFAULT_METHOD)
                np.testing.assert_allclose(overlay.pixel_map, expected, rtol=1e-3, atol=1e-6)
    for (title, overlays), folder, method in zip(
        compared, 2 * [baseline, checkpoint], ["cls", "cls", CAPTION_METHOD, CAPTION_METHOD], strict=True
    ):
        assert title.startswith("baseline: " if folder == baseline else "IVT: ")
        for picture, overlay in zip(first_people(rows, "upper", bool, 2), overlays, strict=True):
            caption = rows[picture]["captions"][0]
            assert overlay.box is None
            assert overlay.title.replace("\n", " ") == (caption if title == compared[0][0] else "")
            expected = map_of(folder, picture, caption, method)
            np.testing.assert_allclose(overlay.pixel_map, expected, rtol=1e-3, atol=1e-6)


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
