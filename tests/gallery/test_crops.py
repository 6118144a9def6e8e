"""Crops: what becomes of folders, files, datasets and frames."""

import hashlib
import io
import os
import time
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import datasets
import numpy as np
import pytest
from gallery_parts import draw
from PIL import Image

from ivt.gallery.columns import Crop
from ivt.gallery.crops import Frame, find_crops
from ivt.gallery.path_fields import PathFields, as_utc
from ivt.gallery.runner import load_daft

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


def decoded(crop: Crop) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(crop.image)).convert("RGB")).astype(int)


@pytest.mark.parametrize(
    "time",
    [NOON, NOON.replace(tzinfo=None), "2024-05-01T12:00", "2024-05-01 14:00+02:00", NOON.timestamp()]
    + [NOON.astimezone(timezone(timedelta(hours=-5)))],
)
def test_times_of_any_kind_are_utc(time: object) -> None:
    assert as_utc(time) == NOON and as_utc(time).utcoffset() == timedelta(0)


def test_time_without_a_zone_is_utc_whatever_the_zone_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as machine:
        machine.setenv("TZ", "EST5")
        time.tzset()
        read = as_utc("2024-05-01T12:00"), as_utc(NOON.timestamp())
    time.tzset()
    assert read == (NOON, NOON)


def test_what_is_no_time_is_named() -> None:
    with pytest.raises(ValueError, match="time is 'noon', expected ISO 8601"):
        as_utc("noon")


def test_folder_gives_every_image_file_by_its_path_below(make_crops) -> None:
    folder = make_crops("b/2.JPG", "b/1.png", "a #[1]%20é.jpg", ".hidden/3.jpg", "b/.4.jpg")
    (folder / "notes.txt").write_text("no picture")
    (folder / "b/loop").symlink_to(folder)
    crops = list(find_crops(str(folder), camera="north", time=NOON))
    assert [crop.image_id for crop in crops] == ["a #[1]%20é.jpg", "b/1.png", "b/2.JPG"]
    assert [crop.uri for crop in crops] == [str(folder / crop.image_id) for crop in crops]
    assert {(crop.camera, crop.time, crop.image) for crop in crops} == {("north", NOON, None)}
    assert [crop.image_id for crop in find_crops(folder / ".hidden")] == ["3.jpg"]  # if it is asked for


