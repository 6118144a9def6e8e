"""People of the drawn corpus: what a person looks like (`Person`) and how one picture sees them (`Sighting`).

Drawing (`drawing.py`) and captions (`captions.py`) both read these two records and nothing else, so a caption can
only speak of what is drawn. Everything is sampled from `random.Random` seeded with a string, which gives the same
people on every Python version and machine.

The colours of the two garments come from a short list of pairs (`GARMENT_COLOURS`), so that many people share both
colours and only finer details (pattern, cut, hair, shoes, bag, things carried) tell them apart.
"""

import random
from dataclasses import asdict, dataclass
from typing import Any

NUM_CAMERAS = 6
PARTS = ("hair", "upper", "lower", "shoes", "bag", "hat")  # part i has value i + 1 in a part map, 0 is everything else

# (colour of the upper garment, colour of the lower garment, weight). At most len(GARMENT_COLOURS) pairs exist however
# many people are drawn: with 200 people, knowing both colours finds the right one in at most 28 / 200 = 14 % of cases.
GARMENT_COLOURS = (
    ("black", "black", 3),
    ("black", "blue", 3),
    ("black", "gray", 2),
    ("black", "beige", 2),
    ("white", "black", 3),
    ("white", "blue", 3),
    ("white", "beige", 2),
    ("white", "white", 1),
    ("gray", "black", 3),
    ("gray", "blue", 2),
    ("gray", "gray", 1),
    ("blue", "black", 3),
    ("blue", "blue", 2),
    ("blue", "beige", 2),
    ("blue", "gray", 2),
    ("red", "black", 3),
    ("red", "blue", 2),
    ("red", "gray", 1),
    ("green", "black", 2),
    ("green", "brown", 1),
    ("pink", "black", 2),
    ("pink", "blue", 2),
    ("purple", "black", 1),
    ("yellow", "blue", 2),
    ("yellow", "black", 1),
    ("orange", "gray", 1),
    ("brown", "blue", 1),
    ("beige", "brown", 1),
)
ACCENT_COLOURS = (
    "black",
    "white",
    "gray",
    "blue",
    "red",
    "green",
    "yellow",
    "orange",
    "pink",
    "purple",
    "brown",
    "beige",
)
SHOE_COLOURS = (
    ("black", 4),
    ("white", 4),
    ("brown", 3),
    ("gray", 2),
    ("red", 2),
    ("blue", 2),
    ("pink", 1),
    ("green", 1),
)
HAIR_COLOURS = (("black", 6), ("dark brown", 4), ("brown", 3), ("blond", 3), ("gray", 2), ("red", 1))


@dataclass(frozen=True)
class Item:
    """Something worn or carried: its kind and colour, and the person's own side it is on ("left" or "right")."""

    kind: str
    colour: str
    side: str = "right"


@dataclass(frozen=True)
class Garment:
    """An upper or lower garment.

    Attributes:
        kind: upper: t-shirt, shirt, polo shirt, blouse, sweater, hoodie, tank top, jacket, coat, dress.
            lower: trousers, jeans, leggings, shorts, skirt, dress (then the upper garment is the same dress).
        colour: its main colour.
        pattern: plain, horizontal stripes, vertical stripes, plaid, dots, logo (upper only), two-tone (upper only:
            sleeves of the second colour), side stripe (lower only).
        second_colour: the colour of the pattern; equal to `colour` if plain.
        length: sleeves of an upper garment: none, short, long. Lower garment: ankle, knee, thigh.
        inner_colour: colour of the shirt that shows under an open jacket or coat, else None (closed).
    """

    kind: str
    colour: str
    pattern: str
    second_colour: str
    length: str
    inner_colour: str | None = None


