from transformers import AutoTokenizer

import modeling_ivt  # noqa: F401  registers the classes
from processing import IVTProcessor
from processing.end_token import without_end_token

TEXTS = ["a man", "the woman with a red hat, and shoes"]


def test_texts_end_without_sep_and_stay_so_when_saved(processor, tmp_path):
    whole, longest = processor(text=TEXTS).input_ids, processor.tokenizer.model_max_length
    sep, cut = processor.tokenizer.sep_token_id, processor(text="a red").input_ids[:3]
    plain = IVTProcessor(processor.image_processor, without_end_token(processor.tokenizer))
    plain.save_pretrained(tmp_path)
    for loaded in (plain, IVTProcessor.from_pretrained(tmp_path)):
        encoded = loaded(text=TEXTS)
        assert encoded.input_ids[1] == whole[1][:-1] and whole[1][-1] == sep
        assert encoded.input_ids[0][:3] == whole[0][:3] and sep not in encoded.input_ids[0]
        assert encoded.attention_mask[0] == [1] * 3 + [0] * (len(whole[1]) - 4)
        assert loaded.tokenizer.model_max_length == longest
        assert loaded(text="a red hat", max_length=3).input_ids == cut
    assert AutoTokenizer.from_pretrained(tmp_path)(TEXTS[1]).input_ids == whole[1][:-1]
