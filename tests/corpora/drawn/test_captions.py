import hashlib
import re
import statistics
from dataclasses import replace

import pytest

from ivt.corpora.drawn import captions
from ivt.corpora.drawn.captions import CAPTIONS_VERSION, MAX_WORDS, MIN_WORDS, TYPO_RATE, describe
from ivt.corpora.drawn.people import Garment, Item, Person, Sighting, sample_person, sample_sighting
from ivt.corpora.drawn.words import COLOUR_WORDS

PICTURES = [
    (sample_person(0, "train", index), sample_sighting(0, "train", index, number))
    for index in range(400)
    for number in range(4)
]
# sha256 of the captions below, by CAPTIONS_VERSION: whoever changes captions must raise the version
DIGESTS = {3: "479f773f198a48d23cd59b3e88b6e6e2175059dc181367e8f557a91ebeabfcbe"}


@pytest.fixture(scope="module")
def written() -> list[tuple[str, str]]:
    """Both captions of each of PICTURES."""
    return [(describe(*picture, 0), describe(*picture, 1)) for picture in PICTURES]


@pytest.fixture(scope="module")
def clean() -> list[tuple[Person, Sighting, str]]:
    """The same captions without typos."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(captions, "TYPO_RATE", 0.0)
        return [(*picture, describe(*picture, number)) for picture in PICTURES for number in (0, 1)]


PLURAL = "(pants|jeans|trousers|slacks|shorts|tights|leggings|shoes|boots|sneakers|sandals|heels|trainers|curls)"


def laden(facing: str, **changes: object) -> list[str]:
    """200 captions of a man with everything a person can have, seen from one side."""
    man = next(person for person, _ in PICTURES if person.gender == "man")
    jacket = Garment("jacket", "blue", "two-tone", "gray", "long", inner_colour="yellow")
    shorts = Garment("shorts", "black", "side stripe", "white", "knee")
    bag, phone = Item("tote bag", "pink", "left"), Item("phone", "white", "right")
    things = {"hair": "short", "beard": True, "hat": Item("cap", "red"), "glasses": "glasses", "belt": "brown"}
    things |= {"scarf": "purple", "upper": jacket, "lower": shorts, "bag": bag, "carried": phone}
    man = replace(man, **(things | changes))
    return [describe(man, Sighting(0, facing, "walking", 0.5, seed), 0).lower() for seed in range(200)]


def count(pattern: str, texts: list[str]) -> int:
    return sum(re.search(pattern, text) is not None for text in texts)


def test_captions_change_only_with_their_version(written: list[tuple[str, str]]) -> None:
    digest = hashlib.sha256("\n".join(text for both in written for text in both).encode()).hexdigest()
    assert digest == DIGESTS[CAPTIONS_VERSION], "captions changed: raise CAPTIONS_VERSION and note the new digest"


def test_captions_are_as_long_as_those_of_cuhk_pedes(written: list[tuple[str, str]]) -> None:
    lengths = [len(text.split()) for both in written for text in both]
    assert MIN_WORDS == 15 <= min(lengths)
    assert max(lengths) <= MAX_WORDS == 60
    assert 28 <= statistics.fmean(lengths) <= 35
    assert statistics.stdev(lengths) > 6


def test_two_captions_of_a_picture_differ(written: list[tuple[str, str]]) -> None:
    assert not [first for first, second in written if first == second]


def test_captions_hardly_repeat_across_pictures(written: list[tuple[str, str]]) -> None:
    texts = [text for both in written for text in both]
    assert len(set(texts)) >= 0.999 * len(texts)


def test_one_caption_in_forty_has_one_misspelt_word(
    written: list[tuple[str, str]], clean: list[tuple[Person, Sighting, str]]
) -> None:
    texts = [text for both in written for text in both]
    num_wrong = []
    for text, (_, _, right) in zip(texts, clean, strict=True):
        num_wrong.append(sum(a != b for a, b in zip(text.split(), right.split(), strict=True)))
    assert set(num_wrong) == {0, 1}
    assert TYPO_RATE == 1 / 40
    assert 0.6 * TYPO_RATE < statistics.fmean(num_wrong) < 1.4 * TYPO_RATE


@pytest.mark.parametrize(
    "mistake",
    [
        r"\ba (?!one\b)[aeiou]",
        r"\ban [^aeiou]",
        r"\b(\w+) \1\b",
        r"\s[,.]|  |,,|\.\.|,\.",
        r"\b(a|an|the|their|his|her) (a|an|the|their|his|her|this|is|are|and|with|in)\b|\bthis (a|an|the)\b",
        rf"\b(his|her|their) (\w+ )?{PLURAL} (is|has)\b|\b{PLURAL} that (stops|ends)\b",
        r"\bthey (is|has|wears|carries|holds|walks|stands)\b",
        r"\b(he|she|hair|skirt|dress|shirt|jacket|bag|man|woman|person) (are|have|wear|carry|hold|walk|stand)\b",
        rf"\ba ((?!pair|and|with|in\b|wear|dressed)\w+ ){{0,2}}{PLURAL}\b",
        r"\b(and|with|in|a|an|the|while|over|of)[.,]",
        r"\bwith (with|and)\b|\band (and|with a)\b|\bis (is|has|wears)\b",
        r"\bNone\b",
    ],
)
def test_grammar(clean: list[tuple[Person, Sighting, str]], mistake: str) -> None:
    assert not [text for *_, text in clean if re.search(mistake, text, re.IGNORECASE)]


def test_every_sentence_starts_with_a_capital_and_ends_with_a_full_stop(written: list[tuple[str, str]]) -> None:
    for both in written:
        for text in both:
            assert re.fullmatch(r"([A-Z][^.]*\.)( [A-Z][^.]*\.)*", text), text


def test_only_colours_of_the_person_are_named(clean: list[tuple[Person, Sighting, str]]) -> None:
    names = {"black", "white", "gray", "blue", "red", "green", "yellow", "orange", "pink", "purple", "brown", "beige"}
    base = {name: name for name in names}
    base |= {word: name for name in names for word in COLOUR_WORDS.get(name, ())}
    base |= {"navy": "blue", "cream": "beige"}
    hair = {"blond": set(), "dark brown": {"brown"}, "red": {"red", "brown"}}
    for person, _, text in clean:
        own = {person.upper.colour, person.upper.second_colour, person.upper.inner_colour, person.belt, person.scarf}
        own |= {person.lower.colour, person.lower.second_colour}
        own |= {item.colour for item in (person.hat, person.shoes, person.bag, person.carried) if item}
        own |= hair.get(person.hair_colour, {person.hair_colour})
        said = {base[word] for word in re.findall(r"[a-z]+", text.lower()) if word in base}
        assert said <= own, text


def test_garments_are_nearly_always_named(clean: list[tuple[Person, Sighting, str]]) -> None:
    lower = r"pants|jeans|trousers|slacks|shorts|skirt|leggings|tights|dress"
    assert 0.9 < count(lower, [text.lower() for *_, text in clean]) / len(clean) < 1


def test_small_things_are_often_left_out() -> None:
    front = laden("front", bag=Item("backpack", "pink"))
    for word, rate in (("glasses", 0.5), ("beard|facial hair", 0.45), ("belt", 0.3), ("scarf", 0.7)):
        assert abs(count(word, front) / len(front) - rate) < 0.2


def test_what_the_body_hides_from_behind_is_not_named() -> None:
    hidden = r"glasses|beard|facial|over a|on top of|open|unbuttoned|yellow|phone"
    assert count(hidden, laden("front")) > 100
    assert count(hidden, laden("back")) == 0


def test_a_logo_is_named_from_the_front_only() -> None:
    hoodie = Garment("hoodie", "blue", "logo", "orange", "long")
    assert count("orange", laden("front", upper=hoodie)) > 100
    assert [count("orange", laden(facing, upper=hoodie)) for facing in ("back", "left", "right")] == [0, 0, 0]


def test_a_bag_on_the_far_shoulder_is_not_named() -> None:
    assert count("pink", laden("left")) > 100
    assert count("pink", laden("right")) == 0


def test_a_backpack_is_named_more_often_from_behind_than_from_the_front() -> None:
    named = {
        facing: count("pink", laden(facing, bag=Item("backpack", "pink"))) for facing in ("front", "left", "back")
    }
    assert named["front"] < named["left"] < named["back"]


def test_a_hat_hides_short_hair_from_the_front() -> None:
    assert count("hair", laden("front", hat=None, beard=False)) > 100
    assert count("hair", laden("front", beard=False)) == 0
    assert count("hair", laden("back", beard=False)) > 100


def test_the_newspaper_has_no_colour() -> None:
    texts = laden("front", carried=Item("newspaper", "green", "right"))
    assert count("paper", texts) > 100
    assert count("green", texts) == 0


def test_left_and_right_are_the_persons_own(clean: list[tuple[Person, Sighting, str]]) -> None:
    num_sides = 0
    for person, _, text in clean:
        for side, part in re.findall(r"\b(left|right) (hand|hip|shoulder|arm)\b", text):
            things = [person.carried] if person.carried and part == "hand" else []
            if person.bag and (part == "hand") == (person.bag.kind in ("handbag", "plastic bag")):
                things.append(person.bag)
            assert side in [thing.side for thing in things], text
            num_sides += 1
    assert num_sides > 200


def test_pose_agrees_with_the_picture(clean: list[tuple[Person, Sighting, str]]) -> None:
    of_facing = {
        "front": r"facing the camera|facing forward|(walking|walks) (toward|forward)",
        "back": r"facing away|back to the camera|from behind|(walking|walks) away",
        "side": r"turned to the side|from the side|sideways|in profile|past the camera|(walking|walks) to the side",
    }
    for facing, words in of_facing.items():
        seen = [sighting.facing for _, sighting, text in clean if re.search(words, text, re.IGNORECASE)]
        assert len(seen) > 50
        assert set(seen) <= ({"left", "right"} if facing == "side" else {facing})
    for _, sighting, text in clean:
        if said := re.search(r"\b(walk|stand)(ing|s)\b", text, re.IGNORECASE):
            assert sighting.pose.startswith(said[1].lower()), text


def test_gender_is_right_or_neutral_but_for_rare_mistakes_from_behind(
    clean: list[tuple[Person, Sighting, str]],
) -> None:
    words = {"woman": r"\b(she|her|lady|woman|girl|female)\b", "man": r"\b(he|his|man|guy|male|gentleman)\b"}
    said = {
        gender: [re.search(pattern, text, re.IGNORECASE) is not None for *_, text in clean]
        for gender, pattern in words.items()
    }
    wrong = [
        sighting.facing
        for i, (person, sighting, _) in enumerate(clean)
        if said[{"woman": "man", "man": "woman"}[person.gender]][i]
    ]
    neutral = sum(not woman and not man for woman, man in zip(said["woman"], said["man"], strict=True))
    assert set(wrong) == {"back"}
    assert len(wrong) < 0.01 * len(clean)
    assert 0.05 < neutral / len(clean) < 0.11


def test_sentences_have_many_shapes(clean: list[tuple[Person, Sighting, str]]) -> None:
    """What is left when colours, things and places are taken out still differs in most captions."""
    frame = r"\b((wear|dress|carr|hold|walk|stand)\w*|has|have|is|are|with|in|and|while|there|on|over|of)\b|[.,]"
    shapes = {" ".join(found[0] for found in re.finditer(frame, text.lower())) for *_, text in clean}
    assert len(shapes) > 0.8 * len(clean)
    num_sentences = [text.count(".") for *_, text in clean]
    assert {1, 2, 3, 4, 5} <= set(num_sentences)
