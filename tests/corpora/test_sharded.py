"""Corpora in shards: what is written comes back, row by row from the disk, or an error names the file."""

import io
import json
import os
import pickle
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from datasets.exceptions import DatasetGenerationError
from PIL import Image

from ivt.corpora import load_corpus, shard, sharded
from ivt.corpora.sharded import SHARD_FEATURES, ShardedRows, write_shards

EXTENSIONS = ("parquet", "tar")


def encoded(number: int, image_format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (9, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, image_format)
    return file.getvalue()


def make_rows(count: int, folder: Path) -> Dataset:
    """Rows with 1 to 3 captions; every third picture is a file, the others lie in the row."""
    rows = {name: [] for name in SHARD_FEATURES}
    for number in range(count):
        content = encoded(number, "JPEG" if number % 2 else "PNG")
        image = {"bytes": content, "path": None}
        if number % 3 == 0:
            path = folder / f"{number}.png"
            path.write_bytes(content)
            image = {"bytes": None, "path": str(path)}
        captions = [f"Person {number} in {'red ' * (i + 1)}coat" for i in range(1 + number % 3)]
        rows["image"].append(image)
        rows["image_id"].append(f"camera/{number}.png")
        rows["person_id"].append(1000 + number // 2)
        rows["captions"].append(captions)
        rows["levels"].append([{"phrases": [c], "words": c.split()[:1]} for c in captions])
    return Dataset.from_dict(rows, features=SHARD_FEATURES)


@pytest.fixture
def rows(tmp_path: Path) -> Dataset:
    return make_rows(11, tmp_path)


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_row_comes_back_once_as_it_was(tmp_path, rows, extension):
    files = write_shards(rows, tmp_path / "shards", "train", extension, rows_per_shard=4)
    assert [file.name for file in files] == [f"train-0000{i}-of-00003.{extension}" for i in range(3)]
    found = {row["image_id"]: row for row in ShardedRows(tmp_path / "shards", "train")}
    assert len(found) == 11
    for number, row in enumerate(rows):
        again = found[row["image_id"]]
        assert again["image"]["bytes"] == encoded(number, "JPEG" if number % 2 else "PNG")  # no picture is coded anew
        assert {name: again[name] for name in ("person_id", "captions", "levels")} == {
            name: row[name] for name in ("person_id", "captions", "levels")
        }
    order = [row["image_id"] for row in ShardedRows(tmp_path / "shards", "train")]
    assert order != list(rows["image_id"])  # neighbours of the corpus are parted
    write_shards(rows, tmp_path / "again", "train", extension, rows_per_shard=4)
    assert order == [row["image_id"] for row in ShardedRows(tmp_path / "again", "train")]


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_without_identities_each_picture_is_one(tmp_path, rows, extension):
    write_shards(rows.remove_columns("person_id"), tmp_path, "train", extension, rows_per_shard=4)
    sharded_rows = ShardedRows(tmp_path, "train")
    assert sharded_rows["person_id"] == list(range(11)) == [row["person_id"] for row in sharded_rows]
    assert load_corpus("shards", str(tmp_path), "train")["person_id"] == list(range(11))
    assert sharded_rows.sizes()["people"] == 11


def test_identities_of_some_pictures_alone_are_refused(tmp_path, rows):
    write_shards(rows.select(range(4)), tmp_path, "train", rows_per_shard=4)
    named = tmp_path / "train-00000-of-00001.parquet"
    write_shards(rows.remove_columns("person_id"), tmp_path / "other", "train", rows_per_shard=20)
    named.rename(tmp_path / "train-00000-of-00002.parquet")
    (tmp_path / "other/train-00000-of-00001.parquet").rename(tmp_path / "train-00001-of-00002.parquet")
    with pytest.raises(ValueError, match="11 of 15 rows .* have no person_id; give all of them one, or none"):
        ShardedRows(tmp_path, "train")


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_pairs_are_the_captions_in_the_order_of_the_rows(tmp_path, rows, extension):
    write_shards(rows, tmp_path, "train", extension, rows_per_shard=4)
    sharded_rows = ShardedRows(tmp_path, "train")
    expected = [(row["image_id"], caption) for row in sharded_rows for caption in row["captions"]]
    found = []
    for index in range(len(expected)):
        row, number = sharded_rows.pair(index)
        found.append((row["image_id"], row["captions"][number]))
    assert found == expected
    assert sharded_rows.caption_lengths.tolist() == [len(caption.split()) for _, caption in expected]
    per_shard = [sum(len(sharded_rows[i]["captions"]) for i in of_shard) for of_shard in ([0, 1, 2, 3], [4, 5, 6, 7])]
    assert sharded_rows.pairs_per_shard == [*per_shard, len(expected) - sum(per_shard)]
    assert sharded_rows["person_id"] == [row["person_id"] for row in sharded_rows]


def test_both_formats_are_those_of_the_datasets_library(tmp_path, rows):
    rows = rows.select(range(0, 11, 2))  # one kind of pictures, as its WebDataset builder wants it
    for extension, builder in (("parquet", "parquet"), ("tar", "webdataset")):
        files = write_shards(rows, tmp_path / extension, "train", extension, rows_per_shard=4)
        found = load_dataset(
            builder, data_files={"train": [str(file) for file in files]}, cache_dir=str(tmp_path), split="train"
        )
        assert len(found) == 6
        if extension == "parquet":
            assert found.features == SHARD_FEATURES and found[0]["image"].size == (4, 9)
        else:
            assert {row["json"]["image_id"] for row in found} == set(rows["image_id"])


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_shards_are_a_corpus_like_any_other(tmp_path, rows, extension):
    write_shards(rows, tmp_path / "data", "val", extension, rows_per_shard=6)
    found = load_corpus("shards", tmp_path, "val")  # in the folder `data`, as on the Hub
    assert Counter(found["image_id"]) == Counter(rows["image_id"]) and found[0]["image"].size == (4, 9)
    assert found.column_names == ["image", "image_id", "person_id", "captions"]
    write_shards(rows.select(range(5)), tmp_path / "data", "val", extension, rows_per_shard=6)
    assert len(load_corpus("shards", tmp_path, "val")) == 5  # not the cache of the older ones


def test_command_writes_what_it_counts(tmp_path, ivt):
    make_rows(7, tmp_path).remove_columns("levels").to_parquet(tmp_path / "train-00000-of-00001.parquet", batch_size=2)
    command = ["shards", tmp_path / "tar", "--corpus-root", tmp_path, "--split", "train"]
    done = ivt("corpus", "shard", *command, "--format", "webdataset", "--rows-per-shard", 3)
    assert "train: 7 pictures, 13 captions in 3 shards" in done.stdout
    first = next(iter(ShardedRows(tmp_path / "tar", "train")))
    assert first["levels"][0]["phrases"] == [first["captions"][0]]
    for arguments, message in (
        (["cuhk"], "did you mean 'cuhk-pedes'"),
        (["shards", "--split", "dev"], "split is 'dev'"),
        (["rstpreid", "--split", "train+val"], r"split is 'train\+val'"),
        (["shards", "--format", "tar"], "format is 'tar', expected one of 'parquet', 'webdataset'"),
    ):
        with pytest.raises(ValueError, match=message):
            ivt("corpus", "shard", arguments[0], tmp_path, *arguments[1:])


def digest_of(folder: Path, *samples: tuple[int, list[str]], name: str = "train-00000-of-00001.tar") -> str:
    """The digest of a shard with samples of (person, captions)."""
    folder.mkdir()
    files = {}
    for number, (person_id, captions) in enumerate(samples):
        row = {"image_id": f"{number}", "person_id": person_id, "captions": captions}
        files |= {f"{number}.png": encoded(number), f"{number}.json": json.dumps(row).encode()}
    write_samples(folder / name, files)
    return ShardedRows(folder, name.partition("-")[0]).digest()


def test_digest_tells_corpora_apart_whose_files_are_equally_large(tmp_path):
    samples = [(1, ["a man in red", "he runs"]), (2, ["a woman"])]
    digest = digest_of(tmp_path / "first", *samples)
    others = {
        "person": [(1, ["a man in red", "he runs"]), (3, ["a woman"])],
        "words of a caption": [(1, ["a man in-red", "he runs"]), (2, ["a woman"])],
        "order of captions": [(1, ["he runs", "a man in red"]), (2, ["a woman"])],
        "row of a caption": [(1, ["a man in red"]), (2, ["he runs", "a woman"])],
    }
    found = {what: digest_of(tmp_path / what, *other) for what, other in others.items()}
    found["name"] = digest_of(tmp_path / "name", *samples, name="val-00000-of-00001.tar")
    found["size"] = digest_of(tmp_path / "size", (1, ["a man in red", "he runs" + "s" * 20_000]), samples[1])
    assert len({digest, *found.values()}) == 1 + len(found)
    assert digest_of(tmp_path / "elsewhere", *samples) == digest  # wherever it lies and whenever it was written


def test_command_asks_for_a_number_of_people_where_they_are_drawn_for_training(ivt, tmp_path, monkeypatch):
    asked, rows = [], make_rows(6, tmp_path).remove_columns("levels")
    monkeypatch.setattr(shard, "load_corpus", lambda *names, **options: asked.append((*names, options)) or rows)
    ivt("corpus", "shard", "synthetic", tmp_path / "drawn", "--num-people", 9, "--corpus-root", "cache")
    ivt("corpus", "shard", "rstpreid", tmp_path / "other", "--num-people", 9, "--split", "train")
    options = {"train": {"num_people": 9}, "val": {}, "test": {}}
    assert asked == [
        *(("synthetic", "cache", split, options[split]) for split in options),
        ("rstpreid", None, "train", {}),
    ]


def test_command_keeps_to_the_size_and_seed_it_is_given(ivt, tmp_path):
    make_rows(40, tmp_path).remove_columns("levels").to_parquet(
        tmp_path / "train-00000-of-00001.parquet", batch_size=2
    )
    orders = {}
    for name, *options in (("a", "--seed", "3"), ("b", "--seed", "3"), ("c",), ("d", "--seed", "0")):
        command = ["corpus", "shard", "shards", tmp_path / name, "--corpus-root", tmp_path, "--split", "train"]
        ivt(*command, "--rows-per-shard", 20, *options)
        assert len(list((tmp_path / name).glob("train-*.parquet"))) == 2
        orders[name] = [row["image_id"] for row in ShardedRows(tmp_path / name, "train")]
    assert orders["a"] == orders["b"] != orders["c"] == orders["d"]


# ---- nothing is read that is not asked for


def test_a_row_costs_one_row_group_and_the_cache_is_bounded(tmp_path, rows, monkeypatch):
    monkeypatch.setattr(sharded, "ROWS_PER_GROUP", 2)
    write_shards(rows, tmp_path, "train", "parquet", rows_per_shard=6)
    columns, groups = [], []
    read_all, read = pq.ParquetFile.read, pq.ParquetFile.read_row_group

    def remember(file, columns_read):
        columns.append(columns_read)
        return read_all(file, columns=columns_read)

    monkeypatch.setattr(pq.ParquetFile, "read", lambda file, columns=None: remember(file, columns))
    sharded_rows = ShardedRows(tmp_path, "train")
    assert columns == [["person_id", "captions"]] * 2  # for the index: no picture

    def count(file, group, **options):
        groups.append(group)
        return read(file, group, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", count)
    sharded_rows[3]
    assert groups == [1]
    list(sharded_rows)
    assert len(groups) == 6  # rows 3 and 2 share one; 6 + 5 rows are 3 + 3 groups
    monkeypatch.setattr(sharded, "CACHE_BYTES", 1)
    sharded_rows._forget()
    list(sharded_rows)
    assert len(sharded_rows.groups) == 1


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_index_is_built_once_and_anew_for_other_shards(tmp_path, rows, extension, monkeypatch):
    write_shards(rows, tmp_path, "train", extension)
    built, build = [], sharded.build_index

    def count(shards):
        built.append(len(shards))
        return build(shards)

    monkeypatch.setattr(sharded, "build_index", count)
    first = ShardedRows(tmp_path, "train")
    again = ShardedRows(tmp_path, "train")
    assert built == [1] and again.pairs_per_shard == first.pairs_per_shard == [21]
    assert [row["image_id"] for row in again] == [row["image_id"] for row in first]
    write_shards(rows, tmp_path, "train", extension, rows_per_shard=6)
    assert len(ShardedRows(tmp_path, "train").pairs_per_shard) == 2 and built == [1, 2]


def test_folder_that_cannot_be_written_costs_the_index_only(tmp_path, rows, monkeypatch, caplog):
    write_shards(rows, tmp_path, "train", "tar")

    def refuse(*_, **__):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(np, "savez", refuse)
    assert len(ShardedRows(tmp_path, "train")) == 11
    assert "cannot keep the index" in caplog.text and {path.suffix for path in tmp_path.glob("train*")} == {".tar"}


def test_worker_processes_get_neither_files_nor_rows(tmp_path, rows):
    write_shards(rows, tmp_path, "train", "parquet", rows_per_shard=6)
    sharded_rows = ShardedRows(tmp_path, "train")
    expected = list(sharded_rows)
    copy = pickle.loads(pickle.dumps(sharded_rows))
    assert not copy.files and not copy.groups and list(copy) == expected
    forked = os.fork()
    if not forked:  # leaves at once, so that pytest does not run on in two processes
        same = sharded_rows[0] == expected[0] and sharded_rows.process == os.getpid()
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0


# ---- what is wrong is named


def test_shards_that_are_missing_or_mixed_are_named(tmp_path, rows):
    with pytest.raises(ValueError, match="pass it as root"):
        ShardedRows(None, "train")
    with pytest.raises(ValueError, match="has no shards of split 'train': .* found no such folder"):
        ShardedRows(tmp_path / "nowhere", "train")
    files = write_shards(rows, tmp_path / "shards", "train", "tar", rows_per_shard=4)
    files[1].unlink()
    with pytest.raises(ValueError, match=r"has shards \[0, 2\] of split 'train', expected all of 00003"):
        ShardedRows(tmp_path / "shards", "train")
    write_shards(rows, tmp_path / "two", "train", "tar", rows_per_shard=4)
    write_shards(rows, tmp_path / "two" / "data", "train", "parquet", rows_per_shard=4)
    with pytest.raises(ValueError, match="has several sets of shards"):
        ShardedRows(tmp_path / "two", "train")


def write_table(path: Path, **columns: list) -> None:
    rows = {"image": [{"bytes": encoded(0), "path": None}], "image_id": ["a"], "person_id": [1], "captions": [["b"]]}
    pq.write_table(pa.table({name: value for name, value in (rows | columns).items() if value}), path)


@pytest.mark.parametrize(
    "columns, message",
    [
        ({"captions": None}, "has no column captions"),
        ({"captions": [["a man", " "]]}, "has an empty caption"),
    ],
)
def test_columns_that_are_missing_or_empty_are_named(tmp_path, columns, message):
    write_table(tmp_path / "train-00000-of-00001.parquet", **columns)
    with pytest.raises(ValueError, match=message):
        ShardedRows(tmp_path, "train")


def test_row_groups_that_are_too_large_are_refused(tmp_path, monkeypatch):
    write_table(tmp_path / "train-00000-of-00001.parquet")
    monkeypatch.setattr(sharded, "CACHE_BYTES", 100)
    with pytest.raises(ValueError, match="has a row group of .* shards with ivt corpus shard"):
        ShardedRows(tmp_path, "train")


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_files_that_were_cut_short_are_named(tmp_path, rows, extension):
    (file,) = write_shards(rows, tmp_path, "train", extension)
    file.write_bytes(file.read_bytes()[:700])
    with pytest.raises(ValueError, match=f"{file.name} (is no whole|has only)"):
        ShardedRows(tmp_path, "train")


def write_samples(path: Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    "files, message",
    [
        ({"0.png": encoded(0)}, r"sample '0' of .* has only \['image'\]"),
        (
            {"0.png": encoded(0), "0.json": b'{"image_id": "a", "person_id": 1}'},
            r"sample '0' of .* has only \['image', 'json'\]",
        ),
    ],
)
def test_webdataset_samples_that_are_not_whole_are_named(tmp_path, files, message):
    write_samples(tmp_path / "train-00000-of-00001.tar", files)
    with pytest.raises(ValueError, match=message):
        ShardedRows(tmp_path, "train")


def test_webdataset_samples_may_lie_in_folders_and_have_other_files(tmp_path):
    files = {}
    for number in range(2):
        row = {"image_id": f"{number}", "person_id": number, "captions": ["a man"]}
        files |= {f"v1.0/{number}.JPG": encoded(number), f"v1.0/{number}.cls": b"3"}
        files[f"v1.0/{number}.json"] = json.dumps(row).encode()
    write_samples(tmp_path / "train-00000-of-00001.tar", files)
    found = list(ShardedRows(tmp_path, "train"))
    assert [(row["image_id"], row["image"]["bytes"]) for row in found] == [("0", encoded(0)), ("1", encoded(1))]


def test_shards_of_img2dataset_are_read_and_what_was_not_downloaded_is_left_out(tmp_path, caplog):
    files = {
        "000.jpg": encoded(0, "JPEG"),
        "000.txt": b"a man, \xe9",
        "000.json": b'{"caption": "a man in red", "url": "x", "key": "000", "status": "success"}',
        "001.jpg": encoded(1, "JPEG"),
        "001.txt": "a woman in blau ü".encode(),
        "002.json": b'{"caption": "a lost one", "key": "002"}',
        "003.jpg": encoded(3, "JPEG"),
        "003.json": b'{"caption": null}',
    }
    write_samples(tmp_path / "00000.tar", files)
    write_samples(tmp_path / "00002.tar", {"010.jpg": encoded(4, "JPEG"), "010.txt": b"a dog"})
    (tmp_path / "00000.parquet").touch()  # of the download, with addresses and no pictures
    (tmp_path / "00000_stats.json").touch()
    rows = ShardedRows(tmp_path, "train")
    found = [(row["captions"], row["image"]["bytes"], row["person_id"]) for row in rows]
    assert found == [
        (["a man in red"], files["000.jpg"], 0),
        (["a woman in blau ü"], files["001.jpg"], 1),
        (["a dog"], encoded(4, "JPEG"), 2),
    ]
    assert len({row["image_id"] for row in rows}) == 3
    assert "00000.tar: 2 of 4 samples have no picture or no caption and are left out: 002, 003" in caplog.text
    assert len(load_corpus("shards", tmp_path, "train")) == 3
    with pytest.raises(ValueError, match="no shards of split 'val'"):
        ShardedRows(tmp_path, "val")


def test_rows_beyond_the_end_are_an_index_error(tmp_path, rows):
    write_shards(rows, tmp_path, "train")
    with pytest.raises(IndexError, match="row 11 of 11"):
        ShardedRows(tmp_path, "train")[11]
    assert json.loads(ShardedRows(tmp_path, "train").identity)[1][0][0] == "train-00000-of-00001.parquet"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut short", b"no index"])
def test_a_damaged_index_is_made_anew(tmp_path, content, caplog):
    write_shards(make_rows(4, tmp_path), tmp_path / "shards", "train")
    whole = [row["image_id"] for row in ShardedRows(tmp_path / "shards", "train")]
    index = tmp_path / "shards" / "train.index.npz"
    index.write_bytes(content)
    assert [row["image_id"] for row in ShardedRows(tmp_path / "shards", "train")] == whole
    assert "is damaged" in caplog.text and index.stat().st_size > len(content)


@pytest.mark.parametrize("path", ["../secret.png", "/etc/hostname", None])
def test_a_shard_reads_no_files_outside_of_its_folder(tmp_path, path):
    table = make_rows(4, tmp_path).remove_columns("levels").data.table
    images = pa.array([{"bytes": None, "path": path}] * 4, table["image"].type)
    (tmp_path / "shards").mkdir()
    file = tmp_path / "shards" / "train-00000-of-00001.parquet"
    pq.write_table(table.set_column(table.column_names.index("image"), "image", images), file)
    with pytest.raises(DatasetGenerationError) as caught:
        load_corpus("shards", tmp_path / "shards", "train")
    assert "no path below" in str(caught.value.__cause__)
