import re
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoTokenizer, BertTokenizer

from ivt.corpora.drawn import train_tokenizer
from ivt.corpora.drawn.synthetic import sample_rows
from ivt.corpora.drawn.train_tokenizer import CHARACTERS, MAX_TOKENS, SPECIAL_TOKENS, train_vocabulary

SHIPPED = Path(__file__).parents[3] / "ivt" / "recipes" / "tokenizer-synthetic"


@pytest.fixture(scope="module")
def shipped() -> BertTokenizer:
    return AutoTokenizer.from_pretrained(SHIPPED)


def test_trained_vocabulary_is_lower_case_and_numbered_from_the_special_tokens() -> None:
    vocabulary = train_vocabulary(["A Woman in an Orange coat."] * 10, vocab_size=500)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert [vocabulary[token] for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    assert {"woman", "orange", "coat"} <= set(vocabulary)
    assert all(character in vocabulary and f"##{character}" in vocabulary for character in CHARACTERS)


def test_the_command_saves_a_tokenizer_of_the_train_captions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(train_tokenizer, "sample_rows", lambda split: islice(sample_rows(split), 80))
    monkeypatch.setattr(sys, "argv", ["train_tokenizer", str(tmp_path / "tokenizer")])
    train_tokenizer.main()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    captions = [caption for *_, both in islice(sample_rows("train"), 80) for caption in both]
    counts = Counter(re.findall(r"\w+", " ".join(captions).lower()))
    assert {word for word, count in counts.items() if count >= 5} <= tokenizer.get_vocab().keys()
    assert len(tokenizer("a man " * MAX_TOKENS, truncation=True).input_ids) == MAX_TOKENS
    words = sum(len(caption.split()) for caption in captions) / len(captions)
    tokens = sum(len(tokenizer(caption).input_ids) - 2 for caption in captions) / len(captions)  # [CLS] and [SEP]
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"{len(tokenizer)} entries in {tmp_path / 'tokenizer'}",
        f"a train caption has {words:.1f} words and {tokens:.1f} tokens on average",
    ]


def test_shipped_tokenizer_numbers_padding_zero_and_knows_every_character(shipped: BertTokenizer) -> None:
    assert shipped.convert_tokens_to_ids(SPECIAL_TOKENS) == [0, 1, 2, 3, 4]
    assert (shipped.pad_token_id, shipped.model_max_length) == (0, MAX_TOKENS)
    assert set(shipped.get_vocab().values()) == set(range(len(shipped)))


@pytest.mark.parametrize(
    "text", ["A Man in turquoise dungarees?!", "x", 'café #7 (50%) ~{left}`|\\ "quoted" it\'s @home', "blonde-haired"]
)
def test_free_text_has_no_unknown_tokens(shipped: BertTokenizer, text: str) -> None:
    ids = shipped(text).input_ids
    assert (ids[0], ids[-1]) == (shipped.cls_token_id, shipped.sep_token_id)
    assert shipped.unk_token_id not in ids
    assert shipped(text.upper()).input_ids == ids


def test_a_word_of_the_captions_is_mostly_one_token(shipped: BertTokenizer) -> None:
    captions = [caption for *_, both in sample_rows("val") for caption in both]
    words = sum(len(caption.split()) for caption in captions)
    tokens = [len(shipped(caption).input_ids) for caption in captions]
    punctuation = sum(caption.count(".") + caption.count(",") for caption in captions)
    assert words < sum(tokens) < 1.05 * words + punctuation + 2 * len(captions)
    assert max(tokens) <= MAX_TOKENS
