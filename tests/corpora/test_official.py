import hashlib
import json
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from ivt.corpora import FEATURES, SPLITS, load_corpus, official

ANNOTATIONS = {"cuhk-pedes": "reid_raw.json", "icfg-pedes": "ICFG-PEDES.json", "rstpreid": "data_captions.json"}
FOLDERS = {"cuhk-pedes": "CUHK-PEDES", "icfg-pedes": "ICFG-PEDES", "rstpreid": "RSTPReid"}
PATH_KEYS = {"cuhk-pedes": "file_path", "icfg-pedes": "file_path", "rstpreid": "img_path"}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def entry(name: str, person_id: int, path: str, split: str, *captions: str) -> dict[str, Any]:
    return {"id": person_id, PATH_KEYS[name]: path, "split": split, "captions": list(captions)}


def write_corpus(root: Path, name: str, entries: list[dict[str, Any]], file_name: str | None = None) -> Path:
    """Write a corpus as its authors distribute it: each image has a colour of its own and is wider than high."""
    folder = root / FOLDERS[name]
    (folder / "imgs").mkdir(parents=True, exist_ok=True)
    (folder / (file_name or ANNOTATIONS[name])).write_text(json.dumps(entries), encoding="utf-8")
    for index, item in enumerate(entries):
        path = folder / "imgs" / item[PATH_KEYS[name]]
        path.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGB", (8, 5), (index, 0, 0)).save(path)
    return folder


@pytest.fixture
def cuhk(tmp_path: Path) -> Path:
    entries = [
        entry("cuhk-pedes", 1, "CUHK01/a.png", "train", "A man.", "He walks."),
        entry("cuhk-pedes", 1, "Market/b.png", "train", "A man.", "Tall.", "Third caption."),
        entry("cuhk-pedes", 2, "cam_a/c.png", "val", "A woman.", "She runs."),
        entry("cuhk-pedes", 3, "test_query/d.png", "test", "A boy.", "He sits."),
        entry("cuhk-pedes", 4, "train_query/e.png", "test", "A girl."),
    ]
    return write_corpus(tmp_path, "cuhk-pedes", entries)


def rewrite(folder: Path, change: Any) -> None:
    """Apply `change` to the entries of a corpus of CUHK-PEDES's layout."""
    path = folder / "reid_raw.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(change(entries) or entries), encoding="utf-8")


def test_rows_are_those_of_the_split_with_all_their_captions(cuhk: Path) -> None:
    rows = load_corpus("cuhk-pedes", cuhk, split="train")
    assert rows.features == FEATURES
    assert rows["image_id"][:] == ["imgs/CUHK01/a.png", "imgs/Market/b.png"]
    assert rows["person_id"][:] == [1, 1]
    assert rows["captions"][:] == [["A man.", "He walks."], ["A man.", "Tall.", "Third caption."]]
    assert [image.getpixel((0, 0)) for image in rows["image"]] == [(0, 0, 0), (1, 0, 0)]
    assert rows[0]["image"].size == (8, 5)
    assert load_corpus("cuhk-pedes", cuhk, split="val")["person_id"][:] == [2]
    assert load_corpus("cuhk-pedes", cuhk, split="test")["captions"][:] == [["A boy.", "He sits."], ["A girl."]]
    assert load_corpus("cuhk-pedes", cuhk, split="train+val")["person_id"][:] == [1, 1, 2]


def test_images_stay_files_and_are_not_copied_into_the_cache(cuhk: Path) -> None:
    row = load_corpus("cuhk-pedes", cuhk).with_format("arrow")[0]["image"][0].as_py()
    assert row == {"bytes": None, "path": str(cuhk / "imgs/CUHK01/a.png")}


@pytest.mark.parametrize("name", list(FOLDERS))
def test_root_is_the_corpus_folder_or_the_one_that_holds_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_corpus(tmp_path, name, [entry(name, 5, "x/a.jpg", "test", "A man.")])
    monkeypatch.chdir(tmp_path)
    for root in (folder, tmp_path, str(folder), FOLDERS[name], "."):
        rows = load_corpus(name, root, "test")
        assert (rows["image_id"][0], rows["person_id"][0], rows["captions"][0]) == ("imgs/x/a.jpg", 5, ["A man."])


