"""The commands of galleries: what a person types, sees and gets as exit code."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gallery_parts import draw
from PIL import Image
from typer.testing import Result

from ivt import Clause, Gallery, Query, SearchResults
from ivt.cli.gallery import print_results
from ivt.gallery.calibration import FEATURES, Calibration, PresenceCurve
from ivt.gallery.indexing import IndexReport
from ivt.retrieval.models import find_version


@pytest.fixture
def ivt(ivt: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The same, in the folder above `crops`."""
    monkeypatch.chdir(tmp_path)
    return ivt


@pytest.fixture
def indexed(ivt: Any, make_crops: Any, checkpoint: str) -> Any:
    """The same, with a gallery of three pictures."""
    make_crops("north/1_20240501-120000.png", "north/2_20240501-130000.png", "south/3_20240501-140000.png")
    paths = ["--camera-from-path", r"^(\w+)/", "--time-from-path", r"_(\d{8}-\d{6})", "--time-format", "%Y%m%d-%H%M%S"]
    result = ivt("index", "crops", "--gallery", "people.lance", "--model", checkpoint, *paths, "--json")
    assert result.exit_code == 0, result.output
    report = {"added": 3, "changed": 0, "unchanged": 0, "removed": 0, "bad": {}, "left_out": {}, "pictures": 3}
    assert json.loads(result.stdout) == report
    return ivt


def test_search_prints_names_and_scores_and_draws_the_sheet(indexed: Any) -> None:
    result = indexed("search", "a woman in red", "--gallery", "people.lance", "-k", "2", "--save", "sheet.png")
    assert result.exit_code == 0
    line = r" +{}\. +-?\d\.\d{{3}}  \S+\.png\n"
    assert re.fullmatch("2 results for 'a woman in red'\n" + line.format(1) + line.format(2), result.stdout)
    with Image.open("sheet.png") as sheet:
        assert sheet.width > 200


def test_search_gives_json_with_camera_and_time(indexed: Any) -> None:
    condition = "camera = 'north' AND time > timestamp '2024-05-01 12:00:00'"
    result = indexed("search", "a man", "--gallery", "people.lance", "--where", condition, "--json")
    (found,) = json.loads(result.stdout)["results"]
    assert (found["image_id"], found["camera"]) == ("north/2_20240501-130000.png", "north")
    assert found["time"] == "2024-05-01T13:00:00+00:00"


def test_clauses_of_the_options_join_those_of_the_query(indexed: Any) -> None:
    draw(9).save("look.png")
    options = [
        "--not",
        "bag^0.5",
        "--not",
        '"blue AND red"',
        "--image",
        "look.png",
        "--image",
        "look.png",
        "--weight",
        "2",
    ]
    result = indexed("search", "coat AND red^3", *options, "--gallery", "people.lance", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    expected = 'coat AND red^3 AND image:look.png^2 AND image:look.png NOT bag^0.5 NOT "blue AND red"'
    assert (found["query"], found["presence"], found["no_match"]) == (expected, None, False)
    labels = ["coat", "red", "image:look.png", "image:look.png (2)", "NOT bag", "NOT blue AND red"]
    assert list(found["results"][0]["clause_scores"]) == labels
    assert [len(result["others"]) for result in found["results"]] == [0, 0, 0]
    typed = indexed("search", expected, "--gallery", "people.lance", "--json")
    assert json.loads(typed.stdout) == found


def test_a_picture_alone_is_a_query(indexed: Any) -> None:
    picture = "crops/south/3_20240501-140000.png"
    result = indexed("search", "--image", picture, "-k", "1", "--gallery", "people.lance", "--json")
    (found,) = json.loads(result.stdout)["results"]
    assert found["image_id"] == "south/3_20240501-140000.png" and found["score"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to look for"),
        (["coat", "--weight", "2"], "each --weight belongs to an --image"),
        (["coat", "--not", "a AND b"], "repeat --not"),
        (["coat", "--refine", "--json"], "mark results by --right and --wrong"),
    ],
)
def test_options_of_search_that_do_not_fit_are_wrong_usage(indexed: Any, arguments: list[str], message: str) -> None:
    result = indexed("search", *arguments, "--gallery", "people.lance")
    assert result.exit_code == 2 and message in " ".join(result.output.split())


def test_marks_of_the_options_are_left_out(indexed: Any) -> None:
    marks = ["--right", "north/1_20240501-120000.png", "--wrong", "south/3_20240501-140000.png"]
    result = indexed("search", "a man", *marks, "--gallery", "people.lance", "--json")
    assert [found["image_id"] for found in json.loads(result.stdout)["results"]] == ["north/2_20240501-130000.png"]


