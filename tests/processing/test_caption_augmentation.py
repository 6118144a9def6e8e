from collections import Counter

import numpy as np
import pytest

from processing import caption_augmentation
from processing.caption_augmentation import ADJECTIVES, CaptionAugmentation

CAPTION = "A tall man wears an orange jacket, dark pants, and white sneakers. He holds a black cell phone."


def results(augmentation, text, times=300):
    rng = np.random.default_rng(0)
    return Counter(augmentation(text, rng) for _ in range(times))


def test_rates_of_zero_change_nothing():
    assert set(results(CaptionAugmentation(), CAPTION)) == {CAPTION}
    assert set(results(CaptionAugmentation(), " odd ,, text. ")) == {" odd ,, text. "}


def test_articles_follow_the_new_word():
    drop = CaptionAugmentation(drop_attributes=1.0)
    assert set(results(drop, "an old man, a big umbrella, a red one-piece")) == {"a man, an umbrella, a one-piece"}
    assert set(results(drop, "an orange uniform, a big hourglass")) == {"a uniform, an hourglass"}


def test_texts_in_which_nothing_is_changed_keep_their_mistakes():
    augmentation = CaptionAugmentation(drop_attributes=1.0)
    assert set(results(augmentation, "He has a umbrella and an coat.")) == {"He has a umbrella and an coat."}


def test_attributes_are_dropped_before_their_noun_only():
    dropped = results(CaptionAugmentation(drop_attributes=1.0), CAPTION)
    assert set(dropped) == {"A man wears a jacket, pants, and sneakers. He holds a cell phone."}
    for text in (
        "her hair is long and black.",
        "a black and white coat",
        "a black or white coat",
        *(f"it is blue {word} it" for word in ("and", "or", "with", "in", "on", "of", "at", "to", "for", "from")),
        "Red.",
        "a long sleeve",
        "the shirt is blue with stripes",
    ):
        assert set(results(CaptionAugmentation(drop_attributes=1.0), text)) == {text}


def test_words_of_the_word_level_lose_their_attributes():
    assert set(results(CaptionAugmentation(drop_attributes=1.0), "man red hat long-sleeved black shirt")) == {
        "man hat shirt"
    }


def test_phrases_are_dropped_but_never_all():
    phrases = [
        "A tall man wears an orange jacket",
        "dark pants",
        "and white sneakers.",
        "He holds a black cell phone.",
    ]
    alone = results(CaptionAugmentation(drop_phrases=1.0), CAPTION, 400)
    assert alone == pytest.approx(dict.fromkeys(phrases, 100), rel=0.25)  # any of them may be the one that stays
    seen = results(CaptionAugmentation(drop_phrases=0.5), CAPTION, 600)
    assert len(seen) == 2 ** len(phrases) - 1
    for text in seen:  # in their old order, separated as before
        places = [CAPTION.index(part.strip()) for part in text.replace(".", ",").split(",") if part.strip()]
        assert places == sorted(places)
    assert set(results(CaptionAugmentation(drop_phrases=1.0), "no full stop")) == {"no full stop"}
    assert "" not in results(CaptionAugmentation(drop_phrases=0.5), "a, ,. . b")


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_changes_happen_at_their_rates(rate):
    count = results(CaptionAugmentation(drop_attributes=rate), "red coat", 2000)["coat"]
    assert abs(count / 2000 - rate) < 0.04


def test_what_stands_far_before_an_attribute_does_not_matter(monkeypatch) -> None:
    """A slice before each attribute would make the work quadratic: 17 s for a long caption."""
    lengths = []

    class Joined:
        @staticmethod
        def search(text: str) -> None:
            lengths.append(len(text))

    monkeypatch.setattr(caption_augmentation, "JOINED", Joined)
    CaptionAugmentation()("a red coat and a blue hat, " * 400, np.random.default_rng(0))
    assert len(lengths) == 800 and max(lengths) < 40


@pytest.mark.parametrize("word", ADJECTIVES.split())
def test_no_second_of_two_joined_attributes_is_dropped_however_long_the_first_is(word: str) -> None:
    text = f"the man in his {word} and white coat"
    assert CaptionAugmentation(drop_attributes=1.0)(text, np.random.default_rng(0)) == text
