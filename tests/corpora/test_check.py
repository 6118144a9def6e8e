from collections.abc import Callable
from pathlib import Path

import pytest
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from typer.testing import Result

from ivt.corpora import check, load
from ivt.corpora.check import MAX_COLOUR_RECALL, ColourCounts, CorpusCounts, count_colours, count_corpus, summarise
from ivt.corpora.drawn.people import sample_person
from ivt.corpora.drawn.synthetic import NUM_PEOPLE

Command = Callable[..., Result]
PERSON_IDS = [7, 7, 7, 9, 3]
CAPTIONS = [
    ["a man", "a  man"],
    ["a man", " a man "],
    ["the man in red", ""],
    ["a man"],
    ["someone", "a b c", "someone"],
]


def test_counts_of_a_small_corpus_by_hand() -> None:
    counts = count_corpus(PERSON_IDS, CAPTIONS)
    assert sorted(counts.images_per_person) == [1, 1, 3]
    assert counts.captions_per_image == [2, 2, 2, 1, 3]
    assert counts.words == [2, 2, 2, 2, 4, 0, 2, 1, 3, 1]
    assert counts.images_with_equal_captions == 2  # the second and the last; inner blanks count, outer do not
    assert counts.shared_captions == 1  # "a man", of 7 and 9
    assert counts.empty_captions == 1


def test_empty_captions_of_two_people_are_not_a_shared_caption() -> None:
    assert count_corpus([1, 2], [[""], [" "]]).shared_captions == 0


def test_summary_has_means_and_ranges_in_the_place_of_lists() -> None:
    counts = count_corpus(PERSON_IDS, CAPTIONS)
    assert summarise(counts, ColourCounts(12.5, 25.0)) == {
        "people": 3,
        "images": 5,
        "captions": 10,
        "images_with_equal_captions": 2,
        "shared_captions": 1,
        "empty_captions": 1,
        "images_per_person": {"mean": pytest.approx(5 / 3), "min": 1, "max": 3},
        "captions_per_image": {"mean": 2.0, "min": 1, "max": 3},
        "words": {"mean": 1.9, "min": 0, "max": 4},
        "colours": {"recall_at_1": 12.5, "unique": 25.0},
    }
    assert summarise(counts, None)["colours"] is None


def test_spreads_are_printed_as_mean_range_and_deciles(capsys: pytest.CaptureFixture[str]) -> None:
    counts = CorpusCounts([2, 2], [2, 3, 3, 3], list(range(11)), 1, 0, 0)
    check.print_counts(counts)
    printed = capsys.readouterr().out
    assert "images per person      2 each\n" in printed
    assert "words per caption      mean 5.0, 0 to 10, deciles 1 2 3 4 5 6 7 8 9\n" in printed
    assert "captions of an image the same      1 images (25.00 %)\n" in printed


def test_colour_oracle_agrees_with_a_naive_loop() -> None:
    person_ids = [1, 1, 2, 2, 2, 3, 4, 4]
    colours = [("red", "blue")] * 2 + [("red", "blue")] * 3 + [("red", "gray")] + [("blue", "red")] * 2
    shares, unique = [], 0
    for query, pair in enumerate(colours):
        tied = [other for other in range(len(colours)) if colours[other] == pair]
        right = [other for other in tied if person_ids[other] == person_ids[query]]
        shares.append(len(right) / len(tied))
        unique += len(right) == len(tied)
    counts = count_colours(person_ids, colours)
    assert counts.recall_at_1 == pytest.approx(100 * sum(shares) / 8)
    assert counts.unique == pytest.approx(100 * unique / 8)


def test_colour_oracle_is_chance_if_all_wear_the_same_and_perfect_if_nobody_does() -> None:
    same = count_colours(list(range(50)), [("red", "blue")] * 50)
    assert (same.recall_at_1, same.unique) == (pytest.approx(2.0), 0.0)
    own = count_colours(list(range(50)), [(str(i), "blue") for i in range(50)])
    assert (own.recall_at_1, own.unique) == (100.0, 100.0)


def test_garment_colours_alone_identify_fewer_than_15_percent_of_the_test_people() -> None:
    people = [sample_person(0, "test", index) for index in range(NUM_PEOPLE["test"])]
    pairs = [(person.upper.colour, person.lower.colour) for person in people]
    found = count_colours(list(range(200)), pairs).recall_at_1
    assert found == pytest.approx(100 * len(set(pairs)) / 200)  # closed form: each pair's images share one success
    assert found < MAX_COLOUR_RECALL == 15


def test_command_reports_the_synthetic_test_split(ivt: Command) -> None:
    done = ivt("corpus", "check", "synthetic")
    assert done.exit_code == 0
    assert "people                 200\n" in done.stdout
    assert "captions               1600\n" in done.stdout
    assert "0 images (0.00 %)" in done.stdout
    assert "% expected R@1 of an oracle" in done.stdout
    assert done.stderr == ""


def test_command_fails_if_colours_identify_too_many_test_people(ivt: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "MAX_COLOUR_RECALL", 1.0)
    done = ivt("corpus", "check", "synthetic", "--split", "test")
    assert done.exit_code == 1 and "of the test people, which must stay under 1 %" in done.stderr
    assert ivt("corpus", "check", "synthetic", "--split", "val").exit_code == 0


def test_command_counts_and_draws_any_corpus(ivt: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    images = [Image.new("RGB", (20, 60), "red")] * len(PERSON_IDS)

    def load_corpus(*arguments: str, **options: str) -> Dataset:
        asked.append((arguments, options))
        return Dataset.from_dict({"image": images, "person_id": PERSON_IDS, "captions": CAPTIONS})

    for module in (check, load):
        monkeypatch.setattr(module, "load_corpus", load_corpus)
    sheet = tmp_path / "people.png"
    done = ivt("corpus", "check", "rstpreid", "--corpus-root", "/data", "--split", "train", "--sheet", sheet)
    assert asked == 2 * [(("rstpreid", "/data", "train"), {"on_bad_image": "skip"})]
    assert done.exit_code == 0
    with Image.open(sheet) as drawn:
        assert drawn.size == (3 * 120, 4 * 240)
    printed = done.stdout
    assert "captions of an image the same      2 images (40.00 %)" in printed
    assert "same caption on several people     1 captions" in printed
    assert "oracle" not in printed


def test_contact_sheet_has_a_column_per_person(tmp_path) -> None:
    sizes = ((90, 60), (20, 60), (20, 60))  # the first is cut at its column's width
    images = [Image.new("RGB", size, colour) for size, colour in zip(sizes, ("red", "red", "blue"), strict=True)]
    corpus = Dataset.from_dict(
        {"image": images, "person_id": [5, 5, 2]},
        features=Features({"image": ImageFeature(), "person_id": Value("int64")}),
    )
    check.draw_contact_sheet(corpus, str(tmp_path / "sheet.png"), num_images=2, height=120)
    sheet = Image.open(tmp_path / "sheet.png")
    assert sheet.size == (2 * 60, 2 * 120)
    places = [sheet.getpixel((x + 10, y + 10)) for x in (0, 60) for y in (0, 120)]
    assert places == [(255, 0, 0), (255, 0, 0), (0, 0, 255), (255, 255, 255)]
    assert sheet.getpixel((115, 10)) == (255, 255, 255)  # right of the blue one
    # pictures are four pixels apart, below each other and side by side
    assert [sheet.getpixel(place) for place in ((10, 115), (10, 117), (55, 10), (57, 10))] == 2 * [
        (255, 0, 0),
        (255, 255, 255),
    ]