@pytest.mark.parametrize("end", ["\n\n", ""])
def test_refine_asks_until_nothing_more_is_marked(indexed: Any, end: str) -> None:
    first = indexed("search", "a man", "--gallery", "people.lance", "--json")
    names = [found["image_id"] for found in json.loads(first.stdout)["results"]]
    typed = "7\none\n1\n1\n2,\n" + end  # mistakes among marks, then nothing more or the end of the input
    result = indexed("search", "a man", "--gallery", "people.lance", "--refine", input=typed)
    assert result.exit_code == 0
    rounds = result.stdout.split("results for 'a man'")
    assert [names[2] in text for text in rounds] == [False, True, True]
    assert not any(name in rounds[2].split("marked right")[0] for name in names[:2])
    assert rounds[2].endswith(f"marked right: {names[0]}\n")
    assert result.stderr.count("expected some of 1, 2, 3,") == 2 and result.stderr.count("expected some of 2, 3,") == 1
    assert result.stderr.count("Enter: none") == 7


def test_no_match_exits_with_1(ivt: Any, make_crops: Any, checkpoint: str, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "model")
    never = PresenceCurve((0.0,) * len(FEATURES), -3.0, 0.5, (2, 20), 100)
    Calibration("tiny", find_version(str(folder)).revision, "synthetic", {"text": never}).save(folder)
    make_crops("a.png", "b.png")
    assert ivt("index", "crops", "--gallery", "people.lance", "--model", str(folder)).exit_code == 0
    result = ivt("search", "a man", "--gallery", "people.lance", "--save", "sheet.png")
    assert result.exit_code == 1 and Path("sheet.png").exists()
    assert "no match: the person is in the gallery with a probability of 5 %" in result.stdout
    found = json.loads(ivt("search", "a man", "--gallery", "people.lance", "--json").stdout)
    assert found["no_match"] and found["presence"] == pytest.approx(0.0474, abs=1e-4) and len(found["results"]) == 2


def test_search_that_finds_nothing_exits_with_1(indexed: Any) -> None:
    for form in ([], ["--json"]):
        result = indexed("search", "a man", "--gallery", "people.lance", "--where", "false", "--save", "s.png", *form)
        assert result.exit_code == 1
    assert json.loads(result.stdout)["results"] == [] and not Path("s.png").exists()


def test_camera_and_time_of_the_options_are_those_of_the_pictures(ivt: Any, make_crops: Any, checkpoint: str) -> None:
    make_crops("a.png")
    taken = ["--camera", "north", "--time", "2024-05-01T14:00+02:00"]
    assert ivt("index", "crops", "--gallery", "people.lance", "--model", checkpoint, *taken).exit_code == 0
    found = json.loads(ivt("gallery", "info", "--gallery", "people.lance", "--json").stdout)
    assert (found["cameras"], found["first_time"]) == ({"north": 1}, "2024-05-01 12:00:00+00:00")


def test_results_are_grouped_if_asked(ivt: Any, make_crops: Any, checkpoint: str) -> None:
    folder = make_crops("a.png")
    for name in ("b.png", "c.png"):
        shutil.copy(folder / "a.png", folder / name)
    ivt("index", "crops", "--gallery", "people.lance", "--model", checkpoint)
    found = json.loads(ivt("search", "coat", "--gallery", "people.lance", "--group-by", "duplicate", "--json").stdout)
    assert [[result["image_id"], *result["others"]] for result in found["results"]] == [["a.png", "b.png", "c.png"]]


