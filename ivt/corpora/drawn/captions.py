"""Captions of the drawn corpus: what two annotators would write under a picture, in the manner of CUHK-PEDES.

A caption names some of what the picture can show, in its own order, words and sentence shapes. Every detail is left
out with a probability of its own, from behind nobody sees glasses, left and right are the person's own, and one
caption in forty has a typo. Skin colour and the background are never spoken of. The grammar and its words are our own.

A caption is built in three steps: `mentions.py` puts what is visible into mentions (a noun phrase, the verb it goes
with, and a clause of its own), `_Writer` spreads the mentions over sentences, `describe` repeats both until the length
fits.
"""

import random

from .annotator import Annotator, Mention
from .mentions import mentions_of
from .people import Person, Sighting

CAPTIONS_VERSION = 3  # raise it when a caption changes, so that cached corpora are made anew
MIN_WORDS, MAX_WORDS = 15, 60
TYPO_RATE = 0.025

VERBS = {  # third person, plural, participle
    "wear": ("wears", "wear", "wearing"),
    "carry": ("carries", "carry", "carrying"),
    "hold": ("holds", "hold", "holding"),
}


class _Writer:
    """Spreads an annotator's mentions over sentences of many shapes."""

    def __init__(self, annotator: Annotator):
        self.annotator, self.pick, self.chance = annotator, annotator.pick, annotator.chance
        self.oxford = self.chance(0.35)

    def text(self) -> str:
        mentions = mentions_of(self.annotator)
        sentences = []
        sizes = (2, 3, 3, 4, 5, 12) if self.chance(0.85) else (1, 2)
        while mentions:
            size = self.annotator.rng.choice((1, 2, 2, 3) if sentences else sizes)
            sentences.append(self._opening(mentions[:size]) if not sentences else self._following(mentions[:size]))
            mentions = mentions[size:]
        return " ".join(sentence[0].upper() + sentence[1:] + "." for sentence in sentences)

    def _listed(self, phrases: list[str]) -> str:
        if len(phrases) < 3:
            return " and ".join(phrases)
        return ", ".join(phrases[:-1]) + (", and " if self.oxford else " and ") + phrases[-1]

    def _things(self, group: list[Mention]) -> str:
        phrases = [mention.phrase for mention in group]
        if [mention.name for mention in group] in (["upper", "lower"], ["upper", "shoes"]) and self.chance(0.3):
            return self.pick(" with ", " with ", " along with ", " as well as ").join(phrases)
        return self._listed(phrases)

    def _by_verb(self, mentions: list[Mention]) -> list[list[Mention]]:
        groups: dict[str, list[Mention]] = {}
        for mention in mentions:
            groups.setdefault(mention.verb, []).append(mention)
        return list(groups.values())

    def _participle(self, group: list[Mention], is_first: bool = True) -> str:
        """The mentions behind a noun: "wearing a red shirt and jeans"."""
        things = self._things(group)
        verb = group[0].verb
        if verb == "be":
            return things
        if verb == "have":
            return f"with {things}"
        options = [VERBS[verb][2]] * 3
        if self._clothes_only(group):
            options.append("dressed in")
            if is_first:  # not "with black hair in a red shirt"
                options.append("in")
        return f"{self.pick(*options)} {things}"

    def _finite(self, group: list[Mention], plural: bool) -> str:
        """The mentions behind a subject: "is wearing a red shirt and jeans"."""
        things = self._things(group)
        be, have, verb = ("are", "have", group[0].verb) if plural else ("is", "has", group[0].verb)
        if verb == "be":
            if not plural and self.chance(0.3):
                for participle, present in (("walking", "walks"), ("standing", "stands")):
                    if things.startswith(participle):
                        return things.replace(participle, present, 1)
            return f"{be} {things}"
        if verb == "have":
            return f"{have} {things}"
        options = [f"{be} {VERBS[verb][2]}", f"{be} {VERBS[verb][2]}", VERBS[verb][plural]]
        if verb == "wear":
            options.append(f"{have} on")
        if self._clothes_only(group):
            options.append(f"{be} dressed in")
        return f"{self.pick(*options)} {things}"

    def _clothes_only(self, group: list[Mention]) -> bool:
        names = [mention.name for mention in group]
        return names[0] in ("upper", "lower") and set(names) <= {"upper", "lower", "shoes", "scarf", "belt"}

    def _predicates(self, groups: list[list[Mention]], plural: bool) -> str:
        parts = [self._finite(group, plural) for group in groups]
        be = "are " if plural else "is "
        for i in range(1, len(parts)):  # "is walking and (is) wearing"
            if parts[i].startswith(be) and parts[i - 1].startswith(be) and self.chance(0.6):
                parts[i] = parts[i].removeprefix(be)
        if len(parts) == 2:
            return parts[0] + (", and " if len(groups[0]) > 1 or self.oxford else " and ") + parts[1]
        return ", ".join(parts[:-1]) + ", and " + parts[-1] if len(parts) > 2 else parts[0]

    def _attributes(self, groups: list[list[Mention]]) -> str:
        """The mentions strung behind a noun: " with long hair, wearing a red shirt and carrying a bag"."""
        text = ""
        for i, group in enumerate(groups):
            part = self._participle(group, i == 0)
            if i == 0 or (i == 1 and groups[0][0].verb == "have" and self.chance(0.6)):
                joint = " "
            elif i == len(groups) - 1 and group[0].verb in ("carry", "hold"):
                joint = self.pick(" and ", " while ", ", ")
            else:
                joint = ", "
            text += joint + part
        return text

    def _opening(self, mentions: list[Mention]) -> str:
        """The first sentence, which introduces the person."""
        groups = self._by_verb(mentions)
        who = self.annotator.subject(self.pick("a", "a", "the", "the", "this"))
        shapes = ("statement", "noun phrase", "headline", "presented", "fronted", "split")
        shape = self.annotator.rng.choices(shapes, (28, 27, 5, 8, 12, 20))[0]
        if shape == "presented":
            show = self.pick("the picture shows", "this is", "there is", "the image shows", "here we see")
            return f"{show} {self.annotator.subject('a')}{self._attributes(groups)}"
        if shape == "noun phrase":
            return who + self._attributes(groups)
        if shape == "headline":
            return self.annotator.subject("") + self._attributes(groups)
        if shape == "fronted" and len(groups) > 1:
            return f"{self._participle(groups[0])}, {who} {self._predicates(groups[1:], plural=False)}"
        if shape == "split" and len(groups) > 1:
            return f"{who} {self._participle(groups[0])} {self._predicates(groups[1:], plural=False)}"
        return f"{who} {self._predicates(groups, plural=False)}"

    def _following(self, mentions: list[Mention]) -> str:
        """A later sentence about somebody already introduced."""
        groups = self._by_verb(mentions)
        shapes = ("statement", "clauses", "mixed", "fronted", "list")
        shape = self.annotator.rng.choices(shapes, (40, 35, 10, 10, 5))[0]
        if shape == "clauses":
            return self._joined([mention.clause for mention in mentions])
        if shape == "list" and "be" not in (group[0].verb for group in groups):
            return ", ".join(mention.phrase.removeprefix("a ").removeprefix("pair of ") for mention in mentions)
        if shape == "mixed" and len(mentions) > 1:
            who, plural = self.annotator.pronoun, self.annotator.gender == "neutral"
            rest = self._predicates(self._by_verb(mentions[1:]), plural)
            return f"{mentions[0].clause}{self.pick(' and ', ', and ')}{who} {rest}"
        plural = self.annotator.gender == "neutral"
        who = self.annotator.pronoun
        if self.chance(0.25):
            plural, who = False, f"the {self.annotator.noun}"
        if shape == "fronted" and len(groups) > 1:
            return f"{self._participle(groups[0])}, {who} {self._predicates(groups[1:], plural)}"
        also = "also " if len(groups) == 1 and groups[0][0].verb == "have" and self.chance(0.2) else ""
        return f"{who} {also}{self._predicates(groups, plural)}"

    def _joined(self, clauses: list[str]) -> str:
        if len(clauses) == 2:
            return self.pick(" and ", ", and ", ", ").join(clauses)
        return ", ".join(clauses[:-1]) + " and " + clauses[-1] if len(clauses) > 2 else clauses[0]


def _misspelt(text: str, rng: random.Random) -> str:
    """The text with one slip of the keyboard: a letter doubled, dropped, or swapped with the next."""
    words = text.split(" ")
    i = rng.choice([i for i, word in enumerate(words) if len(word) > 4])
    word, at = words[i], rng.randrange(1, 3)
    words[i] = rng.choice(
        [
            word[:at] + word[at] + word[at:],
            word[:at] + word[at + 1 :],
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        ]
    )
    return " ".join(words)


def describe(person: Person, sighting: Sighting, number: int) -> str:
    """Write caption `number` (0, 1, …: one per annotator) of a picture; the same arguments give the same caption."""
    rng = random.Random(f"caption {sighting.seed} {sighting.camera} {number}")
    while True:
        text = _Writer(Annotator(person, sighting, rng)).text()
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return _misspelt(text, rng) if rng.random() < TYPO_RATE else text
