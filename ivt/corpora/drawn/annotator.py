"""One annotator in front of one picture: how careful they are, and what they call the person, colours and kinds."""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from .people import Person, Sighting
from .words import BUILD_WORDS, COLOUR_WORDS, KIND_WORDS, NOUNS, PRONOUNS


@dataclass(frozen=True)
class Mention:
    """One thing spoken of.

    Attributes:
        name: key of `mentions.THINGS`, or "pose".
        verb: the verb that `phrase` goes with: "have", "be" (the pose) or a key of `captions.VERBS`.
        phrase: such as "a red cap on his head".
        clause: says the same without a subject in front, such as "his cap is red".
    """

    name: str
    verb: str
    phrase: str
    clause: str


def join(*parts: str) -> str:
    """The parts that are not empty, with spaces between them."""
    return " ".join(part for part in parts if part)


def an(noun: str) -> str:
    """The noun with its article: "an orange cap"."""
    vowel = noun[0] in "aeiou" and not noun.startswith("one")
    return f"{'an' if vowel else 'a'} {noun}"


class Annotator:
    """Who writes one caption of a picture; a colour or kind is called the same throughout.

    Every random number comes from `rng`, in a fixed order: whoever changes the order of calls changes all captions.
    """

    def __init__(self, person: Person, sighting: Sighting, rng: random.Random):
        self.person, self.sighting, self.rng = person, sighting, rng
        self.from_behind = sighting.facing == "back"
        self.from_front = sighting.facing == "front"
        self.carelessness = rng.uniform(0.4, 1.6)  # exponent of every rate, see `says`
        self.gender = person.gender
        if self.chance(0.08):
            self.gender = "neutral"
        elif self.from_behind and person.lower.kind not in ("dress", "skirt") and self.chance(0.02):  # a mistake
            self.gender = {"woman": "man", "man": "woman"}[person.gender]
        self.noun = rng.choice(NOUNS[self.gender])
        self.pronoun, self.their = PRONOUNS[self.gender]
        self.chosen: dict[str, str] = {}

    def chance(self, rate: float) -> bool:
        """True with a probability of `rate`."""
        return self.rng.random() < rate

    def says(self, rate: float) -> bool:
        """Whether this annotator mentions a detail that an average one mentions at this rate."""
        return self.chance(rate**self.carelessness)

    def pick(self, *options: str) -> str:
        """One of the options; what is named twice comes twice as often."""
        return self.rng.choice(options)

    def word(self, name: str, words: Mapping[str, tuple[str, ...]]) -> str:
        """What this annotator calls a colour or kind; a number is drawn even where that was decided before."""
        return self.chosen.setdefault(name, self.rng.choice(words.get(name, (name,))))

    def colour(self, name: str) -> str:
        """What this annotator calls a colour."""
        return self.word(name, COLOUR_WORDS)

    def kind(self, name: str) -> str:
        """What this annotator calls a kind of thing."""
        return self.word(name, KIND_WORDS)

    def owner(self) -> str:
        """Whose thing it is: "her", "the", "the woman's"."""
        return self.pick(self.their, self.their, self.their, "the", f"the {self.noun}'s")

    def subject(self, article: str) -> str:
        """The person with an article, now and then with their figure: "a slim woman"."""
        figure = self.word(self.person.build, BUILD_WORDS) if self.person.build in BUILD_WORDS else ""
        noun = join(figure if self.says(0.12) else "", self.noun)
        return an(noun) if article == "a" else join(article, noun)

    def far_side(self) -> str | None:
        """The person's own side that the body hides in a side view."""
        return {"left": "right", "right": "left"}.get(self.sighting.facing)

    def subject_is(self) -> str:
        """The beginning of a clause about the person: "she is"."""
        return f"{self.pronoun} are" if self.gender == "neutral" else f"{self.pronoun} is"