@pytest.mark.parametrize("reembed", [False, True])
def test_what_the_options_say_about_model_and_engine_reaches_the_gallery(
    ivt: Any, reembed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: dict[str, tuple[tuple, dict]] = {}

    class WatchedGallery:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            calls["open"] = arguments, options

        def __len__(self) -> int:
            return 0

        def add(self, *arguments: Any, **options: Any) -> IndexReport:
            calls["add"] = arguments, options
            return IndexReport()

        @classmethod
        def reembed(cls, *arguments: Any, **options: Any) -> "WatchedGallery":
            calls["reembed"] = arguments, options
            return cls()

        def search(self, *arguments: Any, **options: Any) -> SearchResults:
            calls["search"] = arguments, options
            return SearchResults("", [], lambda names: [])

    monkeypatch.setattr("ivt.gallery.gallery.Gallery", WatchedGallery)
    model, where = ["--model", "some/model", "--device", "cpu"], ["--gallery", "people.lance"]
    engine = ["--batch-size", "5", "--runner", "ray", "--address", "10.0.0.1:6379", "--on-bad-image", "error"]
    again = ["--reembed"] if reembed else []
    assert ivt("index", "crops", *where, *model, "--revision", "v7", *engine, "--sync", *again).exit_code == 0
    of_model = (("people.lance", "some/model"), {"revision": "v7", "device": "cpu"})
    of_engine = {"batch_size": 5, "runner": "ray", "address": "10.0.0.1:6379", "on_bad_image": "error"}
    assert calls["add"][1].items() >= {"sync": True, **of_engine}.items()
    if reembed:
        assert calls["reembed"] == (of_model[0], of_model[1] | of_engine)
    else:
        assert calls["open"] == of_model
    ivt("search", "coat", *where, *model, "-k", "3", "--where", "true", "--right", "a", "--wrong", "b", "--wrong", "c")
    assert calls["open"] == (("people.lance", "some/model"), {"device": "cpu"})
    marks = {"right": ["a"], "wrong": ["b", "c"], "group_by": None, "rerank": 0}
    assert calls["search"] == ((Query((Clause("coat"),)), 3, "true"), marks)


def test_unreadable_pictures_exit_with_1_and_are_named(indexed: Any) -> None:
    Path("crops/north/broken.jpg").write_bytes(b"")
    result = indexed("index", "crops", "--gallery", "people.lance")
    assert result.exit_code == 1 and "3 unchanged" in result.stdout and "1 unreadable" in result.stdout
    result = indexed("index", "crops", "--gallery", "people.lance", "--json")
    assert list(json.loads(result.stdout)["bad"]) == ["north/broken.jpg"]
    with pytest.raises(ValueError, match="north/broken.jpg cannot be read"):
        indexed("index", "crops", "--gallery", "people.lance", "--on-bad-image", "error")


def test_sync_removes_what_is_gone(indexed: Any) -> None:
    Path("crops/south/3_20240501-140000.png").unlink()
    assert "1 removed" in indexed("index", "crops", "--gallery", "people.lance", "--sync").stdout


def test_progress_shows_rate_and_time_left(indexed: Any) -> None:
    result = indexed("index", "crops", "--gallery", "people.lance")
    assert re.search(r"Indexing: 100%.* 3/3 \[00:\d\d<00:00, .*image/s\]", result.stderr)
    assert "Indexing" not in result.stdout


def test_gallery_of_another_model_is_refused_and_converted_if_asked(indexed: Any, other_checkpoint: str) -> None:
    arguments = ("index", "--gallery", "people.lance", "--model", other_checkpoint)
    with pytest.raises(ValueError, match="ivt index --reembed"):
        indexed(*arguments, "crops")
    result = indexed(*arguments, "--reembed", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout) == {"pictures": 3}
    assert "3 unchanged" in indexed(*arguments, "crops").stdout
    missing = indexed("index", "--gallery", "people.lance")
    assert missing.exit_code == 2 and "FOLDER is missing" in missing.stderr


def test_info_verify_remove_and_optimize(indexed: Any) -> None:
    info = indexed("gallery", "info", "--gallery", "people.lance")
    assert re.search(r"^pictures +3$", info.stdout, re.MULTILINE)
    assert re.search(r"^camera north +2$", info.stdout, re.MULTILINE)
    assert (
        json.loads(indexed("gallery", "info", "--gallery", "people.lance", "--json").stdout)["cameras"]["south"] == 1
    )
    assert "0 problems" in indexed("gallery", "verify", "--gallery", "people.lance").stdout

    Path("crops/south/3_20240501-140000.png").unlink()
    verify = indexed("gallery", "verify", "--gallery", "people.lance")
    assert verify.exit_code == 1 and "picture is missing: south/3_20240501-140000.png" in verify.stdout
    assert indexed("gallery", "verify", "--gallery", "people.lance", "--quick").exit_code == 0
    problems = json.loads(indexed("gallery", "verify", "--gallery", "people.lance", "--json").stdout)["problems"]
    assert problems == {"picture is missing": ["south/3_20240501-140000.png"]}
    draw(99).save("crops/north/2_20240501-130000.png")  # changed, which is no reason to remove it

    assert (
        "removed 1 pictures, 2 are left"
        in indexed("gallery", "remove", "--gallery", "people.lance", "--missing").stdout
    )
    assert indexed("gallery", "remove", "--gallery", "people.lance", "--missing").exit_code == 1
    names = ("--image-id", "north/1_20240501-120000.png", "--image-id", "none")
    assert indexed("gallery", "remove", "--gallery", "people.lance", *names).exit_code == 0
    left = json.loads(indexed("gallery", "remove", "--gallery", "people.lance", "--where", "true", "--json").stdout)
    assert left == {"removed": 1, "pictures": 0}
    for arguments in ([], ["--missing", "--where", "true"]):
        assert indexed("gallery", "remove", "--gallery", "people.lance", *arguments).exit_code == 2
    assert "0 pictures, index -" in indexed("gallery", "optimize", "--gallery", "people.lance").stdout
    assert json.loads(indexed("gallery", "optimize", "--gallery", "people.lance", "--json").stdout)["pictures"] == 0


def test_results_are_printed_before_a_sheet_that_cannot_be_written(indexed: Any, checkpoint: str, capsys: Any) -> None:
    results = Gallery("people.lance", checkpoint).search("a man")
    with pytest.raises(FileNotFoundError, match="missing/sheet.png"):
        print_results(results, Path("missing/sheet.png"), as_json=False)
    assert capsys.readouterr().out.startswith("3 results for 'a man'\n")
