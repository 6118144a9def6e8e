from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from processing.batches import text_of
from processing.reference_texts import longest_piece, random_clause, some_words

CAPTION = "A tall man, wearing a long red coat, and hat. He has a bag"


def texts(draw, *arguments, number=4000):
    rng = np.random.default_rng(0)
    return Counter(draw(*arguments, rng) for _ in range(number))


def test_a_phrase_is_the_longest_piece_of_a_sentence_or_its_rest():
    found = texts(longest_piece, CAPTION)
    assert found.keys() == {"wearing a long red coat", "A tall man, and hat", "He has a bag"}
    assert abs(found["He has a bag"] / 4000 - 0.5) < 0.03 and abs(found["A tall man, and hat"] / 4000 - 0.25) < 0.03


def test_pieces_of_five_letters_are_no_phrases():
    assert texts(longest_piece, "black coat, hat").keys() == {"black coat"}
    assert texts(longest_piece, "hats,bags").keys() == {"hats,bags"}


def test_a_clause_is_any_piece_of_more_than_five_letters():
    found = texts(random_clause, CAPTION)
    assert found.keys() == {"A tall man", "wearing a long red coat", "and hat", "He has a bag"}
    assert abs(found["He has a bag"] / 4000 - 0.5) < 0.03
    assert texts(random_clause, "red, hat").keys() == {"red, hat"}


def test_subsets_of_words_keep_their_order_and_every_size_is_as_likely():
    words = ["tall", "man", "red", "coat"]
    found = texts(some_words, words)
    assert len(found) == 2**4 - 1  # every subset but the empty one
    sizes = Counter()
    for text, count in found.items():
        assert [words.index(word) for word in text.split()] == sorted(words.index(word) for word in text.split())
        sizes[len(text.split())] += count
    assert all(abs(sizes[size] / 4000 - 0.25) < 0.03 for size in (1, 2, 3, 4))


def test_one_caption_gives_many_texts_over_the_epochs():
    words = "tall man red coat hat black bag".split()
    row = {"captions": [CAPTION], "levels": [{"phrases": ["A tall man"], "words": words}]}
    different = {text_of(row, 0, "word", np.random.default_rng(epoch), words="subset") for epoch in range(120)}
    assert 15 <= len(different) <= 120
    assert {text_of(row, 0, "word", np.random.default_rng(e)) for e in range(120)} == {" ".join(words)}
    assert {text_of(row, 0, "word", np.random.default_rng(e), words="clause") for e in range(50)} >= {"A tall man"}
    assert "A tall man" not in {text_of(row, 0, "phrase", np.random.default_rng(e), "longest") for e in range(50)}


@given(st.text(min_size=1).filter(str.strip), st.integers(0, 9))
def test_any_caption_gives_a_text_that_is_not_blank(caption, seed):
    for draw in (longest_piece, random_clause):
        assert draw(caption, np.random.default_rng(seed)).strip()


@pytest.mark.parametrize("caption", [",.,", ".", "a", " , "])
def test_captions_of_hardly_anything_are_texts_too(caption):
    assert longest_piece(caption, np.random.default_rng(0)) and random_clause(caption, np.random.default_rng(0))
