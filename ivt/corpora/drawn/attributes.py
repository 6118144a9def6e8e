"""What is true of the people of the drawn corpus, as short phrases: "red coat", "boots", "short hair".

The attribute queries of the benchmarks are made of these phrases, and because the phrases of a person follow from the
person's record, everybody is known to match a query or not. A phrase holds for all the kinds that an annotator may
call so (`KIND_WORDS`): "shirt" for t-shirts and blouses too, "coat" for jackets.
"""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .words import HAIR_COLOUR_WORDS, KIND_WORDS

WORDS = frozenset(words[0] for words in KIND_WORDS.values()) | {"bag", "hat", "shoes"}
PATTERN_WORDS = {
    "horizontal stripes": "striped",
    "vertical stripes": "striped",
    "plaid": "plaid",
    "dots": "dotted",
}
HAIR_PHRASES = {"ponytail": "ponytail", "bun": "hair in a bun", "bob": "chin length hair", "bald": "bald head"}
MIN_SHARE = 0.1  # of the people who have what is wanted, who have and who lack what is not wanted


def phrases_of(person: dict[str, Any]) -> dict[str, str]:
    """Phrases that are true of a person.

    Args:
        person: fields of a `Person`, as `json.loads(row["attributes"])["person"]` gives them.

    Returns:
        Per phrase the part of the person that it is about, such as "upper" or "bag".
    """
    phrases = {person["gender"]: "gender"}
    for part in ("upper", "lower", "shoes", "bag", "hat", "carried"):
        item = person[part]
        if item is None or (part == "lower" and item["kind"] == "dress"):  # a dress is spoken of as the upper garment
            continue
        for word in WORDS.intersection(KIND_WORDS[item["kind"]]):
            phrases[word] = part
            if item["kind"] != "newspaper":  # printed, it has no colour to speak of
                phrases[f"{item['colour']} {word}"] = part
            if item.get("pattern") in PATTERN_WORDS:
                phrases[f"{PATTERN_WORDS[item['pattern']]} {word}"] = part
    phrases[HAIR_PHRASES.get(person["hair"], f"{person['hair']} hair")] = "hair"
    if person["hair"] != "bald":
        for colour in HAIR_COLOUR_WORDS.get(person["hair_colour"], (person["hair_colour"],)):
            phrases[f"{colour} hair"] = "hair"
    for part in ("glasses", "beard", "scarf", "belt"):
        if person[part]:
            phrases[person[part] if part == "glasses" else part] = part
    return phrases


@dataclass(frozen=True)
class AttributeQuery:
    """A search by attributes.

    Attributes:
        wanted: phrases that all hold.
        unwanted: phrases of which none holds.
        matches: per person, whether it is so.
    """

    wanted: tuple[str, ...]
    unwanted: tuple[str, ...]
    matches: tuple[bool, ...]


def sample_attribute_queries(
    people: Sequence[dict[str, Any]], num_wanted: int, num_unwanted: int, number: int, seed: int = 0
) -> list[AttributeQuery]:
    """Draw queries that somebody matches, each phrase about another part of the person.

    What is wanted is true of a person drawn at random. What is not wanted is true of some who have all that is wanted,
    of at least MIN_SHARE of them and at most all but MIN_SHARE, so that it makes a difference.

    Args:
        people: fields of every `Person` in the gallery, each person once.
        num_wanted: phrases that hold, at least 1.
        num_unwanted: phrases that do not hold.
        number: how many queries.
        seed: of the drawing; the same arguments give the same queries.

    Returns:
        Different queries, fewer than `number` if so many are not found.
    """
    rng = random.Random(f"attribute queries {seed} {num_wanted} {num_unwanted}")
    of_people = [phrases_of(person) for person in people]
    parts = {phrase: part for phrases in of_people for phrase, part in phrases.items()}
    holders: dict[str, set[int]] = defaultdict(set)  # who each phrase is true of
    for person, phrases in enumerate(of_people):
        for phrase in phrases:
            holders[phrase].add(person)

    queries: dict[tuple[tuple[str, ...], ...], AttributeQuery] = {}
    for _ in range(20 * number):
        if len(queries) == number:
            break
        wanted = _one_per_part(rng, rng.choice(of_people), num_wanted)
        having = set.intersection(*(holders[phrase] for phrase in wanted))
        taken = {parts[phrase] for phrase in wanted} | {"gender"}  # not: a man who is no woman
        telling = {
            phrase: part
            for phrase, part in (parts.items() if num_unwanted else ())
            if part not in taken and MIN_SHARE <= len(holders[phrase] & having) / len(having) <= 1 - MIN_SHARE
        }
        unwanted = _one_per_part(rng, telling, num_unwanted)
        matching = having.difference(*(holders[phrase] for phrase in unwanted))
        if len(wanted) == num_wanted and len(unwanted) == num_unwanted and matching:
            matches = tuple(person in matching for person in range(len(people)))
            key = tuple(sorted(wanted)), tuple(sorted(unwanted))
            queries.setdefault(key, AttributeQuery(wanted, unwanted, matches))
    return list(queries.values())


def _one_per_part(rng: random.Random, phrases: dict[str, str], number: int) -> tuple[str, ...]:
    """Draw phrases about different parts, fewer than `number` if there are not so many parts."""
    parts = sorted(set(phrases.values()))
    chosen = rng.sample(parts, min(number, len(parts)))
    return tuple(rng.choice([phrase for phrase in sorted(phrases) if phrases[phrase] == part]) for part in chosen)