@pytest.mark.parametrize("file_name", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
def test_icfg_is_found_under_both_names(tmp_path: Path, file_name: str) -> None:
    entries = [entry("icfg-pedes", 1, "test/a.jpg", "test", "A man.")]
    folder = write_corpus(tmp_path, "icfg-pedes", entries, file_name)
    assert len(load_corpus("icfg-pedes", folder, "test")) == 1


def held_out_of(train: Iterable[int], test: Iterable[int] = ()) -> list[int]:
    rows = [{"person_id": person, "split": "train"} for person in train]
    rows += [{"person_id": person, "split": "test"} for person in test]
    official.hold_out_val(rows)
    assert [row["person_id"] for row in rows if row["split"] == "test"] == list(test)
    return sorted({row["person_id"] for row in rows if row["split"] == "val"})


def test_held_out_people_are_the_same_for_ever() -> None:
    # chosen by SHA-256 of the decimal id: another choice would make figures on val incomparable
    assert held_out_of(range(45)) == [8, 9, 39]
    of_icfg = held_out_of(range(3102))
    assert len(of_icfg) == 206 and of_icfg[:5] == [39, 49, 51, 55, 109]
    assert hashlib.sha256(str(of_icfg).encode()).hexdigest()[:16] == "05f99c393f9a6de9"


@pytest.mark.parametrize("num_test", [1, 15, 60, 1000])
def test_people_of_other_splits_change_nothing_about_who_is_held_out(num_test: int) -> None:
    for first in (1000, 0):  # from 0 on they are people of train as well, and stay in test with these pictures
        assert held_out_of(range(45), range(first, first + num_test)) == held_out_of(range(45))
    assert held_out_of(range(3102), range(5000, 5000 + num_test)) == held_out_of(range(3102))


@pytest.mark.parametrize(("num_people", "num_held_out"), [(1, 1), (14, 1), (29, 1), (30, 2)])
def test_one_in_fifteen_is_held_out_but_never_nobody(num_people: int, num_held_out: int) -> None:
    assert len(held_out_of(range(num_people))) == num_held_out


def test_icfg_val_is_identities_held_out_of_train(tmp_path: Path) -> None:
    train = [entry("icfg-pedes", n // 2, f"train/{n}.jpg", "train", f"Number {n}.") for n in range(90)]
    test = [entry("icfg-pedes", 1000 + n, f"test/{n}.jpg", "test", "A man.") for n in range(60)]
    folder = write_corpus(tmp_path, "icfg-pedes", train + test)
    ids = {split: set(load_corpus("icfg-pedes", folder, split)["person_id"]) for split in SPLITS}
    assert len(ids["val"]) == 45 // official.HELD_OUT_SHARE == 3
    assert ids["train"] | ids["val"] == ids["train+val"] == set(range(45))
    assert not ids["train"] & ids["val"]
    assert ids["test"] == set(range(1000, 1060))
    assert len(load_corpus("icfg-pedes", folder, "val")) == 6  # whole identities
    write_corpus(tmp_path, "icfg-pedes", test + train[::-1])
    assert set(load_corpus("icfg-pedes", folder, "val")["person_id"]) == ids["val"]


def test_docstring_names_the_number_held_out_of_the_real_icfg() -> None:
    held_out = len(held_out_of(range(3102), range(3102, 4102)))
    assert f"one training identity in {official.HELD_OUT_SHARE} ({held_out} of 3,102)" in load_corpus.__doc__


def test_captions_keep_stray_characters_and_lose_stray_white_space(cuhk: Path) -> None:
    dirt = "  The <br/> man\twears\n\n穿着 a\u3000coat;\u00a0 $(x) "
    rewrite(cuhk, lambda entries: entries[0].update(captions=[dirt]))
    assert load_corpus("cuhk-pedes", cuhk)["captions"][0] == ["The <br/> man wears 穿着 a coat; $(x)"]


def test_empty_captions_are_dropped_and_counted(cuhk: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(cuhk, lambda entries: entries[0].update(captions=["", "Kept.", " \n"]))
    rewrite(cuhk, lambda entries: entries[1].update(captions=[""]))
    rows = load_corpus("cuhk-pedes", cuhk)
    assert rows["captions"][:] == [["Kept."]]
    assert "dropped 3 empty captions" in caplog.text
    assert "dropped 1 images which have no caption: imgs/Market/b.png" in caplog.text


def test_entries_of_one_image_are_merged(cuhk: Path, caplog: pytest.LogCaptureFixture) -> None:
    again = entry("cuhk-pedes", 1, "./CUHK01//a.png", "train", "He walks.", "New.")
    rewrite(cuhk, lambda entries: entries.append(again))
    rows = load_corpus("cuhk-pedes", cuhk)
    assert rows["captions"][0] == ["A man.", "He walks.", "New."]
    assert len(rows) == 2
    assert "merged 1 entries" in caplog.text


@pytest.mark.parametrize("change", [{"id": 2}, {"split": "test"}])
def test_one_image_of_two_people_or_splits_is_refused(cuhk: Path, change: dict[str, Any]) -> None:
    rewrite(cuhk, lambda entries: entries.append(entries[0] | change))
    with pytest.raises(ValueError, match="imgs/CUHK01/a.png is person 1 in train and, in entry 5"):
        load_corpus("cuhk-pedes", cuhk)


def break_images(folder: Path) -> None:
    """Delete one image and cut another short, so that its header can still be read and its pixels cannot."""
    (folder / "imgs/CUHK01/a.png").unlink()
    path = folder / "imgs/Market/b.png"
    PIL.Image.effect_noise((60, 40), 50).save(path)
    path.write_bytes(path.read_bytes()[:1000])
    with PIL.Image.open(path) as image:
        assert image.size == (60, 40)


def test_missing_and_truncated_images_are_named_and_counted(cuhk: Path) -> None:
    (cuhk / "imgs/CUHK01/a.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be read: imgs/CUHK01/a.png \(No such file.*skip"):
        load_corpus("cuhk-pedes", cuhk)
    PIL.Image.new("RGB", (8, 5)).save(cuhk / "imgs/CUHK01/a.png")
    break_images(cuhk)
    PIL.Image.new("RGB", (8, 5)).save(cuhk / "imgs/CUHK01/a.png")
    with pytest.raises(ValueError, match=r"1 of 2 images cannot be read: imgs/Market/b.png \(\w+: .*skip"):
        load_corpus("cuhk-pedes", cuhk)
    assert len(load_corpus("cuhk-pedes", cuhk, "test")) == 2  # the other splits are whole


def test_bad_images_are_skipped_on_request(cuhk: Path, caplog: pytest.LogCaptureFixture) -> None:
    rewrite(cuhk, lambda entries: entries.append(entries[0] | {"file_path": "CUHK03/f.png"}))
    (cuhk / "imgs/CUHK03").mkdir()
    PIL.Image.new("RGB", (8, 5)).save(cuhk / "imgs/CUHK03/f.png")
    break_images(cuhk)
    rows = load_corpus("cuhk-pedes", cuhk, on_bad_image="skip")
    assert rows["image_id"][:] == ["imgs/CUHK03/f.png"]
    assert rows[0]["image"].size == (8, 5)
    assert "1 of 3 images cannot be read: imgs/CUHK01/a.png" in caplog.text
    assert "1 of 3 images cannot be read: imgs/Market/b.png" in caplog.text


def test_many_missing_images_name_the_first_five(tmp_path: Path) -> None:
    entries = [entry("rstpreid", n, f"{n}.jpg", "test", "A man.") for n in range(9)]
    folder = write_corpus(tmp_path, "rstpreid", entries)
    for n in range(8):
        (folder / f"imgs/{n}.jpg").unlink()
    with pytest.raises(ValueError, match=r"8 of 9 images.*imgs/0.jpg.*imgs/4.jpg \([^)]*\) and 3 more"):
        load_corpus("rstpreid", folder, "test")
    (folder / "imgs/8.jpg").unlink()
    with pytest.raises(ValueError, match="none of the 9 images"):
        load_corpus("rstpreid", folder, "test", on_bad_image="skip")


def test_corpus_without_one_readable_image_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    folder = write_corpus(tmp_path, "rstpreid", [entry("rstpreid", 1, "0.jpg", "test", "A man.")])
    (folder / "imgs/0.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="none of the 1 images .* can be read"):
        load_corpus("rstpreid", folder, "test", on_bad_image="skip")


def test_images_are_decoded_once_until_one_changes(cuhk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, open_image = [], PIL.Image.open
    monkeypatch.setattr(PIL.Image, "open", lambda path: decoded.append(path) or open_image(path))
    first = load_corpus("cuhk-pedes", cuhk)
    assert len(decoded) == 2
    second = load_corpus("cuhk-pedes", cuhk)
    assert len(decoded) == 2
    assert first._fingerprint == second._fingerprint  # what is computed from the rows is cached too
    os.utime(cuhk / "imgs/CUHK01/a.png", (1, 1))
    load_corpus("cuhk-pedes", cuhk)
    assert len(decoded) == 4


def test_changed_annotations_are_never_served_from_the_cache(cuhk: Path) -> None:
    load_corpus("cuhk-pedes", cuhk)
    rewrite(cuhk, lambda entries: entries[0].update(captions=["Corrected."]))
    assert load_corpus("cuhk-pedes", cuhk)["captions"][0] == ["Corrected."]


def test_repaired_image_is_no_longer_bad(cuhk: Path) -> None:
    path = cuhk / "imgs/Market/b.png"
    state, whole = path.stat(), path.read_bytes()
    path.write_bytes(b"x" * len(whole))
    os.utime(path, ns=(state.st_mtime_ns, state.st_mtime_ns))
    with pytest.raises(ValueError, match="UnidentifiedImageError"):
        load_corpus("cuhk-pedes", cuhk)
    path.write_bytes(whole)
    os.utime(path, ns=(state.st_mtime_ns, state.st_mtime_ns))  # same size and time: the cache cannot see the repair
    assert len(load_corpus("cuhk-pedes", cuhk)) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda entries: entries.insert(1, "a.png"), "entry 1 .*is str, expected an object"),
        (
            lambda entries: entries.insert(2, {"id": 1, "file_path": "x", "split": "val"}),
            "entry 2 .*no key 'captions', only file_path, id, split;",
        ),
        (
            lambda entries: entries[1].update(file_path=None),
            r"entry 1 .*'file_path' = 'None' \(NoneType\), expected str",
        ),
        (lambda entries: entries[0].update(id="7"), r"entry 0 .*'id' = '7' \(str\), expected int"),
        (lambda entries: entries[0].update(id=True), r"entry 0 .*\(bool\), expected int"),
        (lambda entries: entries[0].update(captions="A man."), "entry 0 .*expected list"),
        (lambda entries: entries[4].update(captions=[None]), "entry 4 .*caption which is no string"),
        (
            lambda entries: entries[3].update(split="query"),
            "entry 3 .*split 'query', expected one of train, val, test",
        ),
        (lambda entries: entries[2].update(id=2**63), "entry 2 .*has the id 9223372036854775808, expected .* 64 bits"),
        (lambda entries: entries[2].update(captions=["A man \ud83c."]), "entry 2 .*half a character"),
        (lambda entries: entries[1].update(file_path="../../secret.jpg"), "entry 1 .*leads out of the folder imgs"),
        (lambda entries: entries[1].update(file_path="imgs/../../x.jpg"), "entry 1 .*leads out of the folder imgs"),
        (lambda entries: entries[1].update(file_path="..\\x.jpg"), "entry 1 .*leads out of the folder imgs"),
        (lambda entries: entries[1].update(file_path="/etc/passwd"), "entry 1 .*absolute path '/etc/passwd' without"),
        (lambda entries: entries[1].update(file_path="C:\\x\\a.png"), "entry 1 .*absolute path .* without"),
        (lambda entries: {"entries": entries}, "holds dict .*expected a list"),
    ],
)
def test_wrong_annotations_name_the_first_bad_entry(cuhk: Path, change: Any, message: str) -> None:
    rewrite(cuhk, change)
    with pytest.raises(ValueError, match=message):
        load_corpus("cuhk-pedes", cuhk)


@pytest.mark.parametrize(
    "form",
    [
        "CUHK01\\a.png",
        "imgs/CUHK01/a.png",
        "./CUHK01/a.png",
        "/data/cuhk/imgs/CUHK01/a.png",
        "D:\\imgs\\CUHK01\\a.png",
    ],
)
def test_paths_are_found_however_they_were_written_down(cuhk: Path, form: str) -> None:
    rewrite(cuhk, lambda entries: entries[0].update(file_path=form))
    assert load_corpus("cuhk-pedes", cuhk)["image_id"][0] == "imgs/CUHK01/a.png"


def test_another_encoding_is_named(cuhk: Path) -> None:
    path = cuhk / "reid_raw.json"
    path.write_bytes(path.read_text().replace("A man.", "A man in a café.").encode("cp1252"))
    with pytest.raises(ValueError, match="is not written in UTF-8 .*iconv"):
        load_corpus("cuhk-pedes", cuhk)


@pytest.mark.parametrize("text", ['[{"split": "tra', "", "\ufeff[]", "[]"])
def test_broken_or_empty_json_is_refused(cuhk: Path, text: str) -> None:
    (cuhk / "reid_raw.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="reid_raw.json (is no valid JSON|holds list)"):
        load_corpus("cuhk-pedes", cuhk)


def test_old_annotation_alone_is_explained(cuhk: Path) -> None:
    (cuhk / "reid_raw.json").rename(cuhk / "caption_all.json")
    with pytest.raises(ValueError, match="caption_all.json, an older annotation.*expected reid_raw.json"):
        load_corpus("cuhk-pedes", cuhk.parent)


def test_folder_without_annotations_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"looked for ICFG-PEDES.json or ICFG_PEDES.json.*found notes.txt; pass"):
        load_corpus("icfg-pedes", tmp_path)
    with pytest.raises(ValueError, match="nowhere is no folder"):
        load_corpus("rstpreid", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="pass root="):
        load_corpus("rstpreid")


def test_corpus_without_image_folder_is_refused(cuhk: Path) -> None:
    (cuhk / "imgs").rename(cuhk / "images")
    with pytest.raises(ValueError, match="no folder imgs"):
        load_corpus("cuhk-pedes", cuhk)


def test_split_without_images_is_refused(cuhk: Path) -> None:
    rewrite(cuhk, lambda entries: [item for item in entries if item["split"] != "val"])
    with pytest.raises(ValueError, match="no images of split 'val'"):
        load_corpus("cuhk-pedes", cuhk, "val")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "CUHK_PEDES"}, "corpus is 'CUHK_PEDES'.*did you mean 'cuhk-pedes'"),
        ({"name": "rstp"}, "did you mean 'rstpreid'"),
        ({"name": "imagenet"}, "expected one of 'cuhk-pedes', 'icfg-pedes', 'rstpreid', 'synthetic'"),
        ({"split": "validation"}, "split is 'validation'.*did you mean 'val'"),
        ({"split": "tets"}, "did you mean 'test'"),
        ({"on_bad_image": "ignore"}, "on_bad_image is 'ignore', expected one of 'error', 'skip'"),
        ({"seed": 3}, "takes no options, found seed"),
    ],
)
def test_unknown_arguments_list_what_exists(cuhk: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_corpus(**{"name": "cuhk-pedes", "root": cuhk} | arguments)


def test_synthetic_corpus_comes_through_the_same_door(tmp_path: Path) -> None:
    rows = load_corpus("synthetic", tmp_path, "val", num_people=2, images_per_person=1, num_proc=1)
    assert len(rows) == 2
    assert set(FEATURES) <= set(rows.features)


def test_clean_corpus_logs_nothing(cuhk: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_corpus("cuhk-pedes", cuhk)
    assert not caplog.records
