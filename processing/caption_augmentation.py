"""Captions that say less: without some attributes or phrases. What is left of a true caption is true."""

import re
from dataclasses import dataclass

import numpy as np

ADJECTIVES = (
    "black white gray grey blue red green yellow orange pink purple violet brown beige tan khaki navy blond "
    "blonde reddish auburn ginger dark light bright pale golden silver teal maroon turquoise olive burgundy cream "
    "neon colored multicolored colorful striped pinstriped plaid checkered checked dotted spotted patterned printed "
    "plain solid floral long short curly straight wavy loose tight baggy bald shaved thin slim slender stocky "
    "heavyset tall young old elderly middle-aged petite small large big wide narrow high low full open unbuttoned "
    "buttoned hooded sleeved sleeveless long-sleeved short-sleeved long-sleeve short-sleeve collared bobbed brimmed "
    "heeled facial mobile horizontal vertical left right knee-length shoulder-length ankle-length faded ripped torn "
    "cropped quilted fitted puffy shiny fuzzy casual formal other thick skinny athletic light-colored dark-colored "
    "dark-haired polka-dot two-tone cuffed pleated padded woolen asian simple sporty visible zippered laced "
    "rolled-up see-through v-neck"
)
_ATTRIBUTES = "|".join(map(re.escape, ADJECTIVES.split()))
# An attribute before what it belongs to: "a red coat", but not "her coat is red", "red and white" or "long sleeved".
ATTRIBUTE = re.compile(
    rf"(?<![\w-])(?:{_ATTRIBUTES}) (?!(?:and|or|with|in|on|of|at|to|for|from|sleeved?)\b)(?=\w)", re.IGNORECASE
)
JOINED = re.compile(rf"(?<![\w-])(?:{_ATTRIBUTES}) (?:and|or) $", re.IGNORECASE)  # before the "white"
LONGEST_JOINED = max(map(len, ADJECTIVES.split())) + len("- and ")  # characters, with the one before the word


@dataclass(frozen=True)
class CaptionAugmentation:
    """Change captions at random; every rate is a probability, 0 changes nothing.

    Attributes:
        drop_attributes: that an adjective before its noun is left out.
        drop_phrases: that a piece between full stops and commas is left out; one always stays.
    """

    drop_attributes: float = 0.0
    drop_phrases: float = 0.0

    def __call__(self, text: str, rng: np.random.Generator) -> str:
        """Change one text of any level; `rng` is the only source of randomness."""
        changed = self._without_phrases(text, rng)
        changed = ATTRIBUTE.sub(lambda match: self._maybe_dropped(match, rng), changed)
        return text if changed == text else _fit_articles(changed)

    def _maybe_dropped(self, attribute: re.Match[str], rng: np.random.Generator) -> str:
        start = attribute.start()
        joined = JOINED.search(attribute.string[max(0, start - LONGEST_JOINED) : start])
        return attribute[0] if joined or rng.random() >= self.drop_attributes else ""

    def _without_phrases(self, text: str, rng: np.random.Generator) -> str:
        phrases = re.findall(r"[^.,]*\w[^.,]*[.,]*", text)
        kept = [phrase for phrase in phrases if rng.random() >= self.drop_phrases]
        if len(kept) == len(phrases):
            return text
        return "".join(kept or [phrases[rng.integers(len(phrases))]]).strip(" ,")


def _fit_articles(text: str) -> str:
    """Write "a" or "an" as the next word wants it, by its first letter."""

    def fit(match: re.Match[str]) -> str:
        vowel = re.match(r"[aeio]|u(?!ni)|hour|honest", match[2], re.IGNORECASE) and not match[2].startswith("one")
        return f"{match[1]}{'n' if vowel else ''} {match[2]}"

    return re.sub(r"\b([Aa])n? (\w+)", fit, text)
