"""Drawn people as they were when this version of the drawing was made, on a sheet of small pictures.

Whoever changes pictures raises DRAWING_VERSION, and draws the sheet anew, which is to be looked at:

    PYTHONPATH=. python tests/corpora/drawn/test_golden_sheet.py
"""

from pathlib import Path

import numpy as np
from PIL import Image

from ivt.corpora.drawn.drawing import DRAWING_VERSION, draw_sighting
from ivt.corpora.drawn.people import NUM_CAMERAS, Person, Sighting, sample_person

SHEET = Path(__file__).parents[2] / "golden" / "drawn_people" / f"version_{DRAWING_VERSION}.png"
WIDTH, HEIGHT = 12, 30  # of a small picture, whose pixels are means of about 70
TOLERANCE = 2  # of 255: another Pillow may round otherwise, a cup without its lid changes more
FACINGS = ("front", "back", "left", "right")
# people of the drawn corpus who have together all that there is, see `things_of`
PEOPLE = (
    0, 1, 2, 5, 20, 48, 51, 60, 62, 109, 142, 194, 226, 260, 264, 379, 425, 461, 486, 488, 549,
    630, 712, 757, 769, 785, 875, 951, 952, 1269, 1429, 1487, 1630, 1779, 1826, 1844, 2030, 2499,
    2584, 2861,
)  # fmt: skip


def person_number(index: int) -> Person:
    return sample_person(0, "sheet", index)


def things_of(person: Person) -> set[tuple[object, ...]]:
    """All kinds of what a person has that are drawn in a way of their own."""
    upper, lower, hat, bag, carried = person.upper, person.lower, person.hat, person.bag, person.carried
    return {
        ("body", person.gender, person.build),
        ("hair", person.hair, hat is not None),
        ("hat", hat and hat.kind),
        ("face", person.glasses, person.beard),
        ("upper", upper.kind, upper.length, upper.inner_colour is not None),
        ("upper pattern", upper.pattern),
        ("lower", lower.kind, lower.length),
        ("lower pattern", lower.kind, lower.pattern),
        ("around", person.belt is not None, person.scarf is not None),
        ("shoes", person.shoes.kind),
        ("bag", bag and (bag.kind, bag.side)),
        ("carried", carried and (carried.kind, carried.side)),
    }


def draw_sheet() -> Image.Image:
    """A column per person: from the front, from the back, looking left and right; cameras and poses take turns."""
    sheet = Image.new("RGB", (WIDTH * len(PEOPLE), HEIGHT * len(FACINGS)))
    for column, index in enumerate(PEOPLE):
        for row, facing in enumerate(FACINGS):
            pose = ("standing", "walking")[(column // 2 + row) % 2]
            stride = ((7 * column + 5 * row) % 21 - 10) / 10
            sighting = Sighting((column + row) % NUM_CAMERAS, facing, pose, stride, seed=4 * column + row)
            picture = draw_sighting(person_number(index), sighting).image
            small = picture.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
            sheet.paste(small, (WIDTH * column, HEIGHT * row))
    return sheet


def test_people_of_the_sheet_have_all_that_people_have() -> None:
    everything = set().union(*(things_of(person_number(index)) for index in range(3000)))
    assert set().union(*(things_of(person_number(index)) for index in PEOPLE)) == everything


def test_pictures_change_only_with_their_version() -> None:
    with Image.open(SHEET) as golden:
        difference = np.abs(np.asarray(draw_sheet(), int) - np.asarray(golden, int)).max(axis=2)
    cells = difference.reshape(len(FACINGS), HEIGHT, len(PEOPLE), WIDTH).max(axis=(1, 3))
    changed = [(PEOPLE[column], FACINGS[row]) for row, column in np.argwhere(cells > TOLERANCE)]
    assert not changed, f"pictures changed: raise DRAWING_VERSION and draw the sheet anew; of {changed[:9]}"


if __name__ == "__main__":
    SHEET.parent.mkdir(exist_ok=True)
    draw_sheet().save(SHEET, optimize=True)
