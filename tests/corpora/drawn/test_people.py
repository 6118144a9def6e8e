import hashlib
import json
from collections import Counter
from dataclasses import asdict, replace

from ivt.corpora.drawn.people import GARMENT_COLOURS, NUM_CAMERAS, Person, Sighting, sample_person, sample_sighting
from ivt.corpora.drawn.synthetic import ROWS_VERSION

PEOPLE = [sample_person(0, "test", index) for index in range(400)]


def test_same_arguments_give_the_same_person_and_sighting() -> None:
    assert sample_person(3, "train", 5) == sample_person(3, "train", 5)
    assert sample_sighting(3, "train", 5, 2) == sample_sighting(3, "train", 5, 2)


def test_seed_split_and_index_each_give_other_people() -> None:
    people = {sample_person(seed, split, index) for seed in (0, 1) for split in ("train", "test") for index in (0, 1)}
    assert len(people) == 8


def test_no_two_people_are_alike_even_without_height_and_skin() -> None:
    assert len({replace(person, height=1.0, skin=0) for person in PEOPLE}) == len(PEOPLE)


def test_garment_colours_are_one_of_the_listed_pairs_and_each_pair_is_listed_once() -> None:
    pairs = [(upper, lower) for upper, lower, _ in GARMENT_COLOURS]
    assert len(set(pairs)) == len(pairs) == 28  # the number in the comment on GARMENT_COLOURS
    assert {(person.upper.colour, person.lower.colour) for person in PEOPLE} <= set(pairs)


def test_pairs_of_colours_come_as_often_as_their_weights_say() -> None:
    found = Counter()
    for index in range(3000):
        person = sample_person(1, "train", index)
        found[person.upper.colour, person.lower.colour] += 1
    total = sum(weight for *_, weight in GARMENT_COLOURS)
    for upper, lower, weight in GARMENT_COLOURS:
        expected = 3000 * weight / total
        assert abs(found[upper, lower] - expected) < 5 * expected**0.5  # five standard deviations of a count


def test_second_colour_differs_unless_the_garment_is_plain() -> None:
    for person in PEOPLE:
        for garment in (person.upper, person.lower):
            assert (garment.pattern == "plain") == (garment.second_colour == garment.colour)


def test_a_dress_is_both_garments_and_nothing_else_is() -> None:
    assert any(person.upper.kind == "dress" for person in PEOPLE)
    for person in PEOPLE:
        assert (person.upper.kind == "dress") == (person.lower.kind == "dress")


def test_bag_and_carried_thing_are_on_different_sides() -> None:
    both = [person for person in PEOPLE if person.bag and person.carried]
    assert both
    assert all(person.bag.side != person.carried.side for person in both)


def test_only_jackets_and_coats_show_an_inner_shirt() -> None:
    assert {person.upper.kind for person in PEOPLE if person.upper.inner_colour} == {"jacket", "coat"}


def test_first_pictures_come_from_different_cameras_and_the_first_two_are_never_both_from_behind() -> None:
    for index in range(200):
        sightings = [sample_sighting(0, "test", index, number) for number in range(NUM_CAMERAS)]
        assert sorted(sighting.camera for sighting in sightings) == list(range(NUM_CAMERAS))
        assert [sighting.facing for sighting in sightings[:2]] != ["back", "back"]
        assert all(-1 <= sighting.stride <= 1 for sighting in sightings)


def test_more_pictures_than_cameras_are_still_different() -> None:
    assert len({sample_sighting(0, "test", 0, number) for number in range(3 * NUM_CAMERAS)}) == 3 * NUM_CAMERAS


def test_records_become_json_with_every_field() -> None:
    person, sighting = PEOPLE[0], sample_sighting(0, "test", 0, 0)
    assert json.loads(json.dumps(person.to_dict())) == person.to_dict()
    assert set(person.to_dict()) == set(Person.__dataclass_fields__)
    assert Sighting(**asdict(sighting)) == sighting


def test_people_and_sightings_are_those_the_cached_corpora_were_drawn_from() -> None:
    """If this fails, the people have changed: raise `ROWS_VERSION` in corpora/synthetic.py, then the digest here."""
    records = [repr((sample_person(0, "test", i), sample_sighting(0, "test", i, i % 4))) for i in range(50)]
    digest = hashlib.sha256("\n".join(records).encode()).hexdigest()[:16]
    assert (ROWS_VERSION, digest) == (1, "2cfc15b355d1fee4")
