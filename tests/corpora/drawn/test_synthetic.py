import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, Image

from ivt.corpora import FEATURES, load_corpus
from ivt.corpora.drawn import synthetic
from ivt.corpora.drawn.people import PARTS, sample_person
from ivt.corpora.drawn.synthetic import (
    FIRST_PERSON_ID,
    MAX_PEOPLE,
    NUM_PEOPLE,
    SYNTHETIC_FEATURES,
    load_synthetic,
    sample_rows,
)

# Python 3.12 warns of fork in a process with threads; `datasets` forks its workers before they do anything with them
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def stored(rows: Dataset) -> list[dict[str, Any]]:
    """The rows as they are stored, images as bytes."""
    return rows.cast_column("image", Image(decode=False)).cast_column("part_map", Image(decode=False)).to_list()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three test people, two pictures each."""
    root = tmp_path_factory.mktemp("synthetic")
    return load_synthetic("test", root, num_people=3, images_per_person=2, num_proc=1)


def test_rows_have_the_columns_of_every_corpus_and_more(rows: Dataset) -> None:
    assert rows.features == SYNTHETIC_FEATURES
    assert {name: rows.features[name] for name in FEATURES} == dict(FEATURES)
    assert rows.split == "test"
    assert rows["person_id"][:] == [200_000, 200_000, 200_001, 200_001, 200_002, 200_002]
    assert [len(captions) for captions in rows["captions"]] == [2] * 6


def test_image_ids_name_split_person_camera_and_number(rows: Dataset) -> None:
    assert len(set(rows["image_id"])) == 6
    for index, row in enumerate(rows):
        assert row["image_id"] == f"test/{index // 2:06d}_c{row['camera']}_{index % 2}.jpg"


@pytest.mark.parametrize("num_proc", [2, 8])
def test_rows_do_not_depend_on_the_number_of_processes(rows: Dataset, num_proc: int, tmp_path: Path) -> None:
    again = load_synthetic("test", tmp_path, num_people=3, images_per_person=2, num_proc=num_proc)
    assert stored(again) == stored(rows)


def test_a_smaller_split_is_the_start_of_a_larger_one(rows: Dataset, tmp_path: Path) -> None:
    smaller = load_synthetic("test", tmp_path, num_people=1, images_per_person=2, num_proc=1)
    assert stored(smaller) == stored(rows)[:2]


def test_another_seed_gives_other_rows(rows: Dataset, tmp_path: Path) -> None:
    other = load_synthetic("test", tmp_path, seed=1, num_people=1, images_per_person=2, num_proc=1)
    for row, unlike in zip(stored(other), stored(rows), strict=False):
        assert row["image"] != unlike["image"]
        assert row["captions"] != unlike["captions"]


def test_images_are_jpeg_and_part_maps_png_of_the_same_size(rows: Dataset) -> None:
    for row in rows:
        assert (row["image"].format, row["image"].mode) == ("JPEG", "RGB")
        assert (row["part_map"].format, row["part_map"].mode) == ("PNG", "L")
        assert row["image"].size == row["part_map"].size
        assert row["image"].height > row["image"].width


def test_boxes_enclose_the_parts_of_the_map(rows: Dataset) -> None:
    absent = 0
    for row in rows:
        part_map = np.asarray(row["part_map"])  # (height, width)
        assert part_map.max() <= len(PARTS)
        for value, box in enumerate(row["part_boxes"], start=1):
            pixels = [(x, y) for y, x in np.argwhere(part_map == value).tolist()]
            if not pixels:
                assert box == [-1, -1, -1, -1]
                absent += 1
                continue
            xs, ys = zip(*pixels, strict=True)
            assert box == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]
    assert absent > 0


def test_attributes_say_what_was_drawn(rows: Dataset) -> None:
    for row in rows:
        attributes = json.loads(row["attributes"])
        assert attributes["person"] == sample_person(0, "test", row["person_id"] - FIRST_PERSON_ID["test"]).to_dict()
        assert attributes["sighting"]["camera"] == row["camera"]


def test_rows_without_drawing_are_those_of_the_corpus(rows: Dataset) -> None:
    sampled = list(sample_rows("test", num_people=3, images_per_person=2))
    assert [FIRST_PERSON_ID["test"] + index for index, *_ in sampled] == rows["person_id"][:]
    assert [captions for *_, captions in sampled] == rows["captions"][:]


def test_what_is_cached_is_not_drawn_again_unless_a_version_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    draw_sighting = synthetic.draw_sighting
    monkeypatch.setattr(synthetic, "draw_sighting", lambda *given: drawn.append(given) or draw_sighting(*given))
    options = {"num_people": 1, "images_per_person": 1, "num_proc": 1}
    first = load_corpus("synthetic", tmp_path, "val", **options)
    assert len(drawn) == 1
    assert stored(load_corpus("synthetic", tmp_path, "val", **options)) == stored(first)
    assert len(drawn) == 1
    for count, version in enumerate(("ROWS_VERSION", "CAPTIONS_VERSION", "DRAWING_VERSION"), start=2):
        monkeypatch.setattr(synthetic, version, -1)
        load_synthetic("val", tmp_path, **options)
        assert len(drawn) == count


def test_identities_of_the_splits_are_disjoint_however_large_they_are() -> None:
    ranges = sorted((first, first + MAX_PEOPLE) for first in FIRST_PERSON_ID.values())
    assert all(end <= start for (_, end), (start, _) in zip(ranges, ranges[1:], strict=False))
    assert NUM_PEOPLE == {"train": 1000, "val": 100, "test": 200}


@pytest.mark.parametrize(
    ("split", "options", "message"),
    [
        ("dev", {}, "split of the synthetic corpus is 'dev', expected one of 'train', 'val', 'test'"),
        ("train+val", {}, "split of the synthetic corpus is 'train\\+val'"),
        ("test", {"num_people": 0}, "num_people is 0; pass 1 to 100000"),
        ("test", {"num_people": MAX_PEOPLE + 1}, "num_people is 100001"),
        ("test", {"images_per_person": 0}, "images_per_person is 0; pass at least 1"),
        ("test", {"num_proc": 0}, "num_proc is 0; pass at least 1"),
    ],
)
def test_wrong_arguments_are_named(split: str, options: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        load_synthetic(split, tmp_path, **options)
