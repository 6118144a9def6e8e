"""A colour in front of a bare noun: "backpack" -> "pink backpack".

A model that has learnt from captions hardly knows a noun without its colour. So `explain` can be told to ask for a
word in the colour that the sentence gives it, or else in the one that fits the picture best.

Letters: B pictures, Q words per picture, D width.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from ivt.retrieval.embedding import DualEncoder, embed_pixels

from .texts import encode_texts

COLOURS = (
    *("black", "white", "gray", "blue", "red", "green", "yellow", "orange", "pink", "purple", "brown", "beige"),
    "blond",
)
# words that no colour is put in front of: people, where it would be taken for that of the skin, and small words
COLOURLESS = frozenset(
    "woman women lady girl female man men guy boy male gentleman person people pedestrian individual student child "
    "kid worker he she they it his her their the a an and or with without of in on at to from over under by has have "
    "is are wears wear wearing carries carry carrying holds hold holding walks walking stands standing".split()
)


def said_colour(text: str, word: str, colours: Sequence[str] = COLOURS) -> str | None:
    """The colour right before a word in a text, None if there is none."""
    said = re.search(rf"(?<!\w)({'|'.join(map(re.escape, colours))}) {re.escape(word)}(?!\w)", text, re.IGNORECASE)
    return said[1].lower() if said else None


def _coloured(word: str, colour: str) -> str:
    """A word in a colour; what is not hair is called yellow instead of blond."""
    return f"{'yellow' if colour == 'blond' and 'hair' not in word.lower() else colour} {word}"


def in_best_colour(
    model: DualEncoder,
    processor: Any,
    pixel_values: torch.Tensor,
    words: Sequence[Sequence[str]],
    colours: Sequence[str] = COLOURS,
) -> list[list[str]]:
    """Put the colour in front of each word that makes it fit its picture best, by the cosine.

    Args:
        model: an `IVTModel`, or another encoder with its methods.
        processor: its processor.
        pixel_values: (B, C, height, width).
        words: Q words for each of B pictures. Those with a colour or a word of `COLOURLESS` stay as they are.
        colours: to choose from.
    """
    kept = set(colours) | COLOURLESS
    asked = [
        [word if kept & set(word.lower().split()) else _coloured(word, colour) for word in row for colour in colours]
        for row in words
    ]
    embeds = encode_texts(model, processor, asked).embeds
    scores = torch.einsum("bqd,bd->bq", embeds, embed_pixels(model, pixel_values)).unflatten(1, (-1, len(colours)))
    best = scores.argmax(dim=-1).tolist()  # (B, Q)
    return [[row[q * len(colours) + k] for q, k in enumerate(chosen)] for row, chosen in zip(asked, best, strict=True)]
