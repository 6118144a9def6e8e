import random
import threading
from collections import Counter

import pytest

from processing import tagging
from processing.levels import extract_words
from processing.tagging import LEXICON, find_tagger, load_tagger, tagged_captions


def test_no_word_of_the_lexicon_has_two_tags():
    counts = Counter(word for words in LEXICON.values() for word in words.split())
    assert [word for word, count in counts.items() if count > 1] == []


def test_small_tagger_has_learnt_its_captions():
    tagger = load_tagger("small")
    pairs = [
        (tag, given)
        for caption in tagged_captions()
        for (_, tag), (_, given) in zip(caption, tagger.tag([word for word, _ in caption]), strict=True)
    ]
    assert len(pairs) > 1000
    assert sum(tag == given for tag, given in pairs) / len(pairs) > 0.97


def test_small_tagger_knows_every_noun_and_adjective_of_its_lexicon():
    tagger = load_tagger("small")
    sentences = {"JJ": "a {} coat", "NN": "a red {}", "NNS": "red {}"}
    expected = {word: tag for tag in sentences for word in LEXICON[tag].split()}
    found = {word: dict(tagger.tag(sentences[tag].format(word).split()))[word] for word, tag in expected.items()}
    assert found == expected


def test_small_tagger_finds_words_it_never_saw():
    caption = "The salesman is wearing a salmon polo neck with embroidered cuffs and a wicker basket in his hand."
    unseen = {"salesman", "salmon", "embroidered", "wicker", "basket"}
    assert not unseen & {word for words in LEXICON.values() for word in words.split()}
    words = extract_words(caption, load_tagger("small"))
    assert unseen <= set(words) and not {"the", "is", "wearing", "a", "with", "and", "in", "his"} & set(words)


def test_training_the_small_tagger_is_repeatable_and_leaves_the_global_generator_alone():
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
