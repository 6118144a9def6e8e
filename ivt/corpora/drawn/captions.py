"""Captions of the embedded corpus: what two annotators would write under a picture, in the manner of CUHK-PEDES.

A caption names some of what the picture can show, in its own order, words and sentence shapes. Every detail is left
out with a probability of its own, from behind nobody sees glasses, left and right are the person's own, and one
caption in forty has a typo. Skin colour and the background are never spoken of. The grammar and its words are our own.

A caption is built in three steps: `_Annotator` turns what is visible into mentions (a noun phrase, the verb it goes
with, and a clause of its own), `_Writer` spreads the mentions over sentences, `describe` repeats both until the length
fits.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

from .people import Garment, Item, Person, Sighting

CAPTIONS_VERSION = 3  # raise it when a caption changes, so that cached corpora are made anew
MIN_WORDS, MAX_WORDS = 15, 60
TYPO_RATE = 0.025

NOUNS = {
    "woman": ("woman", "woman", "woman", "woman", "lady", "lady", "girl", "female"),
    "man": ("man", "man", "man", "man", "guy", "male", "gentleman"),
    "neutral": ("person", "person", "person", "pedestrian", "individual"),
}
PRONOUNS = {"woman": ("she", "her"), "man": ("he", "his"), "neutral": ("they", "their")}
# Words of equal meaning; the first ones are repeated because annotators prefer them.
COLOUR_WORDS = {
    "gray": ("gray", "gray", "grey"),
    "beige": ("beige", "beige", "tan", "tan", "khaki", "cream colored"),
    "blue": ("blue", "blue", "blue", "blue", "blue", "blue", "blue", "navy", "navy blue"),
    "purple": ("purple", "purple", "purple", "violet"),
    "blond": ("blond", "blonde"),
    "dark brown": ("dark brown", "dark brown", "dark", "brown"),
}
HAIR_COLOUR_WORDS = COLOUR_WORDS | {"red": ("red", "reddish brown", "ginger", "auburn")}
KIND_WORDS = {
    "t-shirt": ("t-shirt", "t-shirt", "t-shirt", "tee shirt", "tee", "shirt", "top"),
    "shirt": ("shirt", "shirt", "button up shirt", "button down shirt", "collared shirt", "dress shirt"),
    "polo shirt": ("polo shirt", "polo shirt", "polo", "collared shirt", "shirt"),
    "blouse": ("blouse", "blouse", "top", "shirt"),
    "sweater": ("sweater", "sweater", "sweater", "pullover", "jumper"),
    "hoodie": ("hoodie", "hoodie", "hooded sweatshirt", "sweatshirt", "hooded sweater"),
    "tank top": ("tank top", "tank top", "sleeveless top", "sleeveless shirt"),
    "jacket": ("jacket", "jacket", "jacket", "jacket", "coat"),
    "coat": ("coat", "coat", "overcoat", "long coat", "jacket"),
    "dress": ("dress", "dress", "dress", "one piece dress"),
    "trousers": ("pants", "pants", "pants", "trousers", "trousers", "slacks"),
    "jeans": ("jeans", "jeans", "jeans", "denim jeans", "denim pants", "pants"),
    "leggings": ("leggings", "leggings", "tights"),
    "shorts": ("shorts",),
    "skirt": ("skirt",),
    "sneakers": ("sneakers", "sneakers", "tennis shoes", "running shoes", "trainers", "shoes", "shoes"),
    "boots": ("boots",),
    "dress shoes": ("dress shoes", "leather shoes", "shoes"),
    "sandals": ("sandals", "sandals", "open sandals"),
    "heels": ("heels", "high heels", "high heels", "high heeled shoes", "pumps"),
    "backpack": ("backpack", "backpack", "backpack", "rucksack", "knapsack", "book bag"),
    "shoulder bag": ("shoulder bag", "shoulder bag", "messenger bag", "crossbody bag", "bag"),
    "handbag": ("handbag", "handbag", "purse", "purse", "bag"),
    "tote bag": ("tote bag", "tote bag", "tote", "shopping bag", "bag"),
    "plastic bag": ("plastic bag", "plastic bag", "shopping bag", "grocery bag", "bag"),
    "phone": ("phone", "phone", "cell phone", "mobile phone", "smartphone"),
    "umbrella": ("umbrella", "umbrella", "folded umbrella"),
    "bottle": ("bottle", "bottle", "water bottle"),
    "cup": ("cup", "paper cup", "coffee cup"),
    "book": ("book", "book", "notebook"),
    "newspaper": ("newspaper", "newspaper", "paper"),
    "cap": ("cap", "baseball cap", "baseball cap", "hat"),
    "beanie": ("beanie", "beanie", "knit cap", "knit hat"),
    "sun hat": ("sun hat", "wide brimmed hat", "hat"),
    "glasses": ("glasses", "glasses", "eyeglasses", "a pair of glasses"),
    "sunglasses": ("sunglasses", "sunglasses", "a pair of sunglasses", "dark glasses"),
}
BUILD_WORDS = {"slim": ("slim", "thin", "slender"), "heavy": ("heavyset", "stocky", "heavily built")}
# How likely an annotator of average care speaks of each thing, if it can be seen.
MENTION_RATES = {
    "upper": 0.985,
    "lower": 0.96,
    "shoes": 0.65,
    "hair": 0.62,
    "bag": 0.75,
    "carried": 0.65,
    "hat": 0.75,
    "glasses": 0.5,
    "beard": 0.45,
    "belt": 0.3,
    "scarf": 0.7,
    "pose": 0.4,
}
ORDERS = (  # from head to foot, clothes first, from foot to head, things first, hair last
    ("hair", "beard", "glasses", "hat", "scarf", "upper", "belt", "lower", "shoes", "bag", "carried"),
    ("upper", "scarf", "lower", "belt", "shoes", "hair", "beard", "glasses", "hat", "bag", "carried"),
    ("shoes", "lower", "belt", "upper", "scarf", "bag", "carried", "hat", "glasses", "beard", "hair"),
    ("bag", "carried", "upper", "scarf", "lower", "belt", "shoes", "hat", "hair", "glasses", "beard"),
    ("upper", "lower", "shoes", "bag", "carried", "scarf", "belt", "hat", "glasses", "beard", "hair"),
    ("hat", "hair", "glasses", "beard", "upper", "lower", "shoes", "belt", "scarf", "carried", "bag"),
)
ORDER_WEIGHTS = (6, 5, 1, 1, 3, 2)
VERBS = {  # third person, plural, participle
    "wear": ("wears", "wear", "wearing"),
    "carry": ("carries", "carry", "carrying"),
    "hold": ("holds", "hold", "holding"),
}


@dataclass(frozen=True)
class _Mention:
    """One thing spoken of.

    Attributes:
        name: key of MENTION_RATES.
        verb: the verb that `phrase` goes with: "have", "be" (the pose) or a key of VERBS.
        phrase: such as "a red cap on his head".
        clause: says the same without a subject in front, such as "his cap is red".
    """

    name: str
    verb: str
    phrase: str
    clause: str


def _words(*parts: str) -> str:
    return " ".join(part for part in parts if part)


def _a(noun: str) -> str:
    vowel = noun[0] in "aeiou" and not noun.startswith("one")
    return f"{'an' if vowel else 'a'} {noun}"


class _Annotator:
    """Looks at one picture and puts what it shows into words; a colour or kind is called the same throughout."""

    def __init__(self, person: Person, sighting: Sighting, rng: random.Random):
        self.person, self.sighting, self.rng = person, sighting, rng
        self.from_behind = sighting.facing == "back"
        self.from_front = sighting.facing == "front"
        self.carelessness = rng.uniform(0.4, 1.6)  # exponent of the rates
        self.gender = person.gender
        if self.chance(0.08):
            self.gender = "neutral"
        elif self.from_behind and person.lower.kind not in ("dress", "skirt") and self.chance(0.02):  # a mistake
            self.gender = {"woman": "man", "man": "woman"}[person.gender]
        self.noun = rng.choice(NOUNS[self.gender])
        self.pronoun, self.their = PRONOUNS[self.gender]
        self.chosen: dict[str, str] = {}

    def chance(self, rate: float) -> bool:
        return self.rng.random() < rate

    def says(self, rate: float) -> bool:
        """Whether this annotator mentions a detail that an average one mentions at this rate."""
        return self.chance(rate**self.carelessness)

    def pick(self, *options: str) -> str:
        return self.rng.choice(options)

    def word(self, name: str, words: Mapping[str, tuple[str, ...]]) -> str:
        return self.chosen.setdefault(name, self.rng.choice(words.get(name, (name,))))

    def colour(self, name: str) -> str:
        return self.word(name, COLOUR_WORDS)

    def kind(self, name: str) -> str:
        return self.word(name, KIND_WORDS)

    def owner(self) -> str:
        return self.pick(self.their, self.their, self.their, "the", f"the {self.noun}'s")

    def subject(self, article: str) -> str:
        """The person with an article, now and then with their figure: "a slim woman"."""
        figure = self.word(self.person.build, BUILD_WORDS) if self.person.build in BUILD_WORDS else ""
        noun = _words(figure if self.says(0.12) else "", self.noun)
        return _a(noun) if article == "a" else _words(article, noun)

    def mentions(self) -> list[_Mention]:
        """What this annotator speaks of, in their order."""
        order = self.rng.choices(ORDERS, ORDER_WEIGHTS)[0]
        mentions = [getattr(self, f"_{name}")() for name in order if self._sees(name) and self.says(self._rate(name))]
        if self.says(MENTION_RATES["pose"]):
            mentions.insert(self.rng.choice((0, 1, len(mentions))), self._pose())
        return mentions

    def _sees(self, name: str) -> bool:
        person = self.person
        if name == "lower":
            return person.lower.kind != "dress"  # a dress is spoken of as the upper garment
        if name == "hair":
            hidden = ("bald", "bun", "short") if self.from_front else ("bald", "bun")
            return person.hat is None or person.hair not in hidden
        if name in ("glasses", "beard") and self.from_behind:
            return False
        if name == "bag" and person.bag and person.bag.kind in ("shoulder bag", "tote bag"):
            return self._far_side() != person.bag.side
        if name == "carried" and person.carried and self.from_behind:
            return person.carried.kind in ("umbrella", "bottle")  # the rest is held before the body
        return bool(getattr(person, name))

    def _far_side(self) -> str | None:
        """The person's own side that the body hides in a side view."""
        return {"left": "right", "right": "left"}.get(self.sighting.facing)

    def _rate(self, name: str) -> float:
        rate = MENTION_RATES[name]
        if name == "bag" and self.person.bag and self.person.bag.kind == "backpack":
            return {"back": 0.93, "front": 0.5}.get(self.sighting.facing, 0.85)
        if name in ("bag", "carried") and getattr(self.person, name).side == self._far_side():
            return 0.4 * rate
        return 0.6 * rate if self.from_behind and name in ("carried", "scarf", "belt") else rate

    # Garments

    def _pattern_before(self, garment: Garment) -> str:
        """Pattern and colours as said before the noun ("red and white striped"), "" if they cannot be."""
        adjectives = {
            "horizontal stripes": ("striped", "striped", "horizontally striped"),
            "vertical stripes": ("striped", "vertically striped", "pinstriped"),
            "plaid": ("plaid", "plaid", "checkered", "checked"),
            "dots": ("polka dot", "dotted", "spotted"),
        }
        if garment.pattern not in adjectives:
            return ""
        adjective = self.pick(*adjectives[garment.pattern])
        first, second = self.colour(garment.colour), self.colour(garment.second_colour)
        both = f"{first} and {second}"
        return self.pick(*4 * [f"{both} {adjective}"], f"{adjective} {both}", f"{first} {adjective}", adjective)

    def _pattern_behind(self, garment: Garment) -> str:
        """The pattern as said after "with" ("white stripes"), "" if there is none to see."""
        if garment.pattern == "plain" or (garment.pattern == "logo" and not self.from_front):
            return ""
        colour = self.colour(garment.second_colour)
        options = {
            "horizontal stripes": (f"{colour} stripes", f"{colour} horizontal stripes", f"{colour} stripes across it"),
            "vertical stripes": (f"{colour} vertical stripes", f"thin {colour} stripes", f"{colour} stripes"),
            "plaid": (f"{_a(colour)} plaid pattern", f"{colour} checks", f"{_a(colour)} checkered pattern"),
            "dots": (f"{colour} polka dots", f"{colour} dots", f"small {colour} dots", f"{colour} spots"),
            "logo": (
                f"{_a(colour)} logo on the front",
                f"{_a(colour)} logo on the chest",
                f"{_a(colour)} print on the front",
                f"{_a(colour)} design on it",
            ),
            "two-tone": (f"{colour} sleeves", f"{colour} sleeves", f"{colour} arms"),
            "side stripe": (
                f"{_a(colour)} stripe down the side",
                f"{_a(colour)} stripe along each leg",
                f"{colour} stripes on the sides",
            ),
        }
        return self.pick(*options[garment.pattern])

    def _look(self, garment: Garment) -> tuple[str, str]:
        """What is said of colour and pattern before the noun, and after "with"."""
        if garment.pattern == "plain":
            return _words(self.pick("plain", "solid") if self.says(0.05) else "", self.colour(garment.colour)), ""
        if not self.says(0.88):  # the colour alone
            return self.colour(garment.colour), ""
        before = self._pattern_before(garment)
        if before and self.chance(0.6):
            return before, ""
        return self.colour(garment.colour), self._pattern_behind(garment)

    def _plain_clause(self, garment: Garment, noun: str, be: str) -> str:
        pattern = self._pattern_behind(garment)
        return f"{self.owner()} {noun} {be} {self.colour(garment.colour)}" + (f" with {pattern}" if pattern else "")

    def _length(self, garment: Garment, plural: bool) -> tuple[str, str]:
        """How long a skirt, dress or shorts are, said before the noun or behind everything; mostly neither."""
        if not self.says(0.45):
            return "", ""
        if self.chance(0.6):
            before = {"thigh": ("short",), "knee": ("knee length",), "ankle": ("long", "ankle length")}
            return self.pick(*before[garment.length]), ""
        place = {"thigh": "above the knee", "knee": "at the knee", "ankle": "at the ankle"}[garment.length]
        end = self.pick("that end", "that stop") + ("" if plural else "s")
        return "", f"{self.pick(end, end, 'ending')} {place}{self.pick('', 's')}"

    def _inner(self, garment: Garment) -> tuple[str, str]:
        """The shirt under an open jacket, hidden from behind: words before the noun and behind everything."""
        if garment.inner_colour is None or self.from_behind or not self.says(0.65 if self.from_front else 0.25):
            return "", ""
        inner = _a(f"{self.colour(garment.inner_colour)} {self.pick('shirt', 'shirt', 't-shirt', 'top')}")
        over = self.pick("over", "over", "on top of")
        return self.pick("", "", "open", "unbuttoned"), f"{over} {inner}"

    def _upper(self) -> _Mention:
        garment, noun = self.person.upper, self.kind(self.person.upper.kind)
        look, pattern = self._look(garment)
        length, end = self._length(self.person.lower, plural=False) if garment.kind == "dress" else ("", "")
        openness, inner = self._inner(garment)
        sleeves, arms = "", ""
        if "sleeve" not in noun and garment.kind not in ("jacket", "coat") and self.says(0.3):
            sleeves = "sleeveless" if garment.length == "none" else garment.length + self.pick(" sleeved", " sleeve")
            if garment.length != "none" and garment.pattern != "two-tone" and self.chance(0.35):
                sleeves, arms = "", f"{garment.length} sleeves"
        details = " and ".join(detail for detail in (pattern, arms) if detail)
        phrase = _words(_a(_words(length, openness, sleeves, look, noun)), details and f"with {details}", end, inner)
        return _Mention("upper", "wear", phrase, self._plain_clause(garment, noun, "is"))

    def _lower(self) -> _Mention:
        garment, noun = self.person.lower, self.kind(self.person.lower.kind)
        look, pattern = self._look(garment)
        plural = noun != "skirt"
        length, end = "", ""
        if garment.kind in ("shorts", "skirt"):
            length, end = self._length(garment, plural)
        elif garment.kind == "trousers" and self.says(0.1):
            length = "long"
        phrase = _words(length, look, noun)
        if not plural:
            phrase = _a(phrase)
        elif self.chance(0.35):
            phrase = f"a pair of {phrase}"
        phrase = _words(phrase, pattern and f"with {pattern}", end)
        return _Mention("lower", "wear", phrase, self._plain_clause(garment, noun, "are" if plural else "is"))

    def _shoes(self) -> _Mention:
        noun, colour = self.kind(self.person.shoes.kind), self.colour(self.person.shoes.colour)
        phrase = noun if self.chance(0.05) else f"{colour} {noun}"
        clause = self.pick(f"{self.owner()} {noun} are {colour}", f"on {self.their} feet are {colour} {noun}")
        return _Mention("shoes", "wear", f"a pair of {phrase}" if self.chance(0.4) else phrase, clause)

    # Head

    def _hair(self) -> _Mention:
        if self.person.hair == "bald":
            phrase = self.pick("a bald head", "a bald head", "a shaved head", "no hair")
            bald = self.pick("bald", "bald", "completely bald")
            return _Mention("hair", "have", phrase, f"{self._subject_is()} {bald}")
        name = self.person.hair_colour
        colour = self.chosen.setdefault(f"{name} hair", self.pick(*HAIR_COLOUR_WORDS.get(name, (name,))))
        owner, hair = self.owner(), f"{colour} hair"
        style = self.pick("a ponytail", "a ponytail", "a pony tail") if self.person.hair == "ponytail" else "a bun"
        tied = self.pick(f"in {style}", f"tied in {style}", f"pulled back into {style}", f"tied up in {style}")
        phrases = {
            "short": (f"short {hair}", f"short {hair}", f"short cut {hair}", "short hair", hair),
            "curly": (f"curly {hair}", f"curly {hair}", f"{colour} curls", "curly hair"),
            "bob": (f"chin length {hair}", f"{_a(colour)} bob", f"{hair} cut in a bob", f"bobbed {hair}"),
            "long": (f"long {hair}", f"long {hair}", f"long {hair} that hangs loose", f"{hair} past the shoulders"),
            "ponytail": (f"{hair} {tied}", f"{hair} {tied}", f"{hair} tied back", f"{_a(colour)} {style[2:]}"),
            "bun": (f"{hair} {tied}", f"{hair} {tied}", f"hair {tied}", f"{hair} up in a bun"),
        }
        clauses = {
            "short": (f"{owner} hair is short and {colour}", f"{owner} {hair} is short"),
            "curly": (f"{owner} hair is curly and {colour}", f"{owner} {hair} is curly"),
            "bob": (f"{owner} {hair} reaches the chin", f"{owner} {hair} is cut in a bob"),
            "long": (f"{owner} hair is long and {colour}", f"{owner} {hair} falls past the shoulders"),
            "ponytail": (f"{owner} {hair} is {tied}", f"{owner} hair is {colour} and {tied}"),
            "bun": (f"{owner} {hair} is {tied}", f"{owner} hair is {colour} and {tied}"),
        }
        style = self.person.hair
        return _Mention("hair", "have", self.pick(*phrases[style]), self.pick(*clauses[style]))

    def _subject_is(self) -> str:
        return f"{self.pronoun} are" if self.gender == "neutral" else f"{self.pronoun} is"

    def _beard(self) -> _Mention:
        phrase = self.pick("a beard", "a beard", "facial hair", "a full beard")
        return _Mention("beard", "have", phrase, f"there is a beard on {self.their} face")

    def _glasses(self) -> _Mention:
        assert self.person.glasses  # only what the person has is mentioned; likewise below
        phrase = self.kind(self.person.glasses)
        return _Mention("glasses", "wear", phrase, f"{self._subject_is()} wearing {phrase}")

    def _hat(self) -> _Mention:
        hat = self.person.hat
        assert hat
        noun, colour = self.kind(hat.kind), self.colour(hat.colour)
        thing = _a(noun if self.chance(0.06) else f"{colour} {noun}")
        place = f"on {self.their} head"
        clause = self.pick(f"{self.owner()} {noun} is {colour}", f"there is {thing} {place}", f"{place} is {thing}")
        return _Mention("hat", "wear", _words(thing, place if self.chance(0.3) else ""), clause)

    def _scarf(self) -> _Mention:
        assert self.person.scarf
        colour, place = self.colour(self.person.scarf), f"around {self.their} neck"
        thing = _a(f"{colour} scarf")
        clause = self.pick(f"{self.owner()} scarf is {colour}", f"there is {thing} {place}")
        return _Mention("scarf", "wear", _words(thing, place if self.chance(0.4) else ""), clause)

    def _belt(self) -> _Mention:
        assert self.person.belt
        colour = self.colour(self.person.belt)
        thing = _a(f"{colour} belt")
        clause = self.pick(f"{self.owner()} belt is {colour}", f"there is {thing} around {self.their} waist")
        return _Mention("belt", "wear", thing, clause)

    # Things carried

    def _thing(self, item: Item) -> str:
        """The item with its article; the colour is left out now and then, and always of a newspaper: it is printed."""
        says_colour = item.kind != "newspaper" and self.says(0.88)
        return _a(_words(self.colour(item.colour) if says_colour else "", self.kind(item.kind)))

    def _at_side(self, item: Item, body_part: str) -> str:
        """The side is the person's own and often left out."""
        return f"{self.their} {_words(item.side if self.says(0.6) else '', body_part)}"

    def _bag(self) -> _Mention:
        item = self.person.bag
        assert item
        places = {
            "backpack": (f"on {self.their} back", f"on {self.their} back", f"over {self.their} shoulders"),
            "shoulder bag": (f"across {self.their} body", f"on {self._at_side(item, 'hip')}"),
            "tote bag": (f"on {self._at_side(item, 'shoulder')}", f"under {self._at_side(item, 'arm')}"),
        }.get(item.kind, (f"in {self._at_side(item, 'hand')}",))
        verbs = {
            "backpack": ("carry", "wear", "wear", "have"),
            "shoulder bag": ("carry", "carry", "wear", "have"),
            "tote bag": ("carry", "carry", "have"),
        }.get(item.kind, ("carry", "carry", "hold", "have"))
        return self._item("bag", item, self.pick(*places), self.pick(*verbs))

    def _carried(self) -> _Mention:
        item = self.person.carried
        assert item
        place = f"in {self._at_side(item, 'hand')}"
        return self._item("carried", item, place, self.pick("hold", "hold", "hold", "carry", "have"))

    def _item(self, name: str, item: Item, place: str, verb: str) -> _Mention:
        thing, noun = self._thing(item), self.kind(item.kind)
        clauses = [f"there is {thing} {place}"]
        if item.kind != "newspaper":
            clauses.append(f"{self.owner()} {noun} is {self.colour(item.colour)}")
        if place.startswith(("in ", "on ")):
            clauses.append(f"{place} is {thing}")
        says_place = verb == "have" or self.chance(0.65)
        return _Mention(name, verb, _words(thing, place if says_place else ""), self.pick(*clauses))

    # Pose

    def _pose(self) -> _Mention:
        walks = self.sighting.pose == "walking"
        back = f"with {self.their} back to the camera"
        manner = {
            "front": ("toward the camera", "forward") if walks else ("facing the camera", "facing forward"),
            "back": ("away from the camera", "away", back) if walks else ("facing away", back),
        }.get(self.sighting.facing, ("to the side", "past the camera") if walks else ("sideways", "in profile"))
        phrase = f"{self.sighting.pose} {self.pick(*manner)}"
        turned = {"front": ("facing the camera",), "back": ("facing away from the camera", "seen from behind")}
        if self.chance(0.35):
            phrase = self.pick(*turned.get(self.sighting.facing, ("turned to the side", "seen from the side")))
        elif self.chance(0.15):
            phrase = self.sighting.pose
        return _Mention("pose", "be", phrase, f"{self._subject_is()} {phrase}")