@dataclass(frozen=True)
class Person:
    """All that stays the same about a person in every picture.

    `height` is relative (0.9 short … 1.1 tall), `skin` runs from 0 (lightest) to 5 (darkest).
    """

    gender: str  # woman, man
    build: str  # slim, average, heavy
    height: float
    skin: int
    hair: str  # short, curly, bob, long, ponytail, bun, bald
    hair_colour: str
    beard: bool
    hat: Item | None  # cap, beanie, sun hat
    glasses: str | None  # glasses, sunglasses
    upper: Garment
    lower: Garment
    belt: str | None  # its colour
    scarf: str | None  # its colour
    shoes: Item  # sneakers, boots, dress shoes, sandals, heels
    bag: Item | None  # backpack, shoulder bag (strap across the chest), handbag, tote bag, plastic bag
    carried: Item | None  # phone, umbrella, bottle, cup, book, newspaper; `side` is the hand

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionaries, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sighting:
    """One picture of a person.

    `facing` is what the camera sees: front, back, left (the person looks to the left edge of the picture), right.
    `pose` is standing or walking, `stride` in [-1, 1] the phase of the walk, `seed` drives all that does not matter
    to the person (background, framing, light, noise).
    """

    camera: int  # 0 … NUM_CAMERAS - 1
    facing: str
    pose: str
    stride: float
    seed: int


def _pick(rng: random.Random, weighted: tuple[tuple[str, int], ...]) -> str:
    names, weights = zip(*weighted, strict=True)
    return rng.choices(names, weights)[0]


def _other_colour(rng: random.Random, colour: str) -> str:
    return rng.choice([c for c in ACCENT_COLOURS if c != colour])


def _sample_upper(rng: random.Random, gender: str, colour: str) -> Garment:
    kinds = [("t-shirt", 5), ("shirt", 4), ("sweater", 3), ("hoodie", 3), ("jacket", 5), ("coat", 3), ("tank top", 1)]
    kinds += [("blouse", 3)] if gender == "woman" else [("polo shirt", 3)]
    kind = _pick(rng, tuple(kinds))
    length = {"t-shirt": "short", "polo shirt": "short", "tank top": "none"}.get(kind, "long")
    if kind in ("shirt", "blouse") and rng.random() < 0.35:
        length = "short"
    patterns = [("plain", 8), ("horizontal stripes", 3), ("vertical stripes", 1), ("plaid", 3), ("dots", 1)]
    if kind in ("t-shirt", "sweater", "hoodie"):
        patterns += [("logo", 4), ("two-tone", 2)]
    if kind in ("jacket", "coat"):
        patterns = [("plain", 8), ("plaid", 2), ("two-tone", 2)]
    pattern = _pick(rng, tuple(patterns))
    second = colour if pattern == "plain" else _other_colour(rng, colour)
    inner = _other_colour(rng, colour) if kind in ("jacket", "coat") and rng.random() < 0.6 else None
    return Garment(kind, colour, pattern, second, length, inner)


def _sample_lower(rng: random.Random, gender: str, colour: str) -> Garment:
    kinds = [("trousers", 6), ("shorts", 3)]
    kinds += [("jeans", 6)] if colour in ("blue", "black", "gray") else []
    kinds += [("skirt", 4), ("leggings", 2)] if gender == "woman" else []
    kind = _pick(rng, tuple(kinds))
    length = {"shorts": "knee", "skirt": rng.choice(["knee", "thigh", "ankle"])}.get(kind, "ankle")
    if kind == "shorts" and gender == "woman" and rng.random() < 0.5:
        length = "thigh"
    patterns = [("plain", 10)]
    patterns += [("side stripe", 2)] if kind in ("trousers", "leggings", "shorts") else []
    patterns += [("plaid", 2), ("dots", 1)] if kind in ("skirt", "shorts") else []
    pattern = _pick(rng, tuple(patterns))
    return Garment(kind, colour, pattern, colour if pattern == "plain" else _other_colour(rng, colour), length)


