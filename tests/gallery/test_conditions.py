"""What of SQL reaches the engine; the attacks were made on a gallery whose engine ignored what follows a condition."""

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ivt.gallery.columns import CONTENT_FIELDS, PICTURE_FIELDS
from ivt.gallery.conditions import COLUMNS, LONGEST, check_condition
from ivt.gallery.gallery import Gallery

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)
QUERY = "a man in a red coat"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """Six pictures of three cameras, an hour apart, the last one with neither."""
    from PIL import Image

    root = tmp_path_factory.mktemp("conditions")
    people = Gallery(root / "people.lance")
    for number in range(6):
        path = root / f"p{number}.png"
        Image.new("RGB", (16, 32), (40 * number, 255 - 40 * number, 9)).save(path)
        details = {} if number == 5 else {"camera": f"camera {number % 3}", "time": NOON + timedelta(hours=number)}
        people.add(path, progress=False, **details)
    return people


def names(people: Gallery, where: str | None) -> set[str]:
    return {result.image_id for result in people.search(QUERY, k=99, where=where)}


ATTACKS = [
    "camera = 'camera 1' image_id = 'nothing'",  # AND forgotten: the engine stopped at the first condition
    "camera = 'camera 1' LIMIT 1",
    "camera = 'camera 1') AND (image_id = 'nothing'",
    "camera = 'camera 1'; DELETE FROM people",
    "camera = ?",
    "camera = $1",
    "camera = repeat('a', 2000000000)",
    "lpad(camera, 2000000000, 'a') = 'a'",
    "levenshtein(camera, 'a') = 1",
    "person_id IN (SELECT * FROM generate_series(1, 100000000000))",
    "EXISTS (SELECT 1)",
    "camera = 'a' UNION SELECT 1",
    "people.camera = 'camera 1'",
    "vector IS NOT NULL",
    "image IS NULL",
    "camera SIMILAR TO 'a'",
    "camera LIKE camera",
    "CASE WHEN true THEN true END",
    "CAST(camera AS INT) = 1",
    "time > date '2024-05-01'",
    "time > timestamp 'yesterday'",
    "time > now()",
    "person_id = 1 + 1",
    "person_id = 99999999999999999999",
    "camera = 'a\0b'",
    "camera = '\ud83c'",
    "camera",
    "'text'",
    "5",
    "NOT camera",
    "camera = 5",
    "person_id = 'x'",
    "camera IN ('a', 5)",
    "camera IN ()",
    "camera BETWEEN 'a' AND 5",
    "length(person_id) = 1",
    "camera IS TRUE",
    "image_id BETWEEN SYMMETRIC 'p3' AND 'p1'",
    "camera LIKE ANY ('a')",
    "camera LIKE 'a' ESCAPE '!'",
    "",
    "   ",
    "camera =",
    "(" * 3000 + "true" + ")" * 3000,
    "NOT " * 2000 + "true",
    "(" * 60 + "true" + ")" * 60,
    " OR ".join(["camera = 'a'"] * 3000),  # 40 kB ended the process
]


@pytest.mark.parametrize("where", ATTACKS, ids=range(len(ATTACKS)))
def test_what_is_not_one_whole_condition_is_refused_and_removes_nothing(filled: Gallery, where: str) -> None:
    for use in (filled.remove, lambda where: filled.search(QUERY, where=where), filled.statistics):
        with pytest.raises(ValueError, match="^the condition .* cannot be understood: "):
            use(where)
    assert len(filled) == 6


def test_message_names_what_is_wrong() -> None:
    for where, message in {
        "kamera = 'north'": "there is no column kamera; the columns are image_id .text., .*time .time.",
        "camera = 5": "camera is a text and 5 a number",
        "time > '2024-05-01'": "time is a time and '2024-05-01' a text; .*timestamp '2024-05-01 12:00:00', in UTC",
        "camera = 'a' LIMIT 1": "it is not one whole condition; is an AND, a quote or a parenthesis missing",
        "upper(camera)": r"upper\(camera\) is a text, not a condition",
        "camera = 'a'" * 1000: "it has 12,000 characters, at most 10,000 are read; name pictures by image_ids",
        "repeat('a', 9) = 'a'": "REPEAT.* is not part of what conditions are made of",
    }.items():
        with pytest.raises(ValueError, match=message):
            check_condition(where)


def test_every_column_but_pictures_and_vectors_may_be_named() -> None:
    assert [*COLUMNS] == [*PICTURE_FIELDS, *CONTENT_FIELDS]
    assert check_condition(None) is None


