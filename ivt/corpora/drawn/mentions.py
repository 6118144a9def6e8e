"""What an annotator mentions: for every thing of a person, whether it shows, how often it is named, in which words.

The table is `THINGS`. A mention is a phrase with the verb it goes with, and a clause of its own; `captions.py` makes
sentences of mentions. `a` is the annotator everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

from .annotator import Annotator, Mention, an, join
from .people import Garment, Item
from .words import HAIR_COLOUR_WORDS

POSE_RATE = 0.4
ORDERS = (  # from head to foot, clothes first, from foot to head, things first, hair last
    ("hair", "beard", "glasses", "hat", "scarf", "upper", "belt", "lower", "shoes", "bag", "carried"),
    ("upper", "scarf", "lower", "belt", "shoes", "hair", "beard", "glasses", "hat", "bag", "carried"),
    ("shoes", "lower", "belt", "upper", "scarf", "bag", "carried", "hat", "glasses", "beard", "hair"),
    ("bag", "carried", "upper", "scarf", "lower", "belt", "shoes", "hat", "hair", "glasses", "beard"),
    ("upper", "lower", "shoes", "bag", "carried", "scarf", "belt", "hat", "glasses", "beard", "hair"),
    ("hat", "hair", "glasses", "beard", "upper", "lower", "shoes", "belt", "scarf", "carried", "bag"),
)
ORDER_WEIGHTS = (6, 5, 1, 1, 3, 2)


def _pattern_before(a: Annotator, garment: Garment) -> str:
    """Pattern and colours as said before the noun ("red and white striped"), "" if they cannot be."""
    adjectives = {
        "horizontal stripes": ("striped", "striped", "horizontally striped"),
        "vertical stripes": ("striped", "vertically striped", "pinstriped"),
        "plaid": ("plaid", "plaid", "checkered", "checked"),
        "dots": ("polka dot", "dotted", "spotted"),
    }
    if garment.pattern not in adjectives:
        return ""
    adjective = a.pick(*adjectives[garment.pattern])
    first, second = a.colour(garment.colour), a.colour(garment.second_colour)
    both = f"{first} and {second}"
    return a.pick(*4 * [f"{both} {adjective}"], f"{adjective} {both}", f"{first} {adjective}", adjective)


def _pattern_behind(a: Annotator, garment: Garment) -> str:
    """The pattern as said after "with" ("white stripes"), "" if there is none to see."""
    if garment.pattern == "plain" or (garment.pattern == "logo" and not a.from_front):
        return ""
    colour = a.colour(garment.second_colour)
    options = {
        "horizontal stripes": (f"{colour} stripes", f"{colour} horizontal stripes", f"{colour} stripes across it"),
        "vertical stripes": (f"{colour} vertical stripes", f"thin {colour} stripes", f"{colour} stripes"),
        "plaid": (f"{an(colour)} plaid pattern", f"{colour} checks", f"{an(colour)} checkered pattern"),
        "dots": (f"{colour} polka dots", f"{colour} dots", f"small {colour} dots", f"{colour} spots"),
        "logo": (
            f"{an(colour)} logo on the front",
            f"{an(colour)} logo on the chest",
            f"{an(colour)} print on the front",
            f"{an(colour)} design on it",
        ),
        "two-tone": (f"{colour} sleeves", f"{colour} sleeves", f"{colour} arms"),
        "side stripe": (
            f"{an(colour)} stripe down the side",
            f"{an(colour)} stripe along each leg",
            f"{colour} stripes on the sides",
        ),
    }
    return a.pick(*options[garment.pattern])


def _look(a: Annotator, garment: Garment) -> tuple[str, str]:
    """What is said of colour and pattern before the noun, and after "with"."""
    if garment.pattern == "plain":
        return join(a.pick("plain", "solid") if a.says(0.05) else "", a.colour(garment.colour)), ""
    if not a.says(0.88):  # the colour alone
        return a.colour(garment.colour), ""
    before = _pattern_before(a, garment)
    if before and a.chance(0.6):
        return before, ""
    return a.colour(garment.colour), _pattern_behind(a, garment)


def _plain_clause(a: Annotator, garment: Garment, noun: str, be: str) -> str:
    pattern = _pattern_behind(a, garment)
    return f"{a.owner()} {noun} {be} {a.colour(garment.colour)}" + (f" with {pattern}" if pattern else "")


def _length(a: Annotator, garment: Garment, plural: bool) -> tuple[str, str]:
    """How long a skirt, dress or shorts are, said before the noun or behind everything; mostly neither."""
    if not a.says(0.45):
        return "", ""
    if a.chance(0.6):
        before = {"thigh": ("short",), "knee": ("knee length",), "ankle": ("long", "ankle length")}
        return a.pick(*before[garment.length]), ""
    place = {"thigh": "above the knee", "knee": "at the knee", "ankle": "at the ankle"}[garment.length]
    end = a.pick("that end", "that stop") + ("" if plural else "s")
    return "", f"{a.pick(end, end, 'ending')} {place}{a.pick('', 's')}"


def _inner(a: Annotator, garment: Garment) -> tuple[str, str]:
    """The shirt under an open jacket, hidden from behind: words before the noun and behind everything."""
    if garment.inner_colour is None or a.from_behind or not a.says(0.65 if a.from_front else 0.25):
        return "", ""
    inner = an(f"{a.colour(garment.inner_colour)} {a.pick('shirt', 'shirt', 't-shirt', 'top')}")
    over = a.pick("over", "over", "on top of")
    return a.pick("", "", "open", "unbuttoned"), f"{over} {inner}"


def _upper(a: Annotator) -> Mention:
    garment, noun = a.person.upper, a.kind(a.person.upper.kind)
    look, pattern = _look(a, garment)
    length, end = _length(a, a.person.lower, plural=False) if garment.kind == "dress" else ("", "")
    openness, inner = _inner(a, garment)
    sleeves, arms = "", ""
    if "sleeve" not in noun and garment.kind not in ("jacket", "coat") and a.says(0.3):
        sleeves = "sleeveless" if garment.length == "none" else garment.length + a.pick(" sleeved", " sleeve")
        if garment.length != "none" and garment.pattern != "two-tone" and a.chance(0.35):
            sleeves, arms = "", f"{garment.length} sleeves"
    details = " and ".join(detail for detail in (pattern, arms) if detail)
    phrase = join(an(join(length, openness, sleeves, look, noun)), details and f"with {details}", end, inner)
    return Mention("upper", "wear", phrase, _plain_clause(a, garment, noun, "is"))


def _lower(a: Annotator) -> Mention:
    garment, noun = a.person.lower, a.kind(a.person.lower.kind)
    look, pattern = _look(a, garment)
    plural = noun != "skirt"
    length, end = "", ""
    if garment.kind in ("shorts", "skirt"):
        length, end = _length(a, garment, plural)
    elif garment.kind == "trousers" and a.says(0.1):
        length = "long"
    phrase = join(length, look, noun)
    if not plural:
        phrase = an(phrase)
    elif a.chance(0.35):
        phrase = f"a pair of {phrase}"
    phrase = join(phrase, pattern and f"with {pattern}", end)
    return Mention("lower", "wear", phrase, _plain_clause(a, garment, noun, "are" if plural else "is"))


def _shoes(a: Annotator) -> Mention:
    noun, colour = a.kind(a.person.shoes.kind), a.colour(a.person.shoes.colour)
    phrase = noun if a.chance(0.05) else f"{colour} {noun}"
    clause = a.pick(f"{a.owner()} {noun} are {colour}", f"on {a.their} feet are {colour} {noun}")
    return Mention("shoes", "wear", f"a pair of {phrase}" if a.chance(0.4) else phrase, clause)


def _hair(a: Annotator) -> Mention:
    if a.person.hair == "bald":
        phrase = a.pick("a bald head", "a bald head", "a shaved head", "no hair")
        bald = a.pick("bald", "bald", "completely bald")
        return Mention("hair", "have", phrase, f"{a.subject_is()} {bald}")
    name = a.person.hair_colour
    colour = a.chosen.setdefault(f"{name} hair", a.pick(*HAIR_COLOUR_WORDS.get(name, (name,))))
    owner, hair = a.owner(), f"{colour} hair"
    style = a.pick("a ponytail", "a ponytail", "a pony tail") if a.person.hair == "ponytail" else "a bun"
    tied = a.pick(f"in {style}", f"tied in {style}", f"pulled back into {style}", f"tied up in {style}")
    phrases = {
        "short": (f"short {hair}", f"short {hair}", f"short cut {hair}", "short hair", hair),
        "curly": (f"curly {hair}", f"curly {hair}", f"{colour} curls", "curly hair"),
        "bob": (f"chin length {hair}", f"{an(colour)} bob", f"{hair} cut in a bob", f"bobbed {hair}"),
        "long": (f"long {hair}", f"long {hair}", f"long {hair} that hangs loose", f"{hair} past the shoulders"),
        "ponytail": (f"{hair} {tied}", f"{hair} {tied}", f"{hair} tied back", f"{an(colour)} {style[2:]}"),
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
    style = a.person.hair
    return Mention("hair", "have", a.pick(*phrases[style]), a.pick(*clauses[style]))


def _beard(a: Annotator) -> Mention:
    phrase = a.pick("a beard", "a beard", "facial hair", "a full beard")
    return Mention("beard", "have", phrase, f"there is a beard on {a.their} face")


def _glasses(a: Annotator) -> Mention:
    assert a.person.glasses  # only what the person has is mentioned; likewise below
    phrase = a.kind(a.person.glasses)
    return Mention("glasses", "wear", phrase, f"{a.subject_is()} wearing {phrase}")


def _hat(a: Annotator) -> Mention:
    hat = a.person.hat
    assert hat
    noun, colour = a.kind(hat.kind), a.colour(hat.colour)
    thing = an(noun if a.chance(0.06) else f"{colour} {noun}")
    place = f"on {a.their} head"
    clause = a.pick(f"{a.owner()} {noun} is {colour}", f"there is {thing} {place}", f"{place} is {thing}")
    return Mention("hat", "wear", join(thing, place if a.chance(0.3) else ""), clause)


def _scarf(a: Annotator) -> Mention:
    assert a.person.scarf
    colour, place = a.colour(a.person.scarf), f"around {a.their} neck"
    thing = an(f"{colour} scarf")
    clause = a.pick(f"{a.owner()} scarf is {colour}", f"there is {thing} {place}")
    return Mention("scarf", "wear", join(thing, place if a.chance(0.4) else ""), clause)


def _belt(a: Annotator) -> Mention:
    assert a.person.belt
    colour = a.colour(a.person.belt)
    thing = an(f"{colour} belt")
    clause = a.pick(f"{a.owner()} belt is {colour}", f"there is {thing} around {a.their} waist")
    return Mention("belt", "wear", thing, clause)


def _thing(a: Annotator, item: Item) -> str:
    """The item with its article; the colour is left out now and then, and always of a newspaper: it is printed."""
    says_colour = item.kind != "newspaper" and a.says(0.88)
    return an(join(a.colour(item.colour) if says_colour else "", a.kind(item.kind)))


def _at_side(a: Annotator, item: Item, body_part: str) -> str:
    """The side is the person's own and often left out."""
    return f"{a.their} {join(item.side if a.says(0.6) else '', body_part)}"


