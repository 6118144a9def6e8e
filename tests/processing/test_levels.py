import re

import pytest
from datasets import Dataset, load_from_disk
from hypothesis import given
from hypothesis import strategies as st

from processing import levels
from processing.levels import add_levels, extract_words, split_phrases
from processing.tagging import load_tagger


class FixedTagger:
    """Tags words as it was told."""

    def __init__(self, tags):
        self.tags = dict(pair.rsplit("/", 1) for pair in tags.split())

    def tag(self, words):
        return [(word, self.tags.get(word, "XX")) for word in words]


@pytest.mark.parametrize(
    "caption, phrases",
    [
        ("A man in red, with a hat. He walks.", ["A man in red", "with a hat", "He walks"]),
        ("a man", ["a man"]),
        (" , a man ,, . ", ["a man"]),
        (".", ["."]),
        ("A coat; shoes: red! A bag? (Black - or blue/green)", ["A coat; shoes: red! A bag? (Black - or blue/green)"]),
    ],
)
def test_phrases_are_cut_at_stops_and_commas(caption, phrases):
    assert split_phrases(caption) == phrases


@given(st.text(alphabet="ab .,"))
def test_phrases_lose_nothing_but_stops_commas_and_spaces(caption):
    phrases = split_phrases(caption)
    assert phrases and (all(phrases) or phrases == [caption])
    letters = re.sub(r"[ .,]", "", caption)
    assert re.sub(r"[ .,]", "", "".join(phrases)) == letters


@pytest.mark.parametrize(
    "tags, words",
    [
        ("a/DT tall/JJ man/NN in/IN shoes/NNS ./.", ["tall", "man", "shoes"]),
        ("a/DT striped/VBD shirt/NN", ["striped", "shirt"]),  # taggers call it a past tense
        ("worn/VBN ripped/VBN jeans/NNS", ["worn", "ripped", "jeans"]),
        ("faded/VBD orange/XX coat/NN", ["faded", "orange", "coat"]),
        ("he/PRP wore/VBD black/JJ shoes/NNS", ["black", "shoes"]),
        ("man/NN wearing/VBG black/JJ shoes/NNS", ["man", "black", "shoes"]),
        ("wearing/VBG shoes/NNS of/IN leather/NN and/CC black/JJ", ["shoes", "leather", "black"]),  # nothing before it
        ("with/IN matching/VBG shoes/NNS", ["matching", "shoes"]),
        ("walks/VBZ in/IN ,/, wearing/VBG shoes/NNS", ["shoes"]),  # the comma stands between them
        ("a/DT matching/VBG bag/NN", ["matching", "bag"]),
        ("red/JJ matching/VBG bags/NNS", ["red", "matching", "bags"]),
        ("his/PRP$ running/VBG shoes/NNS", ["running", "shoes"]),
        ("two/CD matching/VBG bags/NNS", ["matching", "bags"]),
        ("the/DT taller/JJR man/NN or/CC tallest/JJS", ["taller", "man", "tallest"]),
        ("nike/NNP shoes/NNS and/CC ray-bans/NNPS", ["nike", "shoes", "ray-bans"]),
        ("he/PRP is/VBZ dressed/VBN in/IN jeans/NNS", ["jeans"]),
        ("hair/NN is/VBZ tied/VBN", ["hair"]),
        ("shirt/NN is/VBZ pink/VB ,/, hair/NN curly/RB", ["shirt", "pink", "hair", "curly"]),
        ("he/PRP walks/VBZ", []),
        ("-/NN", []),
    ],
)
def test_words_are_nouns_adjectives_and_attributes(tags, words):
    caption = " ".join(pair.rsplit("/", 1)[0] for pair in tags.split())
    assert extract_words(caption.upper(), FixedTagger(tags)) == words


def test_repeated_words_stay_and_hyphens_hold():
    words = extract_words("black t-shirt,black man's bag", FixedTagger("black/JJ t-shirt/NN man's/NN bag/NN"))
    assert words == ["black", "t-shirt", "black", "man's", "bag"]
    assert extract_words("a black-and-white hat", FixedTagger("black-and-white/JJ hat/NN")) == [
        "black-and-white",
        "hat",
    ]


def rows():
    captions = [["A man in a red shirt, with black shoes.", "He walks."], []]
    return Dataset.from_dict({"image": [b"no picture", b""], "captions": captions, "person_id": [5, 3]})


def test_every_caption_gets_its_levels_and_images_are_not_touched():
    added = add_levels(rows())
    assert added.column_names == ["image", "captions", "person_id", "levels"]
    assert added["image"][:] == [b"no picture", b""] and added["person_id"][:] == [5, 3]
    assert added[0]["levels"] == [
        {"phrases": ["A man in a red shirt", "with black shoes"], "words": ["man", "red", "shirt", "black", "shoes"]},
        {"phrases": ["He walks"], "words": []},
    ]
    assert added[1]["levels"] == []


def test_levels_of_a_stored_corpus_are_worked_out_once(monkeypatch, tmp_path):
    rows().save_to_disk(tmp_path / "rows")
    first = add_levels(load_from_disk(tmp_path / "rows"))
    load_tagger.cache_clear()
    monkeypatch.setattr(levels, "load_tagger", lambda name: pytest.fail("tagged again"))
    assert add_levels(load_from_disk(tmp_path / "rows"))["levels"][:] == first["levels"][:]


@pytest.mark.parametrize("name, value", [("VERSION", levels.VERSION + 1), ("find_tagger", lambda: "other")])
def test_levels_of_another_version_or_tagger_are_not_taken_from_the_cache(monkeypatch, tmp_path, name, value):
    rows().save_to_disk(tmp_path / "rows")
    add_levels(load_from_disk(tmp_path / "rows"))
    monkeypatch.setattr(levels, name, value)
    monkeypatch.setattr(levels, "levels_of", lambda captions, tagger: [{"phrases": [tagger], "words": []}])
    expected = "other" if name == "find_tagger" else "small"
    assert add_levels(load_from_disk(tmp_path / "rows"))[0]["levels"] == [{"phrases": [expected], "words": []}]
