import hashlib
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from ivt.corpora.drawn.drawing import Picture, draw_sighting
from ivt.corpora.drawn.people import (
    NUM_CAMERAS,
    PARTS,
    Garment,
    Item,
    Person,
    Sighting,
    sample_person,
    sample_sighting,
)

ROOT = Path(__file__).parents[3]
FACINGS = ("front", "back", "left", "right")
STANDING = Sighting(camera=0, facing="front", pose="standing", stride=0.3, seed=5)
MAN = Person(
    gender="man", build="average", height=1.0, skin=1, hair="short", hair_colour="brown", beard=False, hat=None,
    glasses=None, upper=Garment("t-shirt", "red", "plain", "red", "short"),
    lower=Garment("trousers", "gray", "plain", "gray", "ankle"), belt=None, scarf=None,
    shoes=Item("sneakers", "black"), bag=None, carried=None,
)  # fmt: skip

UPPER_KINDS = (
    "t-shirt", "shirt", "polo shirt", "blouse", "sweater", "hoodie", "tank top", "jacket", "coat", "dress",
)  # fmt: skip
LOWER_KINDS = ("trousers", "jeans", "leggings", "shorts", "skirt")
UPPER_PATTERNS = ("plain", "horizontal stripes", "vertical stripes", "plaid", "dots", "logo", "two-tone")
LOWER_PATTERNS = ("plain", "plaid", "dots", "side stripe")
HAIR = ("short", "curly", "bob", "long", "ponytail", "bun", "bald")
HATS = ("cap", "beanie", "sun hat")
SHOES = ("sneakers", "boots", "dress shoes", "sandals", "heels")
BAGS = ("backpack", "shoulder bag", "handbag", "tote bag", "plastic bag")
CARRIED = ("phone", "umbrella", "bottle", "cup", "book", "newspaper")


def digest(picture: Picture) -> str:
    return hashlib.sha256(picture.image.tobytes() + picture.part_map.tobytes()).hexdigest()