def sample_person(seed: int, split: str, index: int) -> Person:
    """Draw person number `index` of a split; the same arguments always give the same person."""
    rng = random.Random(f"person {seed} {split} {index}")
    gender = rng.choice(["woman", "man"])
    upper_colour, lower_colour, _ = rng.choices(GARMENT_COLOURS, [w for *_, w in GARMENT_COLOURS])[0]
    if gender == "woman" and upper_colour == lower_colour and rng.random() < 0.5:
        pattern = _pick(rng, (("plain", 4), ("dots", 2), ("horizontal stripes", 1)))
        second = upper_colour if pattern == "plain" else _other_colour(rng, upper_colour)
        upper = Garment("dress", upper_colour, pattern, second, rng.choice(["none", "short", "long"]))
        lower = Garment("dress", lower_colour, pattern, second, rng.choice(["knee", "knee", "thigh", "ankle"]))
    else:
        upper = _sample_upper(rng, gender, upper_colour)
        lower = _sample_lower(rng, gender, lower_colour)

    if gender == "woman":
        hair = _pick(rng, (("long", 5), ("ponytail", 4), ("bob", 3), ("bun", 2), ("curly", 2), ("short", 1)))
        shoes = _pick(rng, (("sneakers", 5), ("boots", 3), ("heels", 3), ("sandals", 2)))
    else:
        hair = _pick(rng, (("short", 8), ("curly", 2), ("bald", 2), ("long", 1)))
        shoes = _pick(rng, (("sneakers", 6), ("dress shoes", 3), ("boots", 3), ("sandals", 1)))
    shoe_colour = _pick(rng, SHOE_COLOURS)
    if shoes == "dress shoes":
        shoe_colour = rng.choice(["black", "brown"])
    hat_kinds = (("cap", 4), ("beanie", 2), ("sun hat", 2 if gender == "woman" else 1))
    bag_kinds = [("backpack", 6), ("shoulder bag", 4), ("plastic bag", 2), ("tote bag", 2)]
    bag_kinds += [("handbag", 5)] if gender == "woman" else []
    carried_kinds = (("phone", 4), ("umbrella", 2), ("bottle", 3), ("cup", 2), ("book", 2), ("newspaper", 1))
    bag = None
    if rng.random() < 0.65:
        bag = Item(_pick(rng, tuple(bag_kinds)), rng.choice(ACCENT_COLOURS), rng.choice(["left", "right"]))
    carried = None
    if rng.random() < 0.35:
        # what is carried is in the other hand than a bag
        side = rng.choice(["left", "right"]) if bag is None else {"left": "right", "right": "left"}[bag.side]
        carried = Item(_pick(rng, carried_kinds), rng.choice(ACCENT_COLOURS), side)
    has_waist = upper.kind in ("t-shirt", "shirt", "polo shirt", "blouse", "tank top") and lower.kind != "leggings"
    return Person(
        gender=gender,
        build=_pick(rng, (("slim", 3), ("average", 5), ("heavy", 2))),
        height=round(rng.uniform(0.9, 1.1), 3),
        skin=rng.choice([0, 0, 1, 1, 2, 2, 3, 4, 5]),
        hair=hair,
        hair_colour=_pick(rng, HAIR_COLOURS),
        beard=gender == "man" and rng.random() < 0.25,
        hat=Item(_pick(rng, hat_kinds), rng.choice(ACCENT_COLOURS)) if rng.random() < 0.25 else None,
        glasses=_pick(rng, (("glasses", 3), ("sunglasses", 1))) if rng.random() < 0.3 else None,
        upper=upper,
        lower=lower,
        belt=rng.choice(["black", "brown", "white", "red"]) if has_waist and rng.random() < 0.3 else None,
        scarf=rng.choice(ACCENT_COLOURS) if upper.length == "long" and rng.random() < 0.15 else None,
        shoes=Item(shoes, shoe_colour),
        bag=bag,
        carried=carried,
    )


def sample_sighting(seed: int, split: str, index: int, number: int) -> Sighting:
    """Draw picture `number` (0, 1, …) of person `index`: consecutive pictures come from different cameras.

    A person's first pictures show them from different sides; `number` 0 and 1 are never both from behind.
    """
    person_rng = random.Random(f"sightings {seed} {split} {index}")
    cameras = person_rng.sample(range(NUM_CAMERAS), NUM_CAMERAS)
    facings = person_rng.sample(["front", "front", "back", "left", "right", "front"], 6)
    rng = random.Random(f"sighting {seed} {split} {index} {number}")
    return Sighting(
        camera=cameras[number % NUM_CAMERAS],
        facing=facings[number % len(facings)],
        pose=rng.choice(["standing", "walking", "walking"]),
        stride=round(rng.uniform(-1.0, 1.0), 3),
        seed=rng.getrandbits(31),
    )
