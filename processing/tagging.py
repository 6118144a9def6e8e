"""Part-of-speech taggers for the word level: NLTK's averaged perceptron, or a small one that needs no download.

NLTK's tagger (`averaged_perceptron_tagger_eng`, trained on newspapers of the Penn Treebank) reads its weights from
NLTK's data folders. Where they are missing and cannot be fetched, the small tagger stands in: NLTK's own class with
the weights of `small_tagger.json`. It was trained once, on fifty captions that were written and tagged for it in the
manner of the drawn corpus and CUHK-PEDES (`tests/processing/tagged_captions.txt`), and on more of their words in
phrases such as "a red coat".
"""

import io
import json
import logging
import re
import threading
from functools import lru_cache
from pathlib import Path

import nltk
from nltk.tag import PerceptronTagger

logger = logging.getLogger(__name__)

NLTK_DATA = "averaged_perceptron_tagger_eng"
DOWNLOAD_SECONDS = 15
SMALL_TAGGER = Path(__file__).with_name("small_tagger.json")  # weights, tags of sure words, all tags

TOKEN = re.compile(r"\w+(?:[-']\w+)*|[^\w\s]")  # "t-shirt" and "man's" are one token


def find_tagger() -> str:
    """Say which tagger can be had here: "nltk" (fetching its data if need be) or, with a logged warning, "small"."""
    if _has_nltk_data():
        return "nltk"
    # In a thread, because NLTK waits minutes for a network that does not answer.
    fetch = threading.Thread(target=_fetch_nltk_data, daemon=True)
    fetch.start()
    fetch.join(DOWNLOAD_SECONDS)
    if _has_nltk_data():
        return "nltk"
    logger.warning(
        "NLTK's tagger data is missing and could not be fetched: nouns and adjectives are found by a small tagger "
        "instead. For NLTK's own run: python -m nltk.downloader %s",
        NLTK_DATA,
    )
    return "small"


def _fetch_nltk_data() -> None:
    try:
        nltk.download(NLTK_DATA, quiet=True, print_error_to=io.StringIO())
    except (OSError, ValueError) as error:  # no network, a broken answer, no folder that can be written
        logger.debug("NLTK's tagger could not be fetched: %s", error)


def _has_nltk_data() -> bool:
    try:
        nltk.data.find(f"taggers/{NLTK_DATA}/")
        return True
    except LookupError:
        return False


@lru_cache
def load_tagger(name: str) -> PerceptronTagger:
    """Load tagger "nltk" or tagger "small"; see `find_tagger`."""
    if name == "nltk":
        return PerceptronTagger()
    if name != "small":
        raise ValueError(f"tagger is {name!r}, expected 'nltk' or 'small'; find_tagger() says which can be had")
    # not `load_from_json`: newer versions of NLTK refuse files outside of NLTK's data folders
    model = json.loads(SMALL_TAGGER.read_text(encoding="utf-8"))
    return PerceptronTagger.decode_json_obj((model["weights"], model["tagdict"], set(model["classes"])))