def everyone() -> list[Person]:
    """People with all enumerated kinds of each attribute among them."""
    lengths, people = ("ankle", "knee", "thigh"), []
    for i in range(2 * len(UPPER_KINDS)):
        kind, pattern = UPPER_KINDS[i % len(UPPER_KINDS)], UPPER_PATTERNS[i % len(UPPER_PATTERNS)]
        inner = "red" if i % 2 and kind in ("jacket", "coat") else None
        top = Garment(kind, "green", pattern, "white", ("long", "short", "none")[i % 3], inner)
        bottom = "dress" if kind == "dress" else LOWER_KINDS[i % len(LOWER_KINDS)]
        person = Person(
            gender=("man", "woman")[i // len(UPPER_KINDS)],
            build=("slim", "average", "heavy")[i % 3],
            height=1.0,
            skin=i % 6,
            hair=HAIR[i % len(HAIR)],
            hair_colour="brown",
            beard=i % 2 == 0,
            hat=Item((*HATS, "cap")[i % 4], "red") if i % 5 else None,
            glasses=(None, "glasses", "sunglasses")[i % 3],
            upper=top,
            lower=Garment(bottom, "blue", LOWER_PATTERNS[i % len(LOWER_PATTERNS)], "white", lengths[i % 3]),
            belt="brown" if i % 2 else None,
            scarf="red" if i % 3 == 0 else None,
            shoes=Item(SHOES[i % len(SHOES)], "brown"),
            bag=Item(BAGS[i % len(BAGS)], "blue", ("left", "right")[i // len(BAGS) % 2]),
            carried=Item(CARRIED[i % len(CARRIED)], "red", ("left", "right")[i // len(CARRIED) % 2]),
        )
        people.append(person)
    return people


def test_same_sighting_gives_the_same_bytes_whatever_was_drawn_before() -> None:
    person, sighting = sample_person(0, "test", 1), sample_sighting(0, "test", 1, 0)
    first = digest(draw_sighting(person, sighting))
    for index in range(3):
        draw_sighting(sample_person(0, "test", index), sample_sighting(0, "test", index, 1))
    assert digest(draw_sighting(person, sighting)) == first


def test_a_fresh_process_draws_the_same_bytes() -> None:
    code = (
        "from tests.corpora.drawn.test_drawing import *\n"
        "for i in range(3):\n"
        "    print(digest(draw_sighting(sample_person(0, 'test', i), sample_sighting(0, 'test', i, 0))))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    here = [digest(draw_sighting(sample_person(0, "test", i), sample_sighting(0, "test", i, 0))) for i in range(3)]
    assert result.stdout.split() == here


@pytest.mark.parametrize("pose", ["standing", "walking"])
@pytest.mark.parametrize("facing", FACINGS)
def test_every_kind_of_every_attribute_is_drawn(facing: str, pose: str) -> None:
    sighting = Sighting(2, facing, pose, -0.8, 3)
    for person in everyone():
        picture = draw_sighting(person, sighting)
        assert picture.image.mode == "RGB" and picture.part_map.mode == "L"
        assert picture.image.size == picture.part_map.size
        assert {"upper", "lower", "shoes"} <= set(picture.boxes), person
        assert ("hair" in picture.boxes) == (person.hair != "bald"), person


def changes(person: Person, sighting: Sighting = STANDING) -> float:
    """Share of pixels in which a person differs from `MAN` clearly."""
    pictures = [np.asarray(draw_sighting(p, sighting).image, int) for p in (MAN, person)]
    return float((np.abs(pictures[0] - pictures[1]).sum(axis=2) > 40).mean())


@pytest.mark.parametrize(
    "change",
    [
        *({"upper": replace(MAN.upper, kind=kind)} for kind in UPPER_KINDS if kind != "t-shirt"),
        *({"upper": replace(MAN.upper, pattern=p, second_colour="white")} for p in UPPER_PATTERNS if p != "plain"),
        *({"upper": replace(MAN.upper, length=length)} for length in ("none", "long")),
        *({"lower": replace(MAN.lower, kind=kind)} for kind in LOWER_KINDS if kind != "trousers"),
        *({"lower": replace(MAN.lower, pattern=p, second_colour="white")} for p in LOWER_PATTERNS if p != "plain"),
        *({"lower": replace(MAN.lower, length=length)} for length in ("knee", "thigh")),
        *({"hat": Item(kind, "green")} for kind in HATS),
        *({"bag": Item(kind, "green")} for kind in BAGS),
        *({"carried": Item(kind, "yellow")} for kind in CARRIED),
        *({"shoes": Item(kind, "black")} for kind in SHOES if kind != "sneakers"),
        *({"glasses": kind} for kind in ("glasses", "sunglasses")),
        {"belt": "white"},
        {"scarf": "green"},
        {"beard": True},
    ],
    ids=str,
)
def test_every_attribute_changes_the_picture(change: dict) -> None:
    assert changes(replace(MAN, **change)) > 0.0005


def test_boxes_are_those_of_the_part_map() -> None:
    for index in range(12):
        picture = draw_sighting(sample_person(0, "boxes", index), sample_sighting(0, "boxes", index, 0))
        part_map = np.asarray(picture.part_map)
        assert set(np.unique(part_map)) <= set(range(len(PARTS) + 1))
        for value, part in enumerate(PARTS, start=1):
            mask = Image.fromarray((part_map == value).astype(np.uint8))
            assert picture.boxes.get(part) == mask.getbbox()  # Pillow's own, None if there is nothing


def test_every_part_of_a_person_is_seen_from_the_front() -> None:
    for index in range(60):
        person = sample_person(0, "parts", index)
        boxes = draw_sighting(person, replace(sample_sighting(0, "parts", index, 0), facing="front")).boxes
        expected = {"upper", "lower", "shoes"} | ({"hair"} if person.hair != "bald" else set())
        expected |= {name for name in ("bag", "hat") if getattr(person, name)}
        assert set(boxes) == expected, person


def test_parts_are_where_they_belong_on_the_body() -> None:
    for facing in FACINGS:
        boxes = draw_sighting(replace(MAN, hat=Item("cap", "blue")), replace(STANDING, facing=facing)).boxes
        tops = [boxes[part][1] for part in ("hat", "upper", "lower", "shoes")]
        assert tops == sorted(tops)
        assert boxes["shoes"][3] == max(bottom for *_, bottom in boxes.values())


@pytest.mark.parametrize(("part", "garment"), [("upper", "upper"), ("lower", "lower")])
def test_another_colour_of_a_garment_changes_that_part_only(part: str, garment: str) -> None:
    changed = replace(MAN, **{garment: replace(getattr(MAN, garment), colour="green", second_colour="green")})
    before, after = draw_sighting(MAN, STANDING), draw_sighting(changed, STANDING)
    assert before.part_map.tobytes() == after.part_map.tobytes()
    difference = np.abs(np.asarray(before.image, int) - np.asarray(after.image, int)).sum(axis=2) > 12
    inside = np.asarray(before.part_map) == PARTS.index(part) + 1
    assert difference[inside].mean() > 0.9
    near = np.asarray(Image.fromarray(inside).convert("L").filter(ImageFilter.MaxFilter(5))) > 0
    assert not difference[~near].any()  # the camera's blur reaches two pixels


def test_a_person_keeps_their_shade_and_another_has_their_own() -> None:
    def mean_colour(person: Person, facing: str) -> np.ndarray:
        picture = draw_sighting(person, replace(STANDING, facing=facing))
        return np.asarray(picture.image)[np.asarray(picture.part_map) == PARTS.index("upper") + 1].mean(axis=0)

    others = [replace(MAN, height=1 + i / 1000) for i in range(8)]
    between_views = max(np.abs(mean_colour(p, "front") - mean_colour(p, "back")).max() for p in others)
    spread = np.ptp([mean_colour(p, "front") for p in others], axis=0).max()
    assert spread > 2 * between_views


def test_every_camera_has_its_own_colours() -> None:
    for facing in ("front", "left"):
        means = []
        for camera in range(NUM_CAMERAS):
            pictures = [draw_sighting(MAN, Sighting(camera, facing, "standing", 0.1, seed)) for seed in range(6)]
            person = [np.asarray(p.image)[np.asarray(p.part_map) > 0].mean(axis=0) for p in pictures]
            means.append(np.mean(person, axis=0))
        assert min(np.abs(a - b).max() for a, b in combinations(means, 2)) > 3


@pytest.mark.parametrize("kind", ["handbag", "plastic bag", "tote bag", "shoulder bag"])
def test_the_persons_right_is_left_in_the_picture_from_the_front_and_right_from_behind(kind: str) -> None:
    def offset(facing: str, side: str) -> float:
        boxes = draw_sighting(replace(MAN, bag=Item(kind, "blue", side)), replace(STANDING, facing=facing)).boxes
        return (boxes["bag"][0] + boxes["bag"][2] - boxes["upper"][0] - boxes["upper"][2]) / 2

    assert offset("front", "right") < 0 < offset("front", "left")
    assert offset("back", "left") < 0 < offset("back", "right")


@pytest.mark.parametrize("kind", ["handbag", "shoulder bag", "tote bag"])
def test_a_bag_on_the_far_side_is_mostly_hidden(kind: str) -> None:
    def visible(facing: str, side: str) -> int:
        picture = draw_sighting(replace(MAN, bag=Item(kind, "blue", side)), replace(STANDING, facing=facing))
        return int((np.asarray(picture.part_map) == PARTS.index("bag") + 1).sum())

    for side, other in (("left", "right"), ("right", "left")):
        assert visible(side, side) > 2 * visible(side, other)  # who looks to the left shows their left side


def test_a_cap_points_where_the_person_looks() -> None:
    for facing in ("left", "right"):
        boxes = draw_sighting(replace(MAN, hat=Item("cap", "red")), replace(STANDING, facing=facing)).boxes
        beyond_left, beyond_right = boxes["hair"][0] - boxes["hat"][0], boxes["hat"][2] - boxes["hair"][2]
        assert (beyond_left > beyond_right) == (facing == "left")


def test_a_logo_is_on_the_chest_only() -> None:
    logo = replace(MAN, upper=replace(MAN.upper, pattern="logo", second_colour="white"))
    for facing in FACINGS:
        sighting = replace(STANDING, facing=facing)
        assert (digest(draw_sighting(logo, sighting)) != digest(draw_sighting(MAN, sighting))) == (facing == "front")


def test_crops_have_many_sizes_and_the_shape_of_a_person() -> None:
    sizes = {draw_sighting(MAN, replace(STANDING, seed=seed)).image.size for seed in range(30)}
    assert len(sizes) > 20
    assert all(220 <= height <= 290 and 2.2 < height / width < 3.1 for width, height in sizes)
