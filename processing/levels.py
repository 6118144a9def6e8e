"""Levels of text for multi-level alignment (MLA): a caption, its phrases, its words.

Shu et al., "See Finer, See More", arXiv 2208.08608, sec. 3.2: the phrase level is a piece of the caption cut at full
stops and commas, the word level its nouns and adjectives as tagged by NLTK. Both are worked out once per corpus
(`add_levels`) and cached by `datasets`.
"""

import re
from typing import Any

from datasets import Dataset, concatenate_datasets
from nltk.tag import PerceptronTagger

from .tagging import TOKEN, find_tagger, load_tagger

VERSION = 1  # raise when phrases or words change, so that caches made by older code are not used

NOUNS_AND_ADJECTIVES = {"NN", "NNS", "NNP", "NNPS", "JJ", "JJR", "JJS"}
PARTICIPLES = {"VBN", "VBD", "VBG"}
# Looks that taggers take for verbs or adverbs at the end of a clause ("her hair is curly", "the shirt is pink").
LOOKS = frozenset(
    "black white gray grey blue red green yellow orange pink purple violet brown beige tan khaki navy blond blonde "
    "golden silver teal maroon dark light bright long short curly straight wavy loose tight plain plaid".split()
)
SWAPPED_SIDES = {"left": "right", "right": "left"}
SWAPPED_SIDES |= {side.capitalize(): other.capitalize() for side, other in SWAPPED_SIDES.items()}
# What may stand before an attributive -ing form: "with matching shoes", but not "the man wearing black shoes".
BEFORE_ATTRIBUTE = {"DT", "IN", "JJ", "PRP$", "CD"}


def split_phrases(caption: str) -> list[str]:
    """Cut a caption at full stops and commas; a caption of nothing else is its own only phrase."""
    phrases = [phrase.strip() for phrase in re.split(r"[.,]", caption)]
    return [phrase for phrase in phrases if phrase] or [caption]


def extract_words(caption: str, tagger: PerceptronTagger) -> list[str]:
    """List a caption's nouns, adjectives and attributive participles ("striped shirt"), lower-cased and in order.

    Args:
        caption: free English text.
        tagger: a tagger with Penn Treebank tags, from `tagging.load_tagger`.

    Returns:
        Words, repeated ones as often as they stand there; [] where there are none.
    """
    tagged = tagger.tag(TOKEN.findall(caption.lower()))
    return [word for i, (word, tag) in enumerate(tagged) if word[0].isalpha() and _describes(tagged, i)]


def _describes(tagged: list[tuple[str, str]], i: int) -> bool:
    word, tag = tagged[i]
    if tag in NOUNS_AND_ADJECTIVES or word in LOOKS:
        return True
    if tag not in PARTICIPLES or i + 1 == len(tagged):
        return False
    # A participle before a noun, another attribute between them or not: taggers call "striped" a past tense.
    next_word, next_tag = tagged[i + 1]
    if next_tag not in NOUNS_AND_ADJECTIVES | PARTICIPLES and next_word not in LOOKS:
        return False
    if tag == "VBG":
        return i > 0 and tagged[i - 1][1] in BEFORE_ATTRIBUTE
    return tag == "VBN" or word.endswith("ed")  # "wore", "had", "held" are verbs


def swap_sides(text: str) -> str:
    """Say "left" for "right" and the other way round, as the text of a mirrored picture must."""
    return re.sub(rf"\b({'|'.join(SWAPPED_SIDES)})\b", lambda match: SWAPPED_SIDES[match[0]], text)


def levels_of(captions: list[str], tagger_name: str) -> list[dict[str, list[str]]]:
    """Phrases and words of each caption; `tagger_name` is that of `tagging.find_tagger`."""
    tagger = load_tagger(tagger_name)
    return [{"phrases": split_phrases(caption), "words": extract_words(caption, tagger)} for caption in captions]


def add_levels(rows: Dataset, num_proc: int | None = None) -> Dataset:
    """Add the column `levels`: per caption `{"phrases": list[str], "words": list[str]}`.

    Args:
        rows: dataset with the column `captions` (list of str per row).
        num_proc: processes; the tagger does some ten thousand words per second in each.

    Returns:
        The rows with one more column. Only the captions are read, so no image is decoded or copied.
    """
    kwargs = {"tagger_name": find_tagger(), "version": VERSION}
    levels = rows.select_columns(["captions"]).map(
        _levels_of_row, remove_columns=["captions"], fn_kwargs=kwargs, num_proc=num_proc, desc="levels of text"
    )
    return concatenate_datasets([rows, levels], axis=1)


def _levels_of_row(row: dict[str, Any], tagger_name: str, version: int) -> dict[str, Any]:
    """Work on one row. Tagger and version are plain values so that `datasets` finds its cache in the next process."""
    return {"levels": levels_of(row["captions"], tagger_name)}