@pytest.mark.parametrize(
    "where, expected",
    [
        ("camera = 'camera 1'", "14"),
        ("camera == 'camera 1' -- a comment", "14"),
        ("camera <> 'camera 1'", "023"),
        ("camera IS NULL", "5"),
        ("NOT camera IS NULL", "01234"),
        ("time IS NOT NULL", "01234"),
        ("camera IN ('camera 0', 'camera 2')", "023"),
        ("camera NOT IN ('camera 0', 'it''s')", "124"),
        ("camera LIKE '%1'", "14"),
        ("camera NOT LIKE '%1'", "023"),
        ("camera ILIKE 'CAMERA 1'", "14"),
        ("camera NOT ILIKE 'CAMERA 1'", "023"),
        ("image_id NOT BETWEEN 'p1' AND 'p3.png'", "045"),
        ("upper(camera) = 'CAMERA 1'", "14"),
        ("length(image_id) = 6 AND image_id < 'p2'", "01"),
        ("image_id BETWEEN 'p1' AND 'p3.png'", "123"),
        ("time > timestamp '2024-05-01 13:00:00'", "234"),
        ("time <= timestamp '2024-05-01T15:00:00+02:00'", "01"),
        ("camera = 'camera 1' OR camera = 'camera 2' AND image_id = 'p2.png'", "124"),
        ("(camera = 'camera 1' OR camera = 'camera 2') AND image_id = 'p2.png'", "2"),
        ("NOT (camera = 'camera 1' OR camera = 'camera 2')", "03"),
        ("person_id = -5 OR false", ""),
        ("true", "012345"),
        (" OR ".join(f"image_id = 'p{number}.png'" for number in range(400)), "012345"),  # many, and not deep
    ],
)
def test_conditions_mean_what_they_mean_in_sql(filled: Gallery, where: str, expected: str) -> None:
    assert names(filled, where) == {f"p{number}.png" for number in expected}


def test_remove_takes_out_the_rows_of_the_condition_and_no_other(tmp_path: Path, make_crops) -> None:
    people = Gallery(tmp_path / "some.lance")
    people.add(make_crops("a.png", "b.png", "c.png"), camera="it's", progress=False)
    assert people.remove("camera = 'it''s' AND image_id <> 'b.png'") == 2
    assert [picture.image_id for picture in people] == ["b.png"]


def test_any_number_of_results_may_be_asked_for(filled: Gallery) -> None:
    assert len(filled.search(QUERY, k=10_000_000_000)) == 6


TEXTS = st.sampled_from(["camera 0", "camera 1", "p3.png", "it's", "%", "", "a\\b"])
ROWS = [{"image_id": f"p{n}.png", "camera": None if n == 5 else f"camera {n % 3}", "number": None} for n in range(6)]


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


# a condition, and the same as a function of a row, which is None where SQL's answer is NULL
ATOMS = st.one_of(
    st.builds(
        lambda column, sign, text: (
            f"{column} {sign} {quoted(text)}",
            lambda row: (
                None
                if row[column] is None
                else {"=": row[column] == text, "!=": row[column] != text, "<": row[column] < text}[sign]
            ),
        ),
        st.sampled_from(["image_id", "camera"]),
        st.sampled_from(["=", "!=", "<"]),
        TEXTS,
    ),
    st.builds(lambda column: (f"{column} IS NULL", lambda row: row[column] is None), st.just("camera")),
)


def both(left, right):
    def answer(row):
        a, b = left[1](row), right[1](row)
        return False if a is False or b is False else None if a is None or b is None else True

    return f"({left[0]}) AND {right[0]}", answer


def negated(part):
    return f"NOT ({part[0]})", lambda row: None if part[1](row) is None else not part[1](row)


CONDITIONS = st.recursive(ATOMS, lambda parts: st.builds(both, parts, parts) | st.builds(negated, parts), max_leaves=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(CONDITIONS)
def test_any_condition_chooses_the_rows_that_it_is_true_for(filled: Gallery, condition) -> None:
    where, answer = condition
    # AND binds its right side alone, and so does the function
    assert names(filled, where) == {row["image_id"] for row in ROWS if answer(row) is True}


@settings(max_examples=300, deadline=None)
@given(
    st.text(max_size=60) | st.lists(st.sampled_from("camera = 'a' ( ) AND NOT , 5 -- ; IN time".split())).map(" ".join)
)
def test_any_text_is_a_condition_or_refused(text: str) -> None:
    try:
        sql = check_condition(text)
    except ValueError as error:
        assert re.match("the condition .* cannot be understood: ", str(error), re.DOTALL)
    else:
        assert check_condition(sql) is not None and len(sql) < 10 * LONGEST
