import hashlib
import json
import random
import threading
from pathlib import Path

import pytest

from ivt.corpora.drawn.synthetic import sample_rows
from processing import tagging
from processing.caption_augmentation import ADJECTIVES
from processing.levels import extract_words
from processing.tagging import TOKEN, find_tagger, load_tagger

# sha256 of the tags below, since the small tagger was trained: with other tags, levels.VERSION must be raised
DRAWN_TAGS = "401b90effd02b93c34071cbf72f0a25805bdd0fb35456c42aa7b48fac498e786"
LEARNT_TAGS = "dda82f683aea0f9da86cc573c71e7f88bf512253ac9de07f9e60dfe69f490321"


@pytest.fixture(scope="module")
def learnt() -> list[list[tuple[str, str]]]:
    """The captions that the small tagger was trained on: (word, tag) each."""
    lines = Path(__file__).with_name("tagged_captions.txt").read_text().splitlines()
    return [[tuple(pair.rsplit("/", 1)) for pair in line.split()] for line in lines]


def digest(captions: list[list[str]]) -> str:
    tags = [load_tagger("small").tag(words) for words in captions]
    return hashlib.sha256(json.dumps(tags).encode()).hexdigest()


def test_small_tagger_gives_the_tags_that_corpora_were_cached_with(learnt):
    drawn = [caption for *_, captions in sample_rows("val", num_people=50) for caption in captions]
    assert digest([TOKEN.findall(caption.lower()) for caption in drawn]) == DRAWN_TAGS
    assert digest([[word for word, _ in caption] for caption in learnt]) == LEARNT_TAGS


def test_small_tagger_has_learnt_its_captions(learnt):
    pairs = [
        (tag, given)
        for caption in learnt
        for (_, tag), (_, given) in zip(caption, load_tagger("small").tag([word for word, _ in caption]), strict=True)
    ]
    assert len(pairs) > 1000
    assert sum(tag == given for tag, given in pairs) / len(pairs) > 0.97


def test_small_tagger_knows_every_adjective_that_captions_are_augmented_by():
    tagger = load_tagger("small")
    found = {word: dict(tagger.tag(f"a {word} coat".split()))[word] for word in ADJECTIVES.split()}
    assert set(found.values()) == {"JJ"}


def test_small_tagger_finds_words_it_never_saw():
    caption = "The salesman is wearing a salmon polo neck with embroidered cuffs and a wicker basket in his hand."
    unseen, tagger = {"salesman", "salmon", "embroidered", "wicker", "basket"}, load_tagger("small")
    assert not [word for word in unseen if f"i word {word}" in tagger.model.weights or word in tagger.tagdict]
    words = extract_words(caption, tagger)
    assert unseen <= set(words) and not {"the", "is", "wearing", "a", "with", "and", "in", "his"} & set(words)


def test_loading_the_small_tagger_is_repeatable_and_leaves_the_global_generator_alone():
    load_tagger.cache_clear()
    random.seed(7)
    expected = random.random()
    random.seed(7)
    first = load_tagger("small").model.weights
    assert random.random() == expected
    load_tagger.cache_clear()
    assert load_tagger("small").model.weights == first


def test_unknown_tagger_is_refused():
    with pytest.raises(ValueError, match="'spacy', expected 'nltk' or 'small'"):
        load_tagger("spacy")


@pytest.mark.parametrize("error", [None, OSError("no network"), ValueError("broken index")])
def test_without_data_and_network_the_small_tagger_stands_in_with_a_warning(monkeypatch, caplog, error):
    def download(*args, **kwargs):
        if error:
            raise error
        return False

    monkeypatch.setattr(tagging, "_has_nltk_data", lambda: False)
    monkeypatch.setattr(tagging.nltk, "download", download)
    assert find_tagger() == "small"
    assert "small tagger" in caplog.text and tagging.NLTK_DATA in caplog.text


def test_a_network_that_does_not_answer_is_not_waited_for(monkeypatch):
    answer, answers, threads = threading.Event(), [], []

    def download(*args, **kwargs):
        threads.append(threading.current_thread())
        answers.append(answer.wait(3))

    assert tagging.DOWNLOAD_SECONDS <= 30
    monkeypatch.setattr(tagging, "DOWNLOAD_SECONDS", 0.01)
    monkeypatch.setattr(tagging, "_has_nltk_data", lambda: False)
    monkeypatch.setattr(tagging.nltk, "download", download)
    assert find_tagger() == "small" and not answers
    answer.set()
    threads[0].join()
    assert threads[0].daemon  # the end of the program does not wait for it either


def test_data_that_is_there_or_can_be_fetched_is_used(monkeypatch, caplog):
    present = []
    monkeypatch.setattr(tagging, "_has_nltk_data", lambda: bool(present))
    monkeypatch.setattr(tagging.nltk, "download", lambda name, **kwargs: present.append(name))
    assert find_tagger() == "nltk" and present == [tagging.NLTK_DATA]
    assert find_tagger() == "nltk" and len(present) == 1
    assert not caplog.text


def test_data_is_looked_for_in_nltks_folders(monkeypatch, tmp_path):
    monkeypatch.setattr(tagging.nltk.data, "path", [str(tmp_path)])
    assert not tagging._has_nltk_data()
    (tmp_path / "taggers" / tagging.NLTK_DATA).mkdir(parents=True)
    assert tagging._has_nltk_data()
