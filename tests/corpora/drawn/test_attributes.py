"""Phrases that are true of people, and the queries made of them."""

from ivt.corpora.drawn.attributes import MIN_SHARE, phrases_of, sample_attribute_queries
from ivt.corpora.drawn.people import Garment, Item, Person, sample_person

PEOPLE = [sample_person(0, "test", index).to_dict() for index in range(60)]


def somebody(**changes: object) -> dict:
    fields = {
        "gender": "man",
        "build": "slim",
        "height": 1.0,
        "skin": 1,
        "hair": "short",
        "hair_colour": "black",
        "beard": False,
        "hat": None,
        "glasses": None,
        "upper": Garment("jacket", "red", "plaid", "white", "long"),
        "lower": Garment("jeans", "blue", "plain", "blue", "ankle"),
        "belt": None,
        "scarf": None,
        "shoes": Item("boots", "black"),
        "bag": None,
        "carried": None,
    }
    return Person(**(fields | changes)).to_dict()


def test_phrases_of_a_person_are_what_annotators_may_say() -> None:
    assert phrases_of(somebody()) == {
        "man": "gender",
        "jacket": "upper",
        "red jacket": "upper",
        "plaid jacket": "upper",
        "coat": "upper",  # annotators call a jacket so
        "red coat": "upper",
        "plaid coat": "upper",
        "jeans": "lower",
        "blue jeans": "lower",
        "pants": "lower",
        "blue pants": "lower",
        "boots": "shoes",
        "black boots": "shoes",
        "short hair": "hair",
        "black hair": "hair",
    }


def test_what_is_worn_and_carried_has_phrases_of_its_own() -> None:
    dress = Garment("dress", "pink", "plain", "pink", "none")
    phrases = phrases_of(
        somebody(
            gender="woman",
            upper=dress,
            lower=dress,
            bag=Item("tote bag", "green"),
            hat=Item("cap", "blue"),
            carried=Item("newspaper", "red"),
            hair="bald",
            glasses="sunglasses",
            scarf="red",
        )
    )
    assert phrases["pink dress"] == "upper" and "lower" not in phrases.values()
    assert {"tote bag", "green bag", "blue hat", "newspaper", "sunglasses", "scarf", "bald head"} <= set(phrases)
    assert not {"red newspaper", "black hair", "beard", "glasses"} & set(phrases)


def test_queries_match_exactly_whom_a_loop_finds() -> None:
    for shape in ((1, 0), (3, 0), (1, 1), (2, 2)):
        queries = sample_attribute_queries(PEOPLE, *shape, number=30)
        assert len(queries) == len(set(queries)) == 30
        for query in queries:
            assert (len(query.wanted), len(query.unwanted)) == shape and any(query.matches)
            having = [set(query.wanted) <= set(phrases_of(person)) for person in PEOPLE]
            for person, has, matches in zip(PEOPLE, having, query.matches, strict=True):
                assert matches == (has and not set(query.unwanted) & set(phrases_of(person)))
            for phrase in query.unwanted:
                share = sum(has and phrase in phrases_of(p) for p, has in zip(PEOPLE, having, strict=True))
                assert MIN_SHARE <= share / sum(having) <= 1 - MIN_SHARE


def test_phrases_of_a_query_are_about_different_parts() -> None:
    parts = {phrase: part for person in PEOPLE for phrase, part in phrases_of(person).items()}
    for query in sample_attribute_queries(PEOPLE, 2, 1, number=30):
        used = [parts[phrase] for phrase in query.wanted + query.unwanted]
        assert len(set(used)) == 3 and parts[query.unwanted[0]] != "gender"


def test_same_arguments_give_the_same_queries_and_few_people_fewer() -> None:
    assert sample_attribute_queries(PEOPLE, 2, 0, 9, seed=1) == sample_attribute_queries(PEOPLE, 2, 0, 9, seed=1)
    assert sample_attribute_queries(PEOPLE, 2, 0, 9, seed=1) != sample_attribute_queries(PEOPLE, 2, 0, 9, seed=2)
    assert sample_attribute_queries(PEOPLE[:1], 1, 1, 9) == []  # nobody else to tell apart