def test_folder_below_that_cannot_be_read_is_an_error(make_crops, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise `sync` would remove what lies there."""
    folder, scandir = make_crops("a/1.png", "b/2.png"), os.scandir

    def locked(path: str) -> object:
        if os.path.basename(path) == "b":
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", locked)
    with pytest.raises(PermissionError):
        find_crops(folder)


def test_relative_folder_gives_absolute_files(make_crops, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_crops("x/1.jpg")
    monkeypatch.chdir(folder.parent)
    for relative in ("crops", "./crops/", Path("crops"), f"file://{folder}"):
        assert find_crops(relative) == [Crop("x/1.jpg", str(folder / "x/1.jpg"))]


def test_folder_of_an_object_storage_is_listed_by_daft(monkeypatch: pytest.MonkeyPatch) -> None:
    daft = load_daft()
    asked = []

    def from_glob_path(pattern: str) -> object:
        asked.append(pattern)
        return daft.from_pydict({"path": [f"s3://bucket/crops/{name}" for name in ("b/2.jpg", "a/1.png", "x.txt")]})

    monkeypatch.setattr(daft, "from_glob_path", from_glob_path)
    for folder in ("s3://bucket/crops", "s3://bucket/crops/"):
        crops = find_crops(folder)
        assert [(crop.image_id, crop.uri) for crop in crops] == [
            ("a/1.png", "s3://bucket/crops/a/1.png"),
            ("b/2.jpg", "s3://bucket/crops/b/2.jpg"),
        ]
    assert asked == ["s3://bucket/crops/**"] * 2


def test_files_are_named_below_the_folder_that_holds_them_all_each_once(make_crops) -> None:
    folder = make_crops("n/1.jpg", "s/1.jpg")
    files = [folder / "n/1.jpg", str(folder / "s/1.jpg"), folder / "n/1.jpg"]
    assert [crop.image_id for crop in find_crops(files)] == ["n/1.jpg", "s/1.jpg"]
    assert find_crops(folder / "n/1.jpg") == [Crop("1.jpg", str(folder / "n/1.jpg"))]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("crops/none", "is no folder"),
        ("crops/empty", "holds no images, expected files that end in .jpg"),
        ([], "0 pic"),
    ],
)
def test_nothing_to_add_is_named(make_crops, monkeypatch: pytest.MonkeyPatch, source: object, message: str) -> None:
    monkeypatch.chdir(make_crops("1.jpg").parent)
    os.makedirs("crops/empty")
    with pytest.raises(ValueError, match=message):
        find_crops(source)


@pytest.mark.parametrize(
    ("options", "camera", "time"),
    [
        ({"camera": r"^(\w+)/"}, "cam1", None),
        ({"camera": r"c(?P<camera>am)(\d)"}, "am", None),
        ({"camera": r"^cam\d"}, "cam1", None),
        ({"time": r"(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)"}, None, datetime(2024, 5, 1, tzinfo=UTC)),
        (
            {"time": r"_(?P<year>\d{4})(?P<month>\d\d)(?P<day>\d\d)-(?P<hour>\d\d)(?P<minute>\d\d)"},
            None,
            datetime(2024, 5, 1, 12, 30, tzinfo=UTC),
        ),
        (
            {"time": r"_(\d{8}-\d{6})_", "time_format": "%Y%m%d-%H%M%S"},
            None,
            datetime(2024, 5, 1, 12, 30, 5, tzinfo=UTC),
        ),
        ({"time": r"_(\d{8})-"}, None, datetime(2024, 5, 1, tzinfo=UTC)),
        ({"time": r"_(?P<epoch>\d+)\.jpg"}, None, datetime(1970, 1, 1, 0, 1, tzinfo=UTC)),
    ],
)
def test_camera_and_time_are_read_from_the_path(options, camera: str | None, time: datetime | None) -> None:
    (crop,) = PathFields(**options).fill([Crop("cam1/x_20240501-123005_60.jpg")])
    assert (crop.camera, crop.time) == (camera, time)


def test_paths_which_do_not_match_keep_what_they_have_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    crops = PathFields(camera=r"^cam(\d)").fill([Crop("cam1/a.jpg", camera="x"), Crop("other/b.jpg", camera="x")])
    assert [crop.camera for crop in crops] == ["1", "x"]
    assert "1 of 2 paths have no camera" in caplog.text and "'other/b.jpg'" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"camera": "("}, "camera_from_path is '\\(', which is no regular expression"),
        ({"camera": "^x"}, "camera_from_path is '\\^x', which matches none of 1 paths; the first is 'cam1/2024.jpg'"),
        ({"time": r"\d+", "time_format": "%H:%M"}, "'cam1/2024.jpg' holds no time: time data"),
        ({"time": r"(?P<year>\d+)"}, "'cam1/2024.jpg' holds no time: .*month"),
    ],
)
def test_patterns_that_find_nothing_are_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PathFields(**options).fill([Crop("cam1/2024.jpg")])


def test_dataset_gives_its_columns_and_keeps_pictures_without_files(make_crops) -> None:
    folder = make_crops("1.jpg")
    data = (folder / "1.jpg").read_bytes()
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "image_id": datasets.Value("string"),
            "camera": datasets.Value("string"),
            "time": datasets.Value("timestamp[us]"),
            "track_id": datasets.Value("int64"),
            "person_id": datasets.Value("int64"),
        }
    )
    columns = {
        "image": [{"path": str(folder / "1.jpg"), "bytes": None}, {"path": None, "bytes": data}],
        "image_id": ["p", "q"],
        "camera": ["north", None],
        "time": [NOON.replace(tzinfo=None), None],
        "track_id": [0, None],
        "person_id": [0, None],
    }
    crops = list(find_crops(datasets.Dataset.from_dict(columns, features=features), camera="south"))
    assert crops == [
        Crop("p", str(folder / "1.jpg"), "north", NOON, "0", 0),
        Crop("q", camera="south", image=data),
    ]


def test_dataset_without_names_names_pictures_by_their_path_or_content(make_crops) -> None:
    folder = make_crops("1.png", "2.png")
    data = [path.read_bytes() for path in sorted(folder.glob("*"))]
    images = [{"path": None, "bytes": data[0]}, {"path": "p.png", "bytes": data[0]}, {"path": None, "bytes": data[1]}]
    rows = datasets.Dataset.from_dict({"image": images}, features=datasets.Features({"image": datasets.Image()}))
    names = [hashlib.sha256(content).hexdigest()[:32] for content in data]
    assert [crop.image_id for crop in find_crops(rows)] == [names[0], "p.png", names[1]]


def test_dataset_without_pictures_is_named() -> None:
    with pytest.raises(ValueError, match="the dataset has the columns text, expected `image`"):
        list(find_crops(datasets.Dataset.from_dict({"text": ["a"]})))


def test_boxes_are_cut_out_of_frames() -> None:
    frames = [np.zeros((60, 80, 3), np.uint8), Image.new("RGB", (80, 60), "black")]
    frames[0][10:40, 20:30] = 255  # rows, columns
    crops = list(
        find_crops(
            [Frame(frames[0], [(20, 10, 30, 40), (40.2, -5, 99, 20)], track_ids=[0, "b"], time=60), (frames[1], [])],
            camera="north",
            time=NOON,
        )
    )
    assert [decoded(crop).shape for crop in crops] == [(30, 10, 3), (20, 40, 3)]  # the second is clipped to the frame
    assert decoded(crops[0]).min() > 240 and decoded(crops[1]).max() < 15
    assert [(crop.camera, crop.track_id, crop.time) for crop in crops] == [
        ("north", "0", datetime(1970, 1, 1, 0, 1, tzinfo=UTC)),
        ("north", "b", datetime(1970, 1, 1, 0, 1, tzinfo=UTC)),
    ]
    names = [f"north/19700101T000100.000000/{hashlib.sha256(crop.image).hexdigest()[:16]}" for crop in crops]
    assert [(crop.image_id, crop.uri) for crop in crops] == [(name, None) for name in names]
    (first,) = find_crops([Frame(draw(1), [(0, 0, 9, 9)], time=0)], time=NOON)
    assert first.time == datetime(1970, 1, 1, tzinfo=UTC)  # its own


def test_same_frames_give_the_same_names_and_other_frames_others() -> None:
    boxes = [[(0, 0, 20, 40)], [(0, 0, 20, 40)]]
    once, again = (list(find_crops([draw(1), draw(2)], boxes, camera="n")) for _ in range(2))
    assert [crop.image_id for crop in once] == [crop.image_id for crop in again]
    assert once[0].image_id != once[1].image_id


def test_crop_of_a_frame_that_is_a_file_names_the_place_in_it(make_crops) -> None:
    frame = make_crops("f.png") / "f.png"
    (crop,) = find_crops([frame], [[(1.6, 2.5001, 12.4, 33.4999)]])  # rounded to whole pixels
    assert crop.uri == f"{frame}#xywh=2,3,10,30"
    assert np.abs(decoded(crop) - np.asarray(draw(0)).astype(int)[3:33, 2:12]).mean() < 25  # but for JPEG


def test_pictures_without_boxes_are_crops_as_they_are() -> None:
    crops = list(find_crops(iter([draw(1), np.asarray(draw(2))])))
    assert [decoded(crop).shape for crop in crops] == [(50, 20, 3)] * 2


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([(draw(0), [(30, 0, 40, 10)])], r"frame 0 has the box \(30, 0, 40, 10\), expected .* inside 20 x 50"),
        ([(draw(0), [(0, 0, float("nan"), 10)])], "frame 0 has the box"),
        ([(draw(0), [(0, 0, 10)])], "frame 0 has the box"),
        ([Frame(draw(0), [(0, 0, 9, 9)], track_ids=[])], "frame 0 has 1 boxes and 0 track ids"),
        ([3], "item 0 is int, expected a Pillow image"),
    ],
)
def test_frames_that_cannot_be_cut_are_named(frames: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        list(find_crops(frames))


def test_boxes_and_frames_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        list(find_crops([draw(0)], [[], []]))


def test_paths_are_read_for_fields_only_where_there_are_paths() -> None:
    with pytest.raises(ValueError, match="the source has none"):
        find_crops([draw(0)], path_fields=PathFields(camera="x"))


def test_the_first_group_that_took_part_is_the_camera(caplog) -> None:
    crops = [Crop("north/1.jpg"), Crop("south/2.jpg"), Crop("east/3.jpg")]
    found = PathFields(camera="^(?:(north)|(south))/").fill(crops)
    assert [crop.camera for crop in found] == ["north", "south", None]
    assert "1 of 3 paths have no camera" in caplog.text


def test_an_empty_match_is_none() -> None:
    with pytest.raises(ValueError, match="matches none of 1 paths"):
        PathFields(camera="^(x*)").fill([Crop("north/1.jpg")])