def _bag(a: Annotator) -> Mention:
    item = a.person.bag
    assert item
    places = {
        "backpack": (f"on {a.their} back", f"on {a.their} back", f"over {a.their} shoulders"),
        "shoulder bag": (f"across {a.their} body", f"on {_at_side(a, item, 'hip')}"),
        "tote bag": (f"on {_at_side(a, item, 'shoulder')}", f"under {_at_side(a, item, 'arm')}"),
    }.get(item.kind, (f"in {_at_side(a, item, 'hand')}",))
    verbs = {
        "backpack": ("carry", "wear", "wear", "have"),
        "shoulder bag": ("carry", "carry", "wear", "have"),
        "tote bag": ("carry", "carry", "have"),
    }.get(item.kind, ("carry", "carry", "hold", "have"))
    return _item(a, "bag", item, a.pick(*places), a.pick(*verbs))


def _carried(a: Annotator) -> Mention:
    item = a.person.carried
    assert item
    place = f"in {_at_side(a, item, 'hand')}"
    return _item(a, "carried", item, place, a.pick("hold", "hold", "hold", "carry", "have"))


def _item(a: Annotator, name: str, item: Item, place: str, verb: str) -> Mention:
    thing, noun = _thing(a, item), a.kind(item.kind)
    clauses = [f"there is {thing} {place}"]
    if item.kind != "newspaper":
        clauses.append(f"{a.owner()} {noun} is {a.colour(item.colour)}")
    if place.startswith(("in ", "on ")):
        clauses.append(f"{place} is {thing}")
    says_place = verb == "have" or a.chance(0.65)
    return Mention(name, verb, join(thing, place if says_place else ""), a.pick(*clauses))


