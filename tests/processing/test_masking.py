"""Which words masked language modeling hides, over many draws, and what stands there instead."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertTokenizer

from processing import IVTImageProcessor, IVTProcessor
from processing.batches import PairCollator
from processing.masking import MaskedPairCollator, WordMasking

DRAWS = 4000
# 12 tokens, words of 1, 3, 1, 1, 2, 1, 1, 1 and 1 of them
WORDS = np.array([0, 1, 1, 1, 2, 3, 4, 4, 5, 6, 7, 8])
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = [*SPECIAL, *(f"w{i}" for i in range(40)), "##a", "##b"]


def draws(masking: WordMasking, words: np.ndarray, count: int = DRAWS) -> np.ndarray:
    return np.stack([masking.choose(words, np.random.default_rng(i)) for i in range(count)])


def test_a_quarter_of_the_tokens_is_hidden_in_whole_words() -> None:
    hidden = draws(WordMasking(), WORDS)
    for word in np.unique(WORDS):
        of_word = hidden[:, word == WORDS]
        assert (of_word.all(axis=1) == of_word.any(axis=1)).all()
        assert of_word.any(axis=1).mean() > 0.05  # every word at times
    counts = hidden.sum(axis=1)
    assert counts.max() == 3 and counts.mean() == pytest.approx(3.0, abs=0.02)


@pytest.mark.parametrize("length, expected", [(1, 1), (2, 1), (3, 1), (6, 2), (10, 2), (11, 3), (60, 15)])
def test_number_of_hidden_tokens_is_the_rounded_share_and_at_least_one(length: int, expected: int) -> None:
    assert set(draws(WordMasking(), np.arange(length), 50).sum(axis=1)) == {expected}


def test_word_that_is_longer_than_the_share_is_hidden_where_there_is_no_other() -> None:
    assert draws(WordMasking(), np.array([0, 0, 0, 0]), 20).all()
    hidden = draws(WordMasking(), np.array([0, 0, 0, 1, 1]))
    assert {tuple(row) for row in hidden.tolist()} == {(True,) * 3 + (False,) * 2, (False,) * 3 + (True,) * 2}
    assert hidden[:, 0].mean() == pytest.approx(3 / 5, abs=0.03)  # words are found by their tokens


def test_text_without_words_hides_nothing() -> None:
    assert WordMasking().choose(np.array([], int), np.random.default_rng(0)).shape == (0,)


@pytest.mark.parametrize("run", [0.0, 0.2, 1.0])
def test_runs_of_two_or_three_tokens_come_as_often_as_asked_for(run: float) -> None:
    """In a text so long that tokens which were drawn one by one are hardly ever neighbours."""
    lengths: Counter[int] = Counter()
    for hidden in draws(WordMasking(share=0.01, run=run), np.arange(4000), 60):
        edges = np.diff(np.concatenate([[0], hidden.astype(int), [0]]))
        lengths.update((np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)).tolist())
    for length, expected in ((1, 1 - run), (2, run / 2), (3, run / 2)):
        assert lengths[length] / lengths.total() == pytest.approx(expected, abs=0.04)


def test_of_the_hidden_tokens_8_in_10_are_masked_1_another_and_1_stays() -> None:
    masking, tokens, others = WordMasking(), np.full(50_000, 7), np.arange(5, 45)
    chosen = np.arange(50_000) % 2 == 0
    written = masking.write(tokens, chosen, 4, others, np.random.default_rng(0))
    assert (written[~chosen] == 7).all()
    hidden = written[chosen]
    assert (hidden == 4).mean() == pytest.approx(0.8, abs=0.01)
    assert (hidden == 7).mean() == pytest.approx(0.1 + 0.1 / 40, abs=0.01)  # one of the others is it
    replaced = Counter(hidden[(hidden != 4) & (hidden != 7)].tolist())
    assert set(replaced) == set(range(5, 45)) - {7} and max(replaced.values()) < 2 * min(replaced.values())


# batches


def make_processor(padding_side: str = "right") -> IVTProcessor:
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(VOCABULARY)}, padding_side=padding_side)
    return IVTProcessor(IVTImageProcessor(size={"height": 8, "width": 4}), tokenizer)


def make_pairs(texts: list[str], first_seed: int = 0) -> list[dict[str, Any]]:
    views = np.zeros((1, 3, 8, 4), np.uint8)
    return [
        {"views": views, "texts": [text], "person_id": i, "image_id": str(i), "seed": first_seed + i}
        for i, text in enumerate(texts)
    ]


TEXTS = ["w1 w2a w3ab w4 w5", "w6", "w7 unknown w8b w9 w10 w11 w12 w13"]


@pytest.mark.parametrize("padding_side", ["right", "left"])
def test_special_tokens_are_neither_hidden_nor_written(padding_side: str) -> None:
    collate, seen = MaskedPairCollator(make_processor(padding_side)), Counter()
    for i in range(300):
        batch = collate(make_pairs(TEXTS, 3 * i))
        ids, masked, labels = (batch[name] for name in ("input_ids", "masked_input_ids", "mlm_labels"))
        hidden = labels != -100
        special = (ids < len(SPECIAL)) | (batch["attention_mask"] == 0)
        assert not (hidden & special).any() and torch.equal(masked[special], ids[special])
        assert torch.equal(labels[hidden], ids[hidden]) and torch.equal(masked[~hidden], ids[~hidden])
        assert hidden.any(dim=1).all()
        assert not torch.isin(masked[hidden], torch.tensor([0, 1, 2, 3])).any()
        seen.update(masked[hidden].tolist())
    assert seen[4] / seen.total() == pytest.approx(0.8, abs=0.03)


def test_pieces_of_a_word_are_hidden_together() -> None:
    collate = MaskedPairCollator(make_processor())
    hidden = torch.cat([collate(make_pairs(TEXTS[:1], i))["mlm_labels"] != -100 for i in range(200)])
    # [CLS] w1 w2 ##a w3 ##a ##b w4 w5 [SEP]: two of eight tokens, so never the word of three
    assert torch.equal(hidden[:, 2], hidden[:, 3]) and hidden[:, 2].any()
    assert not hidden[:, 4:7].any() and not hidden[:, [0, -1]].any()


def test_batch_is_that_of_the_plain_collator_and_depends_on_the_seeds_alone() -> None:
    processor, pairs = make_processor(), make_pairs(TEXTS)
    batch, plain = MaskedPairCollator(processor)(pairs), PairCollator(processor)(pairs)
    assert batch.keys() == plain.keys() | {"masked_input_ids", "mlm_labels"}
    for name in plain.keys() - {"image_ids"}:
        assert torch.equal(batch[name], plain[name])
    alone = MaskedPairCollator(processor)(pairs[2:])
    assert torch.equal(alone["masked_input_ids"][0], batch["masked_input_ids"][2])
    other = MaskedPairCollator(processor)(make_pairs(TEXTS, 50))
    assert not torch.equal(other["mlm_labels"], batch["mlm_labels"])


def test_tokenizer_without_a_mask_is_refused() -> None:
    processor = make_processor()
    processor.tokenizer.mask_token = None
    with pytest.raises(ValueError, match="the tokenizer has no mask token"):
        MaskedPairCollator(processor)
