import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor, BertTokenizer

import modeling_ivt  # noqa: F401  registers the classes
from processing import IVTImageProcessor, IVTProcessor
from processing.processing_ivt import DEFAULT_MAX_LENGTH

SENTENCES = ["A man with a red hat.", "The WOMAN wears a blue coat, a bag and black shoes."]
PICTURE = Image.new("RGB", (10, 30), "red")


def test_call_returns_the_models_inputs_and_no_more(processor):
    inputs = processor(images=[PICTURE, PICTURE], text=SENTENCES, return_tensors="pt")
    assert set(inputs) == {"pixel_values", "input_ids", "attention_mask"} == set(processor.model_input_names)
    assert inputs["pixel_values"].shape == (2, 3, 12, 4)
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (2, 15)
    assert inputs["attention_mask"].sum(1).tolist() == [9, 15]  # [CLS], words, stops, [SEP]


def test_each_modality_can_come_alone(processor):
    assert set(processor(text=SENTENCES)) == {"input_ids", "attention_mask"}
    assert set(processor(images=PICTURE)) == {"pixel_values"}
    assert processor(text=SENTENCES[0])["input_ids"] == processor(text=SENTENCES[:1])["input_ids"][0]


def test_the_processor_is_its_two_parts(processor):
    inputs = processor(images=PICTURE, text=[s.lower() for s in SENTENCES], return_tensors="pt")
    alone = processor.tokenizer([s.lower() for s in SENTENCES], padding=True, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], alone["input_ids"])
    assert torch.equal(inputs["attention_mask"], alone["attention_mask"])
    assert torch.equal(inputs["pixel_values"], processor.image_processor(PICTURE, return_tensors="pt").pixel_values)


@pytest.mark.parametrize(
    "options",
    [
        {"size": {"height": 8, "width": 6}, "padding": "max_length", "max_length": 20},
        {
            "images_kwargs": {"size": {"height": 8, "width": 6}},
            "text_kwargs": {"padding": "max_length", "max_length": 20},
        },
    ],
    ids=["flat", "nested"],
)
def test_options_reach_the_part_they_are_for_and_last_one_call(processor, options):
    before = processor.to_dict()
    inputs = processor(images=PICTURE, text=SENTENCES, return_tensors="pt", **options)
    assert inputs["pixel_values"].shape == (1, 3, 8, 6) and inputs["input_ids"].shape == (2, 20)
    assert processor.to_dict() == before
    inputs = processor(images=PICTURE, text=SENTENCES, return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 12, 4) and inputs["input_ids"].shape == (2, 15)


def test_ids_are_decoded_to_the_sentence(processor):
    ids = processor(text="A man with a red hat.")["input_ids"]
    assert processor.decode(ids, skip_special_tokens=True) == "a man with a red hat."
    assert processor.batch_decode([ids, ids], skip_special_tokens=True) == ["a man with a red hat."] * 2


@pytest.mark.parametrize("do_lower_case", [True, False])
def test_case_does_not_matter_whatever_the_tokenizer(tokenizer, do_lower_case):
    cased = BertTokenizer(vocab=tokenizer.get_vocab(), do_lower_case=do_lower_case)
    processor = IVTProcessor(IVTImageProcessor(), cased)
    ids = processor(text=["A RED Hat", "a red hat"])["input_ids"]
    assert ids[0] == ids[1] and cased.unk_token_id not in ids[0]


def test_long_text_is_cut_to_the_tokenizers_limit(processor):
    long = "red " * 500
    assert len(processor(text=long)["input_ids"]) == DEFAULT_MAX_LENGTH
    assert f"or to {DEFAULT_MAX_LENGTH} tokens where the tokenizer names no limit" in IVTProcessor.__doc__
    processor.tokenizer.model_max_length = 300
    assert len(processor(text=long)["input_ids"]) == 300
    processor.tokenizer.model_max_length = 20
    ids = processor(text=long)["input_ids"]
    assert len(ids) == 20 and ids[-1] == processor.tokenizer.sep_token_id
    assert len(processor(text=long, max_length=7)["input_ids"]) == 7
    assert len(processor(text=long, truncation=False)["input_ids"]) == 502
    assert len(processor(text="red", padding="max_length")["input_ids"]) == 20


@pytest.mark.parametrize(
    "wrong, words",
    [
        ("", "text 0 is empty"),
        (["a hat", " \n"], "text 1 is empty"),
        (["a hat", None], "text 1 is None"),
        ([["a", "hat"]], "text 0 is"),
    ],
)
def test_text_that_says_nothing_is_refused_by_its_index(processor, wrong, words):
    with pytest.raises(ValueError, match=words):
        processor(text=wrong)


def test_nothing_at_all_is_refused(processor):
    with pytest.raises(ValueError, match="at least one input"):
        processor()


def assert_same_processor(left, right):
    expected = left(images=PICTURE, text=SENTENCES, return_tensors="pt")
    for name, tensor in right(images=PICTURE, text=SENTENCES, return_tensors="pt").items():
        torch.testing.assert_close(tensor, expected[name])


def test_saved_processor_is_loaded_by_auto_classes_without_remote_code(processor, tmp_path):
    processor.tokenizer.model_max_length = 9
    processor.save_pretrained(tmp_path)
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is IVTProcessor and again.tokenizer.model_max_length == 9
    assert_same_processor(processor, again)
    assert_same_processor(processor, IVTProcessor.from_pretrained(tmp_path))
    assert type(AutoImageProcessor.from_pretrained(tmp_path)) is IVTImageProcessor


def test_saved_folder_carries_its_code(processor, tmp_path):
    processor.save_pretrained(tmp_path / "first")
    AutoProcessor.from_pretrained(tmp_path / "first").save_pretrained(tmp_path / "second")  # load -> save
    for folder in ("first", "second"):
        names = {path.name for path in (tmp_path / folder).iterdir()}
        assert {"processor_config.json", "image_processing_ivt.py", "processing_ivt.py"} <= names
        config = json.loads((tmp_path / folder / "processor_config.json").read_text())
        assert config["auto_map"]["AutoProcessor"] == "processing_ivt.IVTProcessor"


STRANGER = """
import json, sys
from PIL import Image
from transformers import AutoImageProcessor, AutoProcessor
folder = sys.argv[1]
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
image_processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=True)
assert "processing" not in sys.modules
inputs = processor(images=Image.new("RGB", (10, 30), "red"), text=json.loads(sys.argv[2]))
print(json.dumps([inputs["input_ids"], list(image_processor(Image.new("L", (9, 9)))["pixel_values"][0].shape)]))
"""


def test_saved_processor_works_where_this_repository_is_not(processor, tmp_path):
    processor.save_pretrained(tmp_path / "saved")
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-I", "-c", STRANGER, str(tmp_path / "saved"), json.dumps(SENTENCES)]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == [processor(text=SENTENCES)["input_ids"], [3, 12, 4]]