def _pose(a: Annotator) -> Mention:
    walks = a.sighting.pose == "walking"
    back = f"with {a.their} back to the camera"
    manner = {
        "front": ("toward the camera", "forward") if walks else ("facing the camera", "facing forward"),
        "back": ("away from the camera", "away", back) if walks else ("facing away", back),
    }.get(a.sighting.facing, ("to the side", "past the camera") if walks else ("sideways", "in profile"))
    phrase = f"{a.sighting.pose} {a.pick(*manner)}"
    turned = {"front": ("facing the camera",), "back": ("facing away from the camera", "seen from behind")}
    if a.chance(0.35):
        phrase = a.pick(*turned.get(a.sighting.facing, ("turned to the side", "seen from the side")))
    elif a.chance(0.15):
        phrase = a.sighting.pose
    return Mention("pose", "be", phrase, f"{a.subject_is()} {phrase}")


def _hair_shows(a: Annotator) -> bool:
    hidden = ("bald", "bun", "short") if a.from_front else ("bald", "bun")
    return a.person.hat is None or a.person.hair not in hidden


def _bag_shows(a: Annotator) -> bool:
    bag = a.person.bag
    if bag is None:
        return False
    return bag.kind not in ("shoulder bag", "tote bag") or bag.side != a.far_side()


