"""A processor of a tiny size: pictures of 12 x 4 pixels (height x width) and a vocabulary of a few words."""

import pytest
from transformers import BertTokenizer

from processing import IVTImageProcessor, IVTProcessor

WORDS = "a the man woman person in with and wears red blue green black shirt coat hat shoes bag . ,".split()


@pytest.fixture
def tokenizer():
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    return BertTokenizer(vocab={word: i for i, word in enumerate(words)})


@pytest.fixture
def processor(tokenizer):
    return IVTProcessor(IVTImageProcessor(size={"height": 12, "width": 4}), tokenizer)