class _Writer:
    """Spreads an annotator's mentions over sentences of many shapes."""

    def __init__(self, annotator: _Annotator):
        self.annotator, self.pick, self.chance = annotator, annotator.pick, annotator.chance
        self.oxford = self.chance(0.35)

    def text(self) -> str:
        mentions = self.annotator.mentions()
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

    def _things(self, group: list[_Mention]) -> str:
        phrases = [mention.phrase for mention in group]
        if [mention.name for mention in group] in (["upper", "lower"], ["upper", "shoes"]) and self.chance(0.3):
            return self.pick(" with ", " with ", " along with ", " as well as ").join(phrases)
        return self._listed(phrases)

    def _by_verb(self, mentions: list[_Mention]) -> list[list[_Mention]]:
        groups: dict[str, list[_Mention]] = {}
        for mention in mentions:
            groups.setdefault(mention.verb, []).append(mention)
        return list(groups.values())

    def _participle(self, group: list[_Mention], is_first: bool = True) -> str:
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

    def _finite(self, group: list[_Mention], plural: bool) -> str:
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

    def _clothes_only(self, group: list[_Mention]) -> bool:
        names = [mention.name for mention in group]
        return names[0] in ("upper", "lower") and set(names) <= {"upper", "lower", "shoes", "scarf", "belt"}

    def _predicates(self, groups: list[list[_Mention]], plural: bool) -> str:
        parts = [self._finite(group, plural) for group in groups]
        be = "are " if plural else "is "
        for i in range(1, len(parts)):  # "is walking and (is) wearing"
            if parts[i].startswith(be) and parts[i - 1].startswith(be) and self.chance(0.6):
                parts[i] = parts[i].removeprefix(be)
        if len(parts) == 2:
            return parts[0] + (", and " if len(groups[0]) > 1 or self.oxford else " and ") + parts[1]
        return ", ".join(parts[:-1]) + ", and " + parts[-1] if len(parts) > 2 else parts[0]

    def _attributes(self, groups: list[list[_Mention]]) -> str:
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

    def _opening(self, mentions: list[_Mention]) -> str:
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

    def _following(self, mentions: list[_Mention]) -> str:
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
        text = _Writer(_Annotator(person, sighting, rng)).text()
        if MIN_WORDS <= len(text.split()) <= MAX_WORDS:
            return _misspelt(text, rng) if rng.random() < TYPO_RATE else text