def _bag_rate(a: Annotator) -> float:
    bag = a.person.bag
    assert bag
    if bag.kind == "backpack":
        return {"back": 0.93, "front": 0.5}.get(a.sighting.facing, 0.85)
    return 0.4 * 0.75 if bag.side == a.far_side() else 0.75


def _carried_shows(a: Annotator) -> bool:
    carried = a.person.carried
    if carried is None:
        return False
    return not a.from_behind or carried.kind in ("umbrella", "bottle")  # the rest is held before the body


def _carried_rate(a: Annotator) -> float:
    carried = a.person.carried
    assert carried
    if carried.side == a.far_side():
        return 0.4 * 0.65
    return 0.6 * 0.65 if a.from_behind else 0.65


@dataclass(frozen=True)
class Thing:
    """Something of a person that a caption may speak of.

    Attributes:
        shows: whether it can be seen in the annotator's picture.
        rate: how likely an annotator of average care speaks of it then.
        mention: what this annotator says.
    """

    shows: Callable[[Annotator], bool]
    rate: Callable[[Annotator], float]
    mention: Callable[[Annotator], Mention]


def _always(a: Annotator) -> bool:
    return True


def _rate(rate: float, from_behind: float = 1.0) -> Callable[[Annotator], float]:
    """A rate that is multiplied by `from_behind` in a view from the back."""
    return lambda a: from_behind * rate if a.from_behind else rate


THINGS = {
    "upper": Thing(_always, _rate(0.985), _upper),
    # a dress is spoken of as the upper garment
    "lower": Thing(lambda a: a.person.lower.kind != "dress", _rate(0.96), _lower),
    "shoes": Thing(_always, _rate(0.65), _shoes),
    "hair": Thing(_hair_shows, _rate(0.62), _hair),
    "bag": Thing(_bag_shows, _bag_rate, _bag),
    "carried": Thing(_carried_shows, _carried_rate, _carried),
    "hat": Thing(lambda a: a.person.hat is not None, _rate(0.75), _hat),
    "glasses": Thing(lambda a: a.person.glasses is not None and not a.from_behind, _rate(0.5), _glasses),
    "beard": Thing(lambda a: a.person.beard and not a.from_behind, _rate(0.45), _beard),
    "belt": Thing(lambda a: a.person.belt is not None, _rate(0.3, from_behind=0.6), _belt),
    "scarf": Thing(lambda a: a.person.scarf is not None, _rate(0.7, from_behind=0.6), _scarf),
}


def mentions_of(a: Annotator) -> list[Mention]:
    """What this annotator speaks of, in their order."""
    order = a.rng.choices(ORDERS, ORDER_WEIGHTS)[0]
    things = [THINGS[name] for name in order]
    mentions = [thing.mention(a) for thing in things if thing.shows(a) and a.says(thing.rate(a))]
    if a.says(POSE_RATE):
        mentions.insert(a.rng.choice((0, 1, len(mentions))), _pose(a))
    return mentions
